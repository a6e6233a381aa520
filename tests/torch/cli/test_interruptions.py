"""Interruptions: Ctrl-C, a termination signal, and a reader that closes its end of the pipe."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import ROOT, write_fit_config

from ptycho_torch import simulate_scan
from ptycho_torch.cli import DONE, main


def interruptible():
    """Undo what a shell does to its background jobs: it has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_error_that_an_interruption_made_is_an_interruption(folder, monkeypatch, capsys):
    def simulate(options):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("interrupted while tidying up")

    monkeypatch.setattr("ptycho_torch.cli.scans.simulate", simulate)
    assert main(["simulate", "out.npz"]) == 130
    assert capsys.readouterr().err == "ptycho-torch: interrupted\n"


@pytest.mark.slow
def test_interruption_is_one_line_and_leaves_nothing(folder, request):
    code = """
import sys
import ptycho_torch.simulation.scan
from ptycho_torch.cli import main
print("started", flush=True)
sys.exit(main(["simulate", "out.npz", "--frames", "20000", "--size", "64"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=interruptible,
    )
    request.addfinalizer(process.kill)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert err == "ptycho-torch: interrupted\n"
    assert [path.name for path in folder.iterdir()] == ["scan.npz"]


@pytest.mark.slow
def test_interrupted_preparation_of_several_scans_is_one_line_and_leaves_whole_caches(folder):
    code = """
import os, signal, sys
from ptycho_torch.cli import main
from ptycho_torch.data import prepare
whole, begun = prepare.RawData.group, []
def group(*arguments, **options):
    begun.append(1)
    if len(begun) == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return whole(*arguments, **options)
prepare.RawData.group = group
os.cpu_count = lambda: 2
sys.exit(main(["prepare", *sys.argv[1:]]))
"""
    simulate_scan(n_frames=3000, N=32, seed=0).to_file(folder / "scan.npz")
    scans = [folder / f"{number}.npz" for number in range(8)]
    for scan in scans:
        shutil.copy(folder / "scan.npz", scan)
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, scans)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=interruptible,
        timeout=60,
    )
    assert ran.returncode == 130, ran.stderr
    said = [line for line in ran.stderr.splitlines() if "groups cache written" not in line]
    assert said == ["ptycho-torch: interrupted"]
    made = {path.name for path in folder.iterdir()} - {path.name for path in scans} - {"scan.npz"}
    assert len(made) < 8
    assert all(name.endswith(".groups_cache.npz") for name in made), made
    assert main(["verify", *(str(folder / name) for name in made), str(scans[0])]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_says_so_in_its_code(folder, request, number, code):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    write_fit_config(folder)
    command = [sys.executable, "-m", "ptycho_torch", "fit", "--config", "fit.yaml"]
    process = subprocess.Popen(
        [*command, "--trainer.max_epochs=100000"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "xdg")},
        preexec_fn=interruptible,
    )
    request.addfinalizer(process.kill)
    deadline = time.monotonic() + 120
    while not list(folder.rglob("config.yaml")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.0)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "ptycho-torch: interrupted"
    assert not Path("out/reconstruction.png").exists()


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(folder):
    code = "import sys; from ptycho_torch.cli import main; sys.exit(main(['inspect', 'scan.npz']))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == DONE
    assert err == ""
