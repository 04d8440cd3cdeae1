"""Pre-activation ResNet: a skip that nothing interrupts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification import preact_resnet, resnet


@pytest.mark.parametrize("depth", [110, 164, 1001, 200])
def test_the_name_counts_the_layers(depth: int) -> None:
    with torch.device("meta"):
        model = getattr(preact_resnet, f"preact_resnet{depth}")()
    main = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in n]
    assert len(main) == depth


def stack(count: int) -> nn.Sequential:
    return nn.Sequential(*(preact_resnet.BottleneckUnit(16, 4) for _ in range(count)))


def test_the_sum_unrolls() -> None:
    """Equation 4: the last signal is any earlier one plus the functions in between, with nothing else."""
    units = stack(12).double().eval()
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    signals, functions = [x], []
    for unit in units:
        functions.append(unit.function(F.relu(unit.bn1(signals[-1]))))  # type: ignore[operator]
        signals.append(unit(signals[-1]))
    for start in range(12):
        total = signals[start] + torch.stack(functions[start:]).sum(0)
        torch.testing.assert_close(signals[-1], total, rtol=1e-10, atol=1e-10)


def test_the_gradient_has_a_term_that_nothing_scales() -> None:
    """Equation 5: with the functions at zero, the gradient passes a thousand layers without any change."""
    units = stack(333).eval()
    for unit in units:
        nn.init.zeros_(unit.conv3.weight)  # type: ignore[arg-type,union-attr]
    x = torch.randn(1, 16, 2, 2, requires_grad=True)
    weight = torch.randn(1, 16, 2, 2)
    y = units(x)
    (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    assert torch.equal(y, x)
    assert torch.equal(gradient, weight)


def test_the_first_resnet_loses_what_is_negative() -> None:
    def lost(unit: nn.Module) -> Tensor:
        last = unit.conv3
        nn.init.zeros_(last.weight)  # type: ignore[arg-type,union-attr]
        x = torch.randn(2, 16, 5, 5)
        return (unit.eval()(x) - x).abs().max()

    assert lost(preact_resnet.BottleneckUnit(16, 4)) == 0
    assert lost(resnet.Bottleneck(16, 4)) > 1


def test_the_projection_reads_the_activated_input() -> None:
    unit = preact_resnet.BottleneckUnit(8, 4, stride=2).eval()
    nn.init.zeros_(unit.conv3.weight)
    x = torch.randn(2, 8, 7, 9)
    assert unit.bn1 is not None
    assert unit.downsample is not None
    assert torch.equal(unit(x), unit.downsample(F.relu(unit.bn1(x))))
    assert unit(x).shape == (2, 16, 4, 5)


def test_one_activation_behind_the_stem_and_one_behind_the_last_sum() -> None:
    """Appendix: every convolution but the first, and the classifier, read something normalised and activated."""
    for model in (
        preact_resnet.preact_resnet_cifar(depth=11, num_classes=3),
        preact_resnet.PreActResNet(unit="bottleneck", layers=(1, 1), widths=(4, 8), stem="imagenet", num_classes=3),
    ):
        smallest: dict[str, float] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and name != "conv1":
                module.register_forward_pre_hook(
                    lambda _m, args, name=name, seen=smallest: seen.__setitem__(name, args[0].min().item())
                )
        model(torch.randn(4, 3, 32, 32))
        assert len(smallest) > 5
        assert all(value >= 0 for value in smallest.values())
    # In the ImageNet form, the stem's activation is the first unit's: there is no second one.
    assert model.layer1[0].bn1 is None  # type: ignore[index,union-attr]
    assert model.layer2[0].bn1 is not None  # type: ignore[index,union-attr]


def test_stride_placement() -> None:
    with torch.device("meta"):
        cifar, imagenet = preact_resnet.preact_resnet164(), preact_resnet.preact_resnet200()
    assert cifar.layer2[0].conv1.stride == (2, 2)  # type: ignore[index,union-attr]
    assert imagenet.layer2[0].conv2.stride == (2, 2)  # type: ignore[index,union-attr]
    assert imagenet.layer2[0].conv1.stride == (1, 1)  # type: ignore[index,union-attr]


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_any_picture_size(unit: str, stem: str) -> None:
    model = preact_resnet.PreActResNet(
        unit=unit, layers=(1, 2), widths=(4, 8), stem=stem, num_classes=5  # type: ignore[arg-type]
    )  # fmt: skip
    for picture in ((32, 32), (33, 47)):
        assert model(torch.rand(2, 3, *picture)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "dense"}, "unit must be one of basic, bottleneck"),
        ({"stem": "mnist"}, "stem must be one of imagenet, cifar"),
        ({"stride_in": "5x5"}, "stride_in must be one of 1x1, 3x3"),
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"widths": (4, 0)}, "one positive number per stage each"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"unit": "basic", "layers": (1, 1), "widths": (4, 8)}
    with pytest.raises(ValueError, match=message):
        preact_resnet.PreActResNet(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        preact_resnet.PreActResNet(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"9n\+2, got 111; the nearest are 110 and 119"):
        preact_resnet.preact_resnet_cifar(depth=111)
    with pytest.raises(TypeError):
        preact_resnet.preact_resnet164(depth=20)  # type: ignore[call-arg]
