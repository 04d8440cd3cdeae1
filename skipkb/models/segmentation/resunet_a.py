r"""ResUNet-a: a U-Net of residual units that look at several distances at once, and heads that build on each other.

A unit adds to its input not one branch but up to four, side by side, each of two pre-activated 3x3 convolutions with a
dilation of its own (Section 2.1):

.. math::  y = x + \sum_{r} F_r(x), \qquad F_r(x) = W'_r *_r \sigma\bigl(W_r *_r \sigma(x)\bigr), \qquad
           \sigma = \mathrm{ReLU} \circ \mathrm{BN}

so that near and far surroundings come in by sums, and the identity goes on. Six or seven levels of such units make the
way down, with strided convolutions between them. On the way up each level is enlarged, *concatenated* with the map
of the way down, the long skip, and mixed by a 1x1 convolution. One more long skip leads from the very first
convolution to the end. Pyramid pooling, of the whole map and of its halves, quarters and eighths, stands in the middle
and at the end (Section 2.2).

Four tasks share this trunk. The distance of each pixel to the border of its object is predicted first; the border
itself is conditioned on it, and the classes on both (Section 2.3). The colours of the picture are a fourth one.

The loss is one minus the Tanimoto coefficient T and that of the complements, with classes weighted by their inverse
squared volume (Section 3.3):

.. math::  T(p, l) = \frac{\sum_J w_J \sum_i p_{iJ}\, l_{iJ}}
                          {\sum_J w_J \sum_i (p_{iJ}^2 + l_{iJ}^2 - p_{iJ}\, l_{iJ})}, \qquad
           L = 1 - \tfrac12 \bigl(T(p, l) + T(1 - p, 1 - l)\bigr)

F. I. Diakogiannis, F. Waldner, P. Caccetta, C. Wu: "ResUNet-a: A deep learning framework for semantic segmentation of
remotely sensed data", ISPRS Journal of Photogrammetry and Remote Sensing 162, 2020, arXiv:1904.00592.

Deviations from the paper, as in the authors' code:

- Pyramid pooling takes the maximum of each cell, and keeps the map itself as one more branch.
- The enlarged map has half of its level's channels where it meets the skip.
- The units of the way up have larger dilations than those of the way down at the same level.

Where neither gives a figure: the four losses are summed with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "PyramidPooling", "ResUNetA", "Unit", "boundaries", "distances", "objective", "resunet_a_d6", "resunet_a_d7",
    "tanimoto",
]  # fmt: skip

FAR, MIDDLE, NEAR, ONE = (1, 3, 15, 31), (1, 3, 15), (1, 3, 5), (1,)
"""Dilations of the branches of a unit."""
SMOOTH = 1e-5


class ConvNormed(nn.Module):
    """A convolution without a bias, and its normalisation: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm_layer = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_layer(self.conv2d(x))  # type: ignore[no-any-return]


class Branch(nn.Module):
    """Two pre-activated 3x3 convolutions of one dilation, the second with a bias: -> same shape."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.BN1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.BN2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(self.BN1(x)))
        return self.conv2(F.relu(self.BN2(x)))  # type: ignore[no-any-return]


class Unit(nn.Module):
    """A residual unit with a branch for each dilation: [N, C, H, W] -> same."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        for i, dilation in enumerate(dilations, start=1):
            self.add_module(f"ResBlock{i}", Branch(channels, dilation))

    def forward(self, x: Tensor) -> Tensor:
        y = x  # the short skip
        for branch in self.children():
            y = y + branch(x)
        return y


class Down(nn.Module):
    """A strided convolution: [N, C, H, W] -> [N, 2C, H/2, W/2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convdn = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.convdn(x)  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """The map, and the maxima of its 1, 4, 16, ... cells, mixed: [N, C, H, W] -> [N, C', H, W].

    Args:
        in_channels, out_channels: channels; each of the pooled branches gets an equal share of C'.
        depth: branches beside the map itself; the last has 2^(depth - 1) cells in a row, which must divide H and W.
    """

    def __init__(self, in_channels: int, out_channels: int, *, depth: int) -> None:
        super().__init__()
        share = out_channels // depth
        self.convs = nn.ModuleList(ConvNormed(in_channels, share) for _ in range(depth))
        self.conv_norm_final = ConvNormed(in_channels + depth * share, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for i, conv in enumerate(self.convs):
            cells = 2**i
            height, width = x.shape[2] // cells, x.shape[3] // cells
            pooled = F.max_pool2d(x, (height, width))
            pooled = pooled.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)
            found.append(conv(pooled))
        return self.conv_norm_final(torch.cat(found, dim=1))  # type: ignore[no-any-return]


class UpSample(nn.Module):
    """Every pixel four times, and half of the wanted channels: [N, 2C, H, W] -> [N, C/2, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convup_normed = ConvNormed(2 * channels, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.convup_normed(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Combine(nn.Module):
    """The long skip: [N, 2C, H, W] from below and [N, C, 2H, 2W] of the way down -> [N, C, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = UpSample(channels)
        self.conv_normed = ConvNormed(channels // 2 + channels, channels)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.up(below)), skip], dim=1)  # the skip
        return self.conv_normed(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """First convolution, units with strided convolutions between them, and pyramid pooling."""

    def __init__(self, in_channels: int, filters: int, dilations: Sequence[Sequence[int]], psp_depth: int) -> None:
        super().__init__()
        self.levels = len(dilations)
        self.conv_first_normed = ConvNormed(in_channels, filters)
        for level, rates in enumerate(dilations):
            self.add_module(f"Dn{level + 1}", Unit(filters * 2**level, rates))
            if level + 1 < self.levels:
                self.add_module(f"pool{level + 1}", Down(filters * 2**level))
        deepest = filters * 2 ** (self.levels - 1)
        self.middle = PyramidPooling(deepest, deepest, depth=psp_depth)

    def forward(self, x: Tensor) -> list[Tensor]:
        """-> what the long skips carry, the finest first, and the pooled map in place of the coarsest."""
        x = F.relu(self.conv_first_normed(x))
        skips = [x]
        for level in range(1, self.levels):
            x = getattr(self, f"Dn{level}")(x)
            skips.append(x)
            x = getattr(self, f"pool{level}")(x)
        x = getattr(self, f"Dn{self.levels}")(x)
        return [*skips, F.relu(self.middle(x))]


class ResUNetA(nn.Module):
    """ResUNet-a with conditioned multi-tasking (Figure 1 and Figure 4). Names are those of the authors' code.

    Args:
        encoder: dilations of each level's unit, from the finest to the coarsest.
        decoder: of the units of the way up, from the coarsest to the finest, one fewer.
        filters: channels of the finest level; each level has twice as many.
        psp_depth: branches of the pyramid pooling in the middle.
        num_classes: classes; one alone is told from the rest by a sigmoid.
        in_channels: channels of the picture; 5 in the paper, near infrared, red, green, blue and height.

    Raises:
        ValueError: numbers of levels that do not fit together, or filters that are not a multiple of 4.
    """

    def __init__(
        self,
        *,
        encoder: Sequence[Sequence[int]],
        decoder: Sequence[Sequence[int]],
        filters: int = 32,
        psp_depth: int = 4,
        num_classes: int = 6,
        in_channels: int = 5,
    ) -> None:
        super().__init__()
        if len(decoder) != len(encoder) - 1 or filters % 4 or psp_depth < 1:
            raise ValueError(
                "ResUNetA: decoder needs one level fewer than encoder, filters a multiple of 4 and psp_depth at least "
                f"1, got {len(decoder)} and {len(encoder)} levels, {filters} filters and psp_depth {psp_depth}"
            )
        self.in_channels, self.num_classes = in_channels, num_classes
        # What the poolings must divide: the cells of the middle, and those of the last pooling at full size.
        self.multiple = max(2 ** (len(encoder) + psp_depth - 2), 8)
        self.encoder = Encoder(in_channels, filters, encoder, psp_depth)
        self.steps = len(decoder)
        for step, rates in enumerate(decoder, start=1):
            channels = filters * 2 ** (self.steps - step)
            self.add_module(f"UpComb{step}", Combine(channels))
            self.add_module(f"UpConv{step}", Unit(channels, rates))
        self.psp_2ndlast = PyramidPooling(2 * filters, filters, depth=4)
        self.distance_logits = head(2 * filters, filters, num_classes, layers=2)
        self.bound_logits = head(filters + num_classes, filters, num_classes, layers=1)
        self.logits = head(filters + 2 * num_classes, filters, num_classes, layers=2)
        self.color_logits = nn.Conv2d(2 * filters, 3, 1)
        self.apply(_init_weights)

    def activate(self, x: Tensor) -> Tensor:
        """Probabilities of classes that exclude each other."""
        return x.sigmoid() if self.num_classes == 1 else x.softmax(dim=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W] -> probabilities at full size.

        ``segmentation``, ``boundary`` and ``distance`` [N, num_classes, H, W], ``colour`` [N, 3, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or the poolings do not divide H and W:
                multiples of 256 for the published networks.
        """
        check_pictures("ResUNetA", x, self.in_channels, multiple=self.multiple)
        first, *skips, x = self.encoder(x)
        for step in range(1, self.steps + 1):
            x = getattr(self, f"UpComb{step}")(x, skips[-step])
            x = getattr(self, f"UpConv{step}")(x)
        x = torch.cat([first, x], dim=1)  # the longest skip
        pooled = F.relu(self.psp_2ndlast(x))
        distance = self.activate(self.distance_logits(x))
        boundary = self.bound_logits(torch.cat([pooled, distance], dim=1)).sigmoid()
        classes = self.activate(self.logits(torch.cat([pooled, boundary, distance], dim=1)))
        colour = self.color_logits(x).sigmoid()
        return {"segmentation": classes, "boundary": boundary, "distance": distance, "colour": colour}


def head(in_channels: int, channels: int, num_classes: int, *, layers: int) -> nn.Sequential:
    """Normalised 3x3 convolutions with ReLU, and a 1x1 one to the classes."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [ConvNormed(channels if i else in_channels, channels, 3), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(channels, num_classes, 1))


def _init_weights(module: nn.Module) -> None:
    """MXNet's defaults: uniform within 0.07, biases zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.uniform_(module.weight, -0.07, 0.07)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


resunet_a_d6 = published(
    ResUNetA,
    encoder=(FAR, FAR, MIDDLE, NEAR, ONE, ONE),
    decoder=(NEAR, MIDDLE, FAR, FAR, FAR),
)
resunet_a_d7 = published(
    ResUNetA,
    encoder=(FAR, FAR, MIDDLE, NEAR, ONE, ONE, ONE),
    decoder=(ONE, MIDDLE, FAR, FAR, FAR, FAR),
    psp_depth=3,
)


# ------------------------------------------------------------------------------------------------ training


def tanimoto(p: Tensor, target: Tensor) -> Tensor:
    """The Tanimoto coefficient of each picture, between 0 and 1: [N].

    Args:
        p, target: [N, K, H, W], values in [0, 1].

    A class weighs the inverse square of its volume, the batch's mean; one that is not there as much as the rarest.
    """
    volume = target.sum((2, 3)).mean(0)
    there = volume > 0
    weight = torch.where(there, 1 / torch.where(there, volume, 1).square(), 0)
    weight = torch.where(there, weight, weight.max())
    both = (p * target).sum((2, 3))
    either = (p.square() + target.square()).sum((2, 3)) - both
    return ((weight * both).sum(1) + SMOOTH) / ((weight * either).sum(1) + SMOOTH)


def boundaries(classes: Tensor, num_classes: int) -> Tensor:
    """Pixels at the border of each class, on both sides of it: [N, H, W] -> [N, K, H, W] of 0 and 1."""
    each = F.one_hot(classes, num_classes).movedim(-1, 1).float()
    grown, shrunk = F.max_pool2d(each, 3, 1, 1), -F.max_pool2d(-each, 3, 1, 1)
    return grown - shrunk


def distances(classes: Tensor, num_classes: int) -> Tensor:
    """How far inside its class each pixel lies, of the farthest of its picture: [N, H, W] -> [N, K, H, W] in [0, 1]."""
    from scipy import ndimage  # only training needs it

    each = F.one_hot(classes, num_classes).movedim(-1, 1).cpu()
    maps = [[torch.from_numpy(ndimage.distance_transform_edt(one.numpy())) for one in picture] for picture in each]
    found = torch.stack([torch.stack(picture) for picture in maps]).to(classes.device, torch.float32)
    return found / found.amax((2, 3), keepdim=True).clamp(min=1)


def objective(output: dict[str, Tensor], target: Tensor | dict[str, Tensor]) -> Tensor:
    """Section 3.3: one minus the mean Tanimoto coefficient with complements, summed over the tasks: a scalar.

    Args:
        output: what the network gives.
        target: classes [N, H, W], long, from which borders and distances follow; or a dict with the targets of any of
            the tasks by name, [N, K, H, W]. Colours are hue, saturation and value of the picture.
    """
    if isinstance(target, Tensor):
        count = output["segmentation"].shape[1]
        target = {
            "segmentation": F.one_hot(target, count).movedim(-1, 1).float(),
            "boundary": boundaries(target, count),
            "distance": distances(target, count),
        }
    losses = [
        1 - (tanimoto(output[task], wanted) + tanimoto(1 - output[task], 1 - wanted)) / 2
        for task, wanted in target.items()
    ]
    return torch.stack(losses).sum(0).mean()
