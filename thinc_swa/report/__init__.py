"""The report: one HTML page on any number of trainings and comparisons."""
