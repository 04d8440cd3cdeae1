"""UniNet: what each down-sampling module sees, and that every operator starts as its shortcut."""

from __future__ import annotations

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.models.classification import uninet
from skipkb.models.classification.uninet import AttentionBlock, DWConvBlock, LocalDSM, LocalGlobalDSM, UniNet

SMALL = {"repeats": (1, 1, 1, 2, 1, 2), "channels": (8, 8, 12, 16, 32, 64), "expansion": (1, 2, 2, 3, 2, 2)}


def test_order_of_operators_and_maps() -> None:
    """Convolution at 112 to 14 pixels, attention at 14 and 7, a DSM wherever a stage begins."""
    with torch.device("meta"):
        model, x = uninet.uninet_b1().eval(), torch.empty(1, 3, 224, 224)
    x = model.stem(x)
    found: list[tuple[str, tuple[int, ...]]] = []
    for block in model.blocks:
        x = block(x)
        found.append((type(block).__name__, tuple(x.shape[1:])))
    expected: list[tuple[str, tuple[int, ...]]] = [("DWConvBlock", (24, 112, 112))]
    for dsm, operator, count, channels, size in (
        ("LocalDSM", "DWConvBlock", 2, 48, 56),
        ("LocalDSM", "DWConvBlock", 4, 80, 28),
        ("LocalDSM", "DWConvBlock", 4, 128, 14),
        ("LocalGlobalDSM", "AttentionBlock", 4, 128, 14),
        ("LocalGlobalDSM", "AttentionBlock", 8, 256, 7),
    ):
        expected += [(dsm, (channels, size, size))] + [(operator, (channels, size, size))] * count
    assert found == expected


def seen(module: nn.Module, channels: int) -> Tensor:
    """Which of 9 x 9 input places the output place in the middle depends on, shortcut aside."""
    x = torch.randn(1, channels, 9, 9, requires_grad=True)
    output = module(x)
    height, width = output.shape[2:]
    output[0, :, height // 2, width // 2].square().sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(0) > 0


def test_a_local_dsm_sees_three_by_three_places_and_a_global_one_all() -> None:
    local, everywhere = LocalDSM(8, 64, stride=2).eval(), LocalGlobalDSM(8, 64, stride=2).eval()
    assert seen(local, 8).sum() == 9
    assert seen(everywhere, 8).all()
    # what a strided convolution alone can never do: the gradient reaches places that no query is taken from
    nn.init.zeros_(everywhere.kv.weight)
    assert seen(everywhere, 8).sum() == 9  # only the shortcut is left


def test_convolutions_see_nearby_and_attention_everything() -> None:
    conv, attention = DWConvBlock(8, 8, expansion=2).eval(), AttentionBlock(32, expansion=2).eval()
    nn.init.ones_(conv.get_submodule("b2.5").weight)  # type: ignore[arg-type]
    conv.get_submodule("b2.3").forward = lambda x: x  # type: ignore[method-assign]  # without the gate, which averages
    for gamma in (attention.gamma_1, attention.gamma_2):
        nn.init.ones_(gamma)
    assert seen(conv, 8).sum() == 9
    assert seen(attention, 32).all()


def test_every_operator_starts_as_its_shortcut() -> None:
    same, wider = DWConvBlock(8, 8, expansion=4), DWConvBlock(8, 16, expansion=1)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.residual(x))
    assert wider.b1 is None
    block = AttentionBlock(32, expansion=2)
    x = torch.randn(2, 32, 6, 6)
    torch.testing.assert_close(block(x), x + block.pos_embed(x))
    for gamma in (block.gamma_1, block.gamma_2):
        assert torch.equal(gamma, torch.full((32,), 1e-6))
    linear = UniNet(num_classes=100, **SMALL).classifier  # type: ignore[arg-type]
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any()


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """[N, places, C]: softmax of scaled products, head by head, written out."""
    size = q.shape[2] // heads
    parts = []
    for i in range(heads):
        own = slice(i * size, (i + 1) * size)
        weights = (q[..., own] @ k[..., own].transpose(1, 2) / size**0.5).softmax(2)
        parts.append(weights @ v[..., own])
    return torch.cat(parts, 2)


def test_modules_between_stages_by_hand() -> None:
    """The shortcut of both is the largest of 3 x 3 places and a 1x1 convolution."""
    x = torch.randn(2, 16, 7, 6)
    local = LocalDSM(16, 24, stride=2).eval()
    pooled = F.max_pool2d(x, 3, stride=2, padding=1)
    torch.testing.assert_close(local(x) - local.downsample(x), local.residual[-1](pooled), rtol=1e-4, atol=1e-5)
    both = LocalGlobalDSM(16, 64, stride=2).eval()
    places = x.flatten(2).transpose(1, 2)
    k, v = both.kv(both.kv_norm(places)).chunk(2, dim=2)
    out = both.proj(attended(both.q_norm(both.q(x).flatten(2).transpose(1, 2)), k, v, heads=2))
    wanted = out.transpose(1, 2).unflatten(2, (4, 3)) + both.residual[-1](pooled)
    torch.testing.assert_close(both(x), wanted, rtol=1e-4, atol=1e-5)


def test_operators_by_hand() -> None:
    x = torch.randn(2, 64, 5, 4)
    block = AttentionBlock(64, expansion=2).eval()
    for gamma in (block.gamma_1, block.gamma_2):
        nn.init.normal_(gamma)
    y = (x + block.pos_embed(x)).flatten(2).transpose(1, 2)
    q, k, v = block.attn.qkv(block.norm1(y)).chunk(3, dim=2)
    y = y + block.gamma_1 * block.attn.proj(attended(q, k, v, heads=2))
    y = y + block.gamma_2 * block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), y.transpose(1, 2).unflatten(2, (5, 4)), rtol=1e-4, atol=1e-5)

    conv = DWConvBlock(8, 16, expansion=2).eval()
    x = torch.randn(2, 8, 6, 6)
    assert conv.b1 is not None
    normalise, widen, norm, _ = conv.b1
    depthwise, norm2, _, gate, narrow, last = conv.b2
    nn.init.ones_(last.weight)  # type: ignore[arg-type]
    y = F.gelu(norm2(depthwise(F.gelu(norm(widen(normalise(x)))))))
    y = y * F.hardsigmoid(gate.fc2(F.relu(gate.fc1(y.mean((2, 3), keepdim=True)))))  # type: ignore[operator,union-attr]
    shortcut = conv.residual[-1](F.max_pool2d(x, 3, stride=1, padding=1))  # type: ignore[index]
    torch.testing.assert_close(conv(x), shortcut + last(narrow(y)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_gradient_in_eval_mode_is_that_of_finite_differences(pictures: int) -> None:
    """For one picture PyTorch's is wrong where a normalisation gets it as the transpose of a table of places."""
    model = UniNet(num_classes=5, **SMALL).double().eval()  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(module, AttentionBlock):
            nn.init.ones_(module.gamma_1)
            nn.init.ones_(module.gamma_2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    x = torch.randn(pictures, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    along = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    with torch.no_grad():
        ahead, behind = (model(x + step * along).square().sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((gradient * along).sum(), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)


def test_the_skip_carries_the_input_on() -> None:
    """The residual form: with another branch the input is still there."""
    block = DWConvBlock(8, 8, expansion=2).eval()
    nn.init.ones_(block.get_submodule("b2.5").weight)  # type: ignore[arg-type]
    x = torch.randn(2, 8, 6, 6)
    assert block.b1 is not None
    torch.testing.assert_close(block(x) - block.b2(block.b1(x)), x)


def test_only_the_depthwise_convolution_tells_places_apart() -> None:
    block = AttentionBlock(32, expansion=2).eval()
    for gamma in (block.gamma_1, block.gamma_2):
        nn.init.ones_(gamma)
    x = torch.randn(1, 32, 4, 4)
    order = torch.randperm(16)

    def mixed(y: Tensor) -> Tensor:
        return y.flatten(2)[:, :, order].unflatten(2, (4, 4))

    assert not torch.allclose(block(mixed(x)), mixed(block(x)), atol=1e-3)
    nn.init.zeros_(block.pos_embed.weight)
    torch.testing.assert_close(block(mixed(x)), mixed(block(x)))


@pytest.mark.parametrize(("channels", "squeezed"), [(32, 8), (192, 48), (288, 72), (480, 120), (384, 96), (40, 16)])
def test_squeezed_width(channels: int, squeezed: int) -> None:
    gate = uninet.SqueezeExcitation(channels)
    assert gate.fc1.out_channels == squeezed
    x = torch.rand(1, channels, 3, 3)
    assert ((gate(x) >= 0) & (gate(x) <= x)).all()


def test_skips() -> None:
    with torch.device("meta"):
        graph = skipkb.trace_skips(uninet.uninet_b1().eval(), (1, 3, 224, 224))
    # 11 convolution blocks, each with a gate inside, 2 DSMs with attention, and 3 in each of 12 attention blocks
    assert graph.counts() == {"add": 49, "identity": 46, "projection": 3, "gate": 11, "long": 11}
    # both branches of a local DSM are linear: nothing is skipped there
    assert len(graph.multi_branch) == 3


def test_paths_are_dropped_more_often_the_deeper() -> None:
    rates = [m.drop_prob for m in UniNet(drop_path=0.3, **SMALL).modules() if isinstance(m, DropPath)]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 8)[1:])  # nothing is dropped in the first


def test_names_of_the_release() -> None:
    """Names of the authors' uninet.py, block by block."""
    with torch.device("meta"):
        state = uninet.uninet_b1().state_dict()
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    layer = {"weight", "bias"}

    def names(index: int) -> set[str]:
        prefix = f"blocks.{index}."
        return {name.removeprefix(prefix) for name in state if name.startswith(prefix)}

    def joined(parts: dict[str, set[str]]) -> set[str]:
        return {f"{part}.{leaf}" for part, leaves in parts.items() for leaf in leaves}

    narrow = {"b2.0": {"weight"}, "b2.1": norm, "b2.3.fc1": layer, "b2.3.fc2": layer, "b2.4": layer, "b2.5": norm}
    assert names(0) == joined({"residual.1": layer} | narrow)
    assert names(1) == joined({"residual.1": layer, "downsample.0": layer, "downsample.1": norm, "downsample.2": layer})
    assert names(2) == joined({"b1.0": norm, "b1.1": {"weight"}, "b1.2": norm} | narrow)
    query = {"q.0": layer, "q.1": norm, "q.2": layer, "q_norm": layer, "kv_norm": layer, "kv": layer, "proj": layer}
    assert names(14) == joined({"residual.0": layer} | query)
    assert names(19) == joined({"residual.1": layer} | query)
    parts = ("norm1", "pos_embed", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert names(15) == names(27) == {"gamma_1", "gamma_2"} | joined(dict.fromkeys(parts, layer))
    outside = {"stem.0": {"weight"}, "stem.1": norm, "head.0": {"weight"}, "head.1": norm, "classifier": layer}
    assert {name for name in state if not name.startswith("blocks.")} == joined(outside)


@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (1, 1)])
def test_any_picture_size(shape: tuple[int, int]) -> None:
    model = UniNet(num_classes=5, in_channels=1, **SMALL).eval()  # type: ignore[arg-type]
    assert model(torch.rand(2, 1, *shape)).shape == (2, 5)


def test_mixed_targets() -> None:
    output = torch.randn(2, 3)
    whole = torch.eye(3)[[0, 2]]
    torch.testing.assert_close(uninet.objective(output, whole), uninet.objective(output, torch.tensor([0, 2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": (1, 2)}, "six numbers and strides five, got 2, 6, 6 and 5"),
        ({"repeats": (1, 0, 1, 1, 1, 1)}, "repeats must be positive"),
        ({"channels": (8, 8, 8, 8, 32, 40)}, "multiples of head_dim=32"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniNet(**{**SMALL, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        UniNet(**SMALL)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
