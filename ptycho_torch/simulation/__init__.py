"""Simulated scans: a specimen, a probe and a pattern of positions become frames. NumPy only."""
