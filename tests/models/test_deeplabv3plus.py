"""DeepLabv3+: one early map joined to an enlarged one, in a decoder behind an Xception without pooling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import deeplabv3plus as module
from skipkb.models.segmentation.deeplabv3plus import (
    Decoder,
    DeepLabV3Plus,
    DeepLabV3PlusPort,
    DeepLabV3PlusPort2017,
    DeepLabV3PlusResNet,
    SeparableConv,
    XceptionBlock,
)
from skipkb.nn.xception_ports import PortBlock

WIDTHS = (4, 6, 8, 8, 10, 10, 12, 12)
SMALL = {"middle": 1, "widths": WIDTHS, "num_classes": 3}
TINY = SMALL | {"channels": 8, "reduced": 4}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def zero(layer: nn.Module, name: str = "weight") -> None:
    nn.init.zeros_(layer.get_parameter(name))


def test_the_decoder_joins_the_enlarged_map_and_the_reduced_early_one() -> None:
    decoder = Decoder(8, 6, 4, 3).eval()
    joined: list[Tensor] = []
    decoder.mix.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    x, early = torch.randn(2, 8, 4, 5), torch.randn(2, 6, 16, 20)
    assert decoder(x, early).shape == (2, 3, 16, 20)
    enlarged = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(joined[0][:, :8], enlarged)
    torch.testing.assert_close(joined[0][:, 8:], decoder.reduce(early))


def test_what_is_between_the_coarse_positions_comes_from_the_early_map() -> None:
    """An enlarged map is linear between its positions; with the early map it is not."""
    decoder = Decoder(8, 6, 4, 3).eval()
    seen: list[Tensor] = []
    decoder.mix.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        decoder(torch.randn(1, 8, 4, 4), torch.randn(1, 6, 16, 16))
    along = seen[0][0, :, 8, 6:10]  # inside one cell: centres of the coarse pixels lie at 5.5 and 9.5
    bent = (along[:, :-2] - 2 * along[:, 1:-1] + along[:, 2:]).abs().amax(dim=1)
    assert bent[:8].max() < 1e-5
    assert bent[8:].max() > 1e-2


@pytest.mark.parametrize("kind", [DeepLabV3Plus, DeepLabV3PlusPort, DeepLabV3PlusPort2017, DeepLabV3PlusResNet])
def test_each_network_has_one_skip_to_the_decoder_and_it_carries(kind: type[nn.Module]) -> None:
    options = (
        {"layers": (1, 1, 1, 3), "widths": (4, 4, 4, 4), "num_classes": 3} if kind is DeepLabV3PlusResNet else SMALL
    )
    model = kind(**options).eval()
    joins: list[tuple[Tensor, Tensor]] = []
    original = torch.cat

    def spy(tensors: list[Tensor], dim: int = 0) -> Tensor:
        if len(tensors) == 2:
            joins.append((tensors[0], tensors[1]))
        return original(tensors, dim)

    x = torch.rand(1, 3, 96, 96)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "cat", spy)
        before = model(x)
        assert len(joins) == 1
        first, second = (y.shape[1] for y in joins[0])
        assert (first, second) == ((48, 256) if kind is DeepLabV3PlusPort2017 else (256, 48))
        early = joins[0][0 if first == 48 else 1]
        assert early.shape[2] in (23, 24, 25)  # a quarter, by the padding of the stem
        patch.setattr(torch, "cat", lambda ts, dim=0: original([t * (t.shape[1] != 48) for t in ts], dim))
        assert (model(x) - before).abs().max() > 1e-4


def test_half_the_output_stride_keeps_every_value_of_the_trunk() -> None:
    fine = DeepLabV3Plus(**TINY, output_stride=8).double().eval()  # type: ignore[arg-type]
    coarse = DeepLabV3Plus(**TINY).double().eval()  # type: ignore[arg-type]
    coarse.load_state_dict(fine.state_dict())
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        (early, dense), (same, sparse) = fine.backbone(x), coarse.backbone(x)
    assert torch.equal(early, same)
    assert dense.shape[2:] == (9, 13)
    torch.testing.assert_close(dense[..., ::2, ::2], sparse)
    rates = [conv.conv_dw.dilation[0] for conv in fine.aspp.convs if isinstance(conv, SeparableConv)]
    assert rates == [12, 24, 36]


def test_the_trunk_has_65_layers_and_no_pooling() -> None:
    with torch.device("meta"):
        model = module.deeplabv3plus_xception65()
    trunk = model.backbone
    assert len(trunk.blocks) == 3 + 16 + 2
    separable = [m for m in trunk.modules() if isinstance(m, SeparableConv)]
    assert len(separable) + len(trunk.stem) == 65
    assert not any("Pool" in type(m).__name__ for m in trunk.modules())
    assert all(isinstance(m.bn_dw, nn.BatchNorm2d) for m in separable)
    assert [i for i, block in enumerate(trunk.blocks) if block.shortcut is not None] == [0, 1, 2, 19]
    assert not trunk.blocks[20].residual


def test_a_separable_convolution_is_one_per_channel_and_one_per_position() -> None:
    conv = SeparableConv(4, 6, dilation=3, act=False).eval()
    x = torch.randn(1, 4, 11, 11)
    kernel = torch.einsum("kc,cij->kcij", conv.conv_pw.weight[..., 0, 0], conv.conv_dw.weight[:, 0])
    scale = (1 + 1e-5) ** -0.5
    torch.testing.assert_close(conv(x), scale**2 * F.conv2d(x, kernel, padding=3, dilation=3))


def test_where_the_relus_are() -> None:
    """In front of a separable convolution, and behind both its parts in the last block and in the decoder."""
    block = XceptionBlock(6, (6, 6, 6)).eval()
    x = torch.randn(1, 6, 7, 7)
    y = x
    for conv in block.stack.children():
        assert not conv.act
        y = conv.bn_pw(conv.conv_pw(conv.bn_dw(conv.conv_dw(F.relu(y)))))  # type: ignore[operator]
    torch.testing.assert_close(block(x)[0], y + x)
    model = DeepLabV3Plus(**TINY)  # type: ignore[arg-type]
    behind = {name for name, m in model.named_modules() if isinstance(m, SeparableConv) and m.act}
    assert behind == {
        *(f"backbone.blocks.5.stack.conv{i}" for i in (1, 2, 3)),
        *(f"aspp.convs.{i}" for i in (1, 2, 3)),
        "decoder.mix.0",
        "decoder.mix.1",
    }


def test_the_blocks_of_the_trunk_add_their_input() -> None:
    block = XceptionBlock(6, (6, 6, 6)).eval()
    zero(block, "stack.conv3.bn_pw.weight")
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(block(x)[0], x)
    strided = XceptionBlock(6, (8, 8, 8), stride=2).eval()
    zero(strided, "stack.conv3.bn_pw.weight")
    assert strided.shortcut is not None
    torch.testing.assert_close(strided(x)[0], strided.shortcut(x))


def test_how_the_ports_differ() -> None:
    x = torch.randn(1, 6, 8, 8)
    aligned, old = (PortBlock(6, 6, 3, aligned=flag).eval() for flag in (True, False))
    for block, expected in ((aligned, F.relu(x)), (old, x)):  # the shortcut of the first sees no negative values
        zero(block, "rep.8.weight")
        assert torch.equal(block(x), expected)
    kinds = [type(m).__name__ for m in PortBlock(6, 8, 2, stride=2, aligned=False).rep]
    assert kinds[-1] == "MaxPool2d"
    assert "MaxPool2d" not in [type(m).__name__ for m in PortBlock(6, 8, 2, stride=2, aligned=True).rep]
    model, paper = DeepLabV3PlusPort(**SMALL), DeepLabV3Plus(**TINY)  # type: ignore[arg-type]
    assert model.backbone(torch.rand(2, 3, 64, 64))[0].shape == (2, WIDTHS[2], 16, 16)  # the first block
    assert model.backbone(torch.rand(2, 3, 64, 64))[0].min() >= 0
    assert paper.backbone(torch.rand(2, 3, 64, 64))[0].shape == (2, WIDTHS[3], 16, 16)  # inside the second one
    assert paper.backbone(torch.rand(2, 3, 64, 64))[0].min() < 0
    old_port = DeepLabV3PlusPort2017(**SMALL)  # type: ignore[arg-type]
    for head, count in ((model.decoder.last_conv, 2), (old_port.classifier.classifier, 1)):
        assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in head) == count
    resnet = DeepLabV3PlusResNet(layers=(1, 1, 1, 3), widths=(4, 4, 4, 4))
    rates = [m.dilation[0] for m in resnet.get_submodule("layer5").modules() if isinstance(m, nn.Conv2d)]
    assert max(rates) == 8


def test_the_published_networks() -> None:
    with torch.device("meta"):
        for build in ("xception65", "resnet101", "xception_port", "xception_2017_port"):
            model = getattr(module, f"deeplabv3plus_{build}")(num_classes=19).eval()
            assert model(torch.empty(1, 3, 129, 97)).shape == (1, 19, 129, 97)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="output_stride must be 8 or 16, got 32"):
        DeepLabV3Plus(**TINY, output_stride=32)  # type: ignore[arg-type]
    model = DeepLabV3Plus(**TINY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DeepLabV3Plus: expected input \[N, 3, H, W\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match="needs at least 2 pictures"):
        model(torch.rand(1, 3, 32, 32))
    assert model.eval()(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    old = DeepLabV3PlusPort2017(**SMALL).eval()  # type: ignore[arg-type]
    assert old(torch.rand(1, 3, 71, 71)).shape == (1, 3, 71, 71)
    with pytest.raises(ValueError, match=r"with H and W at least 71, got \[1, 3, 70, 96\]"):
        old(torch.rand(1, 3, 70, 96))
    with pytest.raises(TypeError):
        module.deeplabv3plus_xception65(num_clases=2)
