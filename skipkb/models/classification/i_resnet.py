r"""i-ResNet: a residual network that can be run backwards.

A residual block computes :math:`y = x + g(x)`. If g is a contraction, that is if its Lipschitz constant is below one,
there is exactly one x for each y, and iterating

.. math::  x_{k+1} = y - g(x_k), \qquad x_0 = y

finds it (Theorem 1, Algorithm 1); the error shrinks by the Lipschitz constant in every step. The skip is therefore more
than a help for training: it has to be the identity in every block, and the branch has to stay smaller than it. These
are the changes to a ResNet:

- the weights of every convolution are divided by their spectral norm where it exceeds the coefficient c < 1, the norm
  being estimated by power iteration (Section 2.1, equation 2): :class:`ContractiveConv2d`;
- the activation, ELU, has slope at most one and stands in front of each convolution;
- the resolution halves by moving 2x2 pixels into channels, which is invertible, and not by striding;
- zero channels are added to the picture, since channels cannot be added on the way: :meth:`IResNet.forward`;
- an affine map per channel (ActNorm) takes the place of batch normalisation.

For a density the log-determinant of the block is needed as well. Its power series (equations 4 to 6)

.. math::  \log\det(I + J_g) = \sum_{k\ge1} \frac{(-1)^{k+1}}{k}\,\mathrm{tr}(J_g^k)

is cut off after some terms, and the traces are estimated with random vectors: :func:`log_determinant`.

J. Behrmann, W. Grathwohl, R. T. Q. Chen, D. Duvenaud, J.-H. Jacobsen: "Invertible Residual Networks", ICML 2019,
arXiv:1811.00995.

Deviations from the paper follow the official code, so that its checkpoints load and mean the same: a block that
squeezes estimates the norms of its 3x3 convolutions for the size before squeezing, which is a bound for the size after
it too, and divides these weights by the factor plus 1e-5. One departs from that code: ActNorm is initialised at the
first batch in training mode, there in any mode. The official classifier also holds the prior of the density model
(``prior_mu``, ``prior_logstd``) and the last norms for its log (``weight_sigma``); nothing uses them there, and loading
passes over them here. The density model, with its multi-scale prior, is not built here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = [
    "ActNorm", "Block", "ContractiveConv2d", "IResNet", "i_resnet64", "i_resnet164", "log_determinant", "objective",
    "squeeze", "unsqueeze",
]  # fmt: skip


class ContractiveConv2d(nn.Module):
    """A convolution whose Lipschitz constant is at most about ``coeff``.

    Each forward in training mode takes ``power_iterations`` steps towards the largest singular value of the linear map
    that the convolution is on pictures of ``size``, and the weights are divided by its excess over ``coeff``. Weights
    that are small enough stay as they are, except for the 1e-5 that the official code adds to the divisor of a kernel
    larger than one. In eval mode the last estimate is used.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd; the padding keeps the resolution.
        size: height and width of the pictures the bound is estimated for.
        coeff: the bound c.
        power_iterations: steps per forward.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, size: int, coeff: float, power_iterations: int
    ) -> None:
        super().__init__()
        self.coeff = coeff
        self.power_iterations = power_iterations
        self.padding = kernel_size // 2
        self.size = size if kernel_size > 1 else 1  # a 1x1 convolution is the same map at every pixel
        self.eps = 1e-5 if kernel_size > 1 else 0.0  # as in the official code
        conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.weight_orig = conv.weight
        self.bias = conv.bias
        self.weight_u: Tensor
        self.weight_v: Tensor
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels * self.size**2), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(in_channels * self.size**2), dim=0))

    def weight(self) -> Tensor:
        """The bounded kernel, [out_channels, in_channels, k, k]; takes power iterations in training mode."""
        kernel = self.weight_orig
        pad = self.padding
        right = self.weight_v.view(1, kernel.shape[1], self.size, self.size)
        left = self.weight_u.view(1, kernel.shape[0], self.size, self.size)
        if self.training:
            with torch.no_grad():
                for _ in range(self.power_iterations):
                    right = F.normalize(F.conv_transpose2d(left, kernel, padding=pad), dim=(1, 2, 3))  # type: ignore[arg-type]
                    left = F.normalize(F.conv2d(right, kernel, padding=pad), dim=(1, 2, 3))  # type: ignore[arg-type]
                self.weight_v.copy_(right.flatten())
                self.weight_u.copy_(left.flatten())
        sigma = (left * F.conv2d(right, kernel, padding=pad)).sum()
        factor = (sigma / self.coeff).clamp(min=1)
        return kernel / (factor + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W]."""
        return F.conv2d(x, self.weight(), self.bias, padding=self.padding)


class ActNorm(nn.Module):
    """A scale and a shift per channel, set at the first training batch so that it comes out normalised.

    Values that come from a checkpoint are not set again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._log_scale = nn.Parameter(torch.zeros(channels))
        self._shift = nn.Parameter(torch.zeros(channels))
        self.initialised = False
        self.register_load_state_dict_pre_hook(_loaded)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if self.training and not self.initialised:
            with torch.no_grad():
                variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
                self._log_scale.copy_(-0.5 * (variance + 1e-5).log())
                self._shift.copy_(-mean * self._log_scale.exp())
            self.initialised = True
        return x * self._log_scale.exp()[:, None, None] + self._shift[:, None, None]

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gives ``y``."""
        return (y - self._shift[:, None, None]) * (-self._log_scale)[:, None, None].exp()

    def log_determinant(self, height: int, width: int) -> Tensor:
        """Of the map on pictures of that size: a scalar."""
        return self._log_scale.sum() * height * width


def _loaded(module: nn.Module, *_: Any) -> None:
    module.initialised = True  # type: ignore[assignment]


def squeeze(x: Tensor) -> Tensor:
    """Each 2x2 pixels into channels, row by row: [N, C, H, W] -> [N, 4C, H/2, W/2]."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse: [N, 4C, H, W] -> [N, C, 2H, 2W]."""
    n, c, h, w = x.shape
    return x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


class Block(nn.Module):
    """y = x + g(x) with a contraction g: ELU, 3x3, ELU, 1x1, ELU, 3x3.

    Args:
        in_channels: channels of the input, before squeezing.
        channels: channels between the convolutions.
        size: height and width of the input, before squeezing; the norms are estimated for it.
        stride: 2 squeezes the input first, else 1.
        coeff: bound on the Lipschitz constant of each convolution.
        power_iterations: per forward.
        input_activation: False leaves out the first ELU, as in front of the picture.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        size: int,
        stride: int = 1,
        coeff: float = 0.9,
        power_iterations: int = 5,
        input_activation: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        if stride == 2:
            in_channels = 4 * in_channels

        def conv(inside: int, outside: int, kernel_size: int) -> ContractiveConv2d:
            return ContractiveConv2d(
                inside, outside, kernel_size, size=size, coeff=coeff, power_iterations=power_iterations
            )

        self.bottleneck_block = nn.Sequential(
            *([nn.ELU()] if input_activation else []),
            *(conv(in_channels, channels, 3), nn.ELU()),
            *(conv(channels, channels, 1), nn.ELU()),
            conv(channels, in_channels, 3),
        )
        self.actnorm = ActNorm(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape, or [N, 4C, H/2, W/2] with stride 2."""
        if self.stride == 2:
            x = squeeze(x)
        x = self.actnorm(x)
        return x + self.bottleneck_block(x)  # type: ignore[no-any-return]  # the skip: the identity, always

    @torch.no_grad()
    def inverse(self, y: Tensor, iterations: int = 100) -> Tensor:
        """The input that gives ``y`` (Algorithm 1): x <- y - g(x), in eval mode."""
        x = y
        for _ in range(iterations):
            x = y - self.bottleneck_block(x)
        x = self.actnorm.inverse(x)
        return unsqueeze(x) if self.stride == 2 else x


def log_determinant(
    g: Callable[[Tensor], Tensor], x: Tensor, *, terms: int, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Estimate of log |det d(x + g(x))/dx| for each x of a batch (Section 3.2, Algorithm 2): [N].

    Args:
        g: a contraction of tensors shaped like x.
        x: [N, ...].
        terms: of the power series; what is cut off is bounded by the Lipschitz constant to that power (equation 7).
        samples: random vectors for each trace (Hutchinson's estimator).
        generator: for the random vectors.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = g(x)
    total = x.new_zeros(len(x))
    for _ in range(samples):
        v = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        w = v
        for k in range(1, terms + 1):
            (w,) = torch.autograd.grad(y, x, w, retain_graph=True)  # w^T J
            total = total + (-1) ** (k + 1) / k * (w * v).flatten(1).sum(1)
    return total / samples


class IResNet(nn.Module):
    """Padded picture, stages of invertible blocks, and a classifier on the last features.

    Args:
        blocks: per stage.
        channels: between the convolutions of a block, per stage.
        strides: of the first block of each stage.
        size: height and width of the pictures; the spectral norms are estimated for it.
        pad_channels: zero channels added to the picture.
        coeff: bound on the Lipschitz constant of each convolution, 0 < coeff < 1.
        power_iterations: per forward.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together, or a coefficient that does not make a contraction.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        strides: Sequence[int] = (1, 2, 2),
        size: int = 32,
        pad_channels: int = 13,
        coeff: float = 0.9,
        power_iterations: int = 5,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not blocks or not len(blocks) == len(channels) == len(strides) or min(*blocks, *channels) < 1:
            raise ValueError(
                "IResNet: blocks, channels and strides need one positive number per stage each, "
                f"got {tuple(blocks)}, {tuple(channels)} and {tuple(strides)}"
            )
        if any(stride not in (1, 2) for stride in strides) or size % math.prod(strides):
            raise ValueError(
                f"IResNet: strides are 1 or 2 and their product divides size, got {tuple(strides)} and size={size}"
            )
        if not 0 < coeff < 1:
            raise ValueError(f"IResNet: only a coeff in (0, 1) makes the blocks invertible, got {coeff}")
        if pad_channels < 0 or power_iterations < 1:
            raise ValueError(
                "IResNet: pad_channels must not be negative and power_iterations at least 1, "
                f"got {pad_channels} and {power_iterations}"
            )
        self.in_channels, self.size, self.pad_channels = in_channels, size, pad_channels
        self.stack = nn.ModuleList()
        width = in_channels + pad_channels
        for count, inside, stride in zip(blocks, channels, strides, strict=True):
            for j in range(count):
                block = Block(
                    width, inside, size=size, stride=stride if j == 0 else 1, coeff=coeff,
                    power_iterations=power_iterations, input_activation=len(self.stack) > 0,
                )  # fmt: skip
                self.stack.append(block)
                if j == 0 and stride == 2:
                    width, size = 4 * width, size // 2
        self.bn1 = nn.BatchNorm2d(width, momentum=0.9)
        self.logits = nn.Linear(width, num_classes)
        self.register_load_state_dict_pre_hook(_drop_unused)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, size, size] -> logits [N, num_classes].

        Raises:
            ValueError: x is of another shape.
        """
        z = self.features(x)
        logits: Tensor = self.logits(F.relu(self.bn1(z)).mean(dim=(2, 3)))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """The invertible part: pictures -> z, which holds all of them."""
        check_pictures("IResNet", x, self.in_channels, size=(self.size, self.size))
        z = F.pad(x, (0, 0, 0, 0, 0, self.pad_channels))
        for block in self.stack:
            z = block(z)
        return z

    @torch.no_grad()
    def inverse(self, z: Tensor, iterations: int = 100) -> Tensor:
        """The pictures that give the features ``z``; in eval mode."""
        for block in reversed(self.stack):
            z = block.inverse(z, iterations)  # type: ignore[operator]
        return z[:, : self.in_channels]


def _drop_unused(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove from an official checkpoint what the classifier does not use."""
    for name in [name for name in state if name.endswith(("prior_mu", "prior_logstd", ".weight_sigma"))]:
        del state[name]


# The size that the official script for CIFAR-10 builds, and that of the paper's experiments on CIFAR, 54 blocks in all.
i_resnet64 = published(IResNet, blocks=(7, 7, 7), free=["coeff", "power_iterations"])
i_resnet164 = published(IResNet, blocks=(18, 18, 18), free=["coeff", "power_iterations"])
