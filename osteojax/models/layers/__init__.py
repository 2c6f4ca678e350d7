"""The layers that architectures are made of."""
