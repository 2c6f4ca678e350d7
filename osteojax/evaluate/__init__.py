"""Evaluation of a run: numbers, predictions and figures."""
