"""Training PtychoPINN: waiting for data, the physics' share of a step, precision and layout."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor, nn

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Figure, Part, Target
from benchmarks.measure import in_turns, quotient
from benchmarks.trainer import StepTimes, fit
from ptycho_torch import PtychoPINN
from ptycho_torch.models.frame_losses import frame_loss
from ptycho_torch.models.pinn import INPUTS

GROUPS = 8
"""Groups in a batch."""

PLAIN = "float32, contiguous"
# Layout of weights and images, and whether the network computes in 16 bits.
KINDS = MappingProxyType(
    {
        PLAIN: (torch.contiguous_format, False),
        "float32, channels_last": (torch.channels_last, False),
        "bf16-mixed, contiguous": (torch.contiguous_format, True),
        "bf16-mixed, channels_last": (torch.channels_last, True),
    }
)
PHYSICS = "physics and merge"


def run(bench: Bench) -> Part:
    part = Part("m", "Training a network")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    M, N = bench.pick((2_000, 64), (60, 16))
    case = f"PtychoPINN, N = {N}, C = 4, B = {GROUPS}, {device.type}"
    _waiting(bench, part, device, M, N, case)
    _steps(bench, part, device, M, N, case)
    return part


def _waiting(bench: Bench, part: Part, device: torch.device, M: int, N: int, case: str) -> None:
    """Trainers with workers and without, by turns; of two epochs the second is measured."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    groups = GROUPS * bench.pick(8, 2)
    times: dict[int, list[StepTimes]] = {0: [], 2: []}
    for _ in range(bench.repetitions(3)):
        for workers, found in times.items():
            data = data_module(
                bench.scan(M, N), batch_size=GROUPS, n_groups=groups, num_workers=workers
            )
            found.append(fit(PtychoPINN(bench.pick(16, 2)), data, accelerator=accelerator))
    for workers, found in times.items():
        name = f"share of the step spent waiting, {workers} workers"
        share = part.plain(name, case, [each.share for each in found], "")
        part.targets.append(Target(f"{name}, {case}", "<=", 0.02, share.value.median))


def _steps(bench: Bench, part: Part, device: torch.device, M: int, N: int, case: str) -> None:
    """Steps on one batch that is there already, those of the bare network, and the physics."""
    dataset = data_module(bench.scan(M, N), batch_size=GROUPS).dataset("train")
    batch = dataset.__getitems__(list(range(GROUPS))).to(device)
    images = torch.rand(GROUPS * 4, INPUTS, N, N, device=device)
    models = {kind: _model(kind, device, bench.pick(16, 2)) for kind in KINDS}
    patches = models[PLAIN].patches(batch).detach().requires_grad_()

    def loss_of(model: PtychoPINN) -> Tensor:
        return frame_loss(model.loss, model(batch), batch.channels_first())

    works: dict[str, Callable[[], object]] = {
        PHYSICS: lambda: models[PLAIN].frames(batch, patches).sum().backward()
    }
    losses: dict[str, Tensor] = {}
    for kind, model in models.items():
        losses[kind] = _step(kind, model, loss_of)()
        works[f"step, {kind}"] = _step(kind, model, loss_of)
        works[f"bare network, {kind}"] = _step(
            kind, model, lambda model: model.network(images).float().square().mean()
        )
    for kind, (_, half) in KINDS.items():
        close = torch.isclose(losses[kind], losses[PLAIN], rtol=0.05 if half else 1e-4)
        part.checks[f"loss of the first step, {kind}, as {PLAIN}"] = bool(close)
    finished = {name: _finished(work, device) for name, work in works.items()}
    seconds = in_turns(finished, bench.repetitions(9), warm_ups=2)
    for name, values in seconds.items():
        same = f"{name.partition(',')[0]}, {PLAIN}"
        against = (same, seconds[same]) if same in seconds and same != name else None
        part.duration(name, case, values, against, unit="ms")
    for kind in KINDS:
        _shares(part, seconds, kind, case)


def _shares(part: Part, seconds: dict[str, list[float]], kind: str, case: str) -> None:
    step = seconds[f"step, {kind}"]
    what = f"{PHYSICS}, share of the step, {kind}"
    share = quotient(seconds[PHYSICS], step)
    part.figures.append(Figure(what, case, share, ""))
    part.targets.append(Target(f"{what}, {case}", "<=", 0.05, share.median))
    whole = quotient(step, seconds[f"bare network, {kind}"])
    part.figures.append(Figure(f"step, in steps of the bare network, {kind}", case, whole, ""))


def _model(kind: str, device: torch.device, width: int) -> PtychoPINN:
    """A network whose patches are not flat, with weights and images in one layout."""
    layout, _ = KINDS[kind]
    torch.manual_seed(0)
    model = PtychoPINN(width).to(device)
    nn.init.normal_(model.network.head.weight, std=0.1)
    model.network.to(memory_format=layout)
    model.network.register_forward_pre_hook(
        lambda _, images: images[0].contiguous(memory_format=layout)
    )
    return model


def _step(
    kind: str, model: PtychoPINN, loss_of: Callable[[PtychoPINN], Tensor]
) -> Callable[[], Tensor]:
    optimizer = torch.optim.Adam(model.network.parameters())
    device_type = model.device.type

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device_type, torch.bfloat16, enabled=KINDS[kind][1]):
            loss = loss_of(model)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _finished(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The same, waited for where the device works on its own."""

    def until_done() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return until_done
