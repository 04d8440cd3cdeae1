"""What DCU-net is about: kernels that move with the map, long skips, and a second network that refines the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.detection.dcn import DeformConv2d
from skipkb.models.segmentation import dcu_net as module
from skipkb.models.segmentation.dcu_net import DCUNet, DeformableBlock, objective

SMALL: dict[str, Any] = {"widths": (4, 5, 6)}
PICTURE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small(**changes: Any) -> DCUNet:
    torch.manual_seed(0)
    return DCUNet(**SMALL | changes).double().eval()


def test_the_cascade() -> None:
    """Two U-Nets of four resolutions: seven blocks of two deformable convolutions and three enlargements each."""
    with torch.device("meta"):
        model = module.dcu_net()
    for network, in_channels in ((model.first, 3), (model.second, 3 + 32)):
        convolutions = [m for m in network.modules() if isinstance(m, DeformConv2d)]
        assert len(convolutions) == 14
        assert convolutions[0].weight.shape == (32, in_channels, 3, 3)
        assert [len(c.weight) for c in convolutions[1:8:2]] == [32, 64, 128, 256]  # the way down
        assert sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules()) == 3
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(plain) == 28  # those that predict offsets
    assert {m.out_channels for m in plain} == {18}


def test_a_block_starts_rigid_and_can_bend() -> None:
    """Without offsets it is a plain convolution; offsets of one pixel move all that it sees."""
    torch.manual_seed(0)
    block = DeformableBlock(3, 4).double().eval()
    x = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        rigid = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, padding=1)))
        rigid = F.relu(block.bn2(F.conv2d(rigid, block.conv2.weight, padding=1)))
        torch.testing.assert_close(block(x), rigid)
        nn.init.constant_(block.conv1.conv_offset.bias[::2], 1.0)  # type: ignore[index]
        moved = block(x)
        torch.testing.assert_close(moved[..., 2:-3, :], rigid[..., 3:-2, :])  # one row further down
        assert not torch.allclose(moved[..., 2:-3, :], rigid[..., 2:-3, :])


def test_offsets_are_learned_from_the_map() -> None:
    model = small().train()
    objective(model(PICTURE), torch.zeros(2, 16, 24, dtype=torch.long)).backward()
    offsets = [p for name, p in model.named_parameters() if "conv_offset.weight" in name]
    assert len(offsets) == 20
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in offsets)


@pytest.mark.parametrize("network", ["first", "second"])
@pytest.mark.parametrize("level", [0, 1])
def test_each_long_skip_carries(network: str, level: int) -> None:
    model = small()
    width = SMALL["widths"][level]
    with torch.no_grad():
        before = model(PICTURE)["out"]
        block = model.get_submodule(f"{network}.up.{level}")
        block.register_forward_pre_hook(lambda m, args: torch.cat([0 * args[0][:, :width], args[0][:, width:]], dim=1))
        assert (model(PICTURE)["out"] - before).abs().max() > 1e-6


def test_the_skip_stands_in_front_of_the_enlarged_map() -> None:
    model = small()
    seen: list[Tensor] = []
    model.first.down[0].register_forward_hook(lambda m, args, y: seen.append(y))
    model.first.up[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(PICTURE)
    assert torch.equal(seen[1][:, :4], seen[0])


def test_the_second_network_sees_the_picture_and_the_first() -> None:
    model = small()
    seen: dict[str, Tensor] = {}
    model.first.register_forward_hook(lambda m, args, y: seen.update(found=y))
    model.second.register_forward_pre_hook(lambda m, args: seen.update(given=args[0]))
    with torch.no_grad():
        before = model(PICTURE)
        assert torch.equal(seen["given"], torch.cat([PICTURE, seen["found"]], dim=1))
        for hidden in (slice(0, 3), slice(3, None)):  # without the picture, without the first network's map
            keep = torch.ones(7, dtype=torch.float64)
            keep[hidden] = 0
            handle = model.second.register_forward_pre_hook(lambda m, args, keep=keep: args[0] * keep[:, None, None])
            after = model(PICTURE)
            handle.remove()
            assert (after["out"] - before["out"]).abs().max() > 1e-6
            assert torch.equal(after["first"], before["first"])


def test_the_objective_is_that_of_both_networks() -> None:
    output = {name: torch.randn(2, 2, 4, 5) for name in ("out", "first")}
    target = torch.randint(0, 2, (2, 4, 5))
    expected = F.cross_entropy(output["out"], target) + F.cross_entropy(output["first"], target)
    torch.testing.assert_close(objective(output, target), expected)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="at least two resolutions, got"):
        DCUNet(widths=(4,))
    with pytest.raises(ValueError, match=r"multiples of 4, got \[1, 3, 18, 16\]"):
        small()(torch.rand(1, 3, 18, 16))
    with pytest.raises(ValueError, match=r"DCUNet: expected input \[N, 3, H, W\]"):
        small()(torch.rand(1, 1, 16, 16))
