r"""ShakeDrop: one residual branch, shaken now and then.

Shake-Shake needs two branches to mix. ShakeDrop multiplies the only branch of a block by a random number instead, even
a negative one, and its gradient by another. This alone does not train. A coin as in stochastic depth steadies it: with
:math:`b_l = 1` the block stays as it is, with :math:`b_l = 0` it is shaken (Section III):

.. math::  G(x) = \begin{cases} x + (b_l + \alpha - b_l \alpha)\, \mathcal F(x) & \text{forward, training} \\
           x + (b_l + \beta - b_l \beta)\, \mathcal F(x) & \text{backward, training} \\
           x + E[b_l + \alpha - b_l \alpha]\, \mathcal F(x) & \text{test} \end{cases}

:math:`P(b_l = 1) = p_l = 1 - \frac{l}{L} (1 - p_L)` falls linearly with the block's number l, :math:`p_L = 0.5`;
:math:`\alpha \sim U(-1, 1)` and :math:`\beta \sim U(0, 1)` are drawn for the batch, every image, every channel or every
element ("pixel"). The expectation is then :math:`p_l`. The skip itself is never touched. The network is PyramidNet,
whose branches end in the normalisation that the method needs; its skip pads zeros where the width grows, behind 2x2
average pooling where the resolution halves.

Y. Yamada, M. Iwamura, T. Akiba, K. Kise: "ShakeDrop Regularization for Deep Residual Learning", IEEE Access 7, 2019,
arXiv:1802.02375.

Deviations from the paper, as in the authors' Torch code: the coin is thrown once for the whole batch, and convolutions
start as zero-mean Gaussians of variance 2 / fan-out. Fractional widths are rounded as in our PyramidNet; the only
network of that code, PyramidNet-110 with a widening of 270, has whole ones. Names are PyramidNet's, for the state dicts
to be exchanged.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.pyramidnet import BasicUnit, BottleneckUnit, Unit, pyramid
from skipkb.models.classification.stochastic_depth import survival_probabilities
from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "ShakeDrop", "ShakeDropPyramidNet", "ShakenBasicUnit", "ShakenBottleneckUnit", "objective",
    "shakedrop_pyramidnet110_a270", "shakedrop_pyramidnet272_a200", "survival_probabilities",
]  # fmt: skip

Level = Literal["batch", "image", "channel", "pixel"]
Range = tuple[float, float]
LEVELS = {"batch": 0, "image": 1, "channel": 2, "pixel": 4}  # leading axes along which numbers differ


class Shake(torch.autograd.Function):
    """alpha x, whose gradient is multiplied by a beta that is drawn on the way back; nothing is kept in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Range) -> Tensor:
        ctx.shape, ctx.beta = alpha.shape, beta
        return alpha * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device).uniform_(*ctx.beta) * grad, None, None


class ShakeDrop(nn.Module):
    """What stands between a residual branch and the addition.

    Args:
        survival: probability p_l that a batch leaves the block as it is.
        alpha, beta: ranges of the forward and the backward number.
        level: what shares a number: the batch, an image, a channel of an image, or nothing.

    Raises:
        ValueError: a probability outside (0, 1], a range with swapped ends, or a level that does not exist.
    """

    def __init__(
        self, *, survival: float, alpha: Range = (-1.0, 1.0), beta: Range = (0.0, 1.0), level: Level = "pixel"
    ) -> None:
        super().__init__()
        if not 0 < survival <= 1:
            raise ValueError(f"ShakeDrop: survival must lie in (0, 1], got {survival}")
        if level not in LEVELS:
            raise ValueError(f"ShakeDrop: level must be one of {', '.join(LEVELS)}, got {level!r}")
        for name, (low, high) in (("alpha", alpha), ("beta", beta)):
            if low > high:
                raise ValueError(f"ShakeDrop: {name} needs a lower and an upper end, got {(low, high)}")
        self.survival, self.alpha, self.beta, self.level = survival, alpha, beta, level

    def forward(self, residual: Tensor) -> Tensor:
        """[N, C, H, W] -> the same times b + alpha - b alpha, which is 1 or alpha, and at test time its mean."""
        if not self.training:
            return residual * self.expectation
        if self.survives():
            return residual
        own = LEVELS[self.level]
        shape = [size if axis < own else 1 for axis, size in enumerate(residual.shape)]
        alpha = torch.empty(shape, dtype=residual.dtype, device=residual.device).uniform_(*self.alpha)
        return Shake.apply(residual, alpha, self.beta)  # type: ignore[no-any-return]

    @property
    def expectation(self) -> float:
        """E[b + alpha - b alpha]; alpha and b are independent."""
        return self.survival + (1 - self.survival) * sum(self.alpha) / 2

    def survives(self) -> bool:
        """One throw for the batch. The coin stays on the CPU, as it decides what is launched elsewhere."""
        return self.survival >= 1 or bool(torch.rand((), device="cpu") < self.survival)

    def extra_repr(self) -> str:
        return f"survival={self.survival:.3f}, alpha={self.alpha}, beta={self.beta}, level={self.level!r}"


class ShakenUnit(Unit):
    """PyramidNet's skip beside a shaken branch: [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)], C' >= C."""

    shake: ShakeDrop

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return shortcut + self.shake(self.function(x))  # type: ignore[no-any-return]  # the skip


class ShakenBasicUnit(ShakenUnit, BasicUnit):
    """PyramidNet's unit of two 3x3 convolutions, with ShakeDrop behind its last normalisation."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, shake: ShakeDrop) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.shake = shake


class ShakenBottleneckUnit(ShakenUnit, BottleneckUnit):
    """PyramidNet's unit of 1x1, 3x3 and 1x1 convolution, with ShakeDrop behind its last normalisation."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, shake: ShakeDrop) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.shake = shake


class ShakeDropPyramidNet(nn.Module):
    """PyramidNet for small pictures: 3x3 convolution, three groups of shaken units, average, linear classifier.

    Args:
        depth: 6n + 2 layers, with bottlenecks 9n + 2.
        widening: PyramidNet's alpha, the channels that all units together add to the first 16.
        bottleneck: three convolutions in a unit instead of two.
        survival: p_L of the last unit; 1 is PyramidNet itself.
        alpha, beta, level: as in :class:`ShakeDrop`.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a depth that does not fit, a negative widening, or what :class:`ShakeDrop` refuses.
    """

    def __init__(
        self,
        *,
        depth: int,
        widening: float,
        bottleneck: bool = False,
        survival: float = 0.5,
        alpha: Range = (-1.0, 1.0),
        beta: Range = (0.0, 1.0),
        level: Level = "pixel",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        n = blocks_of_depth("ShakeDropPyramidNet", depth, 9 if bottleneck else 6, 2)
        if widening < 0:
            raise ValueError(f"ShakeDropPyramidNet: widening must not be negative, got {widening}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)  # without ReLU
        probabilities = iter(survival_probabilities(3 * n, survival))

        def unit(in_channels: int, width: int, *, stride: int) -> nn.Module:
            shake = ShakeDrop(survival=next(probabilities), alpha=alpha, beta=beta, level=level)
            kind = ShakenBottleneckUnit if bottleneck else ShakenBasicUnit
            return kind(in_channels, width, stride=stride, shake=shake)

        groups, channels = pyramid(unit, (n, n, n), widening, 16)
        self.layer1, self.layer2, self.layer3 = groups
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_out)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 32 x 32.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("ShakeDropPyramidNet", x, self.in_channels)
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        x = F.relu(self.bn_final(x), inplace=True)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


# fmt: off
shakedrop_pyramidnet110_a270 = published(ShakeDropPyramidNet, depth=110, widening=270, free=["survival", "level"])
shakedrop_pyramidnet272_a200 = published(
    ShakeDropPyramidNet, depth=272, widening=200, bottleneck=True, free=["survival", "level"],
)
# fmt: on
