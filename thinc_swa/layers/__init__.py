"""Layers with state between batches."""
