"""MobileNeXt: a skip between wide ends, filters at both of them, and skips for a part of the channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.models.classification import mobilenext
from skipkb.models.classification.mobilenext import MobileNeXt, SandglassBlock


def convolutions(block: SandglassBlock) -> list[nn.Conv2d]:
    return [m for m in block.conv if isinstance(m, nn.Conv2d)]


def blocks(**options: float) -> list[SandglassBlock]:
    with torch.device("meta"):
        return [m for m in MobileNeXt(**options).features if isinstance(m, SandglassBlock)]  # type: ignore[arg-type]


def test_every_skip_joins_wide_ends_with_a_filter_at_each() -> None:
    """All blocks but the first of a stage, and the narrow map is a sixth of what the skip carries."""
    found = blocks()
    assert [block.carried > 0 for block in found] == [j > 0 for _, _, b, _ in mobilenext.TABLE_2 for j in range(b)]
    for block in found:
        if block.carried:
            first, reduce, expand, last = convolutions(block)
            wide = block.carried
            assert first.groups == first.in_channels == wide == last.out_channels == last.groups
            assert reduce.out_channels == expand.in_channels == wide // 6
            assert first.kernel_size == last.kernel_size == (3, 3)
            assert reduce.kernel_size == expand.kernel_size == (1, 1)


def test_opening_blocks_of_the_release() -> None:
    """Which of the two depthwise convolutions a block has that changes the width, and where it strides."""
    found = iter(blocks())
    expected = [(2, 2), (2, 1), (1, 2), (1, 2), (0, 1), (1, 2), (0, 1), (2, 1)]
    for (_, _, count, _), (filters, stride) in zip(mobilenext.TABLE_2, expected, strict=True):
        layers = convolutions(next(found))
        assert sum(layer.groups > 1 for layer in layers) == filters
        assert [layer.stride[0] for layer in layers] == [1] * (len(layers) - 1) + [stride]
        for _ in range(count - 1):
            assert len(convolutions(next(found))) == 4


def by_hand(block: SandglassBlock, x: Tensor, share: float) -> Tensor:
    """The equations, from the weights."""
    first, reduce, expand, last = convolutions(block)
    norms = [m for m in block.conv if isinstance(m, nn.BatchNorm2d)]

    def step(y: Tensor, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
        return norm(F.conv2d(y, layer.weight, padding=layer.kernel_size[0] // 2, groups=layer.groups))  # type: ignore[no-any-return]

    y = F.relu6(step(x, first, norms[0]))
    y = F.relu6(step(step(y, reduce, norms[1]), expand, norms[2]))
    y = step(y, last, norms[3])
    mask = torch.arange(x.shape[1]).view(1, -1, 1, 1) < share * x.shape[1]
    return y + x * mask


@pytest.mark.parametrize("share", [1.0, 1 / 2, 1 / 3, 1 / 6])
def test_a_block_does_what_the_equations_say(share: float) -> None:
    block = SandglassBlock(24, 24, alpha=share).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.normal_(module.bias)
    x = 3 * torch.randn(2, 24, 6, 5)
    before = x.clone()
    torch.testing.assert_close(block(x), by_hand(block, x, share))
    assert torch.equal(x, before)


@pytest.mark.parametrize("share", [1.0, 1 / 2, 1 / 6])
def test_only_that_share_of_the_channels_takes_the_skip(share: float) -> None:
    block = SandglassBlock(24, 24, alpha=share).eval()
    nn.init.zeros_(block.conv[-1].weight)  # type: ignore[arg-type]
    x = torch.randn(2, 24, 4, 4, requires_grad=True)
    y = block(x)
    carried = round(24 * share)
    assert torch.equal(y[:, :carried], x[:, :carried])
    assert not y[:, carried:].any()
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :carried] == 1).all()
    assert not x.grad[:, carried:].any()


@pytest.mark.parametrize("share", [1 / 2, 1 / 3])
def test_gradients_through_a_part_of_the_skip_are_exact(share: float) -> None:
    block = SandglassBlock(12, 12, reduction=2, alpha=share).double().train()
    x = torch.randn(2, 12, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_skips_by_hand() -> None:
    with torch.device("meta"):
        model, half = mobilenext.mobilenext(), mobilenext.mobilenext(alpha=0.5)
        plain = mobilenext.mobilenext(residual=False)
    counts = {"add": 12, "identity": 12, "long": 12}
    assert skipkb.trace_skips(model, (1, 3, 224, 224)).counts() == counts
    graph = skipkb.trace_skips(half, (1, 3, 224, 224))
    assert graph.counts() == {}
    assert graph.counts(partial=True) == counts
    assert not skipkb.trace_skips(plain, (1, 3, 224, 224)).counts(partial=True)


def test_names_of_the_release() -> None:
    with torch.device("meta"):
        state = mobilenext.mobilenext().state_dict()
    assert {name.rsplit(".", 1)[0] for name in state if name.startswith(("features.0.", "classifier"))} == {
        "features.0.0",
        "features.0.1",
        "classifier.1",
    }
    numbers = {int(name.split(".")[3]) for name in state if name.startswith("features.4.conv")}
    assert numbers == {0, 1, 3, 4, 5, 6, 8, 9}  # 2 and 7 are activations
    assert state["features.4.conv.3.weight"].shape == (32, 192, 1, 1)
    assert state["features.20.conv.8.weight"].shape == (1280, 1, 3, 3)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (1, 1)])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_any_picture_size(shape: tuple[int, int], alpha: float) -> None:
    model = MobileNeXt(width_mult=0.25, blocks=((2, 96, 1, 2), (6, 144, 2, 2)), alpha=alpha, num_classes=5).eval()
    assert model(torch.rand(2, 3, *shape)).shape == (2, 5)


@pytest.mark.parametrize("change", [{"width_mult": 0.0}, {"blocks": ()}, {"blocks": ((6, 96, 1, 3),)}])
def test_mistakes(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="width_mult must be positive and blocks be lines of"):
        MobileNeXt(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        MobileNeXt(width_mult=0.25, blocks=((2, 96, 1, 2),))(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_shares_that_are_none(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is a share of the channels"):
        MobileNeXt(alpha=alpha)
