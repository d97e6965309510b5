"""Parameters, averages and BatchNorm statistics of models."""
