"""Layouts: where an HDF5 file of some beamline has frames, positions and geometry, as a YAML says.

Owns the words of such a YAML, and refuses others. Opens no scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from ptycho_torch.data.config import Measurement
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanFileError, naming
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.readout import ORIENTATIONS

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

MAX_YAML_BYTES = 1 << 20

LENGTHS = MappingProxyType({"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "angstrom": 1e-10})
ENERGIES = MappingProxyType({"eV": 1.0, "keV": 1e3, "J": 1 / 1.602176634e-19})
ORIGINS = ("scan", "centre", "patch", "corner")

# What a word may stand for: types, or the values there are.
_PATHS, _TEXT, _SWITCH = (str, list), (str,), (bool,)
_PATH = MappingProxyType({"path": _TEXT})
_LENGTH = MappingProxyType({"path": _PATHS, "value": (int, float, list), "unit": tuple(LENGTHS)})
_WORDS: Mapping[str, Any] = MappingProxyType(
    {
        "frames": MappingProxyType(
            {
                "path": _PATHS,
                "axes": ("frames_first", "frames_last"),
                "corner": _SWITCH,
                "orientation": tuple(ORIENTATIONS),
                "index": _TEXT,
            }
        ),
        "positions": MappingProxyType(
            {
                "path": _TEXT,
                "columns": (list,),
                "file": _TEXT,
                "x": _TEXT,
                "y": _TEXT,
                "raster": _SWITCH,
                "unit": ("px", *LENGTHS),
                "x_sign": (1, -1),
                "y_sign": (1, -1),
                "swapped": _SWITCH,
                "origin": ORIGINS,
                "index": _TEXT,
            }
        ),
        "energy": MappingProxyType({**_LENGTH, "value": (int, float), "unit": tuple(ENERGIES)}),
        "wavelength": _LENGTH,
        "distance": _LENGTH,
        "detector_pixel": _LENGTH,
        "object_pixel": _LENGTH,
        "mask": MappingProxyType({"path": _TEXT, "bad": ("nonzero", "zero")}),
        "dark": _PATH,
        "monitor": _PATH,
        "probe": _PATH,
        "object": _PATH,
        "measurement": get_args(Measurement),
        "near_field": _SWITCH,
        "preset": _TEXT,
    }
)


@dataclass(frozen=True)
class Layout:
    """The words of a layout by section, checked; ``name`` is its file or preset, for messages."""

    name: str
    words: Mapping[str, Any]

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        """A section; empty where the layout has none."""
        found: Mapping[str, Any] = self.words.get(section, {})
        return found

    def require(self, section: str, word: str, example: str) -> Any:
        """A word that reading cannot do without; the OptionError shows what to type."""
        if word not in self[section]:
            raise self.wrong(f"{section}.{word}", "missing", "given", f"Add {section}: {example}")
        return self[section][word]

    def wrong(self, field: str, found: Any, expected: Any, action: str = "") -> OptionError:
        """The error that names layout and field."""
        return OptionError(f"layout {self.name}: {field}", found, expected, action=action)


def layout_of(layout: Any) -> Layout:
    """A layout from the path of a YAML, the name of a preset, or a mapping as a YAML would hold.

    ``preset`` in a layout names one that it changes. OptionError, OptionTypeError, ScanFileError:
    a word or value that no layout has, with file, field and what is expected.
    """
    if isinstance(layout, Mapping):
        return _checked("given", layout)
    if not isinstance(layout, str | Path):
        raise OptionTypeError("layout", type(layout).__name__, "a YAML, a preset or a mapping")
    if str(layout) in preset_names():
        return _checked(str(layout), yaml_content((_presets() / f"{layout}.yaml").read_bytes()))
    if Path(layout).suffix not in (".yaml", ".yml"):
        known = ", ".join(preset_names())
        raise OptionError("layout", repr(str(layout)), f"a name ending in .yaml, or one of {known}")
    with naming(layout):
        return _checked(Path(layout).name, read_yaml(Path(layout)))


def preset_names() -> list[str]:
    """The layouts that come with the package."""
    names = (entry.name for entry in _presets().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _presets() -> Traversable:
    return files("ptycho_torch.data.readers") / "layouts"


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: plain values, never objects; ScanFileError, OptionError: none."""
    with opened(path.absolute()) as stream:
        content = stream.read(MAX_YAML_BYTES + 1)
    if len(content) > MAX_YAML_BYTES:
        raise ScanFileError("size", f"over {MAX_YAML_BYTES} bytes", "a YAML of a few lines")
    return yaml_content(content)


def yaml_content(content: bytes) -> Any:
    """Parse YAML; an OptionError says where it is none."""
    import yaml

    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "the file"
        problem = getattr(error, "problem", None) or type(error).__name__
        raise OptionError(where, f"no YAML ({problem})", "YAML") from error


def _checked(name: str, words: Any) -> Layout:
    if not isinstance(words, Mapping):
        raise OptionTypeError(f"layout {name}", type(words).__name__, "a mapping of sections")
    checked: dict[str, Any] = {}
    for section, value in words.items():
        allowed = _known(name, "", section, _WORDS)
        if not isinstance(allowed, Mapping):
            checked[section] = _value(name, section, value, allowed)
            continue
        # A path says it all where the rest has its defaults.
        inner = {"path": value} if isinstance(value, str | list) else value
        if not isinstance(inner, Mapping):
            raise OptionTypeError(f"layout {name}: {section}", repr(value), "a path or a mapping")
        checked[section] = {
            word: _value(
                name, f"{section}.{word}", each, _known(name, f"{section}.", word, allowed)
            )
            for word, each in inner.items()
        }
    if "preset" in checked:
        base = layout_of(checked.pop("preset"))
        merged = {
            key: {**value} if isinstance(value, Mapping) else value
            for key, value in base.words.items()
        }
        for key, value in checked.items():
            both = isinstance(value, Mapping) and key in merged
            merged[key] = {**merged[key], **value} if both else value
        checked = merged
    return Layout(name, MappingProxyType(checked))


def _known(name: str, prefix: str, word: Any, allowed: Mapping[str, Any]) -> Any:
    if word not in allowed:
        expected = "one of " + ", ".join(allowed)
        raise OptionError(f"layout {name}: {prefix}{word}", "no word of a layout", expected)
    return allowed[word]


def _value(name: str, field: str, value: Any, allowed: Any) -> Any:
    if not isinstance(allowed[0], type):
        fits = any(value == each and type(value) is type(each) for each in allowed)
        expected = "one of " + ", ".join(map(str, allowed))
    else:
        fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        kinds = {str: "text", list: "a list", bool: "true or false", int: "a number"}
        expected = " or ".join(kinds[each] for each in allowed if each in kinds)
    if not fits:
        raise OptionError(f"layout {name}: {field}", repr(value), expected)
    return value
