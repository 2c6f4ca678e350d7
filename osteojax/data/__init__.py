"""Prepared datasets and the batches made of them."""
