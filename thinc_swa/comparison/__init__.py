"""Comparisons of optimizers over several seeds."""
