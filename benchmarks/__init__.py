"""Benchmarks of ptycho_torch: ``python -m benchmarks`` runs them, ``make bench`` calls that.

Every figure is compared with another one that was measured in the same run, in turns with it. No
timing is asserted anywhere; what is asserted is that all sides of a comparison do the same work.
"""
