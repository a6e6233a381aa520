"""The NumPy core: scans, grouping, caches. Never imports torch."""
