"""Devices and processes: the mesh, the cluster, memory, and what a compiled program says of itself."""
