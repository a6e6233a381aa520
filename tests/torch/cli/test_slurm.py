"""The SLURM script, run as it is by a ``srun`` that starts two tasks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from builders import ROOT, write_fit_config

SRUN = f"""#!{sys.executable}
import os, subprocess, sys
words = sys.argv[1:]
assert "--cpus-per-task=1" in words, words
while words[0].startswith("-"):
    words.pop(0)
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_NODEID": "0",
                                  "SLURM_PROCID": rank, "SLURM_LOCALID": rank}})
    for rank in "01"
]
sys.exit(max(task.wait() for task in tasks))
"""
COMMAND = f"""#!{sys.executable}
import sys
from ptycho_torch.cli import main
sys.exit(main())
"""


@pytest.mark.slow
def test_the_slurm_script_fits_on_all_tasks_together(folder):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    # As configurations for one process say it, and as --print_config writes them.
    write_fit_config(folder, trainer="  devices: 1\n  num_nodes: 1\n  strategy: auto")
    for name, text in {"srun": SRUN, "ptycho-torch": COMMAND}.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "ptycho", "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1",
        "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    place = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = ["bash", "-eu", str(ROOT / "configs" / "slurm_ddp.sh")]
    ran = subprocess.run(
        [*script, "--config", "fit.yaml", "--trainer.accelerator", "cpu"], cwd=folder,
        env={**os.environ, **job, **place, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "MEMBER: 2/2" in ran.stderr
    assert (folder / "out" / "reconstruction.png").exists()
    # 40 groups in batches of 8 on each of two ranks: three steps in each of two epochs.
    rows = (folder / "out/logs/version_0/metrics.csv").read_text(encoding="utf-8").split()
    assert [row.split(",")[1] for row in rows] == ["step", "2", "5"]
