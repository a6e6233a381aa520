"""The U-Net's shapes and birth, and one batch normalisation for all ranks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the network is torch's")

from campaign.processes import call  # noqa: E402
from torch import distributed, nn  # noqa: E402

from ptycho_torch.models.unet import JointBatchNorm, UNet  # noqa: E402


@pytest.mark.parametrize("depth, N", [(1, 7), (2, 6), (3, 16), (4, 32), (5, 16)])
def test_output_has_the_size_of_the_images_and_is_zero_at_birth(depth, N):
    network = UNet(3, 2, 4, depth)
    out = network(torch.randn(2, 3, N, N))
    assert out.shape == (2, 2, N, N)
    assert not out.any()


def test_every_weight_of_a_network_that_has_left_zero_gets_a_gradient():
    network = UNet(3, 2, 4, 3)
    nn.init.normal_(network.head.weight)
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_pixel_sees_further_with_every_size():
    """How far a change at one pixel reaches: 2 convolutions per size and way, twice as wide."""
    reach = {}
    for depth in (1, 2, 3):
        torch.manual_seed(0)
        network = UNet(1, 1, 4, depth).eval()
        nn.init.normal_(network.head.weight)
        images = torch.zeros(2, 1, 64, 64)
        images[1, 0, 32, 32] = 1
        before, after = network(images)
        reach[depth] = int((before != after)[0].any(dim=0).sum())
    assert reach[1] == 5
    assert reach[1] < reach[2] < reach[3]


def normalised(layer, values, weights):
    """Output, all gradients of a loss that is a mean over the batch, and running statistics."""
    values = values.clone().requires_grad_()
    out = layer(values)
    (out.sin() * weights).sum(dim=(1, 2, 3)).mean().backward()
    gradients = [values.grad, layer.weight.grad, layer.bias.grad]
    state = [layer.running_mean, layer.running_var, layer.num_batches_tracked]
    return [tensor.detach().clone() for tensor in (out, *gradients, *state)]


def batch():
    random = torch.Generator().manual_seed(0)
    values = 3 + 2 * torch.randn(6, 5, 4, 4, generator=random)
    return values, torch.randn(6, 5, 4, 4, generator=random)


def with_weights(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    return layer


def on_rank(rank, store):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer = with_weights(JointBatchNorm(5))
    part = slice(3 * rank, 3 * rank + 3)
    values, weights = batch()
    trained = normalised(layer, values[part], weights[part])
    layer.eval()
    trained.append(layer(values[part]).detach())
    distributed.destroy_process_group()
    return [tensor.numpy() for tensor in trained]


@pytest.mark.slow
def test_two_ranks_normalise_as_one_process_does_the_joined_batch(tmp_path):
    with ThreadPoolExecutor(2) as threads:
        ranks = [threads.submit(call, on_rank, rank, str(tmp_path / "store")) for rank in (0, 1)]
        first, second = ([torch.from_numpy(part) for part in rank.result()] for rank in ranks)
    layer = with_weights(nn.BatchNorm2d(5))
    joined = normalised(layer, *batch())
    joined.append(layer.eval()(batch()[0]).detach())
    out, of_values, of_weight, of_bias, *state, predicted = joined
    near = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.cat([first[0], second[0]]), out, **near)
    # A rank's loss is the mean of its half: the mean over ranks, which DDP takes, is the whole's.
    torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, of_values, **near)
    torch.testing.assert_close((first[2] + second[2]) / 2, of_weight, **near)
    torch.testing.assert_close((first[3] + second[3]) / 2, of_bias, **near)
    for rank in (first, second):
        for there, here in zip(rank[4:7], state, strict=True):
            torch.testing.assert_close(there, here, **near)
    torch.testing.assert_close(torch.cat([first[7], second[7]]), predicted, **near)


def test_one_process_normalises_as_torch_does_and_predicts_with_what_it_followed():
    ours, theirs = (with_weights(kind(5)) for kind in (JointBatchNorm, nn.BatchNorm2d))
    values, weights = batch()
    for here, there in zip(
        normalised(ours, values, weights), normalised(theirs, values, weights), strict=True
    ):
        assert torch.equal(here, there)
    predicted = ours.eval()(values[:1])
    assert torch.equal(predicted, ours(values)[:1])  # no other image matters
    assert torch.equal(predicted, theirs.eval()(values[:1]))
