"""Networks over flat vectors: parameter autoencoders and latent denoisers. They know tensors only."""
