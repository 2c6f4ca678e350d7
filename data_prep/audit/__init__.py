"""Copies, contradictions and shortcuts in a labelled set of images."""
