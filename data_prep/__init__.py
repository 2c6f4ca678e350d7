"""Offline data preparation: pixels on disk to ArrayRecord shards. Of osteojax it imports the ground alone."""
