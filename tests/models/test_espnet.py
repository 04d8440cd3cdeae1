"""What ESPNet is about: a wide view at little cost, sums that close the gaps, and links that keep the detail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import espnet as module
from skipkb.models.segmentation.espnet import ESP, ESPNet, ESPNetC, class_weights, objective

SMALL: dict[str, Any] = {"num_classes": 6, "widths": (4, 10, 12), "alpha2": 1, "alpha3": 2}
PICTURE = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def small(kind: type[nn.Module] = ESPNet) -> Any:
    torch.manual_seed(0)
    return kind(**SMALL).eval()


def test_the_published_networks() -> None:
    with torch.device("meta"):
        assert module.espnet()(torch.empty(1, 3, 512, 1024)).shape == (1, 20, 512, 1024)
        encoder = module.espnet_c()
        assert encoder(torch.empty(1, 3, 512, 1024)).shape == (1, 20, 64, 128)
    assert (len(encoder.level2), len(encoder.level3)) == (2, 8)


def test_a_module_costs_less_than_a_convolution() -> None:
    """The reduction NN/5, and five branches of 9 (N/5)(N/5): a fifth of NN and 9/5 of NN, in place of 9 NN."""
    n = 100
    weights = sum(m.weight.numel() for m in ESP(n, n).modules() if isinstance(m, nn.Conv2d))
    assert weights == n * n // 5 + 5 * 9 * (n // 5) ** 2
    assert weights * 4 < 9 * n * n


def responses(module: ESP) -> list[set[tuple[int, int]]]:
    """Where each branch of a module shows one bright pixel, from the pixel on."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.ones_(layer.weight)
        impulse = torch.zeros(1, module.c1.conv.in_channels, 65, 65)
        impulse[0, 0, 32, 32] = 1
        answer = module.pyramid(impulse)[0]
    first, width = (len(module.get_submodule(f"{name}.conv").state_dict()["weight"]) for name in ("d1", "d2"))
    groups = [answer[:1], *(answer[first + k * width :][:1] for k in range(4))]
    return [{(int(y) - 32, int(x) - 32) for _, y, x in group.nonzero().tolist()} for group in groups]


def test_the_sums_close_the_gaps() -> None:
    """The impulse response: a dilated kernel alone shows nine pixels far apart, the sum the smaller kernels' too."""

    def nine(dilation: int) -> set[tuple[int, int]]:
        return {(dilation * a, dilation * b) for a in (-1, 0, 1) for b in (-1, 0, 1)}

    found = responses(ESP(10, 10))
    assert found[0] == nine(1)
    assert found[1] == nine(2)
    assert found[2] == nine(2) | nine(4)
    assert found[3] == nine(2) | nine(4) | nine(8)
    assert found[4] == nine(2) | nine(4) | nine(8) | nine(16)  # of 33 pixels, and no ring is empty


def test_without_the_sums_a_map_falls_apart() -> None:
    """Outputs of the widest branch belong to 16 x 16 grids that share no input; with the sums to 2 x 2."""
    torch.manual_seed(0)
    block = ESP(10, 10).double()
    picture = torch.rand(1, 10, 48, 48, dtype=torch.float64)
    for step, alone in ((16, True), (2, False)):
        changed = picture.clone()
        rows = (torch.arange(48) % step == 3 % step)[:, None] & (torch.arange(48) % step == 5 % step)
        changed[..., rows] = 0  # one grid of the input
        with torch.no_grad():
            wide = block.d16(block.c1(picture)) - block.d16(block.c1(changed))  # type: ignore[operator]
            fused = (block.pyramid(picture) - block.pyramid(changed))[:, -2:]
        difference = (wide if alone else fused)[0, 0].abs() > 1e-12
        assert torch.equal(difference, rows)  # and only the same grid of the output notices


def test_the_branch_of_dilation_one_stands_alone() -> None:
    block = ESP(13, 13)
    convolutions = {d: block.get_submodule(f"d{d}.conv") for d in module.DILATIONS}
    assert [c.out_channels for c in convolutions.values()] == [5, 2, 2, 2, 2]  # 13 = 5 + 4 x 2
    x = torch.rand(1, 13, 40, 40)
    with torch.no_grad():
        before = block.pyramid(x)
        block.d1.conv.weight.zero_()  # type: ignore[union-attr, operator]
        after = block.pyramid(x)
    assert not after[:, :5].any()
    assert torch.equal(after[:, 5:], before[:, 5:])


def test_the_input_is_added_before_the_normalisation() -> None:
    block = ESP(10, 10).eval()
    x = torch.randn(1, 10, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.bn(block.pyramid(x) + x))
        assert not torch.allclose(block(x), block.bn(block.pyramid(x)))
        plain = ESP(10, 10, residual=False).eval()
        plain.load_state_dict(block.state_dict())
        assert torch.equal(plain(x), block.bn(block.pyramid(x)))


def _silenced(part: str, pick: Callable[[Tensor], Tensor]) -> float:
    """How much the output changes when a part of a concatenation is zero."""
    model, picture = small().double(), PICTURE.double()
    with torch.no_grad():
        before = model(picture)
        handle = model.get_submodule(part).register_forward_pre_hook(lambda m, args: (pick(args[0]),))
        after = model(picture)
        handle.remove()
        assert torch.equal(model(picture), before)
    return float((after - before).abs().max())


@pytest.mark.parametrize(
    ("part", "channels"),
    [
        ("encoder.b1", slice(4, 7)),  # the picture at half its size
        ("encoder.b2", slice(20, 23)),  # at a quarter
        ("encoder.b2", slice(10, 20)),  # the first map of level 2
        ("encoder.b3", slice(0, 12)),  # the first map of level 3
        ("combine_l2_l3.0", slice(0, 6)),  # the encoder's map at a quarter, projected
        ("conv.conv", slice(6, 13)),  # that at half
    ],
)
def test_each_long_skip_carries(part: str, channels: slice) -> None:
    def pick(x: Tensor) -> Tensor:
        hidden = x.clone()
        hidden[:, channels] = 0
        return hidden

    assert _silenced(part, pick) > 1e-8
    assert _silenced(part, lambda x: x) == 0


def test_the_picture_is_shrunken_by_averages() -> None:
    seen: dict[str, Tensor] = {}
    model = small(ESPNetC)
    for name in ("b1", "b2"):
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]}))
    model(PICTURE)
    half = F.avg_pool2d(PICTURE, 3, stride=2, padding=1)
    assert torch.equal(seen["b1"][:, -3:], half)
    assert torch.equal(seen["b2"][:, -3:], F.avg_pool2d(half, 3, stride=2, padding=1))


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 40)])
def test_the_encoder_takes_any_size(size: tuple[int, int]) -> None:
    assert small(ESPNetC)(torch.rand(1, 3, *size)).shape == (1, 6, -(-size[0] // 8), -(-size[1] // 8))


def test_normalisations_and_slopes() -> None:
    for layer in small().modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.eps == 1e-3
        if isinstance(layer, nn.PReLU):
            assert layer.num_parameters > 1
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is None


def test_the_objective() -> None:
    logits, target = torch.randn(2, 6, 8, 8), torch.randint(0, 6, (2, 8, 8))
    weights = class_weights(target, 6)
    share = (target == 2).double().mean().item()
    assert weights[2].item() == pytest.approx(1 / math.log(1.1 + share))
    p = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    expected = -(weights[target] * p).sum() / weights[target].sum()
    torch.testing.assert_close(objective(logits, target), expected)
    large = target.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)  # for the encoder's small scores
    torch.testing.assert_close(objective(logits, large, weights=weights), expected)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="at least 5 classes, got 2"):
        ESPNet(num_classes=2)
    with pytest.raises(ValueError, match="at least 5 channels"):
        ESPNetC(widths=(4, 4, 10))
    with pytest.raises(ValueError, match="alpha2 and alpha3 must be at least 1, got 0 and 8"):
        ESPNetC(alpha2=0)
    with pytest.raises(ValueError, match=r"multiples of 8, got \[1, 3, 36, 40\]"):
        small()(torch.rand(1, 3, 36, 40))
    for kind in (ESPNet, ESPNetC):
        with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\]"):
            small(kind)(torch.rand(1, 1, 16, 16))
