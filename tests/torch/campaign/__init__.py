"""Faults done on purpose, in numbers: ``python -m tests.torch.campaign`` from the repository root.

Each module holds experiments on one kind of fault and returns an :class:`~.record.Outcome`. The
same functions, with few rounds, are ordinary tests in ``test_faults.py`` and ``test_ddp.py``.
"""
