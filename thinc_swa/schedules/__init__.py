"""Schedules for hyperparameters."""
