"""Deformable DeepLab against torchvision: its layer, and its ResNet rebuilt the way the authors' network differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.detection import dcn
from tests.parity.compare import difference, scramble


@pytest.mark.parametrize(("groups", "dilation"), [(1, 2), (4, 2), (2, 1)])
def test_torchvisions_layer(groups: int, dilation: int) -> None:
    ops: Any = pytest.importorskip("torchvision.ops")
    ours = dcn.DeformConv2d(8, 6, dilation=dilation, groups=groups)
    nn.init.normal_(ours.conv_offset.weight, std=0.3)
    theirs = ops.DeformConv2d(8, 6, 3, padding=dilation, dilation=dilation, bias=False)
    theirs.load_state_dict({"weight": ours.weight.detach().clone()}, strict=True)
    x = torch.randn(2, 8, 13, 10)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0]), theirs(inputs[1], ours.offsets(inputs[1]))]
    assert difference(outputs[0].detach(), outputs[1].detach()) < 1e-5
    direction = torch.randn_like(outputs[0])
    grads = [torch.autograd.grad((y * direction).sum(), z)[0] for y, z in zip(outputs, inputs, strict=True)]
    assert difference(grads[0], grads[1]) < 1e-4


class Offset(nn.Module):
    """torchvision's layer with a convolution for its offsets, under the names of ours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        ops: Any = pytest.importorskip("torchvision.ops")
        layer = ops.DeformConv2d(channels, channels, 3, padding=2, dilation=2, bias=False)
        self.weight = layer.weight
        self.conv_offset = nn.Conv2d(channels, 18, 3, padding=1)
        self.layer = [layer]  # not registered twice

    def forward(self, x: Tensor) -> Tensor:
        self.layer[0].weight = self.weight
        y: Tensor = self.layer[0](x, self.conv_offset(x))
        return y


def test_torchvisions_resnet_with_the_authors_changes() -> None:
    """Pooling without padding, strides in the first convolutions, res5 dilated and deformable."""
    models: Any = pytest.importorskip("torchvision.models")
    theirs = models.resnet50(weights=None)
    theirs.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    for stage, stride in ((theirs.layer2, 2), (theirs.layer3, 2), (theirs.layer4, 1)):
        stage[0].conv1.stride, stage[0].conv2.stride = (stride, stride), (1, 1)
        stage[0].downsample[0].stride = (stride, stride)
    for block in theirs.layer4:
        block.conv2 = Offset(512)
        nn.init.kaiming_normal_(block.conv2.weight)
        nn.init.normal_(block.conv2.conv_offset.weight, std=0.01)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    scramble(theirs)
    with torch.device("meta"):
        ours = dcn.DeformableDeepLab(layers=(3, 4, 6, 3), frozen_bn=False)
    result = ours.load_state_dict({k: v.clone() for k, v in theirs.state_dict().items()}, strict=False, assign=True)
    assert result.unexpected_keys == []
    assert {key.split(".")[0] for key in result.missing_keys} == {"fc6", "score", "upsampling"}
    x = torch.randn(2, 3, 70, 64)
    with torch.no_grad():
        found, wanted = ours.eval().features(x), theirs.eval()(x).view(2, 2048, 5, 4)
        assert difference(found, wanted) < 1e-5
    direction = torch.randn_like(found)
    for net, run in ((ours, ours.features), (theirs, theirs)):
        net.double().train()
        (run(x.double()).view_as(direction) * direction).sum().backward()
    trunk = [p for name, p in ours.named_parameters() if not name.startswith(("fc6", "score"))]
    for mine, other in zip(trunk, theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert difference(mine.grad, other.grad) < 1e-4


def test_a_zero_padded_bilinear_filter() -> None:
    """The fixed upsampling is bilinear interpolation where no zero comes in over the edge."""
    layer = dcn.Upsampling(3, 16)
    x = F.pad(torch.randn(1, 3, 4, 4), (1, 1, 1, 1), mode="replicate")
    wanted = F.interpolate(x[..., 1:-1, 1:-1], scale_factor=16, mode="bilinear")
    found = layer(x, (96, 96))[..., 16:-16, 16:-16]
    assert difference(found, wanted) < 1e-5
