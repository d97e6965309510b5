"""Running averages and their array kernels."""
