"""What the reference lists is what there is: names, errors, configurations, terms, pictures."""

from __future__ import annotations

import re
import runpy

import pytest
from builders import ROOT
from pages import PAGES

import ptycho_torch
from ptycho_torch.data import errors

REFERENCE = ROOT / "docs" / "reference"
DRAWN = runpy.run_path(str(ROOT / "docs" / "convention_drawings.py"))


def text_of(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def documented() -> set[str]:
    """Names that the page of the API documents, without their modules."""
    named = re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)$", text_of("api.md"), re.MULTILINE)
    return {name.rpartition(".")[2] for name in named}


def test_every_public_name_is_on_the_page_of_the_api():
    public = set(ptycho_torch.__all__) - {"__version__", "PtychoTorchError"}
    assert public <= documented()


def test_every_public_name_has_a_home_and_every_home_a_public_name():
    assert set(ptycho_torch._HOME) == set(ptycho_torch.__all__) - {"__version__"}


def test_every_error_stands_in_the_table_with_its_builtin():
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text_of("errors.md"), re.MULTILINE))
    every = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PtychoTorchError)
    ]
    named = {error.__name__: error for error in every if error is not errors.PtychoTorchError}
    assert set(rows) == set(named)
    builtin = {
        name: {base.__name__ for base in error.__mro__ if base.__module__ == "builtins"}
        for name, error in named.items()
    }
    assert all(rows[name] in builtin[name] - {"Exception", "object"} for name in rows)


def test_the_line_of_the_errors_page_is_one_that_is_raised():
    scan = ptycho_torch.simulate_scan(n_frames=9, N=16, seed=0)
    x, y, frames, probe = scan.xcoords[:8], scan.ycoords, scan.diff3d, scan.probeGuess
    with pytest.raises(errors.ScanError) as caught:
        ptycho_torch.RawData.from_coords_without_pc(x, y, frames, probe, None)
    assert f"    {caught.value}\n" in text_of("errors.md")


def test_every_file_of_configs_is_described_and_every_described_one_is_there():
    rows = set(re.findall(r"^\| `(\w+\.\w+)` \|", text_of("configurations.md"), re.MULTILINE))
    files = {path.name for path in (ROOT / "configs").iterdir() if path.is_file()}
    assert rows == files


def terms() -> list[str]:
    body = re.search(r"```\{glossary\}\n(.*?)```", text_of("glossary.md"), re.DOTALL)
    assert body is not None
    return re.findall(r"^(\S.*)$", body[1], re.MULTILINE)


def test_terms_of_the_glossary_are_sorted_and_used_by_the_pages():
    assert terms() == sorted(terms(), key=str.lower)
    pages = [page for page in PAGES if page.name != "glossary.md"]
    together = " ".join(" ".join(p.read_text(encoding="utf-8").split()) for p in pages)
    assert not [term for term in terms() if not re.search(rf"\b{term}", together, re.IGNORECASE)]


def test_words_of_the_field_are_in_the_glossary():
    """Those that names in the code are made of, where a newcomer may wonder."""
    words = "scan frame probe mode object position overlap group gridsize patch canvas sidecar"
    assert set(words.split()) <= set(terms())


@pytest.mark.parametrize("name", sorted(DRAWN["PICTURES"]))
def test_drawings_of_the_conventions_are_those_of_their_script(name):
    drawn = DRAWN["PICTURES"][name]()
    assert (DRAWN["FOLDER"] / name).read_text(encoding="utf-8") == drawn, "run make docs"
    assert f"(../images/{name})" in (ROOT / "docs/explanation/conventions.md").read_text()


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", DRAWN["PAGE_COLOURS"])
def test_drawings_can_be_read_on_light_and_dark_pages(page):
    used = {
        colour
        for drawn in DRAWN["PICTURES"].values()
        for colour in re.findall(r"#[0-9a-f]{6}", drawn())
    }
    assert len(used) == 4
    for colour in used:
        light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour


def test_the_drawn_mirror_is_the_references():
    """Of every group: global_offsets + local_offsets, local_offsets being -(p - mean)."""
    x, y = DRAWN["mean"]()
    for (px, py), (mx, my) in zip(DRAWN["POSITIONS"], DRAWN["mirrored"](), strict=True):
        assert (mx, my) == pytest.approx((x - (px - x), y - (py - y)))
