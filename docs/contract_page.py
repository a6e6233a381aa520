"""Write docs/reference/contract.md from the contract table; a test compares the two.

python docs/contract_page.py
"""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.data.contract import ARRAYS

PAGE = Path(__file__).parent / "reference" / "contract.md"

HEAD = """# The contract

What every array is. `make docs` writes this page from the table in `ptycho_torch/data/contract.py`
and from `docs/contract_page.py`; edit those, not the page.

Axes: M frames of a scan, N pixels along a frame's side, C frames in a group, B groups, P probe
modes, H and W object rows and columns, xy the pair (column, row).
"""

DOORS = (
    (
        "scan",
        "A scan on disk: canonical NPZ",
        "The arrays of a scan file, and of `RawData`. Pixel (N // 2, N // 2) of a frame's patch "
        "sits on object row y, column x.",
    ),
    (
        "grouped",
        "Grouped data: `RawData.generate_grouped_data`",
        "A dictionary of B groups of C = gridsize ** 2 frames.",
    ),
    (
        "container",
        "The container: `PtychoDataContainerTorch`",
        "Its attributes equal those of the TensorFlow container.",
    ),
    (
        "batch",
        "A batch: `PtychoBatch`",
        "The fields that `PtychoDataset` and `PtychoDataModule` hand to a model.",
    ),
)

DEPARTURES = """## Where ptycho_torch departs from the reference

* **A private random stream.** The reference draws from NumPy's global legacy stream. Here every
  call has its own `RandomState(seed)`: equal seeds give equal numbers, and the global stream is
  neither read nor moved. `seed=None` draws fresh entropy.
* **Sliced offsets.** When the reference splits a container, it slices X, Y and the coordinates
  and leaves `global_offsets`, `local_offsets` and `nn_indices` whole. Here a split slices all of
  them.
* **The mirror is an option.** For C > 1 the reference cuts object patches at the point reflection
  of each position through the group's centre, so |F(probe * Y)| misses the measured frames.
  `patch_positions="reference"` does the same, and is the default, with a warning;
  `patch_positions="scan"` cuts at the positions.
* **Refused at the door.** Some calls make the reference return empty or NaN results, hide a
  mismatch or fail somewhere inside: no groups asked for, gridsize 0, all-zero frames, frames and
  positions of different length, an N other than the frames' with an object. Here they raise a
  ValueError or a TypeError that names the field, what was found and what was expected.
* **gridsize is an argument.** The reference takes a missing `gridsize` from a global dictionary.
  Here there is no such dictionary, and the argument is required; `RawDataTorch` takes it from its
  config.
* **Y is complex.** A real-valued ready-made Y is an error, never a silent cast. A complex128 Y
  becomes complex64 in the container and in batches.
* **Rounding of Y.** On the recorded scans, Y, Y_I and Y_phi agree with the reference within 2e-7,
  and so do batches with the container. Only an angle near pi, where neighbouring float32 numbers
  are 2.4e-7 apart, may be the next one. Rounding is relative to the largest modulus of the object,
  not to the pixel's own: where the phase is noise from pixel to pixel, batches and container agree
  within 4e-7 of that modulus, and the phase of a pixel close to 0 less well.
"""


def contract_page() -> str:
    """The whole page, Markdown."""
    lines = [HEAD]
    for door, title, introduction in DOORS:
        lines += [f"## {title}", "", introduction, ""]
        lines += ["| name | shape | dtype | unit | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{entry.name}` | {entry.shape_text()} | {entry.dtype} | {entry.unit} "
            f"| {entry.meaning.replace('|', chr(92) + '|')} |"
            for entry in ARRAYS
            if entry.door == door
        ]
        lines.append("")
    return "\n".join([*lines, DEPARTURES])


if __name__ == "__main__":
    PAGE.write_text(contract_page(), encoding="utf-8")
