"""Denoisers, and the estimates of noise that steer them."""
