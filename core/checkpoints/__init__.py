"""The data of the generative model: which parameters, in which order, and the K trained vectors of them."""
