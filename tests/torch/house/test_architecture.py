"""House rules a machine can check: stairs, silence, no state, no pickles, torch optional."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import json
import logging
import pkgutil
import re
import shutil
import struct
import types
import typing
from pathlib import Path, PurePath
from subprocess import CompletedProcess

import numpy as np
import pytest
from builders import ROOT, TORCH_FAMILY, run_python
from source_figures import tree

import ptycho_torch

PACKAGE = ROOT / "ptycho_torch"
SOURCES = sorted(PACKAGE.rglob("*.py"))
WALK = pkgutil.walk_packages([str(PACKAGE)], prefix="ptycho_torch.", onerror=print)
MODULES = [
    "ptycho_torch",
    *sorted(found.name for found in WALK if not found.name.endswith("__main__")),
]


def source_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_packages(module: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def calls(module: ast.Module) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node) for node in ast.walk(module) if isinstance(node, ast.Call)
    ]


def lint_imports(root: Path) -> CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is not installed: the stairs")
    code = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(config_filename='setup.cfg', no_cache=True))"
    )
    return run_python(code, cwd=root)


def test_imports_go_down_the_stairs():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("room", "line", "contract"),
    [
        ("data/errors.py", "from ptycho_torch.data import raw_data", "Data: "),
        ("data/patches.py", "from ptycho_torch import physics", "Wings: "),
        ("data/grouping.py", "from ptycho_torch import RawData", "Wings: "),
        ("data/grouping.py", "def late():\n    import torch", "NumPy floor"),
        ("a_room_without_a_stair.py", "", "a_room_without_a_stair"),
    ],
)
def test_an_import_against_the_stairs_is_reported(tmp_path, room, line, contract):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "ptycho_torch", ignore=ignore)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    target = tmp_path / "ptycho_torch" / room
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    target.write_text(f"{text}\n{line}\n", encoding="utf-8")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert contract in result.stdout


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").rglob("*.py")), ids=source_name)
def test_the_numpy_floor_imports_no_torch(path):
    assert not imported_packages(tree(path)) & set(TORCH_FAMILY)


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_library_rooms_are_silent(path):
    if path.is_relative_to(PACKAGE / "cli"):
        pytest.skip("the command line prints")
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "warnings.simplefilter"}
    assert not [node.lineno for name, node in calls(tree(path)) if name in printing]


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_nothing_unpickles(path):
    module = tree(path)
    assert not imported_packages(module) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    for name, node in calls(module):
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        if name == "torch.load":
            assert options.get("weights_only") == "True", f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_no_function_rebinds_a_global_and_no_class_shares_a_container(path):
    containers = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Global), f"line {node.lineno}"
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign | ast.AnnAssign):
                    assert not isinstance(line.value, containers), f"line {line.lineno}"


def is_immutable(value: object) -> bool:
    """Whether nothing a module global holds can change during a run."""
    plain = (
        *(type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis)),
        *(PurePath, re.Pattern, struct.Struct, np.dtype, np.generic, logging.Logger),
        *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type, np.ufunc),
        *(types.GenericAlias, types.UnionType, typing.TypeVar, typing.ParamSpec),
    )
    if isinstance(value, plain):
        return True
    if isinstance(value, tuple | frozenset):
        return all(map(is_immutable, value))
    if isinstance(value, types.MappingProxyType):
        return all(map(is_immutable, value.values()))
    if isinstance(value, np.ndarray):
        return not value.flags.writeable
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        frozen = type(value).__dataclass_params__.frozen
        return frozen and all(is_immutable(getattr(value, field.name)) for field in fields)
    if callable(value) and type(value).__module__ == "numpy":
        return True
    # typing's own objects (Literal[...], Any, Protocol), __future__ flags, torch.dtype.
    return type(value).__module__.partition(".")[0] in ("typing", "__future__", "torch")


STATE = {"ptycho_torch.data.readers.registry._REGISTERED"}
"""What register_reader fills. A registry that programs add to is state; there is one."""


@pytest.mark.parametrize("name", MODULES)
def test_modules_hold_no_mutable_state(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (*TORCH_FAMILY, "jsonargparse"):
            raise
        pytest.skip(f"{error.name} is not installed: {name}")
    for key, value in vars(module).items():
        if not (key.startswith("__") and key.endswith("__")) and f"{name}.{key}" not in STATE:
            assert is_immutable(value), f"{name}.{key} is a {type(value)}"


@pytest.mark.parametrize(
    "value",
    [[], {}, set(), ([],), types.MappingProxyType({"a": []}), functools.cache(len), object()],
)
def test_containers_count_as_mutable_state(value):
    assert not is_immutable(value)


def test_a_writable_array_counts_as_mutable_state():
    assert not is_immutable(np.zeros(2))


def test_import_is_cheap_and_brings_no_torch():
    result = run_python(
        "import sys, ptycho_torch; ptycho_torch.RawData; ptycho_torch.simulate_scan\n"
        f"print([x for x in {TORCH_FAMILY!r} + ('matplotlib', 'h5py') if x in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_the_numpy_rooms_import_with_torch_blocked():
    rooms = [name for name in MODULES if name.split(".")[1:2] in (["data"], ["simulation"])]
    edge = ["ptycho_torch.raw_data_bridge", "ptycho_torch.data_container_bridge"]
    edge += [
        "ptycho_torch.config_bridge",
        "ptycho_torch.results.scan_figure",
        "ptycho_torch.cli.inspection",
    ]
    rooms += [name for name in edge if name in MODULES]
    result = run_python(f"import ptycho_torch, {', '.join(rooms)}", without_torch=True)
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_there_or_says_what_it_needs():
    code = """
import json, ptycho_torch
found = {}
for name in ptycho_torch.__all__:
    try:
        getattr(ptycho_torch, name)
        found[name] = "there"
    except ImportError as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
    result = run_python(code, without_torch=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == set(ptycho_torch.__all__)
    for name, answer in found.items():
        if name in {
            "Augmentation",
            "ObjectFit",
            "PtychoBatch",
            "PtychoDataModule",
            "PtychoDataset",
            "PtychoPINN",
            "SimulatedScans",
        }:
            error = r"MissingDependencyError: (\w+) is not installed"
            assert re.fullmatch(rf"{error}: {name} needs it; pip install \1", answer), name
        else:
            assert answer == "there", name


@pytest.mark.parametrize("command", [["--help"], ["simulate", "--help"], ["inspect", "--help"]])
def test_the_command_line_helps_with_torch_blocked(command):
    code = "import sys; from ptycho_torch.cli import main; raise SystemExit(main(sys.argv[1:]))"
    result = run_python(code, *command, without_torch=True)
    assert result.returncode == 0, result.stderr
    assert "ptycho-torch" in result.stdout


def test_the_command_line_says_that_fit_needs_torch():
    code = "from ptycho_torch.cli import main; raise SystemExit(main(['fit']))"
    result = run_python(code, without_torch=True)
    assert result.returncode == 2
    assert re.fullmatch(
        r"ptycho-torch: (\w+) is not installed: ptycho-torch fit needs it; pip install \1\n",
        result.stderr,
    )


def project_texts() -> list[Path]:
    folders = ("ptycho_torch", "tests", "benchmarks", "configs", "datasets", "docs", ".ci")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in folders:
        files += (ROOT / folder).rglob("*")
    texts = {".py", ".md", ".cfg", ".toml", ".yaml", ".txt", ".json", ""}
    hidden = {".git", "_build", "__pycache__", "download"}
    return [
        path
        for path in sorted(files)
        if path.is_file() and path.suffix in texts and not hidden & set(path.parts)
    ]


def test_no_text_names_a_folder_of_someones_machine():
    places = re.compile(r"/(?:work|root|home|Users)/\w+|/(?:tmp)/\w+")
    for path in project_texts():
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not places.search(text), f"{path}: {places.search(text)}"
