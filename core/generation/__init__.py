"""Where new parameter vectors come from: the trained generator, and the baselines it is compared with."""
