"""Losses, and penalties on activations."""
