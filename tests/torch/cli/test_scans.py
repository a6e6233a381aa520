"""``simulate``, ``convert``, ``prepare`` and ``verify``: what they print and what they write."""

from __future__ import annotations

import errno
import os
import stat
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, assert_one_line, at_once, flip, listing, make_irregular

from ptycho_torch import GroupingConfig, RawData, read_scan, simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.readers.conformance import example_scan
from ptycho_torch.simulation.probes import random_probe


def test_simulate_writes_a_canonical_scan(folder, capsys):
    code = main(["simulate", "sim.npz", "--frames", "30", "--size", "16", "--seed", "5"])
    assert code == DONE
    raw = RawData.from_file("sim.npz")
    again = simulate_scan(n_frames=30, N=16, seed=5)
    np.testing.assert_array_equal(raw.diff3d, again.diff3d)
    np.testing.assert_array_equal(raw.objectGuess, again.objectGuess)
    assert "30 frames of 16 x 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ([], True),
        (["--pattern", "fermat"], False),
        (["--photons", "none"], False),
        (["--photons", "1e3"], False),
        (["--modes", "2"], False),
        (["--seed", "1"], False),
        (["--specimen", "star"], True),
        (["--specimen", "cells"], False),
        (["--probe", "probe.npy"], False),
        (["--probe", "other.npz"], False),
    ],
)
def test_every_option_of_simulate_changes_the_frames(folder, options, same):
    base = ["--frames", "20", "--size", "16"]
    probe = random_probe(16, 2, np.random.default_rng(0))
    np.save("probe.npy", probe)
    simulate_scan(n_frames=4, N=16, probe=probe).to_file("other.npz")
    assert main(["simulate", "a.npz", *base]) == DONE
    assert main(["simulate", "b.npz", *base, *options]) == DONE
    a, b = RawData.from_file("a.npz"), RawData.from_file("b.npz")
    assert np.array_equal(a.diff3d, b.diff3d) is same


@pytest.mark.parametrize("command", [["simulate", "scan.npz"], ["convert", "scan.npz", "scan.npz"]])
def test_an_existing_file_is_replaced_only_on_request(folder, capsys, command):
    before = listing(folder)
    assert main(command) == WRONG_USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert listing(folder) == before
    assert main([*command, "--overwrite"]) == DONE


@pytest.mark.parametrize("command", ["simulate", "convert"])
def test_a_folder_that_is_not_there_is_not_made(folder, capsys, command):
    before = listing(folder)
    source = ["scan.npz"] if command == "convert" else []
    assert main([command, *source, "typo/out.npz"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "typo", "missing", "expected")
    assert listing(folder) == before


def test_a_folder_that_cannot_be_written_is_one_line(folder, capsys):
    (folder / "file").write_text("", encoding="utf-8")
    assert main(["simulate", "file/out.npz", "--frames", "9", "--size", "16"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "file", "a directory")
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc: a folder that nobody can write")
    assert main(["simulate", "/proc/out.npz", "--frames", "9", "--size", "16"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "/proc")


def test_convert_gives_the_same_scan(folder):
    assert main(["convert", "scan.npz", "copy.npz"]) == DONE
    one, other = RawData.from_file("scan.npz"), RawData.from_file("copy.npz")
    for name in ("diff3d", "xcoords", "ycoords", "probeGuess", "objectGuess"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_convert_keeps_ready_made_patches(folder, fields):
    shape = fields["diff3d"].shape
    patches = np.random.default_rng(0).random((2, *shape)).astype("f4")
    np.savez("patches.npz", Y=patches[0] + 1j * patches[1], **fields)
    assert main(["convert", "patches.npz", "out.npz"]) == DONE
    with np.load("out.npz") as written, np.load("patches.npz") as given:
        np.testing.assert_array_equal(written["Y"], given["Y"])


def test_convert_takes_the_measurement_that_its_refusal_asks_for(folder, fields, capsys):
    counts = np.round(fields["diff3d"] ** 2).astype(np.uint16)
    np.savez("counts.npz", **{**fields, "diff3d": counts})
    assert main(["convert", "counts.npz", "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "measurement='counts'", "--measurement counts")
    assert main(["convert", "counts.npz", "out.npz", "--measurement", "counts"]) == DONE
    written = RawData.from_file("out.npz").diff3d
    np.testing.assert_allclose(written, np.sqrt(counts.astype(np.float32)), rtol=1e-6)


def test_options_of_a_reader_are_reached_by_name(folder, fields, capsys):
    np.savez("both.npz", **fields, diffraction=2 * fields["diff3d"])
    chosen = ["--option", "frames_key=diffraction", "--option", "measurement=amplitude"]
    assert main(["convert", "both.npz", "out.npz", *chosen]) == DONE
    assert np.array_equal(read_scan("out.npz").diff3d, 2 * fields["diff3d"])
    assert main(["inspect", "both.npz", "--option", "near_field=true"]) == WRONG_USAGE
    assert "option of format npz is near_field; expected one of" in capsys.readouterr().err
    assert main(["inspect", "both.npz", "--option", "near_field"]) == WRONG_USAGE
    assert "'near_field' is not NAME=VALUE" in capsys.readouterr().err


def test_convert_refuses_frames_that_are_damaged(folder, fields, capsys):
    content = bytearray(Path("scan.npz").read_bytes())
    # In the middle of the stored frames; still a plausible amplitude.
    place = content.find(fields["diff3d"][FRAMES // 2].tobytes())
    assert place > 0
    content[place] ^= 0x01
    Path("scan.npz").write_bytes(content)
    before = listing(folder)
    assert main(["convert", "scan.npz", "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "scan.npz", "diff3d")
    assert listing(folder) == before


def test_prepare_groups_once(folder, capsys):
    assert main(["prepare", "scan.npz"]) == DONE
    assert "groups cache written" in capsys.readouterr().err
    first, stamp = listing(folder), Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns
    assert main(["prepare", "scan.npz"]) == DONE
    assert (
        f"groups cache reused: {folder / 'scan.g2k6.groups_cache.npz'}" in capsys.readouterr().err
    )
    assert listing(folder) == first
    assert Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns == stamp


def test_prepare_takes_gridsize_and_neighbors(folder):
    assert main(["prepare", "scan.npz", "--gridsize", "3"]) == DONE
    assert main(["prepare", "scan.npz", "--neighbors", "9"]) == DONE
    caches = {path.name for path in folder.glob("*.groups_cache.npz")}
    assert caches == {"scan.g3k9.groups_cache.npz", "scan.g2k9.groups_cache.npz"}


CHOSEN = "--neighbor-choice quadrants --x-bounds 0.1 0.9 --groups-per-seed 3 --neighbors 9".split()


@pytest.mark.parametrize("command", ["prepare", "inspect"])
def test_prepare_and_inspect_take_the_choice_of_neighbours(folder, capsys, command):
    assert main([command, "scan.npz", *CHOSEN, "--max-neighbor-distance", "4"]) == DONE
    config = GroupingConfig(
        neighbor_choice="quadrants", x_bounds=(0.1, 0.9), groups_per_seed=3, neighbor_count=9,
        max_neighbor_distance=4,
    )  # fmt: skip
    groups = RawData.from_file("scan.npz").group(config, "off").nn_indices
    assert (
        f"{len(groups)} {'groups ' * (command == 'prepare')}of 4 frames" in capsys.readouterr().out
    )
    assert main([command, "scan.npz", "--min-neighbor-distance", "900"]) != DONE
    assert_one_line(capsys.readouterr().err, "scan.npz", "from 900 px on", "across the scan")


def test_verify_tells_good_from_bad(folder, fields, capsys):
    main(["prepare", "scan.npz"])
    cache = Path("scan.g2k6.groups_cache.npz")
    capsys.readouterr()
    assert main(["verify", "scan.npz", str(cache)]) == DONE
    assert capsys.readouterr().out.splitlines() == ["scan.npz: ok", f"{cache}: ok"]
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 0xFF
    cache.write_bytes(content)
    frames = fields["diff3d"].copy()
    frames[7, 3, 3] = np.nan
    np.savez("nan.npz", **{**fields, "diff3d": frames})
    np.savez("good.npz", **fields)
    assert main(["verify", "good.npz", str(cache), "nan.npz", "absent.npz"]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert captured.out == "good.npz: ok\n"
    for name in (str(cache), "nan.npz", "absent.npz"):
        assert name in captured.err


def test_names_with_escape_sequences_reach_the_terminal_as_text(folder, capsys):
    name = "a\x1b[31m\nb.npz"
    (folder / "scan.npz").rename(folder / name)
    for command in (
        ["inspect", name], ["prepare", name], ["verify", name],
        ["convert", name, "c\x1b[2J\nd.npz"], ["simulate", "e\x1b[2J\nf.npz", "--frames", "20"],
    ):  # fmt: skip
        assert main(command) == 0
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert "\\x1b[" in captured.out
        assert all(line.strip() not in ("b.npz", "d.npz") for line in captured.out.splitlines())


@pytest.mark.parametrize("command", ["verify", "inspect", "convert", "prepare"])
def test_a_scan_that_is_no_regular_file_is_refused_at_once(folder, capsys, command):
    make_irregular(folder / "fifo.npz", "FIFO")
    rest = ["out.npz"] if command == "convert" else []
    with at_once():
        assert main([command, "fifo.npz", *rest]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "fifo.npz", "a FIFO", "a regular file")


@pytest.mark.parametrize("kind", ["directory", "FIFO", "socket", "device"])
@pytest.mark.parametrize("command", [["simulate"], ["convert", "scan.npz"]])
def test_what_is_no_regular_file_is_not_replaced(folder, capsys, command, kind):
    out = folder / "out.npz"
    make_irregular(out, kind)
    before = out.lstat()
    for options in ([], ["--overwrite"]):
        with at_once():
            assert main([*command, "out.npz", *options]) == DATA_AT_FAULT
        assert_one_line(capsys.readouterr().err, "out.npz", f"a {kind}", "a regular file")
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_device_node_is_not_replaced(folder, capsys):
    try:
        os.mknod("out.npz", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user makes no device nodes")
    assert main(["convert", "scan.npz", "out.npz", "--overwrite"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "out.npz", "a device")
    assert stat.S_ISCHR(os.stat("out.npz").st_mode)


def test_a_link_to_a_file_stays_and_the_file_is_replaced_on_request(folder):
    (folder / "real.npz").write_bytes(b"old")
    (folder / "out.npz").symlink_to("real.npz")
    assert main(["convert", "scan.npz", "out.npz", "--overwrite"]) == DONE
    assert Path("out.npz").is_symlink()
    assert len(RawData.from_file("real.npz")) == FRAMES


@pytest.mark.parametrize("hard_links", [True, False])
@pytest.mark.parametrize("command", [["simulate"], ["convert", "scan.npz"]])
def test_what_appears_while_a_command_runs_is_not_replaced(
    folder, capsys, monkeypatch, command, hard_links
):
    """The other file comes as late as it can: when ours is whole and about to get its name."""
    sync = os.fsync

    def another_program(descriptor):
        sync(descriptor)
        Path("out.npz").write_bytes(b"precious")

    def no_hard_links(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not hard_links:
        monkeypatch.setattr(os, "link", no_hard_links)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", another_program)
        assert main([*command, "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "out.npz", "there by now", "left alone")
    assert Path("out.npz").read_bytes() == b"precious"
    assert sorted(os.listdir(folder)) == ["out.npz", "scan.npz"]
    Path("out.npz").unlink()
    assert main([*command, "out.npz"]) == DONE
    assert len(RawData.from_file("out.npz")) > 0
    assert sorted(os.listdir(folder)) == ["out.npz", "scan.npz"]


def test_convert_refuses_damaged_patches(folder, fields, capsys):
    patches = np.ones(fields["diff3d"].shape, np.complex64)
    np.savez("damaged.npz", **fields, Y=patches)
    flip(folder / "damaged.npz", Path("damaged.npz").read_bytes().find(patches.tobytes()) + 9)
    before = listing(folder)
    assert main(["convert", "damaged.npz", "copy.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "damaged.npz: Y checksum is wrong")
    assert listing(folder) == before


def test_prepare_leaves_out_the_caches_that_a_pattern_of_the_shell_brings(folder, fields, capsys):
    np.savez_compressed("packed.npz", **fields)
    for caches in (0, 3):
        assert main(["prepare", *sorted(os.listdir())]) == DONE
        assert capsys.readouterr().out.count("a cache, left out") == caches


# -- convert: every option of reading ------------------------------------------------------------


@pytest.fixture
def product(folder):
    """A product whose frames have another name, so that they have to be named."""
    pytest.importorskip("h5py", reason="h5py is not installed: pip install ptycho-torch[formats]")
    files, example = import_module("ptychodus_files"), example_scan()
    files.write_diffraction_h5(folder / "frames.h5", example)
    return files.write_product_h5(folder / "product.h5", example)


def test_convert_says_how_to_name_the_frames_and_takes_them(product, capsys):
    assert main(["convert", "product.h5", "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "frames is missing", "--diffraction FILE")
    assert main(["convert", "product.h5", "out.npz", "--diffraction", "frames.h5"]) == DONE
    assert "24 of 24 positions have a frame" in capsys.readouterr().err
    found, truth = RawData.from_file("out.npz"), example_scan()
    assert found.geometry == truth.geometry
    np.testing.assert_array_equal(found.bad_pixels, truth.bad_pixels)
    np.testing.assert_allclose(found.xcoords, truth.xcoords, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "8"], {"size": 8}),
        (["--size", "8", "--centre", "7,9"], {"size": 8, "centre": (7, 9)}),
        (["--size", "8", "--centre", "estimate"], {"size": 8, "centre": "estimate"}),
        (["--bin", "2"], {"bin": 2}),
        (["--orientation", "flipud"], {"orientation": "flipud"}),
        (["--size", "20", "--pad-value", "3"], {"size": 20, "pad_value": 3.0}),
        (["--size", "20", "--pad-value", "bad"], {"size": 20, "pad_value": None}),
        (["--saturation", "230"], {"saturation": 230.0}),
        (["--dark", "dark.npy"], {"dark": np.full((16, 16), 2)}),
    ],
)
def test_convert_takes_every_option_of_the_detector(product, options, expected):
    np.save("dark.npy", np.full((16, 16), 2))
    rest = ["--diffraction", "frames.h5", "--probe", "initial"]
    assert main(["convert", "product.h5", "out.npz", *rest, *options]) == DONE
    found = RawData.from_file("out.npz")
    plain = read_scan("product.h5", diffraction="frames.h5", probe="initial")
    wanted = read_scan(
        "product.h5", diffraction="frames.h5", probe="initial", detector=Detector(**expected)
    )
    np.testing.assert_array_equal(found.diff3d, wanted.diff3d)
    np.testing.assert_array_equal(found.bad_pixels, wanted.bad_pixels)
    changed = wanted.N != plain.N or not np.array_equal(wanted.diff3d, plain.diff3d)
    assert changed or not np.array_equal(wanted.bad_pixels, plain.bad_pixels)


def test_convert_reads_an_npz_out_by_a_detector(folder, fields, capsys):
    side = fields["diff3d"].shape[1]
    cropped = ["--size", str(side // 2), "--probe", "initial"]
    assert main(["convert", "scan.npz", "out.npz", *cropped]) == DONE
    quarter = slice(side // 4, side // 4 + side // 2)
    assert np.array_equal(read_scan("out.npz").diff3d, fields["diff3d"][:, quarter, quarter])
    capsys.readouterr()
    assert main(["convert", "scan.npz", "other.npz", "--bin", "2"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "bin", "amplitudes", "measurement='counts'")


def test_a_mask_of_ones_own_is_named_on_the_command_line(folder, fields, capsys):
    mask = np.zeros(fields["diff3d"].shape[1:], np.uint8)
    mask[2, 3] = 1
    np.save("mask.npy", mask)
    assert main(["convert", "scan.npz", "masked.npz", "--bad-pixels", "mask.npy"]) == DONE
    assert np.argwhere(RawData.from_file("masked.npz").bad_pixels).tolist() == [[2, 3]]
    assert main(["convert", "scan.npz", "other.npz", "--bad-pixels", "none.npy"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "none.npy")
    assert main(["inspect", "scan.npz", "--bad-pixels", "estimated"]) == WRONG_USAGE


@pytest.mark.parametrize("several", ["list.yaml", "*.npz", "."])
@pytest.mark.parametrize("command", ["convert", "verify", "fit"])
def test_a_command_of_one_scan_says_so(folder, capsys, command, several):
    if command == "fit":
        pytest.importorskip("torch")
    Path("list.yaml").write_text("scans: [scan.npz]")
    words = ["out.npz"] if command == "convert" else []
    assert main([command, several, *words]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, several, "expected one scan")


def test_verify_reads_a_scan_as_a_layout_says(folder, fields, capsys):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: nothing to read HDF5 with")
    with h5py.File("scan.h5", "w") as file:
        file["f"], file["x"], file["y"] = (fields[n] for n in ("diff3d", "xcoords", "ycoords"))
    words = "measurement: amplitude\nframes: /f\npositions: {x: /x, y: /y, unit: px}\n"
    Path("my.yaml").write_text(words)
    assert main(["verify", "scan.h5", "--layout", "my.yaml"]) == DONE
    assert "scan.h5: ok" in capsys.readouterr().out
    with h5py.File("scan.h5", "r+") as file:
        file["f"][FRAMES - 1, 0, 0] = np.inf
    assert main(["inspect", "scan.h5", "--layout", "my.yaml"]) == DONE
    out = capsys.readouterr().out
    assert "unknown: the average pattern" in out and "overlap    unknown" in out
