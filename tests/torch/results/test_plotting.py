"""What pictures share: whole PNGs, no global state, a message where matplotlib is absent."""

from __future__ import annotations

import sys

import pytest
from builders import run_python

from ptycho_torch.data.errors import MissingDependencyError
from ptycho_torch.results.plotting import save_figure
from ptycho_torch.results.scan_figure import plot_scan
from ptycho_torch.simulation.scan import simulate_scan

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=4, N=8)


@pytest.mark.slow
def test_picture_is_written_whole_into_a_new_folder(scan, tmp_path):
    path = save_figure(plot_scan(scan), tmp_path / "new" / "scan.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["scan.png"]


@pytest.mark.slow
def test_drawing_leaves_matplotlib_state_alone():
    code = (
        "import sys; from ptycho_torch.simulation.scan import simulate_scan;"
        "from ptycho_torch.results.scan_figure import plot_scan;"
        "assert 'matplotlib' not in sys.modules;"
        "plot_scan(simulate_scan(n_frames=4, N=8));"
        "assert 'matplotlib.pyplot' not in sys.modules; assert 'torch' not in sys.modules"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_missing_matplotlib_is_named(scan, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib is not installed"):
        plot_scan(scan)
