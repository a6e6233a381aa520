"""Two distributions, one package name: a mixture is refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ROOT, run_python

SHOW = "import sys; sys.path.insert(0, sys.argv[1]); import ptycho_torch; print(ptycho_torch)"


@pytest.fixture(name="site")
def fixture_site(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__")
    package = tmp_path / "ptycho_torch"
    shutil.copytree(ROOT / "ptycho_torch", package, ignore=ignore)
    names = [path.relative_to(tmp_path).as_posix() for path in package.rglob("*") if path.is_file()]
    record(tmp_path, "ptycho_torch-0.2.0", *names)
    return tmp_path


def record(site: Path, distribution: str, *names: str) -> None:
    folder = site / f"{distribution}.dist-info"
    folder.mkdir()
    lines = [f"{name},sha256=0,1" for name in (*names, f"{folder.name}/RECORD")]
    (folder / "RECORD").write_text("\n".join(lines), encoding="utf-8")


def test_package_that_shares_its_folder_with_nobody_imports(site: Path) -> None:
    record(site, "ptychodus-1.7.0", "ptychodus/__init__.py")
    (site / "ptycho_torch" / "__pycache__").mkdir(exist_ok=True)
    result = run_python(SHOW, site, cwd=site)
    assert result.returncode == 0 and str(site) in result.stdout, result.stderr


def test_module_beside_ours_is_named_with_what_to_type(site: Path) -> None:
    (site / "ptycho_torch" / "dataloader.py").write_text("", encoding="utf-8")
    result = run_python(SHOW, site, cwd=site)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "MixedInstallError" in last and "(dataloader.py)" in last
    assert "pip uninstall -y ptychopinn ptycho-torch" in last


def test_file_that_both_distributions_claim_is_named(site: Path) -> None:
    record(site, "ptychopinn-2.0", "ptycho/__init__.py", "ptycho_torch/config_bridge.py")
    result = run_python(SHOW, site, cwd=site)
    assert "(config_bridge.py)" in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["config_params.py", "model.py", "api/base_api.py"])
def test_names_that_ptychodus_asks_for_come_from_one_distribution(site: Path, name: str) -> None:
    """Both have files of these names, and the last one installed has written them."""
    record(site, "ptychopinn-2.0", f"ptycho_torch/{name}")
    last = run_python("import ptycho_torch", cwd=site).stderr.strip().splitlines()[-1]
    assert "MixedInstallError" in last and f"({name.partition('/')[0]})" in last


def test_source_checkout_without_a_record_imports(site: Path) -> None:
    shutil.rmtree(site / "ptycho_torch-0.2.0.dist-info")
    (site / "ptycho_torch" / "scratch.py").write_text("", encoding="utf-8")
    assert run_python(SHOW, site, cwd=site).returncode == 0
