r"""Stochastic depth: train short networks, use the deep one.

For every mini-batch a coin is thrown for each residual block. If it falls one way, the block's function is not even
computed and the skip alone carries the signal (Section 3, equation 2):

.. math::  H_l = \mathrm{ReLU}\bigl(b_l f_l(H_{l-1}) + \mathrm{id}(H_{l-1})\bigr), \qquad b_l \in \{0, 1\},
           \quad \Pr(b_l = 1) = p_l

Early blocks make the features that all later ones need, so the probability to survive falls linearly from the input,
which always survives, to the last of L blocks (equation 4):

.. math::  p_l = 1 - \frac{l}{L} (1 - p_L)

With :math:`p_L = 1/2` three quarters of the blocks are trained in expectation. At test time all of them are used, each
weighted by its probability (equation 5): :math:`H_l = \mathrm{ReLU}(p_l f_l(H_{l-1}) + \mathrm{id}(H_{l-1}))`. The skip
is ResNet's identity; where the resolution halves, 2x2 average pooling, with zeros for the new channels.

G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Q. Weinberger: "Deep Networks with Stochastic Depth", ECCV 2016,
arXiv:1603.09382.

Deviations from the paper: the authors' Torch code leaves the biases of its convolutions on; the normalisation behind
each cancels them, and they are left out as in the ResNet that the paper takes over. As in that code the skip takes
averages where the resolution halves, and convolutions start as Gaussians of variance 2 / fan-in. Names are ResNet's,
as there is no PyTorch release.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.depth import blocks_of_depth
from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import BasicBranch, stages

__all__ = [
    "StochasticBlock", "StochasticDepthNet", "objective", "stochastic_depth110", "stochastic_depth152",
    "stochastic_depth1202", "survival_probabilities",
]  # fmt: skip

Decay = Literal["linear", "uniform"]


def survival_probabilities(blocks: int, last: float, decay: Decay = "linear") -> list[float]:
    """p_1 to p_L: falling linearly to ``last`` (equation 4), or ``last`` for all of them."""
    if decay == "uniform":
        return [last] * blocks
    return [1 - block / blocks * (1 - last) for block in range(1, blocks + 1)]


class StochasticBlock(BasicBranch):
    """ResNet's two 3x3 convolutions, f of equation 2, beside a skip; some mini-batches leave them out.

    Args:
        in_channels: channels of the input.
        channels: channels of the output, not less.
        stride: 2 in the block that halves the resolution, else 1.
        survival: probability p that a mini-batch computes the function.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, survival: float) -> None:
        super().__init__(in_channels, channels, stride=stride)
        self.survival = survival
        self.new_channels = channels - in_channels
        self.pool: nn.Module | None = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        shortcut = self.shortcut(x)
        if not self.training:
            return self.relu(torch.add(shortcut, self.function(x), alpha=self.survival))  # type: ignore[no-any-return]
        if self.survives():
            return self.relu(self.function(x) + shortcut)  # type: ignore[no-any-return]
        return F.relu(shortcut)  # the skip alone; not in place, because it may be the input itself

    def survives(self) -> bool:
        """One throw for the mini-batch. The coin stays on the CPU, as it decides what is launched elsewhere."""
        return self.survival >= 1 or bool(torch.rand((), device="cpu") < self.survival)

    def shortcut(self, x: Tensor) -> Tensor:
        """The identity, pooled and filled up with zeros where the shape changes."""
        if self.pool is not None:
            x = self.pool(x)
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return x

    def extra_repr(self) -> str:
        return f"survival={self.survival:.3f}"


class StochasticDepthNet(nn.Module):
    """ResNet for small pictures, 6n+2 layers, with blocks that may be dropped (Section 4).

    Args:
        depth: 6n + 2 layers.
        survival: probability p_L of the last block; 1 is constant depth.
        decay: "linear" as in equation 4, or "uniform", the same for all blocks.
        widths: channels of the three groups.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: a depth that is not 6n + 2, a probability outside (0, 1], or widths that do not grow.
    """

    def __init__(
        self,
        *,
        depth: int,
        survival: float = 0.5,
        decay: Decay = "linear",
        widths: tuple[int, int, int] = (16, 32, 64),
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        n = blocks_of_depth("StochasticDepthNet", depth, 6, 2)
        if not 0 < survival <= 1:
            raise ValueError(f"StochasticDepthNet: survival must lie in (0, 1], got {survival}")
        if decay not in ("linear", "uniform"):
            raise ValueError(f"StochasticDepthNet: decay must be one of linear, uniform, got {decay!r}")
        if len(widths) != 3 or widths[0] < 1 or sorted(widths) != list(widths):
            raise ValueError(f"StochasticDepthNet: widths needs three numbers that do not fall, got {tuple(widths)}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        probabilities = iter(survival_probabilities(3 * n, survival, decay))

        def block(in_channels: int, width: int, *, stride: int) -> StochasticBlock:
            return StochasticBlock(in_channels, width, stride=stride, survival=next(probabilities))

        groups, channels = stages(block, (n, n, n), widths, widths[0])
        self.layer1, self.layer2, self.layer3 = groups
        self.fc = nn.Linear(channels, num_classes)
        self.apply(he_fan_in)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes]. Any H and W; the paper has 32 x 32.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("StochasticDepthNet", x, self.in_channels)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


# 110 and 1202 layers for CIFAR, 152 (of ResNet's 6n+2) for SVHN.
stochastic_depth110 = published(StochasticDepthNet, depth=110, free=["survival"])
stochastic_depth152 = published(StochasticDepthNet, depth=152, free=["survival"])
stochastic_depth1202 = published(StochasticDepthNet, depth=1202, free=["survival"])
