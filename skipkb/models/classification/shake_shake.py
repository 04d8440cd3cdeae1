r"""Shake-Shake: two residual branches, mixed at random, and with other weights in the backward pass.

Augmentation disturbs the input of a network; Shake-Shake disturbs what is inside. A block has two residual branches of
the same shape beside its skip. At test time their mean is added, in training a random mixture (equations 1 to 3):

.. math::  x_{i+1} = x_i + \alpha_i \mathcal F(x_i, W^{(1)}_i) + (1 - \alpha_i) \mathcal F(x_i, W^{(2)}_i), \qquad
           \alpha_i \sim U(0, 1)

The gradient is not shared out by the same weights: the branches get the fractions :math:`\beta_i` and
:math:`1 - \beta_i` of it, with :math:`\beta_i` drawn anew (*Shake*). ``backward="keep"`` uses :math:`\alpha_i` and
``"even"`` one half instead, as in Table 1. Numbers are drawn for every picture, or once with ``level="batch"``. The
skip itself is never shaken: it is the identity, and where the width changes, two 1x1 convolutions of the activated
input, which see pixels one apart and are joined (Section 2.1, as in the authors' code).

X. Gastaldi: "Shake-Shake regularization", ICLR 2017 workshop, arXiv:1705.07485.

Deviations from the paper, which gives no initial values: they are those of the authors' Torch code, zero-mean
Gaussians of variance 2 / fan-out; there is no PyTorch release.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import stages

__all__ = [
    "ShakeShake", "ShakeShakeBlock", "ShakeShakeNet", "Shortcut", "objective", "shake_shake26_2x32d",
    "shake_shake26_2x64d", "shake_shake26_2x96d",
]  # fmt: skip

Level = Literal["image", "batch"]
Backward = Literal["shake", "keep", "even"]


class Mixture(torch.autograd.Function):
    """alpha a + (1 - alpha) b, whose gradient is shared out by beta."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(beta)
        return alpha * a + (1 - alpha) * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (beta,) = ctx.saved_tensors
        (grad,) = grads
        return beta * grad, (1 - beta) * grad, None, None


class ShakeShake(nn.Module):
    """Mixes two branches: at random while training, evenly at test time.

    Args:
        forward_shake: False mixes evenly in the forward pass of training too.
        backward: weights of the gradient: drawn anew, those of the forward pass, or one half.
        level: draw for every picture, or once for the batch.

    Raises:
        ValueError: an option that does not exist.
    """

    def __init__(self, *, forward_shake: bool = True, backward: Backward = "shake", level: Level = "image") -> None:
        super().__init__()
        if backward not in ("shake", "keep", "even"):
            raise ValueError(f"ShakeShake: backward must be one of shake, keep, even, got {backward!r}")
        if level not in ("image", "batch"):
            raise ValueError(f"ShakeShake: level must be one of image, batch, got {level!r}")
        self.forward_shake, self.backward, self.level = forward_shake, backward, level

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two maps [N, C, H, W] -> their mixture [N, C, H, W]."""
        if not self.training:
            return 0.5 * (a + b)
        shape = (a.shape[0] if self.level == "image" else 1, 1, 1, 1)
        half = torch.full(shape, 0.5, dtype=a.dtype, device=a.device)
        alpha = torch.rand_like(half) if self.forward_shake else half
        drawn = torch.rand_like(half)
        beta = {"shake": drawn, "keep": alpha, "even": half}[self.backward]
        return Mixture.apply(a, b, alpha, beta)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"forward_shake={self.forward_shake}, backward={self.backward!r}, level={self.level!r}"


class Shortcut(nn.Module):
    """Two strided 1x1 convolutions, the second on the picture moved by one pixel, joined and normalised.

    [N, C, H, W], activated -> [N, C', ceil(H/stride), ceil(W/stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        moved = F.pad(x, (1, -1, 1, -1))  # right and down, so that the stride meets other pixels
        return self.bn(torch.cat((self.conv1(x), self.conv2(moved)), 1))  # type: ignore[no-any-return]


def branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU, 3x3 convolution, normalisation, behind the block's first ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ShakeShakeBlock(nn.Module):
    """A skip and two branches (Figure 1); arguments of ``shake`` are those of :class:`ShakeShake`."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, shake: ShakeShake) -> None:
        super().__init__()
        self.branch1 = branch(in_channels, out_channels, stride)
        self.branch2 = branch(in_channels, out_channels, stride)
        self.shake = shake
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = Shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        active = F.relu(x)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return shortcut + self.shake(self.branch1(active), self.branch2(active))  # type: ignore[no-any-return]


class ShakeShakeNet(nn.Module):
    """Stem, three groups of blocks, ReLU, global average, linear classifier (Section 2.1).

    Args:
        depth: 6n + 2 layers.
        width: channels of the first group, 32 in "2x32d"; they double from group to group.
        forward_shake, backward, level: as in :class:`ShakeShake`.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a depth that is not 6n + 2, an odd width, or one for which a later group is as wide as the stem.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        forward_shake: bool = True,
        backward: Backward = "shake",
        level: Level = "image",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        n = blocks_of_depth("ShakeShakeNet", depth, 6, 2)
        if width < 2 or width % 2:
            raise ValueError(f"ShakeShakeNet: width must be even, as shortcuts join two halves, got {width}")
        if 16 in (2 * width, 4 * width):
            raise ValueError(f"ShakeShakeNet: width must be above 8, got {width}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)

        def block(in_channels: int, out_channels: int, *, stride: int) -> ShakeShakeBlock:
            shake = ShakeShake(forward_shake=forward_shake, backward=backward, level=level)
            return ShakeShakeBlock(in_channels, out_channels, stride=stride, shake=shake)

        groups, channels = stages(block, (n, n, n), (width, 2 * width, 4 * width), 16)
        self.layer1, self.layer2, self.layer3 = groups
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 32 x 32.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ShakeShakeNet", x, self.in_channels)
        x = self.bn1(self.conv1(x))  # the ReLU is the first block's
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(F.relu(x).mean(dim=(2, 3)))
        return logits


# Table 1: depth 26 and two branches of these widths.
# fmt: off
shake_shake26_2x32d = published(ShakeShakeNet, depth=26, width=32, free=["forward_shake", "backward", "level"])
shake_shake26_2x64d = published(ShakeShakeNet, depth=26, width=64, free=["forward_shake", "backward", "level"])
shake_shake26_2x96d = published(ShakeShakeNet, depth=26, width=96, free=["forward_shake", "backward", "level"])
# fmt: on
