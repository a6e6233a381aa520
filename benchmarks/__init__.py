"""Benchmarks of ptycho_torch: ``python -m benchmarks`` runs them, ``make bench`` calls that.

Every figure is compared with another one that took turns with it in the same run. No timing is
asserted anywhere; what is asserted is that all sides of a comparison do the same work.
"""
