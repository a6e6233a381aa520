"""What is kept beside a scan: unpacked frames, and its groups."""
