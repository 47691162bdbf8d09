"""Gaussian diffusion over latents: the training objective, and sampling with schedulers of diffusers."""
