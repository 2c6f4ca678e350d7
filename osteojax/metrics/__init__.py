"""Metrics of a classifier and their intervals."""
