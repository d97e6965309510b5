"""Saving and loading of optimizer state, and atomic file writes."""
