"""Figures of source code: lines per file and per function, imports and the circles they close.

Reads files and imports none of them: what is counted may need torch, or be broken on purpose.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Arrow = tuple[str, str]


def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def line_count(path: Path) -> int:
    """Return the physical lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[Function]:
    """Return every function of a file: methods and nested functions too."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, Function)]


def function_lines(function: Function) -> int:
    """Return the physical lines of a function, docstring included, decorators not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def unannotated(function: Function) -> list[str]:
    """Return the arguments without an annotation; ``self`` and ``cls`` need none."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [
        argument.arg
        for argument in named
        if argument and not argument.annotation and argument.arg not in ("self", "cls")
    ]


def undocumented(path: Path) -> list[str]:
    """Return the public names of a file without a docstring: module, classes, methods, functions.

    A name is public where no part of its dotted name starts with an underscore; functions inside
    functions have no name that a caller can reach.
    """
    module = tree(path)
    named = [(path.stem, module), *_public(module, "")]
    return [name for name, node in named if not ast.get_docstring(node)]


def _public(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for node in _statements(parent.body):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{prefix}{node.name}.")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, those under ``if``, ``try`` and ``with`` too."""
    for node in body:
        yield node
        if not isinstance(node, Function | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, []))


def module_names(folder: Path) -> dict[str, Path]:
    """Return the files of a package by dotted name; an ``__init__`` is its package."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(folder: Path) -> set[Arrow]:
    """Return each pair (importing module, imported module) among the modules of a package.

    Imports inside functions count; imports that only a type checker runs do not.
    """
    modules = module_names(folder)
    return {
        (name, target)
        for name, path in modules.items()
        for target in _targets(name, path, modules)
        if target != name
    }


def _targets(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in _running(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in modules or source in modules:
                    yield inner if inner in modules else source


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree past the blocks under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _running(child)


def circles(found: set[Arrow]) -> list[set[str]]:
    """Return the sets of modules that reach each other, each set once."""
    targets: dict[str, set[str]] = {}
    for source, target in found:
        targets.setdefault(source, set()).add(target)
    reached = {name: _reachable(name, targets) for name in targets}
    rings = {
        frozenset(other for other in reached[name] if name in reached.get(other, ()))
        for name in targets
    }
    return sorted((set(ring) for ring in rings if ring), key=sorted)


def _reachable(name: str, targets: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = set(targets[name])
    while waiting:
        found.add(current := waiting.pop())
        waiting |= targets.get(current, set()) - found
    return found
