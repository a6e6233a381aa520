"""The page of a scan: what it says and shows, how large it gets, and what a browser makes of it."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
from browser import DESK, PHONE, console_errors, overflowing, requested, value_of

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.plausibility import Verdict
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.page import element, write_page
from ptycho_torch.results.scan_page import scan_page
from ptycho_torch.results.split_preview import preview_split
from ptycho_torch.results.verdict_cards import verdict_cards
from ptycho_torch.simulation.scan import simulate_scan

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")

WORDS = {name: f"{name} in words" for name in ("positions", "probe", "frames", "bad pixels")}
HOSTILE = """<script>alert(1)</script> & "quotes" 'and' <img src=x onerror=alert(1)>"""
HOSTILE += "x" * 120


def masked(scan):
    """A simulated scan with bad pixels and a geometry."""
    bad = np.zeros((scan.N, scan.N), bool)
    bad[5] = bad[2, 9] = True
    geometry = Geometry.from_energy(8000.0, distance_m=0.5, detector_pixel_m=75e-6)
    return RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.frames.stored,
        scan.probeGuess, scan.scan_index, bad_pixels=bad, geometry=geometry.for_frames(scan.N),
    )  # fmt: skip


def page_of(scan, verdicts=(), rows=WORDS):
    groups = None
    if len(scan) > 6:
        groups = scan.group(GroupingConfig(), cache="off").nn_indices
    split = preview_split(scan.xcoords, scan.ycoords, groups, 0.1, 0.1)
    energies = scan.frames.verify()
    return scan_page(scan, groups, energies, rows=rows, verdicts=verdicts, split=split)


@pytest.fixture(scope="module")
def scan():
    return masked(simulate_scan(n_frames=60, N=32, n_modes=3, seed=2))


@pytest.fixture(scope="module")
def page(scan, tmp_path_factory):
    verdict = Verdict("positions", HOSTILE, HOSTILE, f"Add --position-unit m {HOSTILE}")
    body = page_of(scan, [verdict], {**WORDS, HOSTILE: HOSTILE})
    return write_page(tmp_path_factory.mktemp("page") / f"{'x' * 90}.html", HOSTILE, HOSTILE, body)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_of_the_page_leaves_the_window(page, width, dark):
    assert overflowing(page, width, dark) == []


@pytest.mark.slow
def test_page_asks_for_nothing_and_logs_no_error(page):
    assert console_errors(page) == []
    assert requested(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_words_of_the_page_and_its_pictures_differ_clearly_from_what_is_behind_them(page, dark):
    """Contrast as WCAG 2 defines it, 4.5 for text."""
    darkest = """(() => {
      const rgb = color => color.match(/[\\d.]+/g).map(Number);
      const light = color => {
        const [r, g, b] = rgb(color).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const behind = each => {
        for (; each; each = each.parentElement) {
          const color = getComputedStyle(each).backgroundColor;
          if (rgb(color)[3] !== 0) return color;
        }
      };
      const found = [];
      const texts = 'h1, p, dt, dd, td, th, code, strong, svg text';
      for (const each of document.querySelectorAll(texts)) {
        // White with an outline lies on a picture, not on the card.
        if (each.closest('svg') && !each.style.fill.includes('currentcolor')) continue;
        const style = getComputedStyle(each);
        const ink = light(each.closest('svg') ? style.fill : style.color);
        const ground = light(behind(each));
        const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        found.push([ratio, each.textContent.slice(0, 30)]);
      }
      return found.sort((a, b) => a[0] - b[0]);
    })()"""
    found = value_of(page, darkest, dark=dark)
    assert len(found) > 100
    assert found[0][0] >= 4.5, found[0]


def test_text_of_files_is_text_in_the_page(page):
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img" not in html
    assert "alert(1)" in html
    assert unescape(re.search("<h1>(.*?)</h1>", html)[1]) == HOSTILE
    assert str(element("p", "a<b", title='"')) == '<p title="&quot;">a&lt;b</p>'


def test_page_shows_every_part_of_a_scan_and_says_what(page, scan):
    html = unescape(page.read_text(encoding="utf-8"))
    names = re.findall("<figcaption><strong>(.*?)</strong>", html)
    for start, name in zip(
        ("Positions", "Dose", "Steps", "8 of 60 groups", "Split by", "Split at", "Mean", "Counts",
         "Probe: 3 modes", "Bad pixels"), names, strict=True,
    ):  # fmt: skip
        assert name.startswith(start)
    described = re.findall('<svg role="img" aria-label="(.+?)"', html)
    assert len(described) == len(set(described)) == len(names)
    assert "33 bad pixels of the detector" in described
    pixel = scan.geometry.object_pixel_m * 1e9
    assert f"{pixel:.4g} nm" in html
    assert re.search(r"\b[125]0*0? nm\b", html)  # the bar of scale
    energies = np.square(np.where(scan.bad_pixels, 0, scan.diff3d).astype(float)).sum(axis=(1, 2))
    assert f"{energies.min():,.0f} to {energies.max():,.0f}" in html


def test_verdicts_stand_first_with_what_to_type_as_code(page):
    html = page.read_text(encoding="utf-8")
    assert html.index("<code>--position-unit m</code>") < html.index("<figure")
    assert "Nothing looks wrong" not in html
    assert "Nothing looks wrong" in verdict_cards([])


@pytest.mark.parametrize(
    ("action", "codes"),
    [
        ("Add --position-unit nm; else check --pixel-size METRES",
         ["--position-unit nm", "--pixel-size METRES"]),
        ("Subtract it: --dark 4.2e-3, or --dark FILE.npy of a frame",
         ["--dark 4.2e-3", "--dark FILE.npy"]),
        ("Try --swap-xy --flip-x or none; inspect SCAN --orientations compares",
         ["--swap-xy", "--flip-x", "--orientations"]),
        ("add --option near_field=true --option object_pixel_m=METRES, a detector",
         ["--option near_field=true", "--option object_pixel_m=METRES"]),
        ("with --layout, where mask: has bad: zero", ["--layout"]),
    ],
)  # fmt: skip
def test_options_of_a_verdict_are_set_as_code_with_their_values(action, codes):
    html = verdict_cards([Verdict("x", "a", "b", action)])
    assert re.findall("<code>(.*?)</code>", html) == codes
    assert action in unescape(re.sub("</?code>", "", html))


@pytest.mark.slow
@pytest.mark.parametrize("n_frames", [1, 2])
def test_scan_of_few_frames_has_a_page(n_frames):
    html = page_of(simulate_scan(n_frames=n_frames, N=8, photons=None))
    assert html.count("<svg") == 6
    assert "groups of" not in html


@pytest.mark.slow
def test_page_of_a_large_scan_of_noise_is_at_most_2_mb(tmp_path):
    rng = np.random.default_rng(0)
    n, N, modes = 2000, 256, 64
    block = rng.integers(0, 60_000, size=(64, N, N), dtype=np.uint16)
    frames = Frames.from_array(
        np.broadcast_to(block[:1], (n, N, N)), measurement="counts"
    )  # one frame in memory, as often as wanted
    x, y = rng.uniform(N, 40_000, size=(2, n))
    probe = (rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))).astype("c8")
    scan = RawData(x, y, x, y, frames, probe, bad_pixels=rng.random((N, N)) < 0.1)
    groups = scan.group(GroupingConfig(), cache="off").nn_indices
    split = preview_split(x, y, groups, 0.1, 0.1)
    energies = rng.uniform(1, 2, 20_000)
    body = scan_page(scan, groups, energies, rows=WORDS, verdicts=(), split=split)
    path = write_page(tmp_path / "large.html", "large", "", body)
    assert path.stat().st_size < 2_000_000


@pytest.mark.slow
def test_page_of_large_groups_is_at_most_2_mb(tmp_path):
    scan = simulate_scan(n_frames=400, N=8, photons=None)
    grouping = GroupingConfig(gridsize=20, neighbor_count=400)
    groups = scan.group(grouping, cache="off").nn_indices
    assert groups.shape == (400, 400)
    split = preview_split(scan.xcoords, scan.ycoords, groups, 0.1, 0.1)
    energies = np.ones(400)
    body = scan_page(scan, groups, energies, rows=WORDS, verdicts=(), split=split)
    assert write_page(tmp_path / "a.html", "a", "", body).stat().st_size < 2_000_000
