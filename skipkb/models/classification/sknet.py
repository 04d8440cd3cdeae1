r"""SKNet: two kernels look at the same input, and the picture decides between them.

A convolution has one size, chosen once for all pictures. A selective kernel unit has two branches, and each channel of
each picture takes a mixture of both (Section 3.1). *Split*: the whole input x goes through a 3x3 convolution and
through a 5x5 one, realised as a 3x3 of dilation 2, both in 32 groups, normalised and activated. *Fuse*: their sum is
averaged over all positions and squeezed to d = max(C / 16, 32) numbers z. *Select*: for every channel, a softmax over
the branches

.. math::  a_c = \frac{e^{A_c z}}{e^{A_c z} + e^{B_c z}}, \qquad  V_c = a_c\, \tilde U_c + (1 - a_c)\, \hat U_c ,

so that the weights of the branches sum to one (equations 5 and 6). The unit takes the place of the 3x3 convolution in
the bottleneck of ResNeXt-50 (32x4d). The skip is that of ResNeXt: the block's input is added in front of the last ReLU.

X. Li, W. Wang, X. Hu, J. Yang: "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586.

Deviations from the paper, as in the authors' Caffe network: the layers of the selection have no biases and, like the
classifier, start as Gaussians of deviation 0.01, the other convolutions after He et al. (2015); the maximum pooling is
not padded and rounds up; batch normalisation keeps 0.95 of its running values. PyTorch ports pad the pooling by 1 and
keep 0.9: their weights need ``port=True``. The names of the parts are those of timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.resnet_trunk import ResNetTrunk, projection_shortcut

__all__ = ["Bottleneck", "ConvNorm", "SKNet", "Selection", "SelectiveKernel", "objective", "sknet50"]


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, unless ``act`` is false, ReLU: [N, C, H, W] -> [N, C', H', W']."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1,
        act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation,
            groups=groups, bias=False,
        )  # fmt: skip
        self.bn = nn.BatchNorm2d(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu_(x) if self.act else x


class Selection(nn.Module):
    """Fuse and select: a weight for each branch and channel.

    Args:
        channels: channels C of a branch.
        branches: number of branches M.
        reduction: r; the squeezed vector has C / r numbers, but at least ``minimum``.
        minimum: L.
    """

    def __init__(self, channels: int, *, branches: int, reduction: int, minimum: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, minimum)
        self.branches = branches
        self.fc_reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.fc_select = nn.Conv2d(hidden, channels * branches, 1, bias=False)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """M maps [N, C, H, W] -> weights [N, M, C, 1, 1], which sum to one over M."""
        fused = branches[0]
        for branch in branches[1:]:
            fused = fused + branch
        z = F.relu(self.bn(self.fc_reduce(fused.mean(dim=(2, 3), keepdim=True))))
        logits = self.fc_select(z)
        return logits.view(z.shape[0], self.branches, -1, 1, 1).softmax(dim=1)  # type: ignore[no-any-return]


class SelectiveKernel(nn.Module):
    """The unit: one 3x3 convolution per branch, dilation 1, 2, ..., and their weighted sum.

    Args:
        channels: channels of input and output.
        branches: number of branches; branch i has a 3x3 of dilation i, and sees 2i + 1 positions each way.
        stride: of the convolutions.
        groups: of the convolutions, G.
        reduction: of the selection, r.
        minimum: of the selection, L.
    """

    def __init__(self, channels: int, *, branches: int, stride: int, groups: int, reduction: int, minimum: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            ConvNorm(channels, channels, 3, stride=stride, dilation=i + 1, groups=groups) for i in range(branches)
        )
        self.attn = Selection(channels, branches=branches, reduction=reduction, minimum=minimum)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""
        maps = [path(x) for path in self.paths]
        weights = self.attn(maps).unbind(1)
        selected: Tensor = maps[0] * weights[0]
        for branch, weight in zip(maps[1:], weights[1:], strict=True):
            selected = selected + branch * weight
        return selected


class Bottleneck(nn.Module):
    """1x1, selective kernel unit, 1x1, and the input added.

    Args:
        in_channels: channels of the input.
        channels: width of the ResNet block this one replaces; the output has four times as many.
        groups: of the unit's convolutions, G.
        base_width: channels of a group in the first stage, where ``channels`` is 64.
        branches: of the unit, M.
        reduction: of the selection, r.
        minimum: of the selection, L.
        stride: 2 in the block that halves the resolution, else 1.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, *, groups: int, base_width: int, branches: int, reduction: int,
        minimum: int, stride: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        width = channels * base_width // 64 * groups
        out_channels = channels * self.expansion
        self.conv1 = ConvNorm(in_channels, width, 1)
        self.conv2 = SelectiveKernel(
            width, branches=branches, stride=stride, groups=groups, reduction=reduction, minimum=minimum
        )
        self.conv3 = ConvNorm(width, out_channels, 1, act=False)
        self.downsample = projection_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu_(self.conv3(self.conv2(self.conv1(x))) + shortcut)  # the skip


class SKNet(ResNetTrunk):
    """ResNeXt with these blocks (Table 1).

    Args:
        layers: blocks per stage, such as (3, 4, 6, 3) for 50 layers.
        groups: of the unit's convolutions, G.
        base_width: channels of a group in the first stage.
        branches: M.
        reduction: r.
        minimum: L.
        widths: width of the ResNet block that each stage replaces.
        port: as PyTorch ports have it, see above.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        groups: int = 32,
        base_width: int = 4,
        branches: int = 2,
        reduction: int = 16,
        minimum: int = 32,
        widths: Sequence[int] = (64, 128, 256, 512),
        port: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if groups < 1 or min(widths, default=0) * base_width < 64:
            raise ValueError(
                "SKNet: groups must be at least 1 and a group one channel wide (base_width / 64 of the width), "
                f"got groups={groups}, base_width={base_width} and widths={tuple(widths)}"
            )
        if min(branches, reduction, minimum) < 1:
            raise ValueError(
                "SKNet: branches, reduction and minimum must be positive, "
                f"got branches={branches}, reduction={reduction} and minimum={minimum}"
            )
        block = partial(
            Bottleneck, groups=groups, base_width=base_width, branches=branches, reduction=reduction, minimum=minimum
        )
        super().__init__(
            block, layers=layers, widths=widths, stem="imagenet" if port else "caffe", num_classes=num_classes,
            in_channels=in_channels,
        )  # fmt: skip
        self.apply(_init_weights)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not port:
                module.momentum = 0.05


def _init_weights(module: nn.Module) -> None:
    he_fan_in(module)
    if isinstance(module, Selection):  # reached after its own layers
        nn.init.normal_(module.fc_reduce.weight, std=0.01)
        nn.init.normal_(module.fc_select.weight, std=0.01)


def sknet50(*, num_classes: int = 1000, in_channels: int = 3, port: bool = False) -> SKNet:
    """SKNet-50 (M = 2, G = 32, r = 16), Table 1, right."""
    return SKNet(layers=(3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels, port=port)
