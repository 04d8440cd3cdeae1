"""nnU-Net: plans that follow from a data set alone, and a U-Net built from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.segmentation import nnunet
from skipkb.models.segmentation.nnunet import Fingerprint, PlainConvUNet, ResidualEncoderUNet

SMALL: dict[str, Any] = {"features": (4, 6, 8), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2))}

# --- plans --------------------------------------------------------------------------------------------------------

CUBES = Fingerprint(
    [[1, 1, 1]] * 5, [[150, 190, 138], [155, 180, 141], [149, 176, 140], [160, 183, 135], [158, 171, 144]], 4, 4
)
THICK_SLICES = Fingerprint(
    [[10, 1.5625, 1.5625], [10, 1.37, 1.37], [5, 1.68, 1.68], [10, 1.44, 1.44], [6.5, 1.5, 1.5]],
    [[9, 216, 256], [10, 256, 216], [18, 208, 232], [8, 240, 256], [12, 224, 224]],
    classes=4,
)
LARGE = Fingerprint(
    [[1, 0.77, 0.77], [0.8, 0.7, 0.7], [1.25, 0.84, 0.84], [5, 0.68, 0.68], [1, 0.9, 0.9]],
    [[432, 512, 512], [546, 512, 512], [371, 512, 512], [75, 512, 512], [601, 512, 512]],
    classes=3,
)
PICTURES = Fingerprint(
    [[999, 1, 1]] * 6,
    [[1, 520, 696], [1, 512, 640], [1, 360, 360], [1, 520, 696], [1, 1024, 1024], [1, 256, 320]],
    channels=3,
)
COARSE_LAST_AXIS = Fingerprint(
    [[0.7, 0.7, 5.0], [0.8, 0.8, 4.0], [0.65, 0.65, 6.0]], [[512, 512, 96], [512, 512, 120], [480, 470, 88]]
)
# What the planner of nnunetv2 2.8.1 gives for these, run on 2026-11-28: for each configuration the spacing, patch and
# batch, and the strides and kernels of the stages.
PLANS: list[tuple[Fingerprint, float, dict[str, tuple[list[float], tuple[int, ...], int, str, str]]]] = [
    (CUBES, 8, {
        "2d": ([1, 1], (192, 160), 32, "11 22 22 22 22 22", "33 33 33 33 33 33"),
        "3d_fullres": ([1, 1, 1], (128, 160, 112), 2, "111 222 222 222 222 221", "333 333 333 333 333 333"),
    }),
    (THICK_SLICES, 8, {
        "2d": ([1.5, 1.5], (256, 256), 3, "11 22 22 22 22 22 22", "33 33 33 33 33 33 33"),
        "3d_fullres": (
            [5.6, 1.5, 1.5], (16, 256, 256), 2, "111 122 222 222 122 122 122", "133 333 333 333 333 333 333",
        ),
    }),
    (LARGE, 8, {
        "2d": ([0.77, 0.77], (512, 512), 12, "11 22 22 22 22 22 22 22", "33 33 33 33 33 33 33 33"),
        "3d_lowres": (
            [2.427262, 1.868992, 1.868992], (128, 128, 128), 2, "111 222 222 222 222 222", "333 333 333 333 333 333",
        ),
        "3d_fullres": ([1, 0.77, 0.77], (128, 128, 128), 2, "111 222 222 222 222 222", "333 333 333 333 333 333"),
    }),
    (LARGE, 24, {
        "2d": ([0.77, 0.77], (512, 512), 37, "11 22 22 22 22 22 22 22", "33 33 33 33 33 33 33 33"),
        "3d_lowres": (
            [1.652848, 1.272693, 1.272693], (160, 224, 192), 2, "111 222 222 222 222 222", "333 333 333 333 333 333",
        ),
        "3d_fullres": ([1, 0.77, 0.77], (160, 224, 192), 2, "111 222 222 222 222 222", "333 333 333 333 333 333"),
    }),
    (PICTURES, 8, {"2d": ([1, 1], (640, 768), 2, "11 22 22 22 22 22 22 22", "33 33 33 33 33 33 33 33")}),
    (COARSE_LAST_AXIS, 8, {
        "2d": ([0.7, 0.7], (512, 512), 12, "11 22 22 22 22 22 22 22", "33 33 33 33 33 33 33 33"),
        "3d_lowres": (
            [4.2, 1.341272, 1.341272], (80, 160, 160), 2, "111 122 222 222 222 222", "133 333 333 333 333 333",
        ),
        "3d_fullres": ([4.2, 0.7, 0.7], (48, 192, 192), 2, "111 122 122 222 222 222", "133 133 333 333 333 333"),
    }),
]  # fmt: skip


def stages(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, one)) for one in text.split())


@pytest.mark.parametrize(("data", "gigabytes", "wanted"), PLANS)
def test_plans_are_those_of_the_authors_planner(
    data: Fingerprint, gigabytes: float, wanted: dict[str, tuple[list[float], tuple[int, ...], int, str, str]]
) -> None:
    found = nnunet.plan(data, gigabytes=gigabytes)
    assert found.keys() == wanted.keys()
    for name, (spacing, patch, batch, strides, kernels) in wanted.items():
        one = found[name]
        assert one.spacing == pytest.approx(spacing, rel=1e-6)
        assert (one.patch, one.batch) == (patch, batch)
        assert (one.strides, one.kernels) == (stages(strides), stages(kernels))
        limit = 512 if name == "2d" else 320
        assert one.features == tuple(min(32 * 2**i, limit) for i in range(len(one.strides)))
        assert one.batch_dice == (name == "2d" or (name == "3d_fullres" and "3d_lowres" in wanted))
    if data is COARSE_LAST_AXIS:
        assert found["3d_fullres"].axes == (2, 0, 1)


def test_an_axis_waits_until_the_others_are_as_coarse() -> None:
    strides, kernels, patch = nnunet.topology([4, 1, 1], [20, 100, 100])
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert patch == (20, 112, 112)
    assert nnunet.topology([1, 1], [6, 6])[0] == ((1, 1),)  # nothing left to halve
    assert nnunet.topology([1, 1], [7, 11])[0] == ((1, 1),)  # one axis alone needs 12
    assert nnunet.topology([1, 1], [7, 12])[0] == ((1, 1), (1, 2))


def test_the_estimate_of_memory_counts_the_feature_maps() -> None:
    """Every number that a convolution of the network puts out, for one image."""
    patch, strides = (8, 32, 16), ((1, 1, 1), (1, 2, 2), (2, 2, 1))
    counted = 0

    def count(_module: nn.Module, _x: Any, y: Tensor) -> None:
        nonlocal counted
        counted += y.numel()

    with torch.device("meta"):
        net = PlainConvUNet(features=(32, 64, 128), strides=strides, num_classes=5)
        for module in net.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.register_forward_hook(count)
        net(torch.empty(1, 1, *patch))
    assert nnunet._memory(patch, strides, 5) == counted


def test_more_memory_buys_a_larger_patch_and_then_batch() -> None:
    plans = [nnunet.plan(CUBES, gigabytes=g)["3d_fullres"] for g in (4, 8, 16, 32)]
    volumes = [math.prod(plan.patch) for plan in plans]
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[-1]
    assert [plan.batch for plan in plans] == [2] * 4  # at most 5 % of the voxels of five images
    assert nnunet.plan(CUBES, gigabytes=8)["2d"].batch == 32


def test_a_fingerprint_leaves_out_the_empty_border() -> None:
    image = torch.zeros(2, 5, 20, 30)
    image[0, 1:4, 3:9, 10] = 1
    image[1, 2, 5, 10:25] = -1
    found = nnunet.fingerprint([image, torch.ones(2, 4, 4, 4)], [[3, 1, 1], [2, 1, 1]], classes=3)
    assert found.shapes == [(3, 6, 15), (4, 4, 4)]
    assert (found.channels, found.classes, found.spacings) == (2, 3, [(3, 1, 1), (2, 1, 1)])
    with pytest.raises(ValueError, match=r"not empty, got \[1, 2, 2, 2\]"):
        nnunet.fingerprint([torch.zeros(1, 2, 2, 2)], [[1, 1, 1]], classes=2)
    with pytest.raises(ValueError, match=r"same channels, got \[1, 2\]"):
        nnunet.fingerprint([torch.ones(1, 2, 2, 2), torch.ones(2, 2, 2, 2)], [[1, 1, 1]] * 2, classes=2)
    with pytest.raises(ValueError, match="at least one image"):
        nnunet.plan(Fingerprint([], []))


def test_a_network_is_what_its_plan_says() -> None:
    for data in (THICK_SLICES, PICTURES):
        for one in nnunet.plan(data).values():
            with torch.device("meta"):
                net = nnunet.network_of(one, in_channels=data.channels, num_classes=data.classes)
                maps = net.encoder(torch.empty(1, data.channels, *one.patch))
                assert [m.shape[1] for m in maps] == list(one.features)
                assert all(side >= 4 for side in maps[-1].shape[2:])
                logits = net(torch.empty(1, data.channels, *one.patch))
                assert logits[0].shape == (1, data.classes, *one.patch)
                assert len(logits) == len(one.strides) - 1


# --- the network --------------------------------------------------------------------------------------------------


def test_each_map_of_the_encoder_stands_beside_the_one_from_below() -> None:
    net = PlainConvUNet(**SMALL).eval()
    joined: list[Tensor] = []
    for stage in net.decoder.stages:
        stage.register_forward_pre_hook(lambda _m, args: joined.append(args[0]))
    x = torch.randn(1, 1, 4, 8, 8)
    maps = net.encoder(x)
    net(x)
    assert [tuple(j.shape[1:]) for j in joined] == [(12, 4, 4, 4), (8, 4, 8, 8)]
    for seen, skip in zip(joined, (maps[1], maps[0]), strict=True):
        assert torch.equal(seen[:, skip.shape[1] :], skip)


def test_without_its_path_below_only_the_skip_is_left() -> None:
    """Transposed convolutions that put out nothing: the answer still depends on the image, through the finest skip."""
    net = PlainConvUNet(**SMALL).eval()
    for up in net.decoder.transpconvs:
        nn.init.zeros_(up.get_parameter("weight"))
    x, y = torch.randn(2, 1, 1, 4, 8, 8)
    assert not torch.equal(net(x), net(y))
    for stage in net.decoder.stages:
        first = stage.get_parameter("convs.0.conv.weight")
        with torch.no_grad():
            first[:, first.shape[1] // 2 :] = 0  # and now no skips either
    assert torch.equal(net(x), net(y))


def test_a_silent_residual_branch_leaves_the_input() -> None:
    net = ResidualEncoderUNet(features=(4, 6), strides=((1, 1), (2, 2)), blocks=(1, 1))
    block = net.encoder.stages[0].get_submodule("blocks.0")  # it starts silent
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), F.leaky_relu(x, 0.01))
    strided = net.encoder.stages[1].get_submodule("blocks.0")
    projected = strided.get_submodule("skip.1")(F.avg_pool2d(x, 2))
    torch.testing.assert_close(strided(x), F.leaky_relu(projected, 0.01))


def test_every_stage_answers_and_the_coarsest_does_not_train() -> None:
    net = PlainConvUNet(**SMALL, deep_supervision=True)
    logits = net(torch.randn(2, 1, 8, 16, 16))
    assert [tuple(one.shape) for one in logits] == [(2, 3, 8, 16, 16), (2, 3, 8, 8, 8)]
    assert [layer.get_parameter("weight").requires_grad for layer in net.decoder.seg_layers] == [False, True]
    alone = PlainConvUNet(**SMALL)
    alone.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 4, 8, 8)
    assert torch.equal(alone(x), net(x)[0])


def test_channels_double_up_to_a_limit() -> None:
    with torch.device("meta"):
        three, two = nnunet.nnunet_3d_fullres(), nnunet.nnunet_2d()
    widths = [
        [stage.get_parameter("0.convs.0.conv.weight").shape[0] for stage in net.encoder.stages] for net in (three, two)
    ]
    assert widths == [[32, 64, 128, 256, 320, 320], [32, 64, 128, 256, 512, 512, 512, 512]]


def test_official_checkpoints_name_tensors_several_times() -> None:
    net = PlainConvUNet(**SMALL)
    official = dict(net.state_dict())
    for name, value in net.state_dict().items():
        if ".convs." in name:
            official[name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")] = value
        if name.startswith("encoder."):
            official[f"decoder.{name}"] = value
    assert len(official) > len(net.state_dict())
    assert nnunet.from_checkpoint(official).keys() == net.state_dict().keys()


# --- training and use ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_loss(batch_dice: bool) -> None:
    logits, classes = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    found = nnunet.dice_and_cross_entropy(logits, classes, batch_dice=batch_dice)
    p, groups = logits.softmax(1), [slice(None)] if batch_dice else [slice(0, 1), slice(1, 2)]
    dice = [
        2 * (p[g, k] * (classes[g] == k)).sum() / (p[g, k].sum() + (classes[g] == k).sum())
        for g in groups
        for k in (1, 2)  # without background
    ]
    expected = F.cross_entropy(logits, classes) + 1 - torch.stack(dice).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert nnunet.objective(50.0 * F.one_hot(classes, 3).movedim(-1, 1), classes).item() == pytest.approx(0, abs=1e-5)


def test_coarser_stages_count_half_and_the_coarsest_nothing() -> None:
    target = torch.randint(0, 2, (1, 16, 16))
    logits = [torch.randn(1, 2, side, side) for side in (16, 8, 4, 2)]
    parts = [
        nnunet.dice_and_cross_entropy(one, target[:, 16 // side // 2 :: 16 // side, 16 // side // 2 :: 16 // side])
        for one, side in zip(logits[:3], (16, 8, 4), strict=True)
    ]
    torch.testing.assert_close(nnunet.objective(logits, target), (4 * parts[0] + 2 * parts[1] + parts[2]) / 7)
    torch.testing.assert_close(nnunet.objective(logits[0], target), parts[0])


def test_weights_of_a_window_are_a_gaussian() -> None:
    from scipy import ndimage

    point = torch.zeros(12, 16)
    point[6, 8] = 1
    wanted = torch.from_numpy(ndimage.gaussian_filter(point.double().numpy(), (1.5, 2), mode="constant"))
    torch.testing.assert_close(nnunet.gaussian((12, 16)).double(), wanted / wanted.max(), rtol=1e-4, atol=1e-6)


def test_windows_cover_an_axis_evenly() -> None:
    assert nnunet.starts(110, 64, 0.5) == [0, 23, 46]
    assert nnunet.starts(64, 64, 0.5) == [0]
    assert nnunet.starts(65, 64, 1.0) == [0, 1]


def test_an_image_of_any_size_is_predicted() -> None:
    net = PlainConvUNet(**SMALL).eval()
    x = torch.randn(1, 1, 4, 8, 8)
    torch.testing.assert_close(nnunet.predict(net, x, (4, 8, 8), mirror=False), net(x))
    for size in ((7, 9, 21), (2, 8, 5)):
        assert nnunet.predict(net, torch.randn(2, 1, *size), (4, 8, 8)).shape == (2, 3, *size)
    # Averaged over mirror images, the prediction of a mirrored image is the mirrored prediction.
    found = nnunet.predict(net, x, (4, 8, 8))
    torch.testing.assert_close(nnunet.predict(net, x.flip(4), (4, 8, 8)), found.flip(4), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"patch=\(4, 8\) and step=0.5 do not fit"):
        nnunet.predict(net, x, (4, 8))


def test_the_middle_of_a_window_counts_more_than_its_edge() -> None:
    """A network that answers with the place in the window: between two windows the nearer one wins."""

    class Ramp(PlainConvUNet):
        def forward(self, x: Tensor) -> Tensor:
            return torch.arange(8.0).expand(1, 1, 1, 8).clone()

    net = Ramp(features=(2, 2), strides=((1, 1), (2, 2)))
    found = nnunet.predict(net, torch.zeros(1, 1, 1, 12), (1, 8), mirror=False)[0, 0, 0]
    w = nnunet.gaussian((1, 8))[0]
    assert found[:4].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found[4], (4 * w[4] + 0 * w[0]) / (w[4] + w[0]))
    assert found[4] > 3.9


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": (4, 6)}, r"one item for each of at least two stages.*features=\(4, 6\)"),
        ({"strides": ((1, 1), (2, 2, 2), (2, 2, 2))}, "two or three axes"),
        ({"kernels": ((3, 3, 3),)}, r"kernels=\[\(3, 3, 3\)\]"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlainConvUNet(**(SMALL | change))
    with pytest.raises(ValueError, match="at least three stages, got 2"):
        PlainConvUNet(features=(4, 6), strides=((1, 1), (2, 2)), deep_supervision=True)
    with pytest.raises(ValueError, match="2 blocks, but 3 features"):
        ResidualEncoderUNet(**SMALL, blocks=(1, 1))


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 8), (1, 1, 4, 8, 6), (1, 2, 4, 8, 8), (1, 1, 8, 8)])
def test_wrong_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected input \[N, 1, D, H, W\] with multiples of \[2, 4, 4\], got \["):
        PlainConvUNet(**SMALL)(torch.rand(shape))
