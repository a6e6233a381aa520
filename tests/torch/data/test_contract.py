"""The contract's page and check say what its table says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data.contract import ARRAYS, ArraySpec, check_array, check_finite, spec
from ptycho_torch.data.errors import OptionTypeError, ScanError

DOCS = Path(__file__).parents[3] / "docs"


def written_page() -> str:
    page = runpy.run_path(str(DOCS / "contract_page.py"))["contract_page"]()
    assert isinstance(page, str)
    return page


def test_page_in_docs_is_the_one_the_table_gives() -> None:
    assert (DOCS / "reference" / "contract.md").read_text(encoding="utf-8") == written_page(), (
        "run make docs"
    )


@pytest.mark.parametrize("entry", ARRAYS, ids=lambda entry: f"{entry.door}-{entry.name}")
def test_page_has_a_row_for_every_array(entry: ArraySpec) -> None:
    assert f"| `{entry.name}` | {entry.shape_text()} | {entry.dtype} |" in written_page()


def test_table_names_each_array_of_a_door_once() -> None:
    names = [(entry.door, entry.name) for entry in ARRAYS]
    assert len(names) == len(set(names))


def test_axes_are_bound_once_and_compared_afterwards() -> None:
    sizes: dict[str, int] = {}
    check_array(np.zeros((5, 8, 8)), spec("scan", "diff3d"), sizes)
    assert sizes == {"M": 5, "N": 8}
    with pytest.raises(ScanError, match=r"xcoords axis 0 is 4; expected M = 5"):
        check_array(np.zeros(4), spec("scan", "xcoords"), sizes)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), r"diff3d shape is \(2, 3\); expected 3 axes \(M, N, N\)"),
        (np.zeros((2, 3, 4)), r"diff3d axis 2 is 4; expected N = 3"),
        (np.zeros((2, 3, 3), complex), "diff3d dtype is complex128; expected real"),
    ],
)
def test_wrong_rank_side_or_dtype_is_named(array: np.ndarray, message: str) -> None:
    with pytest.raises(ScanError, match=message):
        check_array(array, spec("scan", "diff3d"), {})


def test_exact_dtypes_are_compared() -> None:
    wanted = spec("container", "X")
    check_array(np.zeros((1, 2, 2, 4), np.float32), wanted, {})
    with pytest.raises(ScanError, match="X dtype is float64; expected float32"):
        check_array(np.zeros((1, 2, 2, 4)), wanted, {})


def test_lists_are_refused_by_type() -> None:
    with pytest.raises(OptionTypeError, match=r"xcoords is list; expected an array \(M,\)"):
        check_array([1.0], spec("scan", "xcoords"), {})


def test_first_bad_value_is_named() -> None:
    with pytest.raises(ScanError, match=r"probeGuess\[1, 0\] is nan"):
        check_finite(np.array([[1.0, 2.0], [np.nan, np.inf]]), "probeGuess")
