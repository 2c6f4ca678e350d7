"""Greyscale BM3D, written from Dabov, Foi, Katkovnik and Egiazarian, IEEE TIP 16(8), 2007."""
