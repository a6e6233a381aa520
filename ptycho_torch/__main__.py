"""``python -m ptycho_torch``: the command where its script is not on the path."""

from __future__ import annotations

import sys

from ptycho_torch.cli import main

sys.exit(main())
