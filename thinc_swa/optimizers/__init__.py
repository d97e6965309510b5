"""Optimizers that wrap an optimizer."""
