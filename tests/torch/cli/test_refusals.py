"""Refusals: one line on stderr, the exit code, and no file written."""

from __future__ import annotations

import numpy as np
import pytest
from builders import FRAMES, SIDE, assert_one_line, listing, write_fit_config

from ptycho_torch import simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main


def without(name):
    return lambda fields: {key: value for key, value in fields.items() if key != name}


def changed(name, change):
    return lambda fields: {**fields, name: change(fields[name].copy())}


def put_nan(array):
    array[5] = np.nan
    return array


BROKEN = {
    "no probe": (without("probeGuess"), "probeGuess", "missing"),
    "no frames key": (without("diff3d"), "diff3d", "missing"),
    "no positions": (without("ycoords"), "ycoords", "missing"),
    "short positions": (changed("xcoords", lambda x: x[:-1]), "xcoords", str(FRAMES - 1)),
    "flat frames": (changed("diff3d", lambda d: d[0]), "diff3d", f"({SIDE}, {SIDE})"),
    "NaN position": (changed("ycoords", put_nan), "ycoords", "nan"),
    "no frames": (
        lambda f: {
            **f,
            **{name: f[name][:0] for name in ("diff3d", "xcoords", "ycoords", "scan_index")},
            **{name: f[name][:0] for name in ("xcoords_start", "ycoords_start")},
        },
        "diff3d",
        "(0, ",
    ),
    "probe of another size": (
        changed("probeGuess", lambda p: np.pad(p, 1)),
        "probeGuess",
        str(SIDE + 2),
    ),
}


COMMANDS = ("inspect", "prepare", "convert", "verify", "fit")
# These two need no probe.
REFUSING = [
    (fault, command)
    for fault in BROKEN
    for command in COMMANDS
    if not (fault == "no probe" and command in ("inspect", "prepare"))
]


@pytest.mark.parametrize("command", ["inspect", "prepare"])
def test_a_scan_without_a_probe_is_looked_at_and_grouped(folder, fields, command):
    np.savez("scan.npz", **without("probeGuess")(fields))
    assert main([command, "scan.npz"]) == DONE


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "command"), REFUSING)
def test_a_broken_scan_is_one_line_and_writes_nothing(folder, fields, capsys, fault, command):
    breaking, field, found = BROKEN[fault]
    np.savez("scan.npz", **breaking(fields))
    arguments = {"convert": ["scan.npz", "out.npz"], "fit": ["--config", "fit.yaml"]}
    if command == "fit":
        pytest.importorskip("lightning", reason="torch is not installed: fit")
        write_fit_config(folder)
    before = listing(folder)
    assert main([command, *arguments.get(command, ["scan.npz"])]) == DATA_AT_FAULT
    err = capsys.readouterr().err
    assert_one_line(err, "scan.npz", field, found, "expected")
    assert listing(folder) == before


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert", "verify"])
def test_a_missing_scan_is_one_line(folder, capsys, command):
    before = listing(folder)
    out = ["out.npz"] if command == "convert" else []
    assert main([command, "absent.npz", *out]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "absent.npz", "missing", "expected")
    assert listing(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["simulate"],
        ["simulate", "out.npz", "--frames", "many"],
        ["simulate", "out.npz", "--frames", "0"],
        ["simulate", "out.npz", "--pattern", "zigzag"],
        ["simulate", "out.npz", "--photons", "-5"],
        ["simulate", "out.txt"],
        ["inspect", "scan.npz", "--gridsize", "0"],
        ["inspect", "scan.npz", "--gridsize", "3", "--neighbors", "4"],
        ["convert", "scan.npz", "out.npz", "--format", "nonsense"],
    ],
)
def test_wrong_usage_ends_in_code_2_and_writes_nothing(folder, capsys, arguments):
    before = listing(folder)
    assert main(arguments) == WRONG_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("ptycho-torch")
    assert listing(folder) == before


def test_bench_needs_a_checkout(folder, capsys, monkeypatch):
    import ptycho_torch

    monkeypatch.setattr(ptycho_torch, "__file__", str(folder / "ptycho_torch" / "__init__.py"))
    assert main(["bench"]) == WRONG_USAGE
    assert "source checkout" in capsys.readouterr().err


def test_a_warning_is_one_line(folder, capsys, monkeypatch):
    import warnings

    from ptycho_torch.cli import scans

    def warn_and_work(*arguments, **options):
        warnings.warn("beware of\nthe dog", UserWarning, stacklevel=2)
        return simulate_scan(*arguments, **options)

    monkeypatch.setattr(scans, "simulate_scan", warn_and_work)
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["simulate", "out.npz", "--frames", "9", "--size", "16"]) == DONE
    assert capsys.readouterr().err == "ptycho-torch: warning: beware of the dog\n"
    assert warnings.showwarning is shown


@pytest.mark.parametrize(
    ("message", "start"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 69222400 bytes.\nframe #0: somewhere\n",
            "out of memory",
        ),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "out of memory"),
        ("can't start new thread", "out of memory or processes"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "out of memory or processes"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "out of memory or processes"),
        ("[gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:2701", "another rank ended"),
    ],
)
def test_circumstances_that_torch_calls_runtime_errors_are_one_line(
    folder, monkeypatch, capsys, message, start
):
    def fail(options):
        raise RuntimeError(message)

    monkeypatch.setattr("ptycho_torch.cli.scans.prepare", fail)
    assert main(["prepare", "scan.npz"]) == DATA_AT_FAULT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ptycho-torch: {start}")


def test_any_other_runtime_error_shows_its_traceback(folder, monkeypatch):
    def mistaken(options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("ptycho_torch.cli.scans.prepare", mistaken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["prepare", "scan.npz"])


@pytest.mark.parametrize(
    "words, said",
    [
        ("fit scan.npz --epochs x", "Type: ptycho-torch fit --help"),
        ("completion fish", "Type: ptycho-torch completion --help"),
        ("simulate folder", "OUT is 'folder'"),
    ],
)
def test_a_refused_word_names_a_command_that_can_be_typed(words, said, capsys):
    assert main(words.split()) == WRONG_USAGE
    assert said in capsys.readouterr().err
