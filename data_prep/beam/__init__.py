"""Preparation as an Apache Beam pipeline; imported only where it is asked for (extra `beam`)."""
