"""``inspect``: what it says of a scan, and that it writes only the picture it is asked for."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, SIDE, assert_one_line, flip, listing

from ptycho_torch import GroupingConfig, RawData
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main
from ptycho_torch.results.coverage import nearest_step, probe_width_px


def test_inspect_says_what_the_scan_is_and_writes_nothing(folder, capsys):
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--gridsize", "3", "--neighbors", "10"]) == DONE
    text = capsys.readouterr().out
    assert f"{FRAMES} x {SIDE} x {SIDE} float32, amplitude" in text
    assert f"{FRAMES} of 9 frames (gridsize 3, K 10)" in text
    assert "none yet" in text
    assert listing(folder) == before


@pytest.mark.slow
def test_inspect_draws_the_picture_asked_for(folder):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--png", "pictures/scan.png"]) == DONE
    made = set(listing(folder)) - set(before)
    assert made == {"pictures", "pictures/scan.png"}
    assert Path("pictures/scan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_inspect_writes_the_page_asked_for(folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--html", "pages/scan.html"]) == DONE
    out = capsys.readouterr().out
    made = set(listing(folder)) - set(before)
    assert made == {"pages", "pages/scan.html"}
    page = html.unescape(Path("pages/scan.html").read_text(encoding="utf-8"))
    assert "<h1>scan.npz</h1>" in page
    rows = [
        line.split(None, 1)[1] for line in out.splitlines() if line[2:8] in ("groups", "split ")
    ]
    assert len(rows) == 2
    assert all(row in page for row in rows)


def test_inspect_of_a_damaged_scan_says_a_line_and_writes_no_page(folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    flip(Path("scan.npz"))
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--html", "scan.html"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "scan.npz", "diff3d", "checksum")
    assert listing(folder) == before


def test_inspect_refuses_a_page_for_several_scans(folder, fields, capsys):
    np.savez("other.npz", **fields)
    assert main(["inspect", ".", "--html", "scan.html"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "--html", "one scan")


@pytest.mark.parametrize("name", ["scan.npz", "scan.htm", "page.png"])
def test_inspect_refuses_a_page_of_another_name(folder, capsys, name):
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--html", name]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "--html", ".html" if name != "scan.npz" else "itself")
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("png", "word"),
    [
        ("scan.npz", "the scan itself"),
        ("other.png", "notes.txt"),
        ("notes.txt", ".png"),
        ("linked.png", "the scan itself"),
        ("folder.png", "a directory"),
    ],
)
def test_inspect_refuses_a_picture_over_the_scan_or_another_file(folder, capsys, png, word):
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "linked.png").symlink_to("scan.npz")
    (folder / "other.png").symlink_to("notes.txt")
    (folder / "folder.png").mkdir()
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--png", png]) == WRONG_USAGE
    captured = capsys.readouterr()
    assert_one_line(captured.err, png, word)
    assert captured.out == ""
    assert listing(folder) == before


def test_inspect_asks_for_matplotlib_before_it_prints(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["inspect", "scan.npz", "--png", "scan.png"]) == WRONG_USAGE
    captured = capsys.readouterr()
    assert_one_line(captured.err, "matplotlib", "pip install")
    assert captured.out == ""


def test_inspect_makes_no_sidecar_of_a_compressed_scan(folder, fields):
    np.savez_compressed("packed.npz", **fields)
    before = listing(folder)
    assert main(["inspect", "packed.npz"]) == DONE
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda y: y.real.copy(), "float"),
        (lambda y: y[:-1], str(FRAMES - 1)),
        (lambda y: y[:, 1:, 1:], str(SIDE - 1)),
    ],
)
def test_inspect_does_not_call_a_wrong_y_kept(folder, fields, capsys, wrong, found):
    patches = np.ones((FRAMES, SIDE, SIDE), np.complex64)
    np.savez_compressed("right.npz", **fields, Y=patches)
    before = listing(folder)
    assert main(["inspect", "right.npz"]) == DONE
    assert re.search(r"contract +kept: .*\bY\b", capsys.readouterr().out)
    assert listing(folder) == before
    np.savez("wrong.npz", **fields, Y=wrong(patches))
    assert main(["inspect", "wrong.npz"]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert_one_line(captured.err, "wrong.npz", "Y", found, "expected")
    assert captured.out == ""


def test_inspect_tells_a_cache_that_fits_from_one_that_does_not(folder, fields, capsys):
    assert main(["prepare", "scan.npz"]) == DONE
    capsys.readouterr()
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +scan\.g2k6\.groups_cache\.npz\n", capsys.readouterr().out)
    np.savez("scan.npz", **{**fields, "xcoords": fields["xcoords"] + 1})
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +not usable: scan\.g2k6.* of other positions", capsys.readouterr().out)
    Path("scan.g2k6.groups_cache.npz").write_bytes(b"foreign")
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +not usable: scan\.g2k6", capsys.readouterr().out)


def test_inspect_works_on_fewer_frames_than_a_group_has(folder, fields, capsys):
    few = {name: fields[name][:2] for name in ("diff3d", "xcoords", "ycoords")}
    np.savez("few.npz", **few, probeGuess=fields["probeGuess"])
    assert main(["inspect", "few.npz"]) == DONE
    assert "none: a group has 4 frames" in capsys.readouterr().out


def test_measurement_says_what_integers_mean(folder, fields, capsys):
    counts = np.round(fields["diff3d"] ** 2).astype(np.uint16)
    np.savez("counts.npz", **{**fields, "diff3d": counts})
    assert main(["inspect", "counts.npz"]) == DATA_AT_FAULT
    line = capsys.readouterr().err
    assert "amplitude" in line
    assert "counts" in line
    assert main(["inspect", "counts.npz", "--measurement", "counts"]) == DONE
    assert "uint16, counts" in capsys.readouterr().out


def test_the_width_of_an_evenly_lit_disc_is_its_diameter():
    y, x = np.indices((128, 128)) - 64
    disc = (np.hypot(x, y) <= 20).astype(np.complex64)
    assert probe_width_px(disc) == pytest.approx(40, rel=0.01)
    halves = np.stack([disc * (x < 0), 1j * disc * (x >= 0)])
    assert probe_width_px(halves) == pytest.approx(40, rel=0.01)


def test_the_step_of_a_raster_is_its_pitch_even_with_repeated_positions():
    y, x = (axis.ravel() * 3.5 for axis in np.indices((6, 7)))
    assert nearest_step(x, y) == pytest.approx(3.5)
    assert nearest_step(x[:1], y[:1]) != nearest_step(x[:1], y[:1])
    assert nearest_step(np.zeros(5), np.zeros(5)) == 0.0


def test_inspect_groups_as_the_dataset_does(folder):
    from ptycho_torch.cli.inspection import group_indices

    raw = RawData.from_file("scan.npz")
    config = GroupingConfig()
    np.testing.assert_array_equal(
        group_indices(raw, config), raw.group(config, cache="off").nn_indices
    )
