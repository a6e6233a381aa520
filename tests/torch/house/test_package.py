"""What lies around the package: metadata, Makefile, README, pages. Each says what is true."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from builders import ROOT

import ptycho_torch
from ptycho_torch.cli.options import command_line

TOP = sorted(ROOT.glob("*.md"))
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements() -> list[str]:
    config = setup_cfg()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE))


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_installed_version_is_the_packages():
    try:
        installed = metadata.version("ptycho-torch")
    except metadata.PackageNotFoundError:
        pytest.skip("ptycho-torch is not installed: it is run from its folder")
    assert installed == ptycho_torch.__version__


def test_the_newest_section_of_the_changelog_is_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", text, re.MULTILINE)
    assert sections[:2] == ["Unreleased", ptycho_torch.__version__]


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_is_pinned_within_its_bound(requirement):
    name, _, bound = re.sub(r"\[.*?\]|,.*", "", requirement).partition(">=")
    assert normal(name) in pins()
    assert numbers(pins()[normal(name)]) >= numbers(bound)


def test_every_runtime_bound_has_its_reason():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    block = re.search(r"^install_requires =\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    previous = ""
    for line in block[1].splitlines():
        if ">=" in line and "tqdm" not in line:
            assert previous.lstrip().startswith("#"), line
        previous = line


def test_no_pin_has_a_local_suffix():
    assert not [name for name, version in pins().items() if "+" in version]


def test_help_lists_every_target_a_user_needs():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"echo 'make ([a-z-]+)", text))
    assert described == make_targets() - {"help", "lint", "types", "stairs"}


@needs_make
def test_help_is_what_make_says():
    result = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert result.stdout.startswith("make install")


@needs_make
@pytest.mark.parametrize(("version", "pinned"), [("3, 10, 4", False), ("3, 11, 0", True)])
def test_make_pins_versions_only_where_they_exist(tmp_path, version, pinned):
    python = tmp_path / "python"
    pretend = f"import sys; sys.version_info = ({version}); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{pretend}' \"$2\"\n")
    python.chmod(0o755)
    variables = [f"PYTHON={python}", f"VENV={tmp_path}/venv", f"NOTORCH={tmp_path}/notorch"]
    command = ["make", "-n", "-C", str(ROOT), "install", "test-notorch", *variables]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    installs = [
        line for line in text.splitlines() if " install " in line and "--no-deps" not in line
    ]
    assert len(installs) == 2
    assert all(("-c constraints.txt" in line) is pinned for line in installs)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_pages_name_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:ptycho_torch|tests|docs|configs|benchmarks)/[\w/.-]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_pages_name_targets_and_commands_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= make_targets()
    assert set(re.findall(r"ptycho-torch ([a-z]+)\b", text)) <= set(command_line().commands())


def test_every_decision_is_in_their_list():
    folder = ROOT / "docs" / "explanation" / "decisions"
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("0*.md")}


@pytest.mark.parametrize("place", [".ci/run", ".github/workflows/checks.yml"])
def test_the_continuous_integration_runs_every_check(place):
    run = (ROOT / place).read_text(encoding="utf-8")
    check = re.search(r"^check: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    made = re.findall(r"^(?: +- run: )?make ([a-z -]+)$", run, re.MULTILINE)
    targets = set(" ".join(made).split())
    assert set(check) <= targets <= make_targets()


def test_the_workflow_tries_every_python_that_the_metadata_names():
    text = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    tried = [set(re.findall(r'"(3\.\d+)"', row)) for row in re.findall(r"python: \[(.*)\]", text)]
    named = re.findall(r"Python :: (3\.\d+)", setup_cfg()["metadata"]["classifiers"])
    assert tried[0] == set(named)
    assert tried[1] < tried[0]
