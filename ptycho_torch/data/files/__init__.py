"""Bytes: archives, headers, maps, whole writes, one builder at a time."""
