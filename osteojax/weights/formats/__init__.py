"""Readers of weights files, one a format; each describes its tensors before it reads them."""
