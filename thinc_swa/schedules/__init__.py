"""Schedules of learning rates and other hyperparameters."""
