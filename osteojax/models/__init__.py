"""Backbones in Flax NNX."""
