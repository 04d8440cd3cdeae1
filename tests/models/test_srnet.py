"""SRNET, reconstructed: as many links per level as declared, WRN without them, and units that cannot die with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skipkb
from skipkb.models.classification import srnet, wrn
from skipkb.models.classification.srnet import SRNet


def small(levels: int, widen_factor: int = 2, **options: int) -> SRNet:
    return SRNet(depth=10, widen_factor=widen_factor, levels=levels, **options)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_sizes_are_exact(levels: int) -> None:
    with torch.device("meta"):
        model, plain = getattr(srnet, f"srnet16_8_l{levels}")(), wrn.wrn16_8()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (model, plain)]
    widths = (16, 128, 256, 512)
    links = [widths[end - k] * widths[end] for k in range(1, levels + 1) for end in range(k, 4)]
    assert len(links) == (3, 5, 6)[levels - 1]
    assert sizes[0] == sizes[1] + sum(links)  # a 1x1 convolution for each link


# --- the additional skips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("widen_factor", [1, 2])
@pytest.mark.parametrize("depth", [10, 16])
@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_a_trace_finds_the_links_of_each_level(levels: int, depth: int, widen_factor: int) -> None:
    """A link around k groups crosses 2 n k convolutions, a block's own skip two. Links that end together are a sum."""
    with torch.device("meta"):
        model = SRNet(depth=depth, widen_factor=widen_factor, levels=levels).eval()
    n = (depth - 4) // 6
    graph = skipkb.trace_skips(model, (1, 3, 32, 32))
    found = Counter(edge.convs for skip in graph.skips for edge in skip.edges)
    wanted = Counter({2: 3 * n})
    for level in range(1, levels + 1):
        wanted[2 * n * level] += 4 - level
    assert found == wanted


def test_the_links_are_added() -> None:
    model, x = small(3).eval(), torch.randn(2, 3, 16, 16)
    zero = model.conv0(x)
    one = model.group0(zero) + model.links["01"](zero)
    two = model.group1(one) + model.links["02"](zero) + model.links["12"](one)
    three = model.group2(two) + model.links["03"](zero) + model.links["13"](one) + model.links["23"](two)
    torch.testing.assert_close(model(x), model.fc(model.bn(three).relu().mean((2, 3))))


def test_links_are_identities_where_shapes_agree() -> None:
    links = small(3, widen_factor=1).links
    assert [name for name, link in links.items() if isinstance(link, nn.Identity)] == ["01"]
    assert {name: link.stride for name, link in links.items() if isinstance(link, nn.Conv2d)} == {
        "12": (2, 2), "02": (2, 2), "23": (2, 2), "13": (4, 4), "03": (4, 4),
    }  # fmt: skip


def test_links_start_as_wrns_convolutions() -> None:
    """Gaussians of variance 2 / fan-out, neither 2 / fan-in nor PyTorch's own; the widths tell them apart."""
    links = small(3, widen_factor=4).links
    convolutions = {name: link.weight for name, link in links.items() if isinstance(link, nn.Conv2d)}
    assert len(convolutions) == 6
    for name, weight in convolutions.items():
        sure = 3 / (2 * weight.numel()) ** 0.5  # three standard errors
        assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=sure), name


def test_no_level_is_wrn() -> None:
    model = small(0)
    plain = wrn.WideResNet(depth=10, widen_factor=2)
    model.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(3, 3, 32, 32)
    for training in (True, False):
        assert torch.equal(model.train(training)(x), plain.train(training)(x))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_without_its_links_it_is_wrn(levels: int) -> None:
    """Weights of zero in the links, or links cut out of the graph, leave WRN."""
    plain = wrn.WideResNet(depth=16, widen_factor=2).eval()
    model = SRNet(depth=16, widen_factor=2, levels=levels).eval()
    result = model.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key.startswith("links.") for key in result.missing_keys)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        wanted = plain(x)
        assert (model(x) - wanted).abs().max() > 0.01 * wanted.abs().max()
        graph = skipkb.trace_skips(model, x)
        with skipkb.ablate(model, [skip for skip in graph.skips if skip.long]):
            torch.testing.assert_close(model(x), wanted)
        for link in model.links.values():
            nn.init.zeros_(link.weight)  # type: ignore[arg-type]
        torch.testing.assert_close(model(x), wanted)


# --- singularities ------------------------------------------------------------------------------------------


def stem_gradient(model: SRNet) -> float:
    model.train()(torch.rand(4, 3, 16, 16)).square().sum().backward()
    grad = model.conv0.weight.grad
    assert grad is not None
    return grad.abs().max().item()


def kill(module: Any) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)


@pytest.mark.parametrize("group", ["group0", "group1", "group2"])
def test_the_gradient_passes_a_dead_group(group: str) -> None:
    """Elimination: in WRN a group that widens has no identity around it, and what it kills stays dead."""
    for levels, alive in ((0, False), (1, True), (3, True)):
        model = small(levels)
        kill(model.get_submodule(group))
        assert (stem_gradient(model) > 1e-6) is alive


def test_only_the_link_of_level_three_leads_around_everything() -> None:
    """With all groups and all shorter links dead the classifier still sees the picture."""
    for levels in (2, 3):
        model = small(levels)
        for part in (model.group0, model.group1, model.group2):
            kill(part)
        for name, link in model.links.items():
            if name != "03":
                kill(link)
        assert (stem_gradient(model) > 1e-6) is (levels == 3)


def last_map(model: SRNet, x: Tensor) -> Tensor:
    """Output of the last group with its links: what the last normalisation gets."""
    found: list[Tensor] = []
    hook = model.bn.register_forward_hook(lambda _m, args, _y: found.append(args[0]))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return found[0]


def incoming(model: SRNet) -> list[Tensor]:
    """All weights of WRN through which a unit of the last group gets its input, unit by unit."""
    return [block.get_submodule(name).weight for block in model.group2 for name in ("conv1", "convdim")]  # type: ignore[misc]


def test_a_unit_without_incoming_weights_stays_active() -> None:
    x = torch.rand(4, 3, 16, 16)
    for levels, active in ((0, False), (1, True), (2, True), (3, True)):
        model = small(levels)
        with torch.no_grad():
            for weight in incoming(model):
                weight[5] = 0
        assert (last_map(model, x)[:, 5].std().item() > 1e-6) is active


def test_units_with_equal_incoming_weights_stay_apart() -> None:
    """Overlap: in WRN two such units are one, and the weights behind them cannot be told apart."""
    x = torch.rand(4, 3, 16, 16)
    for levels, apart in ((0, False), (1, True), (2, True), (3, True)):
        model = small(levels)
        with torch.no_grad():
            for weight in incoming(model):
                weight[5] = weight[9]
        y = last_map(model, x)
        assert ((y[:, 5] - y[:, 9]).abs().max().item() > 1e-3) is apart


# --- the rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [(32, 32), (17, 30), (7, 5)])
@pytest.mark.parametrize("widen_factor", [1, 2])
def test_any_picture_size(picture: tuple[int, int], widen_factor: int) -> None:
    model = small(3, widen_factor, num_classes=5, in_channels=1)
    assert model(torch.rand(2, 1, *picture)).shape == (2, 5)


def test_mistakes() -> None:
    for levels in (-1, 4):
        with pytest.raises(ValueError, match=f"levels must be 0, 1, 2 or 3, as there are three groups, got {levels}"):
            small(levels)
    with pytest.raises(ValueError, match=r"6n\+4, got 11"):
        SRNet(depth=11, widen_factor=2, levels=1)
    with pytest.raises(ValueError, match=r"SRNet: expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        small(1)(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError):
        srnet.srnet16_8_l1(levels=2)  # type: ignore[call-arg]
