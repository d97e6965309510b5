"""Optimizer state in files, and atomic file writes."""
