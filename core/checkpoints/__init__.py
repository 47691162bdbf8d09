"""The training data of the generative model: the parameter subset, the K checkpoints and their normalization."""
