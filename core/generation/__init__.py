"""Sources of new parameter vectors: the trained generator, and the baselines that it is compared with."""
