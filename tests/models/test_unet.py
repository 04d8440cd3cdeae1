"""What the U-Net paper is about: valid convolutions, cropped long skips, seamless tiles, weighted borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import unet as module
from skipkb.models.segmentation.unet import UNet, centre_crop, objective, overlap_tile, unet, weight_map

SMALL = {"widths": (4, 6, 8, 10, 12), "dropout": 0.0}


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = unet()
        assert model(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(nn.Conv2d) + kinds.count(nn.ConvTranspose2d) == 23  # as the paper counts
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert all(m.padding == (0, 0) for m in model.modules() if isinstance(m, nn.Conv2d))


def test_figure_1_map_sizes() -> None:
    """Edge lengths printed in Figure 1, level by level."""
    seen: list[int] = []
    with torch.device("meta"):
        model = unet()
        for block in model.modules():
            if isinstance(block, (module.DoubleConv, nn.ConvTranspose2d)):
                block.register_forward_hook(lambda _m, _x, y: seen.append(y.shape[-1]))
        model(torch.empty(1, 1, 572, 572))
    assert seen == [568, 280, 136, 64, 28, 56, 52, 104, 100, 200, 196, 392, 388]


@pytest.mark.parametrize("size", [(188, 188), (204, 252), (572, 188)])
def test_legal_sizes_lose_the_margin(size: tuple[int, int]) -> None:
    out = UNet(**SMALL).eval()(torch.rand(2, 1, *size))
    assert out.shape == (2, 2, size[0] - 184, size[1] - 184)


def test_legal_sizes_are_exactly_those_that_pool_evenly() -> None:
    model = UNet(**SMALL)
    for edge in range(100, 320):
        n, even = edge, True
        for _ in range(4):
            n -= 4
            even, n = even and n % 2 == 0, n // 2
        n -= 4
        for _ in range(4):
            n = 2 * n - 4 if n > 0 else n
        if even and n > 0:
            model.check_size(edge, edge)
        else:
            with pytest.raises(ValueError, match="legal sizes are 16"):
                model.check_size(edge, 572)


def test_a_size_that_does_not_fit_names_the_neighbours() -> None:
    with pytest.raises(ValueError, match=r"width 512.*nearest are 508 and 524"):
        UNet(**SMALL)(torch.rand(1, 1, 572, 512))
    for bad in ({"widths": (4,)}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="UNet"):
            UNet(**bad)
    with pytest.raises(TypeError):
        UNet(wdths=(4, 8))


def _position_of_skip_and_up(level: int) -> tuple[Tensor, Tensor]:
    """Image row at which the receptive fields of both operands of a concat are centred, per feature row.

    Worked out on indices alone: a valid 3x3 convolution keeps the mean of three neighbours, pooling the mean
    of two, an up-convolution copies its source to two children a quarter of its stride to either side.
    """

    def conv(c: Tensor) -> Tensor:
        return c[1:-1]

    centre, stride, stack = torch.arange(572, dtype=torch.float64), 1.0, []
    for depth in range(5):
        if depth:
            centre, stride = centre.reshape(-1, 2).mean(dim=1), 2 * stride
        centre = conv(conv(centre))
        stack.append(centre)
    for depth in range(3, -1, -1):
        children = torch.tensor([-0.25, 0.25], dtype=torch.float64) * stride
        centre, stride = (centre[:, None] + children).flatten(), stride / 2
        skip = stack[depth]
        if depth == level:
            return skip, centre
        centre = conv(conv(centre))
    raise AssertionError(level)


@pytest.mark.parametrize("level", range(4))
def test_crop_aligns_pixel_for_pixel(level: int) -> None:
    skip, up = _position_of_skip_and_up(level)
    as_image = skip.expand(len(skip), -1)
    cropped = centre_crop(as_image, (len(up), len(up)))
    assert torch.equal(cropped[0], up)
    assert torch.equal(centre_crop(as_image.T, (len(up), len(up)))[:, 0], up)
    shift = (len(skip) - len(up)) // 2
    assert not torch.equal(skip[shift + 1 : shift + 1 + len(up)], up)


def _identity_(model: UNet) -> None:
    """Every convolution passes channel 0 on, so that each operand of a concat shows the image itself."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                m.weight.zero_()
                m.bias.zero_()
                if isinstance(m, nn.Conv2d):
                    m.weight[0, 0, m.kernel_size[0] // 2, m.kernel_size[1] // 2] = 1
                else:
                    m.weight[0, 0] = 1


def test_the_network_itself_joins_what_belongs_together() -> None:
    """One bright 16 x 16 block: in each concat, crop and upsampled map show it in the same place."""
    model = UNet(**SMALL).eval()
    _identity_(model)
    image = torch.zeros(1, 1, 572, 572)
    top = 30 + 16 * 13  # on the pooling grid of the lowest level, which starts at row 2 + 4 + 8 + 16
    image[..., top : top + 16, top : top + 16] = 1
    pairs: list[tuple[Tensor, Tensor]] = []
    for block in model.up:
        channels = block.upconv.out_channels
        block.convs.register_forward_pre_hook(lambda _m, args, c=channels: pairs.append((args[0][0, 0], args[0][0, c])))
    with torch.no_grad():
        out = model(image)
    assert len(pairs) == 4
    for skip, up in pairs:
        rows = lambda m: (m.amax(dim=1) > 0.5).nonzero().flatten().double().mean()  # noqa: E731
        assert skip.max() == 1
        assert up.max() == 1
        assert rows(skip) == rows(up)
    assert torch.equal(out[0, 0], image[0, 0, 92:-92, 92:-92])


def test_the_skip_comes_first_in_the_concatenation() -> None:
    """Figure 1: the copied map stands in front of the one from below; weights depend on it."""
    block = module.UpBlock(6, 4)
    joined: list[Tensor] = []
    block.convs.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    x, skip = torch.rand(1, 6, 4, 4), torch.rand(1, 4, 10, 10)
    with torch.no_grad():
        block(x, skip)
        assert torch.equal(joined[0][:, :4], centre_crop(skip, (8, 8)))
        assert torch.equal(joined[0][:, 4:], block.upconv(x))


def test_no_padding_anywhere() -> None:
    """The output of a shifted window is the shifted output, up to the last border pixel."""
    model = UNet(**SMALL).double().eval()
    image = torch.rand(1, 1, 220, 236, dtype=torch.float64)
    with torch.no_grad():
        whole = model(image)
        for top, left in ((0, 0), (16, 0), (0, 32), (16, 16)):
            part = model(image[..., top : top + 204, left : left + 204])
            torch.testing.assert_close(part, whole[..., top : top + 20, left : left + 20], rtol=0, atol=1e-12)


def test_a_constant_image_has_no_border() -> None:
    """Padding with zeros would darken the rim; here every 16 x 16 cell of the output is the same."""
    model = UNet(**SMALL).double().eval()
    with torch.no_grad():
        out = model(torch.ones(1, 1, 236, 236, dtype=torch.float64))
    torch.testing.assert_close(out[..., 16:, 16:], out[..., :-16, :-16], rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", range(4))
def test_every_skip_carries(level: int) -> None:
    """Zeroing one skip changes the output: none of the four is decoration."""
    model = UNet(**SMALL).eval()
    image = torch.rand(1, 1, 188, 188)
    with torch.no_grad():
        before = model(image)
        block = model.up[3 - level]
        handle = block.register_forward_pre_hook(lambda _m, args: (args[0], torch.zeros_like(args[1])))
        assert not torch.allclose(model(image), before)
        handle.remove()
        assert torch.equal(model(image), before)


def test_overlap_tile_equals_one_pass_over_the_whole_picture() -> None:
    model = UNet(**SMALL).double().eval()
    picture = torch.from_numpy(data.coins()[:180, :150] / 255.0)[None, None]
    whole = overlap_tile(model, picture, tile=196)  # one tile
    assert whole.shape == (1, 2, 180, 150)
    for tile in (68, 84):
        torch.testing.assert_close(overlap_tile(model, picture, tile=tile), whole, rtol=0, atol=1e-12)
    # By hand: mirror the context as numpy does, and run once.
    by_hand = np.pad(picture[0, 0].numpy(), ((92, 108), (92, 138)), mode="reflect")
    with torch.no_grad():
        expected = model(torch.from_numpy(by_hand)[None, None])[..., :180, :150]
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="nearest"):
        overlap_tile(model, picture, tile=64)
    with pytest.raises(ValueError, match="grid of 16"):
        overlap_tile(model, picture, tile=4)


def test_mirror_reflects_as_often_as_needed() -> None:
    expected = np.pad(np.arange(5), (11, 14), mode="reflect")
    assert module._mirror(5, 11, 5 + 14).tolist() == expected.tolist()


def test_weight_map_follows_equation_2() -> None:
    mask = torch.zeros(40, 40, dtype=torch.long)
    mask[10:30, 5:15] = 1
    mask[10:30, 19:30] = 2  # four pixels of background between the cells: columns 15-18
    weights = weight_map(mask)
    share = (mask > 0).double().mean().item()
    row = 20
    for column in (16, 17, 12, 22, 35):
        d1, d2 = sorted((min(abs(column - 5), abs(column - 14)), min(abs(column - 19), abs(column - 29))))
        balance = 0.5 / share if mask[row, column] else 0.5 / (1 - share)
        expected = balance + 10 * math.exp(-((d1 + d2) ** 2) / (2 * 5**2))
        assert weights[row, column].item() == pytest.approx(expected, rel=1e-5), column
    assert weights[row, 16:18].min() > weights[row, 35]
    # balance alone: both classes weigh the same, mean one
    balance = weight_map(mask, w0=0.0)
    assert balance.mean().item() == pytest.approx(1, rel=1e-5)
    assert balance[mask > 0].sum().item() == pytest.approx(balance[mask == 0].sum().item(), rel=1e-5)
    # one cell has no neighbour, none has no class balance
    assert torch.equal(weight_map((mask == 1).long()), weight_map((mask == 1).long(), w0=0.0))
    assert torch.equal(weight_map(torch.zeros(8, 8, dtype=torch.long)), torch.ones(8, 8))
    assert torch.equal(weight_map(torch.stack([mask, mask.flip(1)])), torch.stack([weights, weights.flip(1)]))
    with pytest.raises(ValueError, match="integer"):
        weight_map(torch.zeros(8, 8))


def test_objective_is_the_weighted_cross_entropy() -> None:
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    classes = torch.randint(0, 3, (2, 5, 7))
    weights = torch.rand(2, 5, 7) * 10
    p = torch.softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(objective(logits, (classes, weights)), -(weights * p.log()).mean())
    torch.testing.assert_close(objective(logits, classes), F.cross_entropy(logits, classes))
    (gradient,) = torch.autograd.grad(objective(logits, (classes, torch.zeros_like(weights))), logits)
    assert gradient.abs().max() == 0
    with pytest.raises(ValueError, match="crop"):
        objective(logits, classes[:, 1:])


def test_initial_values_keep_the_variance() -> None:
    """Section 3: with std sqrt(2/N), N incoming nodes, the signal keeps its size through the layers."""
    model = UNet(widths=(32, 64, 128))
    for m in model.modules():
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.in_channels > 1:
            assert m.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * m.in_channels)), rel=0.05)
        if isinstance(m, nn.ConvTranspose2d):
            assert m.weight.std().item() == pytest.approx(math.sqrt(2 / m.in_channels), rel=0.05)
            x = torch.rand(1, m.in_channels, 16, 16)
            assert (m(x).pow(2).mean() / (2 * x.pow(2).mean())).item() == pytest.approx(1, rel=0.2)
    assert all(p.abs().max() == 0 for n, p in model.named_parameters() if n.endswith("bias"))


def test_dropout_ends_the_contracting_path_only() -> None:
    model = UNet(widths=(4, 6, 8, 10, 12), dropout=0.5).train()
    calls: list[int] = []
    model.dropout.register_forward_hook(lambda _m, _x, y: calls.append(y.shape[1]))
    image = torch.rand(1, 1, 188, 188)
    assert not torch.equal(model(image), model(image))
    assert calls == [10, 12, 10, 12]
    model.eval()
    assert torch.equal(model(image), model(image))


def test_other_depths_keep_the_rules() -> None:
    model = UNet(widths=(4, 6, 9), in_channels=3, num_classes=5).eval()
    assert model.margin == 20
    assert model(torch.rand(1, 3, 60, 76)).shape == (1, 5, 20, 36)


def test_exports_and_runs_in_bfloat16() -> None:
    model = UNet(widths=(4, 6, 8)).eval()
    image = torch.rand(1, 1, 60, 60)
    exported = torch.export.export(model, (image,)).module()
    torch.testing.assert_close(exported(image), model(image))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(image).dtype == torch.bfloat16
