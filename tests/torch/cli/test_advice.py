"""What an error or a warning says to type can be typed, in the command that says it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT, SIDE

from ptycho_torch.cli import main
from ptycho_torch.cli.options import command_line
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.plausibility import _moves_after, implausible
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.scan import Scan

COMMANDS = ("inspect", "prepare", "convert", "fit")
ELSEWHERE = re.compile(r"ptycho-torch (\w+) SCAN((?: --[a-z-]+)+)")
WORDS = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PYTHON = re.compile(r"\b[a-z_]+=|Detector\(")
# Said to who writes Python, and reached by no command: generate_grouped_data, register_reader,
# and where positions lie in another file, which names the option too.
NAMES = ("action", "OBJECT_PIXEL", "_SIZE")
ONLY_PYTHON = ("gridsize=1, 2 or 3", "pass the reader itself", "read_scan(")


def text_of(node: ast.AST) -> str:
    """The text of a string in source, its values left out; empty for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} {text_of(node.orelse)}"
    return ""


def advice() -> list[str]:
    """Every text that is an action of an error or verdict, or a constant named as one."""
    rooms = [*(ROOT / "ptycho_torch" / "data").rglob("*.py")]
    rooms += [ROOT / "ptycho_torch" / "models" / "object_fit.py"]
    rooms += [ROOT / "ptycho_torch" / "cli" / f"{name}.py" for name in ("fit_scan", "scans")]
    found = []
    for path in rooms:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value: ast.AST | None = None
            named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in NAMES
            if named or (isinstance(node, ast.keyword) and node.arg == "action"):
                value = node.value
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Verdict":
                value = node.args[-1]
            found.append("" if value is None else text_of(value))
    return [text for text in found if text]


def untypeable(line: str, command: str, helps: dict[str, set[str]]) -> list[str]:
    """What a line names that this command does not have; options of another are looked up there."""
    wrong = [
        word
        for other, words in ELSEWHERE.findall(line)
        for word in words.split()
        if word not in helps[other]
    ]
    here = WORDS.findall(ELSEWHERE.sub("", line))
    wrong += [word for word in here if word not in helps[command]]
    python = [
        part for part in ("Detector(", "Pass format=", "Pass size", "Pass layout=") if part in line
    ]
    return wrong + python


@pytest.fixture
def helps() -> dict[str, set[str]]:
    return {name: set(command_line().commands()[name].words()) for name in COMMANDS}


def test_every_action_names_what_can_be_typed(helps: dict[str, set[str]]) -> None:
    texts = advice()
    assert len(texts) > 60
    # OUT of convert is no SCAN, and groups are asked for where they are made.
    only = {"--overwrite": ("convert",), "--neighbors": ("inspect", "prepare")}
    for text in texts:
        words = WORDS.findall(text)
        for command in COMMANDS:
            if all(command in only.get(word, COMMANDS) for word in words):
                assert not untypeable(text, command, helps), text
        if PYTHON.search(text) and not any(part in text for part in ONLY_PYTHON):
            assert words, f"only for Python: {text}"


Arrays = dict[str, np.ndarray]


def without(*names: str) -> Callable[[Arrays], Arrays]:
    return lambda fields: {key: value for key, value in fields.items() if key not in names}


def ambiguous(fields: Arrays) -> Arrays:
    cut = {key: fields[key][:SIDE] for key in ("xcoords", "ycoords", "diff3d")}
    return {**cut, "probeGuess": fields["probeGuess"]}


def constant_rows(fields: Arrays) -> Arrays:
    frames = fields["diff3d"].copy()
    frames[:, 3] = 2.5
    return {**fields, "diff3d": frames}


def background(fields: Arrays) -> Arrays:
    return {**fields, "diff3d": np.sqrt(fields["diff3d"] ** 2 + (fields["diff3d"] ** 2).mean())}


def with_nan(fields: Arrays) -> Arrays:
    frames = fields["diff3d"].copy()
    frames[:, 2, 2] = np.nan
    return {**fields, "diff3d": frames}


MISTAKES: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "counts": (lambda f: {**f, "diff3d": (f["diff3d"] ** 2).astype("u2")}, "--measurement counts"),
    "ambiguous axes": (ambiguous, "--axis-order frames_first"),
    "no probe": (without("probeGuess"), "--probe initial"),
    "metres": (
        lambda f: {**f, "xcoords": f["xcoords"] * 1e-8, "ycoords": f["ycoords"] * 1e-8},
        "--position-unit m",
    ),
    "constant rows": (constant_rows, "--bad-pixels estimate"),
    "a background": (background, "--dark"),
    "NaN": (with_nan, "--bad-pixels estimate"),
    "the corner": (
        lambda f: {**f, "diff3d": np.fft.ifftshift(f["diff3d"], axes=(1, 2))},
        "--zero-frequency corner",
    ),
    "a probe in the corners": (
        lambda f: {**f, "probeGuess": np.fft.ifftshift(f["probeGuess"])},
        "--probe FILE.npy",
    ),
}


def words_of(command: str, path: str) -> list[str]:
    return [command, path, *(["out.npz"] if command == "convert" else [])]


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert"])
@pytest.mark.parametrize("name", MISTAKES)
def test_command_says_what_it_has(folder, fields, helps, capsys, command, name):
    change, wanted = MISTAKES[name]
    np.savez("wrong.npz", **change(fields))
    main(words_of(command, "wrong.npz"))
    said = "".join(capsys.readouterr()).splitlines()
    lines = [line for line in said if "warning" in line or line.startswith("ptycho-torch: ")]
    lines += [line for line in said if "expected" in line]
    if name == "no probe" and command != "convert":
        return  # they take the average pattern
    assert any(wanted in line for line in lines) or (name, command) == ("NaN", "inspect"), said
    for line in lines:
        assert not untypeable(line, command, helps), line


FILES: dict[str, tuple[str, bytes, str]] = {
    "an ending that misleads": ("scan.dat", b"nothing", "--format NAME"),
    "HDF5 without a layout": ("scan.h5", b"", "--layout YAML"),
    "a Dectris master": ("master.h5", b"", "--option positions=FILE"),
    "frames that are not square": ("flat.cxi", b"", "--size N"),
    "no object pixel": ("pixel.cxi", b"", "--option object_pixel_m=METRES"),
}


def write_hdf5(name: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(name, "w") as file:
        if name == "master.h5":
            file["/entry/data/data_000001"] = np.ones((2, 8, 8), "u2")
        elif name.endswith(".cxi"):
            width = 6 if name == "flat.cxi" else 8
            file["/entry_1/data_1/data"] = np.random.default_rng(0).poisson(9, (5, 8, width))
            file["/entry_1/sample_1/geometry_1/translation"] = np.eye(5, 3) * 1e-6
        else:
            file["something"] = 1.0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FILES)
def test_command_that_cannot_read_a_file_says_what_it_has(folder, helps, capsys, command, name):
    if command == "fit":
        pytest.importorskip("torch", reason="torch is not installed: a fit needs it")
    path, content, wanted = FILES[name]
    if content:
        Path(path).write_bytes(content)
    else:
        write_hdf5(path)
    assert main(words_of(command, path)) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert wanted in line and not untypeable(line, command, helps), line


def test_what_was_typed_in_vain_is_not_advised_again(folder, capsys):
    assert main(["convert", "scan.npz", "out.npz", "--zero-frequency", "corner"]) == 0
    said = capsys.readouterr().err
    assert "Leave out --zero-frequency corner" in said and "Add --zero-frequency" not in said
    assert main(["inspect", "scan.npz", "--position-unit", "um", "--pixel-size", "1"]) == 0
    said = capsys.readouterr().out
    assert "another unit than --position-unit um" in said and "Add --position-unit" not in said


def test_constant_rows_are_left_out_by_what_is_advised(folder, fields, capsys):
    np.savez("rows.npz", **constant_rows(fields))
    assert main(["inspect", "rows.npz"]) == 0
    assert "rows that hold one value" in capsys.readouterr().out
    assert main(["inspect", "rows.npz", "--bad-pixels", "estimate"]) == 0
    assert "rows that hold one value" not in capsys.readouterr().out
    bad = read_scan("rows.npz", corrections=Corrections(bad_pixels="estimate")).bad_pixels
    assert bad is not None and np.flatnonzero(bad.all(axis=1)).tolist() == [3]


def test_a_background_is_subtracted_by_what_is_advised(folder, fields, capsys):
    np.savez("lit.npz", **{**fields, "diff3d": background(fields)["diff3d"] ** 2})
    assert main(["inspect", "lit.npz", "--measurement", "counts"]) == 0
    level = re.search(r"--dark ([0-9.e+]+)", capsys.readouterr().out)
    assert level is not None
    options = ["--measurement", "counts", "--dark", level[1]]
    assert main(["inspect", "lit.npz", *options]) == 0
    assert "background" not in capsys.readouterr().out


MOVES = [
    Corrections(swap_xy=swap, flip_x=x, flip_y=y)
    for swap, x, y in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("wrong", ["--flip-y", "--swap-xy", "--swap-xy --flip-y"])
@pytest.mark.parametrize("given", MOVES)
def test_moves_after_those_given_are_one_set_of_words(given: Corrections, wrong: str) -> None:
    x, y = np.array([0.0, 3.0, 7.0, 8.0, 2.0]), np.array([1.0, 9.0, 4.0, 2.0, 0.0])
    scan = Scan(
        xcoords=x, ycoords=y, frames=np.ones((5, 4, 4), "f4"), probeGuess=np.ones((4, 4), complex)
    )
    after = Corrections(swap_xy="--swap-xy" in wrong, flip_y="--flip-y" in wrong)
    words = _moves_after(given, wrong)
    at_once = Corrections(swap_xy="--swap-xy" in words, flip_y="--flip-y" in words)
    one = after.of_measurement(given.of_measurement(scan))
    other = at_once.of_measurement(scan)
    both = Corrections(flip_x=True, flip_y=True).of_measurement(other)
    places = [np.stack([s.xcoords, s.ycoords]) for s in (one, other, both)]
    shifted = [p - p.min(axis=1, keepdims=True) for p in places]
    assert np.array_equal(shifted[0], shifted[1]) or np.array_equal(shifted[0], shifted[2])
    assert implausible(scan, given) is not None
