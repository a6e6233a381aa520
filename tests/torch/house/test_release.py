"""A release says one version, and its recipe asks for what the package asks for."""

from __future__ import annotations

import configparser
import re

import pytest
from builders import ROOT

import ptycho_torch

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: citation and recipe")

CONDA_NAMES = {"torch": "pytorch", "jsonargparse[signatures]": "jsonargparse", "PyYAML": "pyyaml"}


@pytest.fixture(name="config")
def fixture_config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(name="recipe")
def fixture_recipe() -> dict:
    return yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place(config, recipe):
    assert config["metadata"]["version"] == "attr: ptycho_torch.__version__"
    assert recipe["package"]["version"] == ptycho_torch.__version__


def test_the_citation_has_what_its_format_asks_for_and_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == ptycho_torch.__version__
    assert citation["license"] == "BSD-3-Clause"
    for author in citation["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= set(author)


def test_the_recipe_asks_for_what_the_package_asks_for(config, recipe):
    lines = config["options"]["install_requires"].splitlines()
    wanted = {}
    for line in filter(None, map(str.strip, lines)):
        if not line.startswith("#"):
            name, bound = re.match(r"([\w\[\]-]+)(.*)", line).groups()
            wanted[CONDA_NAMES.get(name, name)] = bound
    wanted["python"] = config["options"]["python_requires"]
    run = dict((*line.split(" ", 1), "")[:2] for line in recipe["requirements"]["run"])
    of_signatures = {"docstring_parser", "typeshed-client"}
    assert {name: bound for name, bound in run.items() if name not in of_signatures} == wanted
    assert of_signatures <= set(run)


def test_the_recipe_makes_the_command_that_the_package_makes(config, recipe):
    script = config["options.entry_points"]["console_scripts"].strip()
    assert recipe["build"]["python"]["entry_points"] == [script]
    assert recipe["requirements"]["host"][0] == "python 3.10.*"
    build_needs = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        re.search(r'"setuptools(>=\d+)"', build_needs)[1] == recipe["requirements"]["host"][2][11:]
    )
    assert recipe["about"]["license"] == config["metadata"]["license"]
