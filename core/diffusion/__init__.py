"""Gaussian diffusion over latents: the training objective, and the loop over library samplers."""
