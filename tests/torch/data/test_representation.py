"""What a scan says of itself: in a terminal, and as a table with a picture in a notebook."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from builders import run_python

from ptycho_torch import Geometry, RawData, read_scan, simulate_scan
from ptycho_torch.data import representation


def lines_of(thing: object) -> dict[str, str]:
    title, *rows = repr(thing).splitlines()
    return {"": title} | {row[2:14].split("  ")[0].strip(): row for row in rows}


def picture_of(html: str) -> bytes:
    return base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])


class Cells(HTMLParser):
    """Text of a page, and the tags that it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text = set[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(name="scan")
def fixture_scan() -> RawData:
    frames = np.random.default_rng(0).random((9, 16, 16)).astype(np.float32)
    bad = np.zeros((16, 16), bool)
    bad[3, :5] = True
    return RawData(
        *(np.arange(9.0) * side for side in (1, 2, 1, 2)),
        diff3d=frames,
        probeGuess=np.full((2, 16, 16), 3 + 4j, np.complex64),
        bad_pixels=bad,
        geometry=Geometry(wavelength_m=1.5e-10, distance_m=2.0, detector_pixel_m=75e-6),
        frame_photons=np.full(9, 250.0),
    )


def test_a_scan_says_shapes_with_names_dtypes_units_and_what_is_known(scan: RawData) -> None:
    said = lines_of(scan)
    assert said[""] == "RawData(memory: 9 frames of 16 x 16)"
    assert "(M=9, N=16, N=16) float32, amplitude, sqrt(counts)" in said["frames"]
    assert "(M=9,) float64, px, over 8 x 16 px" in said["positions"]
    # 2 modes of 256 pixels of |3 + 4j|^2 = 25 counts
    assert "(P=2, N=16, N=16) complex64, 1.28e+04 photons in 2 modes" in said["probe"]
    assert said["object"].endswith("none") and said["patches"].endswith("none")
    assert "(N=16, N=16) bool, 5 of 256" in said["bad pixels"]
    # 1.5e-10 * 2 / (16 * 75e-6)
    assert "wavelength 1.5e-10 m, distance 2 m, detector pixel 7.5e-05 m" in said["geometry"]
    assert "object pixel 2.5e-07" in said["geometry"]
    assert "(M=9,) float64, 250 in the mean" in said["photons"]
    assert len(repr(scan).splitlines()) <= 12


def test_what_is_not_known_is_said() -> None:
    said = lines_of(simulate_scan(n_frames=16, N=16, seed=0))
    assert said["geometry"].endswith("not known") and "not known" in said["photons"]
    assert said["bad pixels"].endswith("none")


@pytest.mark.parametrize("compressed", [False, True])
def test_neither_form_makes_a_sidecar_and_the_short_one_reads_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    arrays = dict(np.load(simulate_scan(n_frames=20, N=16, seed=0).to_file(tmp_path / "a.npz")))
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "b.npz", **arrays)
    scan = read_scan(tmp_path / "b.npz")
    before = sorted(tmp_path.iterdir())
    asked: list[int] = []
    sample = type(scan.frames).sample
    monkeypatch.setattr(type(scan.frames), "sample", lambda s, n: asked.append(n) or sample(s, n))
    monkeypatch.setattr(type(scan.frames), "mapped", property(lambda _: pytest.fail("all frames")))
    assert "b.npz: 20 frames" in repr(scan) and asked == []
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    assert "<img" in scan._repr_html_() and asked == [3]
    assert sorted(tmp_path.iterdir()) == before


def test_the_table_says_what_the_lines_say_with_every_word_escaped(tmp_path: Path) -> None:
    path = tmp_path / "<script>alert(1)<script> & \x1b[31m.npz"
    scan = read_scan(simulate_scan(n_frames=16, N=16, seed=0).to_file(path))
    page = Cells(scan._repr_html_())
    assert page.tags <= {"div", "b", "table", "tr", "th", "td", "img"}
    assert "<script>alert(1)<script> & \\x1b[31m.npz: 16 frames" in page.text
    for line in repr(scan).splitlines():
        assert all(part.strip() in page.text for part in line.split("  ")), line
    assert repr(scan).isascii() and "\x1b" not in repr(scan)


def test_the_picture_shows_a_few_frames_as_their_logarithm() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    from matplotlib import colormaps, image

    counts = np.zeros((3, 8, 8))
    counts[0, 2, 3], counts[1, 4, 5], counts[2, 6, 7] = 1e4, 1e2, 1e4
    frames = np.sqrt(counts).astype(np.float32)
    probe = np.ones((8, 8), np.complex64)
    scan = RawData.from_coords_without_pc(np.arange(3.0), np.zeros(3), frames, probe)
    shown = image.imread(io.BytesIO(picture_of(scan._repr_html_())))
    expected = np.zeros((8, 24))
    expected[2, 3], expected[4, 13], expected[6, 23] = 1.0, 0.5, 1.0
    assert np.abs(shown - colormaps["inferno"](expected)).max() < 0.02


def test_the_page_of_large_frames_of_noise_is_small() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    frames = np.random.default_rng(1).lognormal(3, 3, (4, 300, 300)).astype(np.float32)
    probe = np.ones((300, 300), np.complex64)
    scan = RawData.from_coords_without_pc(np.arange(4.0), np.zeros(4), frames, probe)
    assert 10_000 < len(scan._repr_html_()) <= 100_000


def test_without_matplotlib_there_is_no_picture_and_no_error(
    scan: RawData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    html = scan._repr_html_()
    assert "<img" not in html and "5 of 256" in html


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys; from ptycho_torch import simulate_scan\n"
        "scan = simulate_scan(n_frames=16, N=16, seed=0); text = repr(scan)\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "scan._repr_html_(); assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_a_half_built_scan_is_shown_too() -> None:
    scan = object.__new__(RawData)
    assert lines_of(scan)[""] == "RawData: half built or damaged"
    assert "half built" in scan._repr_html_()
    whole = simulate_scan(n_frames=16, N=16, seed=0)
    half = RawData.sharing(whole, xcoords=None, path=None)
    assert "16 x 16" not in lines_of(half)[""] and "complex64" in lines_of(half)["probe"]


def test_a_file_cut_short_meanwhile_has_no_picture(tmp_path: Path) -> None:
    path = simulate_scan(n_frames=64, N=64, seed=0).to_file(tmp_path / "scan.npz")
    scan = read_scan(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    assert "64 frames of 64 x 64" in repr(scan)
    assert "<img" not in scan._repr_html_()


@pytest.mark.parametrize(
    ("shape", "names", "said"),
    [
        ((), "N", "()"),
        ((3,), "M", "(M=3,)"),
        ((2, 3, 4), "BN", "(2, B=3, N=4)"),
        ((3, 4), "BNN", "(N=3, N=4)"),
    ],
)
def test_axes_are_named_from_the_last(shape: tuple[int, ...], names: str, said: str) -> None:
    assert representation.axes(shape, names) == said
