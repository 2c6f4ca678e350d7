"""Offline data preparation: pixels on disk to ArrayRecord shards. Imports nothing of osteojax."""
