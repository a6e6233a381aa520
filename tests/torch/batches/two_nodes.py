"""Two machines that are none: network namespaces joined by a cable, with torchrun on each.

Owns the namespaces. They lie in a namespace made for them, and end with the process that made it,
so nothing of the machine's own network is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ADDRESSES = ("10.0.0.1", "10.0.0.2")
LONGEST_S = 240
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
# Says that it is in its namespace, waits for the cable, and becomes torchrun.
START = """
set -e
echo ready; read _
exec >"$0" 2>&1
device=$1 address=$2; shift 2
ip link set lo up
ip address add "$address/24" dev "$device"
ip link set "$device" up
exec "$@"
"""


def missing() -> str:
    """What two nodes lack here; empty where they can be made."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "no unshare or ip (Debian: util-linux, iproute2), which make network namespaces"
    trial = ["sh", "-c", "ip link add near type veth peer name far && unshare --net true"]
    tried = subprocess.run([*UNSHARE, *trial], capture_output=True, text=True, check=False)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def torchrun(
    arguments: list[str], *, processes: int, folder: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Run ``torchrun ARGUMENTS`` on two nodes with so many processes each.

    Returns
    -------
    nodes
        Exit code of torchrun and everything that was said, for each node.
    """
    outputs = [folder / f"node{node}.txt" for node in (0, 1)]
    order = json.dumps([sys.executable, arguments, processes, [str(path) for path in outputs]])
    ran = subprocess.run(
        [*UNSHARE, sys.executable, __file__, order],
        stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST_S,
    )  # fmt: skip
    codes = json.loads(ran.stdout)
    return [
        subprocess.CompletedProcess(
            arguments, code, path.read_text(encoding="utf-8", errors="replace")
        )
        for code, path in zip(codes, outputs, strict=True)
    ]


def _run(python: str, arguments: list[str], processes: int, outputs: list[str]) -> list[int]:
    """Runs in the outer namespace, which is the first node; the second has one of its own."""
    nodes = []
    for node, (device, output) in enumerate(zip(("near", "far"), outputs, strict=True)):
        torchrun = [
            python,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--node-rank",
            str(node),
        ]
        torchrun += ["--nproc-per-node", str(processes), "--master-addr", ADDRESSES[0]]
        torchrun += ["--master-port", "29500", *arguments]
        inside = ["unshare", "--net"] if node else []
        quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": device, "NODE": str(node)}
        process = subprocess.Popen(
            [*inside, "sh", "-c", START, output, device, ADDRESSES[node], *torchrun],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet},
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        nodes.append(process)
    subprocess.run("ip link add near type veth peer name far".split(), check=True)
    subprocess.run(["ip", "link", "set", "far", "netns", str(nodes[1].pid)], check=True)
    for process in nodes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    return [process.wait() for process in nodes]


if __name__ == "__main__":
    print(json.dumps(_run(*json.loads(sys.argv[1]))))
