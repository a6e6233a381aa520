"""Which precision a network's convolutions are quickest in, on the hardware at hand.

Owns the question to the hardware. Under Lightning's mixed precision only they run in 16 bits:
positions, probes and diffraction have no such arithmetic and stay as they are.
"""

from __future__ import annotations

from typing import Literal

import torch


def quickest_precision(accelerator: str = "auto") -> Literal["bf16-mixed", "32-true"]:
    """Lightning's word: ``"bf16-mixed"`` where the processor computes in bfloat16.

    Parameters
    ----------
    accelerator
        Lightning's word, ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"auto"``.
    """
    on_gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if on_gpu:
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Emulated on other processors, where it takes longer than 32 bits.
        asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        quick = asked is not None and bool(asked())
    return "bf16-mixed" if quick else "32-true"
