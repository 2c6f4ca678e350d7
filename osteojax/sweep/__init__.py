"""Sweeps: many runs of one experiment, prepared once, never done twice, and compared honestly."""
