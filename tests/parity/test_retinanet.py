"""RetinaNet against torchvision: equal weights, equal raw outputs, detections and losses."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision
from skimage import data
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn as peer_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from skipkb.models.detection.retinanet import RetinaNet, losses, retinanet_resnet50_fpn
from tests.parity.compare import difference


def scramble(model: nn.Module) -> None:
    """Statistics and weights at random, small enough for fifty layers, and scores spread over (0, 1)."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(1 + 0.3 * noise.abs())
        elif re.search(r"bn\d\.weight|downsample\.1\.weight", name):
            value.copy_(0.6 + 0.1 * noise)
        elif name.endswith(("bias", "running_mean")):
            value.copy_(0.1 * noise)
        elif value.is_floating_point():
            value.copy_(noise * (1.4 / value[0].numel()) ** 0.5)
    model.head.classification_head.cls_logits.bias.data.sub_(3)


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    model = peer_resnet50_fpn(weights=None, weights_backbone=None, min_size=128, max_size=256).eval()
    scramble(model)
    return model


@pytest.fixture(scope="module")
def ours(peer: nn.Module) -> RetinaNet:
    model = retinanet_resnet50_fpn().eval()
    model.load_state_dict(peer.state_dict(), strict=True)
    return model


@pytest.fixture(scope="module")
def photographs() -> list[Tensor]:
    pictures = (data.astronaut()[:160, 100:300], data.coffee()[50:250, 100:240])
    return [torch.from_numpy(p / 255.0).float().permute(2, 0, 1) for p in pictures]


def test_trainable_batch_norm_has_the_very_same_state_dict(peer: nn.Module) -> None:
    with torch.device("meta"):
        model = retinanet_resnet50_fpn(frozen_bn=False)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in peer.state_dict().items()}


def test_published_count_is_the_one_with_frozen_batch_norm() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in retinanet_resnet50_fpn().parameters())
    weights = torchvision.models.detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    assert count == weights.meta["num_params"]


def test_weights_load_back(peer: nn.Module, ours: RetinaNet) -> None:
    frozen = {k: v for k, v in peer.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert set(frozen) == set(ours.state_dict())
    other = retinanet_resnet50_fpn(frozen_bn=False)
    other.load_state_dict(peer.state_dict(), strict=True)
    peer.load_state_dict(other.state_dict(), strict=True)


def test_keys_of_the_published_coco_weights_load(peer: nn.Module) -> None:
    """That file was written before torchvision renamed the convolutions of pyramid and subnets."""
    old = {}
    for key, value in peer.state_dict().items():
        key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", key)
        old[key] = value
    assert "backbone.fpn.inner_blocks.2.weight" in old
    assert "head.regression_head.conv.6.bias" in old
    peer.load_state_dict(dict(old), strict=True)  # torchvision reads them so
    model = retinanet_resnet50_fpn(frozen_bn=False)
    model.load_state_dict(dict(old), strict=True)
    assert all(torch.equal(v, peer.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (200, 168)])
def test_raw_outputs(peer: nn.Module, ours: RetinaNet, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = list(peer.backbone(images).values())
        expected = peer.head(features)
        anchors = peer.anchor_generator(ImageList(images, [size, size]), features)
        got = ours(images)
    assert difference(got["cls_logits"], expected["cls_logits"]) < 1e-5
    assert difference(got["bbox_regression"], expected["bbox_regression"]) < 1e-5
    assert torch.equal(got["anchors"], anchors[0])


def test_detections_on_photographs(peer: nn.Module, ours: RetinaNet, photographs: list[Tensor]) -> None:
    with torch.no_grad():
        expected = peer(photographs)
    got = ours.predict(photographs, min_size=128, max_size=256)
    for a, b in zip(got, expected, strict=True):
        assert len(b["scores"]) > 100
        assert b["labels"].unique().numel() > 10
        assert torch.equal(a["labels"], b["labels"])
        assert difference(a["boxes"], b["boxes"]) < 1e-5
        assert difference(a["scores"], b["scores"]) < 1e-5


def test_training_losses(peer: nn.Module, ours: RetinaNet) -> None:
    """With beta = 0, torchvision's L1; the second image holds nothing."""
    images = torch.randn(3, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    target = [
        {
            "boxes": torch.tensor([[10.0, 20, 90, 100], [40, 30, 150, 120], [5, 5, 12, 30]]),
            "labels": torch.tensor([7, 1, 90]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
        {"boxes": torch.tensor([[0.0, 0, 160, 128]]), "labels": torch.tensor([3])},
    ]
    with torch.no_grad():
        features = list(peer.backbone(images).values())
        anchors = peer.anchor_generator(ImageList(images, [(128, 160)] * 3), features)
        expected = peer.compute_loss(target, peer.head(features), anchors)
        got = losses(ours(images), target, beta=0.0)
    for name in ("classification", "bbox_regression"):
        assert got[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_small_configuration_is_the_same_code() -> None:
    """Fewer blocks and channels against torchvision's parts put together by hand, trained for one step."""
    ours = RetinaNet(num_classes=4, blocks=(1, 2, 1, 1), width=8, fpn_channels=16, p6_from="P5", frozen_bn=False)
    trunk = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=1, width_per_group=64
    )
    narrow = _narrow_trunk(trunk, 8)
    backbone = BackboneWithFPN(
        narrow, {"layer2": "0", "layer3": "1", "layer4": "2"}, [64, 128, 256], 16, LastLevelP6P7(16, 16)
    )
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    peer = torchvision.models.detection.RetinaNet(
        backbone,
        num_classes=4,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        min_size=96,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    peer.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 96, 128)
    target = [{"boxes": torch.tensor([[10.0, 20, 90, 80]]), "labels": torch.tensor([i])} for i in (0, 3)]
    expected = sum(peer.train()(list(images), target).values())
    got = sum(losses(ours.train()(images), target, beta=0.0).values())
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    got.backward()
    for (name, a), (_, b) in zip(sorted(ours.named_parameters()), sorted(peer.named_parameters()), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def _narrow_trunk(trunk: nn.Module, width: int) -> nn.Module:
    """torchvision's ResNet has no width argument for the stem: rebuild its stages with fewer channels."""
    trunk.inplanes = width
    trunk.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    trunk.bn1 = nn.BatchNorm2d(width)
    block = torchvision.models.resnet.Bottleneck
    for i, count in enumerate((1, 2, 1, 1)):
        stage = trunk._make_layer(block, width * 2**i, count, stride=1 if i == 0 else 2)
        setattr(trunk, f"layer{i + 1}", stage)
    return trunk
