"""ResNet: what the shortcuts do, and the degradation that they cure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skipkb.models.classification import resnet


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_count_follows_the_derivation(depth: int) -> None:
    n = (depth - 2) // 6
    with torch.device("meta"):
        model = resnet.resnet_cifar(depth=depth)
    assert size(model) == 97_216 * n - 21_926
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth  # "6n+2 stacked weighted layers"


@pytest.mark.parametrize(
    ("name", "depth"),
    [("resnet18", 18), ("resnet34", 34), ("resnet50", 50), ("resnet101", 101), ("resnet152", 152)],
)
def test_depth_is_the_number_of_weighted_layers_on_the_main_path(name: str, depth: int) -> None:
    with torch.device("meta"):
        plain = getattr(resnet, name)(residual=False)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in plain.modules()) == depth


@pytest.mark.parametrize(
    ("name", "published", "first_1x1", "in_3x3"),
    [
        ("resnet50", 3.8, 3_857_973_248, 4_089_184_256),
        ("resnet101", 7.6, 7_570_194_432, 7_801_405_440),
        ("resnet152", 11.3, 11_282_415_616, 11_513_626_624),
    ],
)
def test_stride_placement_changes_macs_but_no_parameter(
    name: str, published: float, first_1x1: int, in_3x3: int
) -> None:
    """The listed deviation: the default strides in the 3x3; the paper's figure needs the 1x1."""
    build = getattr(resnet, name)
    with torch.device("meta"):
        ours, papers = build(), build(stride_in="1x1")
    assert macs(papers, 1, 3, 224, 224) == first_1x1
    assert macs(ours, 1, 3, 224, 224) == in_3x3
    assert abs(first_1x1 / 1e9 - published) < 0.06 < abs(in_3x3 / 1e9 - published)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, papers)]
    assert shapes[0] == shapes[1]


def test_stride_placement_changes_the_output_of_the_same_weights() -> None:
    ours, papers = (
        resnet.ResNet(block="bottleneck", layers=(1, 1), widths=(8, 16), stride_in=where).eval()
        for where in ("3x3", "1x1")
    )
    papers.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert ours(x).shape == papers(x).shape
    assert not torch.allclose(ours(x), papers(x), atol=1e-3)


def test_the_authors_pooling_is_not_padded_and_rounds_up() -> None:
    """Caffe's: an even map loses nothing, its last window hangs over the border; ours by default is padded by 1."""
    x = torch.arange(64.0).view(1, 1, 8, 8)
    with torch.device("meta"):
        authors, ours = resnet.resnet50_2015(), resnet.resnet50()
    assert authors.maxpool(x)[0, 0, 0].tolist() == [18, 20, 22, 23]
    assert ours.maxpool(x)[0, 0, 0].tolist() == [9, 11, 13, 15]
    assert authors.maxpool(torch.rand(1, 1, 112, 112)).shape == ours.maxpool(torch.rand(1, 1, 112, 112)).shape


def test_the_authors_resnet50_has_a_bias_in_its_stem() -> None:
    with torch.device("meta"):
        authors, ours = resnet.resnet50_2015(), resnet.resnet50(stride_in="1x1")
    assert set(authors.state_dict()) - set(ours.state_dict()) == {"conv1.bias"}
    assert not set(ours.state_dict()) - set(authors.state_dict())
    assert size(authors) == size(ours) + 64
    assert macs(authors, 1, 3, 224, 224) == macs(ours, 1, 3, 224, 224) == 3_857_973_248


# --- shortcuts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9)])
def test_option_a_subsamples_exactly_and_pads_with_zeros(height: int, width: int) -> None:
    shortcut = resnet.ZeroPadShortcut(4, 10, stride=2)
    x = torch.randn(2, 4, height, width)
    y = shortcut(x)
    assert size(shortcut) == 0
    assert y.shape == (2, 10, (height + 1) // 2, (width + 1) // 2)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            assert torch.equal(y[:, :4, i, j], x[:, :, 2 * i, 2 * j])
    assert torch.count_nonzero(y[:, 4:]) == 0


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet110"])
def test_option_a_costs_nothing_over_the_plain_twin(name: str) -> None:
    build = getattr(resnet, name)
    with torch.device("meta"):
        twin, plain = build(), build(residual=False)
    assert twin.state_dict().keys() == plain.state_dict().keys()
    assert size(twin) == size(plain)
    assert macs(twin, 1, 3, 32, 32) == macs(plain, 1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "projections"),
    [
        ("resnet18", {"layer2.0", "layer3.0", "layer4.0"}),
        ("resnet50", {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}),
    ],
)
def test_option_b_projects_only_where_the_shape_changes(name: str, projections: set[str]) -> None:
    with torch.device("meta"):
        model = getattr(resnet, name)()
    found = {n for n, m in model.named_modules() if isinstance(m, resnet.Block) and list(m.downsample.parameters())}
    assert found == projections


def test_option_c_projects_in_thirteen_more_blocks_of_resnet34() -> None:
    def projections(shortcut: resnet.Shortcut) -> int:
        with torch.device("meta"):
            model = resnet.resnet34(shortcut=shortcut)
        return sum(isinstance(m.downsample, nn.Sequential) for m in model.modules() if isinstance(m, resnet.Block))

    assert [projections(option) for option in ("A", "B", "C")] == [0, 3, 16]  # Section 4.1: thirteen more


@pytest.mark.parametrize("kind", [resnet.BasicBlock, resnet.Bottleneck])
def test_a_block_without_residual_passes_its_input_on(
    kind: type[resnet.BasicBlock | resnet.Bottleneck],
) -> None:
    """Equation 1 with F = 0: zero weights make the copy that plain layers find hard to learn."""
    channels = 4 * kind.expansion
    block = kind(channels, 4).eval()
    last = block.bn2 if isinstance(block, resnet.BasicBlock) else block.bn3
    nn.init.zeros_(last.weight)
    x = torch.randn(2, channels, 5, 5)
    assert torch.equal(block(x), F.relu(x))
    assert torch.equal(block(block(x)), F.relu(x))
    plain = kind(channels, 4, residual=False).eval()
    plain.load_state_dict(block.state_dict())
    assert torch.count_nonzero(plain(x)) == 0  # the plain twin forgets everything


def test_the_relu_comes_after_the_addition() -> None:
    block = resnet.BasicBlock(3, 3).eval()
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.fill_(-1.0)  # F = -1 everywhere
    x = torch.full((1, 3, 4, 4), 0.25)
    assert torch.equal(block(x), torch.zeros_like(x))  # relu(0.25 - 1); relu before adding would give 0.25
    assert torch.equal(block(x + 1), torch.full_like(x, 0.25))


# --- initial values -----------------------------------------------------------------------------------------


def test_initial_values_are_those_of_section_3_4() -> None:
    model = resnet.resnet20()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            deviation = module.weight.std().item() / (2 / fan_in) ** 0.5
            assert deviation == pytest.approx(1, abs=4 / module.weight.numel() ** 0.5), name
        if isinstance(module, nn.BatchNorm2d):
            # The zero of the last normalisation is a later trick, not the paper's.
            assert torch.equal(module.weight, torch.ones_like(module.weight)), name
    assert torch.count_nonzero(model.fc.bias) == 0
    assert [n for n, _ in model.named_parameters() if n.endswith("bias") and "conv" in n] == []


# --- degradation --------------------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:256], dtype=torch.float32).unsqueeze(1) / 16
    return x, torch.tensor(data.target[:256])


def training_loss(*, depth: int, residual: bool, seed: int) -> float:
    torch.manual_seed(seed)
    x, target = digits()
    model = resnet.resnet_cifar(depth=depth, widths=(8, 16, 32), in_channels=1, residual=residual)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(32):
        batch = slice(64 * (step % 4), 64 * (step % 4) + 64)
        loss = resnet.objective(model(x[batch]), target[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-4:]) / 4


def test_depth_degrades_the_plain_net_and_not_its_residual_twin() -> None:
    """Figures 1 and 6 in small: training loss on real digits after 32 steps, mean of two seeds."""

    def mean(depth: int, residual: bool) -> float:
        return sum(training_loss(depth=depth, residual=residual, seed=s) for s in (0, 1)) / 2

    plain, deep_plain = mean(8, False), mean(44, False)
    twin, deep_twin = mean(8, True), mean(44, True)
    assert deep_plain > 1.5 * plain  # measured: 1.87 against 0.73
    assert deep_twin < 0.5 * twin  # measured: 0.04 against 0.55; the order is reversed
    assert deep_plain > 10 * deep_twin


# --- use ----------------------------------------------------------------------------------------------------


def test_every_parameter_gets_a_gradient_and_any_size_runs() -> None:
    for model, shape in (
        (resnet.resnet_cifar(depth=14, num_classes=4), (2, 3, 19, 21)),
        (resnet.ResNet(block="bottleneck", layers=(1, 2), widths=(4, 8), num_classes=4), (1, 3, 70, 65)),
    ):
        model.eval()  # batch statistics of a single picture would be refused by no layer, but say little
        resnet.objective(model(torch.rand(shape)), torch.ones(shape[0], dtype=torch.long)).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "fc" in n)


def test_bfloat16_autocast_and_export() -> None:
    model = resnet.resnet_cifar(depth=8).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(model(x).float(), model(x.clone()).float())
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), model(x), atol=1e-6)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="6n\\+2, got 21; the nearest are 20 and 26"):
        resnet.resnet_cifar(depth=21)
    with pytest.raises(ValueError, match="6n\\+2, got 2"):
        resnet.resnet_cifar(depth=2)
    with pytest.raises(ValueError, match="shortcut must be one of A, B, C, got 'D'"):
        resnet.resnet18(shortcut="D")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stride_in must be one of"):
        resnet.resnet50(stride_in="7x7")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one positive number per stage"):
        resnet.ResNet(block="basic", layers=(1, 1), widths=(8,))
    with pytest.raises(ValueError, match="can only add channels"):
        resnet.ResNet(block="basic", layers=(1, 1), widths=(8, 4), shortcut="A")
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 32, 32\]"):
        resnet.resnet20()(torch.rand(1, 1, 32, 32))
    with pytest.raises(TypeError):
        resnet.resnet18(num_clases=10)  # type: ignore[call-arg]
