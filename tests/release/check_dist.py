"""Build wheel and source distribution; install the wheel in fresh environments; use it there.

    python tests/release/check_dist.py [--out DIRECTORY] [--python PYTHON] [--skip-torch]

The wheel is built from the source distribution, so both work without the checkout. One environment
has NumPy and what goes with it, the other one all that the wheel asks for, torch too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOOR = ["numpy", "scipy", "pyyaml", "filelock", "tqdm"]

WITHOUT_TORCH = """
import sys
from ptycho_torch import __file__, __version__, read_scan, simulate_scan
assert "site-packages" in __file__, __file__
scan = simulate_scan(n_frames=100, N=32, seed=1)
read = read_scan(scan.to_file("scan.npz"))
assert (read.diff3d == scan.diff3d).all() and "100 frames" in repr(read)
assert read._repr_html_()
assert "torch" not in sys.modules
try:
    from ptycho_torch import PtychoDataset
except ImportError as error:
    assert "is not installed" in str(error)
else:
    raise AssertionError("PtychoDataset without torch")
"""


def call(*command: object, folder: Path) -> str:
    """Run a command in a folder; its output. Ends the check where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path, python: str) -> Path:
    """The Python of a fresh virtual environment."""
    call(python, "-m", "venv", folder, folder=folder.parent)
    return folder / "bin" / "python"


def pip_install(python: Path, *what: object) -> None:
    """Install into the environment of this Python."""
    call(python, "-m", "pip", "--quiet", "install", *what, folder=python.parent)


def built(folder: Path, out: Path, python: str) -> Path:
    """Build both into ``out`` by an environment in ``folder``; the wheel."""
    builder = environment(folder / "build", python)
    pip_install(builder, "build")
    call(builder, "-m", "build", "--outdir", out, ROOT, folder=folder)
    (wheel,) = out.glob("*.whl")
    (source,) = out.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    require_files(in_source, ["CHANGELOG.md", "CITATION.cff", "LICENSE", "configs/demo.yaml"])
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    package = ROOT / "ptycho_torch"
    kinds = (".py", ".yaml", ".css", ".js", ".html", ".typed", ".json")
    files = [path for path in package.rglob("*") if path.suffix in kinds or path.name == "py.typed"]
    require_files(in_wheel, [path.relative_to(ROOT).as_posix() for path in files])
    stray = [name for name in in_wheel if not name.startswith(("ptycho_torch/", "ptycho_torch-"))]
    if stray:
        sys.exit(f"the wheel installs files of no package of ours: {', '.join(stray)}")
    return wheel


def require_files(names: set[str], wanted: list[str]) -> None:
    """End the check where a distribution lacks a file."""
    missing = sorted(set(wanted) - names)
    if missing:
        sys.exit(f"missing in what was built: {', '.join(missing)}; see setup.cfg and MANIFEST.in")


def check_floor(folder: Path, wheel: Path, python: str) -> None:
    """Import, simulate, write, read, inspect, without torch."""
    own = environment(folder / "floor", python)
    pip_install(own, *FLOOR)
    pip_install(own, "--no-deps", wheel)
    call(own, "-c", WITHOUT_TORCH, folder=folder)
    said = call(own.with_name("ptycho-torch"), "inspect", "scan.npz", folder=folder)
    if "100" not in said:
        sys.exit(f"inspect says nothing of 100 frames:\n{said}")
    print(f"without torch: {python} imports, simulates, reads, inspects")


def check_whole(folder: Path, wheel: Path, python: str) -> None:
    """The version that the command says is the wheel's; a fit of a small scan leaves an object."""
    own = environment(folder / "whole", python)
    pip_install(own, f"{wheel}[plot]")
    command = own.with_name("ptycho-torch")
    said = call(command, "--version", folder=folder)
    if wheel.name.split("-")[1] not in said:
        sys.exit(f"--version says {said.strip()!r}; expected the version of {wheel.name}")
    call(command, "simulate", "small.npz", "--frames", 100, "--size", 32, folder=folder)
    call(command, "fit", "small.npz", "--epochs", 2, folder=folder)
    if not list(folder.rglob("reconstruction.npz")):
        sys.exit("fit left no reconstruction.npz")
    print(f"with torch: {python} fits a small scan; {said.strip()}")


def main() -> None:
    """What the module says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep what is built here")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--skip-torch", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "dist" if options.out is None else options.out.resolve()
        for old in [*out.glob("*.whl"), *out.glob("*.tar.gz")]:
            old.unlink()
        wheel = built(folder, out, options.python)
        print(f"built {wheel.name} and its source distribution, in {out}")
        check_floor(folder, wheel, options.python)
        if not options.skip_torch:
            check_whole(folder, wheel, options.python)


if __name__ == "__main__":
    main()
