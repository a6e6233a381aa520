"""A compiled network beside the physics, which stays complex and eager."""

from __future__ import annotations

import json
import shutil

import pytest
from builders import run_python

pytest.importorskip("torch", reason="torch is not installed: it compiles networks")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("g++") is None and shutil.which("clang++") is None,
        reason="there is no C++ compiler: torch.compile writes C++ for a CPU",
    ),
]

# In a process of its own: compiling warns of torch's own deprecations, and keeps its state.
STEP = """
import json
import torch
from torch import nn
from torch._dynamo.utils import counters
from ptycho_torch.physics import cut, diffract, group_canvas, illuminate

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        fine = torch.relu(self.down(x))
        coarse = self.up(nn.functional.avg_pool2d(fine, 2))
        return self.out(torch.cat([fine, coarse], dim=1))

torch.manual_seed(0)
B, C, N = 2, 4, 16
frames = torch.rand(B, C, N, N)
offsets = torch.rand(B, C, 2, dtype=torch.float64) * 6 - 3
probe = torch.randn(B, 2, N, N, dtype=torch.complex64)
light = probe.abs().square().sum(dim=1, keepdim=True)

def step(network, network_of_gradients):
    network_of_gradients.zero_grad()
    planes = network(frames.reshape(B * C, 1, N, N)).reshape(B, C, 2, N, N)
    patches = torch.polar(planes[:, :, 0].sigmoid(), planes[:, :, 1])
    canvas = group_canvas(patches, offsets, weights=light, size=32)
    predicted = diffract(illuminate(probe, cut(canvas, offsets, N)))
    loss = (predicted - frames).abs().mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in network_of_gradients.parameters()]

network = Network()
loss, gradients = step(network, network)
same, again = step(torch.compile(network), network)
print(json.dumps({
    "graphs": counters["stats"]["unique_graphs"],
    "loss": float(loss),
    "off": float((same - loss).abs() / loss),
    "gradient": min(float(g.abs().max()) for g in gradients),
    "gradients off": max(
        float((a - g).abs().max() / g.abs().max())
        for a, g in zip(again, gradients, strict=True)
    ),
}))
"""


def test_a_compiled_network_and_eager_physics_learn_as_both_eager_do():
    result = run_python(STEP)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["graphs"] == 1, "the network was not compiled"
    assert found["loss"] > 0.01
    assert found["gradient"] > 1e-5
    assert found["off"] < 1e-5
    assert found["gradients off"] < 1e-5
