"""``fit SCAN``: what it leaves and says, and what it refuses; warnings of every command."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from builders import assert_one_line, write_fit_config

from ptycho_torch import Geometry, RawData, simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main

needs_lightning = pytest.importorskip("lightning", reason="lightning is not installed: fit")


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """The folder with a scan of 64 frames, ``scan.npz``, as arrays."""
    monkeypatch.chdir(tmp_path)
    simulate_scan(n_frames=64, N=32, photons=1e5, seed=1).to_file("scan.npz")
    with np.load("scan.npz") as archive:
        return {name: archive[name] for name in archive.files}


def without(fields, *names):
    return {k: v for k, v in fields.items() if not k.startswith(names)}


@pytest.mark.slow
def test_fit_scan_leaves_four_files_and_says_how_good_they_are(scan, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture")
    pixel = np.float64(8e-9)
    np.savez("scan.npz", **scan, object_pixel_m=pixel)
    assert main(["fit", "scan.npz", "--epochs", "30"]) == DONE
    text = capsys.readouterr().out
    assert re.search(
        r"correlation with the truth: centred 0\.9\d+ \(flat object 0\.00\), phase", text
    )
    found = re.search(r"Fourier error (0\.\d{4}) \(a flat object (0\.\d{4}), shot noise", text)
    assert float(found[1]) < 0.5 * float(found[2])
    assert "the frames are explained well" in text
    assert re.search(r"^next: ptycho-torch \w+ scan\.npz", text, re.MULTILINE)
    left = {path.name for path in Path("outputs/scan").iterdir()}
    assert left == {"metrics.json", "reconstruction.npz", "reconstruction.png", "report.html"}
    page = unescape(Path("outputs/scan/report.html").read_text(encoding="utf-8"))
    assert "page: outputs/scan/report.html" in text
    assert "ptycho-torch fit scan.npz --epochs 30</pre>" in page
    assert "The frames are explained well" in page
    assert found[1] in page and found[2] in page
    figures = json.loads(Path("outputs/scan/metrics.json").read_text())
    assert figures["epochs"] == 30
    assert figures["flat_object"]["fourier_error"] == pytest.approx(float(found[2]), abs=1e-4)


@pytest.mark.slow
def test_fit_scan_begins_with_the_average_pattern_where_there_is_no_probe(scan, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture")
    np.savez("bare.npz", **without(scan, "probeGuess", "objectGuess"))
    assert main(["fit", "bare.npz", "--epochs", "2", "--out", "here"]) == DONE
    assert "defocus" in capsys.readouterr().err
    assert Path("here/reconstruction.png").is_file()


@pytest.mark.slow
def test_fit_scan_in_metres_is_warned_about_and_mended_by_what_the_warning_says(scan, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture")
    metres = {a: scan[a] * 8e-9 for a in ("xcoords", "ycoords")}
    np.savez("metres.npz", **{**without(scan, "xcoords", "ycoords", "objectGuess"), **metres})
    assert main(["fit", "metres.npz", "--epochs", "4"]) == DONE
    out, err = capsys.readouterr()
    assert err.count("--position-unit m --pixel-size METRES") == 1
    assert "next: see the first warning" in out
    wrong = json.loads(Path("outputs/metres/metrics.json").read_text())["fourier_error"]
    words = ["--position-unit", "m", "--pixel-size", "8e-9"]
    assert main(["fit", "metres.npz", "--epochs", "4", *words]) == DONE
    assert "--position-unit" not in capsys.readouterr().err
    right = json.loads(Path("outputs/metres/metrics.json").read_text())["fourier_error"]
    assert right < 0.8 * wrong


def test_fit_refuses_a_near_field_scan_with_the_reason(scan, capsys):
    near = RawData.from_coords_without_pc(
        scan["xcoords"], scan["ycoords"], scan["diff3d"], scan["probeGuess"]
    )
    RawData.sharing(near, geometry=Geometry(near_field=True)).to_file("near.npz")
    assert main(["fit", "near.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "near.npz", "near field", "Fourier transform")
    assert not Path("outputs").exists()


def test_fit_scan_refuses_words_it_does_not_know(scan, capsys):
    assert main(["fit", "scan.npz", "--config", "fit.yaml"]) == WRONG_USAGE
    assert "--config" in capsys.readouterr().err


@pytest.mark.slow
def test_fit_by_configuration_warns_once(scan, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture")
    frames = np.ascontiguousarray(scan["diff3d"].swapaxes(1, 2))
    probe = scan["probeGuess"] / 1e3
    np.savez("scan.npz", **{**scan, "diff3d": frames, "probeGuess": probe})
    write_fit_config(Path())
    assert main(["fit", "--config", "fit.yaml"]) == DONE
    assert capsys.readouterr().err.count("--scale-probe") == 1


def test_inspect_prepare_and_convert_say_what_looks_wrong(scan, capsys):
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"plausible +nothing that looks wrong", capsys.readouterr().out)
    np.savez("weak.npz", **{**scan, "probeGuess": scan["probeGuess"] / 1e3})
    assert main(["inspect", "weak.npz"]) == DONE
    assert re.search(r"warning +probeGuess: .*--scale-probe", capsys.readouterr().out)
    assert main(["prepare", "weak.npz"]) == DONE
    assert capsys.readouterr().err.count("--scale-probe") == 1
    assert main(["convert", "weak.npz", "same.npz"]) == DONE
    assert capsys.readouterr().err.count("--scale-probe") == 1
    assert main(["convert", "weak.npz", "scaled.npz", "--scale-probe"]) == DONE
    assert "scale" not in capsys.readouterr().err
    scaled = RawData.from_file("scaled.npz")
    counts = scaled.frame_energies().mean()
    np.testing.assert_allclose(np.square(np.abs(scaled.probeGuess)).sum(), counts, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "compressed"])
def test_convert_writes_frames_as_corrected(scan, packed):
    wrong = np.fft.ifftshift(scan["diff3d"], axes=(1, 2)).swapaxes(1, 2)
    (np.savez_compressed if packed else np.savez)("wrong.npz", **{**scan, "diff3d": wrong})
    words = ["--zero-frequency", "corner", "--transpose-frames"]
    assert main(["convert", "wrong.npz", "right.npz", *words]) == DONE
    np.testing.assert_array_equal(RawData.from_file("right.npz").diff3d, scan["diff3d"])


@pytest.mark.slow
def test_inspect_ranks_orientations_and_draws_them(scan, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture")
    np.savez("swapped.npz", **{**scan, "xcoords": scan["ycoords"], "ycoords": scan["xcoords"]})
    assert main(["inspect", "swapped.npz", "--orientations", "--png", "scan.png"]) == DONE
    text = capsys.readouterr().out
    assert "  add --swap-xy\n" in text
    assert "not seen by this: both axes reversed" in text
    assert Path("scan.orientations.png").read_bytes().startswith(b"\x89PNG")
