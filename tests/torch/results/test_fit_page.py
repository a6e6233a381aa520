"""The page of a fit: figures beside a flat object's, pictures, and what repeats it."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from browser import DESK, PHONE, console_errors, overflowing, requested

from ptycho_torch.results.fit_page import FitFacts, fit_page
from ptycho_torch.results.flat_object import FitVerdict
from ptycho_torch.results.judged import figures_beside_flat
from ptycho_torch.results.page import write_page
from ptycho_torch.simulation.scan import simulate_scan

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")

RAN = {
    "compared_with": "the truth", "epochs": 3, "seconds": 1.25, "frames": 60, "groups": 55,
    "frames_per_group": 4, "parameters": 12_345, "model": "ObjectFit",
}  # fmt: skip


@pytest.fixture(scope="module")
def facts():
    scan = simulate_scan(n_frames=60, N=32, seed=2, n_modes=2)
    truth = scan.objectGuess
    found = truth + 0.05 * np.random.default_rng(0).normal(size=truth.shape)
    mask = np.ones(truth.shape, bool)
    training = figures_beside_flat(found, truth, mask, (0.0612, 0.1234), (8e-9, 8e-9))
    other = figures_beside_flat(found, None, mask, (0.0721, 0.1345))
    return FitFacts(
        obj=found, probe=scan.probeGuess, truth=truth,
        positions_px=np.stack([scan.xcoords, scan.ycoords], 1), pixel_m=(8e-9, 8e-9),
        figures={**training, **RAN, "validation": {**other, "groups": 5}},
        history={"training": [0.3, 0.1, 0.06], "validation": [0.3, 0.2, 0.07]},
        verdict=FitVerdict(0.0612, 0.1234, 0.06),
        configuration={"model": {"class_path": "ObjectFit"}, "data": {"train": "<b>&.npz"}},
        command="ptycho-torch fit '<b>&.npz' --out " + "long/" * 40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(facts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    return write_page(folder / "report.html", "scan", "ObjectFit of a scan", fit_page(facts))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_of_the_page_of_a_fit_leaves_the_window(page, width, dark):
    assert overflowing(page, width, dark) == []


@pytest.mark.slow
def test_page_of_a_fit_asks_for_nothing_and_logs_no_error(page):
    assert console_errors(page) == []
    assert requested(page) == []


def test_every_figure_stands_beside_that_of_a_flat_object(page, facts):
    html = page.read_text(encoding="utf-8")
    lines = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>', html)
    assert [line for line in lines if line[0] == "Fourier error"] == [
        ("Fourier error", "0.0612", "0.1234"),
        ("Fourier error", "0.0721", "0.1345"),
    ]
    centred = f"{facts.figures['centred_correlation']:.4g}"
    assert ("centred correlation", centred, "0") in lines
    half = f"{facts.figures['half_period_nm']:.4g}"
    assert ("smallest detail, half a period, nm", half, "none") in lines
    assert "Figures of the validation groups (5)" in html


def test_pictures_are_object_truth_probe_and_loss(page, facts):
    html = page.read_text(encoding="utf-8")
    names = re.findall("<figcaption><strong>(.*?)</strong>", html)
    assert names == [
        "Reconstruction: amplitude", "Reconstruction: phase", "Truth: amplitude", "Truth: phase",
        "Probe: 2 modes, and their shares of the light", "Fourier error",
    ]  # fmt: skip
    figures = {name: value for name, value in facts.figures.items() if name != "epochs"}
    bare = fit_page(
        replace(facts, truth=None, verdict=None, command="", history={}, figures=figures)
    )
    assert bare.count("<figure>") == 3
    assert "Epochs" not in bare
    assert '<pre class="command"' not in bare


def test_command_options_and_versions_are_those_of_the_fit(page, facts):
    html = page.read_text(encoding="utf-8")
    (command,) = re.findall('<pre class="command">(.*?)</pre>', html)
    assert unescape(command) == facts.command
    assert "train: &lt;b&gt;&amp;.npz" in html
    assert f"<td>{np.__version__}</td>" in html
    assert "The frames are explained well" in html
    assert page.stat().st_size < 2_000_000


def test_a_fit_hardly_better_than_a_flat_object_is_a_warning(facts):
    html = fit_page(replace(facts, verdict=FitVerdict(0.12, 0.1234, 0.01)))
    assert 'class="card warning"' in html
    assert "Hardly better than a flat object" in html


@pytest.mark.slow
def test_page_of_a_large_object_of_noise_is_at_most_2_mb(facts, tmp_path):
    rng = np.random.default_rng(0)
    obj = rng.normal(size=(3000, 2500)) + 1j * rng.normal(size=(3000, 2500))
    probe = rng.normal(size=(64, 256, 256)) + 1j * rng.normal(size=(64, 256, 256))
    large = replace(facts, obj=obj, truth=obj[::-1], probe=probe)
    path = write_page(tmp_path / "report.html", "large", "", fit_page(large))
    assert path.stat().st_size < 2_000_000
