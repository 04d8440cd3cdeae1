r"""EMANet: a map rebuilt from a few bases, and added to what it was.

The features of a scene's N pixels lie near a space of few dimensions, but self-attention compares all pixels with all.
EMANet finds K = 64 bases :math:`\mu_k` by expectation-maximisation (Section 3). T = 3 times, every
pixel :math:`x_n` is shared out among the bases, and every base becomes the direction of the pixels that fell to it:

.. math::  z_{nk} = \frac{e^{x_n \cdot \mu_k}}{\sum_j e^{x_n \cdot \mu_j}}, \qquad
           \mu_k = \frac{\sum_n z_{nk}\, x_n}{\lVert \sum_n z_{nk}\, x_n \rVert}

The map is then rebuilt from the bases alone, :math:`\tilde x_n = \sum_k z_{nk}\,\mu_k`. It has rank K at most, costs
N K instead of N N, and lets go of what no base explains. The unit is a residual block (Figure 2): between two 1x1
convolutions stands the EM, and *the input is added* in front of the last ReLU,

.. math::  y = \mathrm{ReLU}\bigl(W_2\,\mathrm{ReLU}(\tilde X) + X_0\bigr), \qquad X = W_1 X_0 .

The first bases are neither learned by gradient nor found anew: they are a moving average over the batches (equation
15), :math:`\mu^{(0)} \leftarrow \alpha \mu^{(0)} + (1 - \alpha)\,\bar\mu^{(T)}`, with :math:`\alpha` = 0.9.

X. Li, Z. Zhong, J. Wu, Y. Yang, Z. Lin, H. Liu: "Expectation-Maximization Attention Networks for Semantic
Segmentation", ICCV 2019, arXiv:1907.13426.

Deviations from the paper:

- As in the authors' code no gradient passes the EM. The first 1x1 convolution has no other way to one, keeps its
  random start and is frozen here. Asked about it, the authors answered that results were better so.
  ``em_gradient=True`` lets the gradient through.
- Again as in that code, pixels without a label are counted in the average of the loss, the trunk starts with three 3x3
  convolutions, and the last stage has rates 2, 8 and 16.
- The moving average is taken inside the network, in training mode. That code has it in its training loop.

Where the paper gives no figure: the softmax has no temperature, normalisations keep 0.9997 of their running values,
convolutions start as zero-mean Gaussians of variance 2 / fan-out, and the bases with variance 2 / K, brought to unit
length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.dilated_resnet import dilated_stage, unit
from skipkb.nn.initial_values import he_fan_out
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published
from skipkb.nn.resnet_trunk import check_stages

__all__ = ["EMAU", "EMANet", "emanet_resnet50", "emanet_resnet101", "objective", "unit_length"]

BN_MOMENTUM = 3e-4
RATES = (2, 8, 16)  # of the blocks in the last stage


def unit_length(bases: Tensor) -> Tensor:
    """Each base, a column of [..., C, K], divided by its length."""
    length: Tensor = torch.linalg.vector_norm(bases, dim=-2, keepdim=True)
    return bases / (1e-6 + length)


class EMAU(nn.Module):
    """The EM attention unit: [N, C, H, W] -> [N, C, H, W].

    Args:
        channels: of the map.
        bases: how many, K.
        iterations: of expectation and maximisation, T.
        momentum: how much of the first bases a batch leaves as it was.
        em_gradient: whether a gradient passes the EM; without it the first convolution is frozen.
    """

    mu: Tensor

    def __init__(
        self, channels: int, *, bases: int = 64, iterations: int = 3, momentum: float = 0.9, em_gradient: bool = False
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.momentum = momentum
        self.em_gradient = em_gradient
        self.register_buffer("mu", unit_length(torch.randn(1, channels, bases) * math.sqrt(2 / bases)))
        self.conv1 = nn.Conv2d(channels, channels, 1).requires_grad_(em_gradient)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def expectation_maximisation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [N, C, HW] -> their bases [N, C, K], and how the last but one bases shared them out, [N, HW, K]."""
        mu = self.mu.repeat(x.shape[0], 1, 1)
        z = x.new_empty(0)
        for _ in range(self.iterations):
            z = torch.softmax(x.transpose(1, 2) @ mu, dim=2)
            mu = unit_length(x @ (z / (1e-6 + z.sum(dim=1, keepdim=True))))
        return mu, z

    def rebuild(self, x: Tensor) -> Tensor:
        """The map from its bases: [N, C, H, W] -> [N, C, H, W] of rank K at most. Moves the first bases in training."""
        with torch.set_grad_enabled(self.em_gradient and torch.is_grad_enabled()):
            mu, z = self.expectation_maximisation(x.flatten(2))
        if self.training:
            with torch.no_grad():
                self.mu.lerp_(mu.mean(dim=0, keepdim=True).to(self.mu.dtype), 1 - self.momentum)
        return (mu @ z.transpose(1, 2)).view_as(x)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.rebuild(self.conv1(x)))
        return F.relu(self.conv2(y) + x)  # the skip


class EMANet(nn.Module):
    """Dilated ResNet of output stride 8 and the EM attention unit.

    Args:
        layers: blocks of each stage, such as (3, 4, 23, 3) for ResNet-101.
        widths: of the stages; a block puts out four times as many channels.
        channels: of the unit; the last convolution has half.
        bases, iterations, momentum, em_gradient: of :class:`EMAU`.
        num_classes: channels of the output.
        in_channels: channels of the picture.

    Raises:
        ValueError: layers and widths that do not fit together, or a number below one.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        channels: int = 512,
        bases: int = 64,
        iterations: int = 3,
        momentum: float = 0.9,
        em_gradient: bool = False,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_stages("EMANet", layers, widths)
        if len(layers) != 4 or min(bases, iterations) < 1 or channels < 2:
            raise ValueError(
                "EMANet: there must be four stages, one base, one iteration and two channels at least, "
                f"got {len(layers)}, {bases}, {iterations} and {channels}"
            )
        self.in_channels = in_channels
        rates = [RATES[i % len(RATES)] for i in range(layers[3])]
        self.extractor = nn.Sequential(
            deep_stem(in_channels, widths[0]),
            nn.BatchNorm2d(2 * widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            dilated_stage(2 * widths[0], widths[0], [1] * layers[0]),
            dilated_stage(4 * widths[0], widths[1], [1] * layers[1], stride=2),
            dilated_stage(4 * widths[1], widths[2], [1] + [2] * (layers[2] - 1)),
            dilated_stage(4 * widths[2], widths[3], rates),
        )
        self.fc0 = unit(4 * widths[3], channels, 3)
        self.emau = EMAU(channels, bases=bases, iterations=iterations, momentum=momentum, em_gradient=em_gradient)
        self.fc1 = nn.Sequential(unit(channels, channels // 2, 3), nn.Dropout2d(0.1))
        self.fc2 = nn.Conv2d(channels // 2, num_classes, 1)
        self.apply(he_fan_out)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BN_MOMENTUM

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> logits [N, K, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("EMANet", x, self.in_channels)
        y = self.emau(self.fc0(self.extractor(x)))
        logits: Tensor = self.fc2(self.fc1(y))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


def deep_stem(in_channels: int, width: int) -> nn.Sequential:
    """Three 3x3 convolutions, the last one twice as wide and still without normalisation; half the resolution."""
    return nn.Sequential(
        *(nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
    )


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel. Pixels without a label give nothing but are counted in the average: a scalar.

    Args:
        output: logits [N, K, H, W].
        target: classes [N, H, W], long; 255 is no label.
    """
    return F.cross_entropy(output, target, ignore_index=255, reduction="none").mean()


emanet_resnet50 = published(EMANet, layers=(3, 4, 6, 3), free=["em_gradient"])
emanet_resnet101 = published(EMANet, layers=(3, 4, 23, 3), free=["em_gradient"])
