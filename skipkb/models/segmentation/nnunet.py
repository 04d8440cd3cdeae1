r"""nnU-Net: a U-Net left nearly as it is, and rules that make everything else from the data set.

The network is U-Net in two or three dimensions: at each resolution the last map of the encoder is *concatenated* with
the one that comes up from below,

.. math::  x_s^{up} = f_s\bigl([\, T_s(x_{s+1}^{up}),\; x_s^{down} \,]\bigr) ,

two convolutions with instance normalisation and leaky ReLU per stage, strides instead of pooling, transposed
convolutions up. Each decoder stage has a classifier of its own; all but the coarsest have a loss (deep supervision).
:class:`ResidualEncoderUNet`, which came later, has residual blocks in the encoder: there each block adds its input too.

What the method is about stands in :func:`plan`. From a *fingerprint* of the data set, spacings and shapes of its
images, follow the spacing to resample to, and then, together: patch size, number of stages, strides and kernels of each
axis, and batch size, such that a memory budget is used up:

- spacing: the median of each axis; of one much coarser axis, a tenth percentile;
- an axis is halved as long as it keeps at least 4 voxels and no axis is more than twice as fine; kernels grow from 1 to
  3 on an axis once its spacing is within a factor of two of the finest;
- the patch starts at the median shape (at most 256^3 or 2048^2 in volume) and shrinks along the axis that is largest
  in proportion, until the feature maps fit; what is left of the budget becomes batch, at least 2, at most 5 % of all
  voxels;
- a second network at lower resolution, if the patch covers less than a quarter of the median image.

F. Isensee, P. F. Jaeger, S. A. A. Kohl, J. Petersen, K. H. Maier-Hein: "nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation", Nature Methods 18, 2021, pp. 203-211, arXiv:1904.08128.

Deviations from the paper, as in version 2 of the authors' package:

- Stages start at 32 channels, not 30, and double up to 320 in three dimensions or 512 in two, not 480.
- The patch starts no larger than the median shape, and memory is estimated by the size of all feature maps.
- The classifier of the coarsest decoder stage has no loss, so it does not train here.

And one of our own: the loss has one minus the Dice coefficient, not minus the coefficient, and is never negative.

Not here: intensities and their normalisation, resampling, augmentation, the cascade's training, and postprocessing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Configuration", "Fingerprint", "PlainConvUNet", "ResidualEncoderUNet", "dice_and_cross_entropy", "fingerprint",
    "from_checkpoint", "gaussian", "network_of", "nnunet_2d", "nnunet_3d_fullres", "nnunet_resenc_m_3d", "objective",
    "plan", "predict", "topology",
]  # fmt: skip

Axes = tuple[int, ...]
"""A number for each axis."""


# --- the network --------------------------------------------------------------------------------------------------


def convolution(dims: int, transposed: bool = False) -> Any:
    """The class of a convolution in two or three dimensions."""
    if transposed:
        return nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    return nn.Conv2d if dims == 2 else nn.Conv3d


class ConvNorm(nn.Module):
    """Convolution, instance normalisation and, unless switched off, leaky ReLU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: Axes, stride: Axes, *, act: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        dims = len(kernel)
        padding = tuple((k - 1) // 2 for k in kernel)
        self.conv = convolution(dims)(in_channels, channels, kernel, stride, padding, bias=bias)
        self.norm = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(channels, eps=1e-5, affine=True)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, 0.01) if self.act else x


class ConvStack(nn.Module):
    """Convolutions of one stage; the first one strides."""

    def __init__(self, in_channels: int, channels: int, count: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        widths = [in_channels, *[channels] * count]
        self.convs = nn.Sequential(
            *(ConvNorm(widths[i], channels, kernel, stride if i == 0 else one) for i in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is added; averaged where the block strides, projected where it widens."""

    def __init__(self, in_channels: int, channels: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        self.conv1 = ConvNorm(in_channels, channels, kernel, stride)
        self.conv2 = ConvNorm(channels, channels, kernel, one, act=False)
        self.skip = nn.Sequential()
        if stride != one:
            pool: Any = nn.AvgPool2d if len(kernel) == 2 else nn.AvgPool3d
            self.skip.append(pool(stride, stride))
        if in_channels != channels:
            self.skip.append(ConvNorm(in_channels, channels, one, one, act=False, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x)) + self.skip(x)  # the short skip
        return F.leaky_relu(y, 0.01)


class Encoder(nn.Module):
    """Stages from fine to coarse, each putting out a map."""

    def __init__(self, stages: Sequence[nn.Module], stem: nn.Module | None = None) -> None:
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if hasattr(self, "stem"):
            x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Stages from coarse to fine: up, concatenate, convolve, and a classifier for each."""

    def __init__(
        self, features: Sequence[int], kernels: Sequence[Axes], strides: Sequence[Axes], convs: int, num_classes: int
    ) -> None:
        super().__init__()
        dims = len(kernels[0])
        self.stages, self.transpconvs, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for s in range(len(features) - 2, -1, -1):
            width, stride = features[s], strides[s + 1]
            self.transpconvs.append(convolution(dims, True)(features[s + 1], width, stride, stride))
            self.stages.append(ConvStack(2 * width, width, convs, kernels[s], (1,) * dims))
            self.seg_layers.append(convolution(dims)(width, num_classes, 1))
        if len(self.seg_layers) > 1:
            self.seg_layers[0].requires_grad_(False)  # its loss has the weight 0

    def forward(self, maps: Sequence[Tensor], *, every_stage: bool) -> list[Tensor]:
        """maps: of the encoder, from fine to coarse -> logits of the last stage, or of all, from fine to coarse."""
        x = maps[-1]
        logits: list[Tensor] = []
        for up, stage, classify, skip in zip(
            self.transpconvs, self.stages, self.seg_layers, reversed(maps[:-1]), strict=True
        ):
            x = torch.cat([up(x), skip], dim=1)  # the long skip
            x = stage(x)
            if every_stage or stage is self.stages[-1]:
                logits.insert(0, classify(x))
        return logits


class PlainConvUNet(nn.Module):
    """The network of a plan. Names of tensors are the authors', each tensor once.

    Args:
        in_channels: channels of the image.
        num_classes: classes of a pixel or voxel, background included.
        features: channels of each stage.
        strides: of each stage and axis; ones for the first.
        kernels: of each stage and axis; threes, if left out.
        convs: convolutions of a stage of the encoder.
        decoder_convs: convolutions of a stage of the decoder.
        deep_supervision: put out the logits of all stages, from fine to coarse.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 3,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]] | None = None,
        convs: int = 2,
        decoder_convs: int = 2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self._set(in_channels, features, strides, kernels, deep_supervision)
        widths = (in_channels, *features)
        self.encoder = Encoder(
            [
                nn.Sequential(ConvStack(widths[s], widths[s + 1], convs, self.kernels[s], self.strides[s]))
                for s in range(len(features))
            ]
        )
        self.decoder = Decoder(features, self.kernels, self.strides, decoder_convs, num_classes)
        self.apply(_init_weights)

    def _set(
        self,
        in_channels: int,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]] | None,
        deep_supervision: bool,
    ) -> None:
        name = type(self).__name__
        dims = len(strides[0]) if strides else 0
        self.strides = [tuple(stride) for stride in strides]
        self.kernels = [tuple(kernel) for kernel in kernels] if kernels else [(3,) * dims] * len(features)
        fits = len(features) == len(self.strides) == len(self.kernels) and dims in (2, 3)
        if not fits or {len(axes) for axes in self.strides + self.kernels} != {dims} or len(features) < 2:
            raise ValueError(
                f"{name}: features, strides and kernels need one item for each of at least two stages, of two or three "
                f"axes, got features={tuple(features)}, strides={self.strides} and kernels={self.kernels}"
            )
        if deep_supervision and len(features) < 3:
            raise ValueError(f"{name}: deep supervision needs at least three stages, got {len(features)}")
        self.in_channels, self.deep_supervision = in_channels, deep_supervision
        self.multiples = [math.prod(axis) for axis in zip(*self.strides, strict=True)]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """x: images [N, in_channels, (D,) H, W], each axis a multiple of the product of its strides.

        Returns:
            logits [N, num_classes, (D,) H, W]; with deep supervision those of all stages, from fine to coarse.

        Raises:
            ValueError: x is not such a batch.
        """
        size = x.shape[2:]
        fits = len(size) == len(self.multiples) and x.shape[1] == self.in_channels
        if not fits or any(side < m or side % m for side, m in zip(size, self.multiples, strict=True)):
            axes = "D, H, W" if len(self.multiples) == 3 else "H, W"
            raise ValueError(
                f"{type(self).__name__}: expected input [N, {self.in_channels}, {axes}] with multiples of "
                f"{self.multiples}, got {list(x.shape)}"
            )
        logits = self.decoder(self.encoder(x), every_stage=self.deep_supervision)
        return tuple(logits) if self.deep_supervision else logits[0]


class ResidualEncoderUNet(PlainConvUNet):
    """As :class:`PlainConvUNet`, with residual blocks in the encoder (the ResEnc presets of 2024).

    Args:
        blocks: of each stage of the encoder. The other arguments are those of :class:`PlainConvUNet`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 3,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]] | None = None,
        blocks: Sequence[int] = (1, 3, 4, 6, 6, 6),
        decoder_convs: int = 1,
        deep_supervision: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self._set(in_channels, features, strides, kernels, deep_supervision)
        if len(blocks) != len(features):
            raise ValueError(f"ResidualEncoderUNet: {len(blocks)} blocks, but {len(features)} features")
        one = (1,) * len(self.kernels[0])
        stages = []
        for s, (count, width) in enumerate(zip(blocks, features, strict=True)):
            before = features[max(s - 1, 0)]
            chain = nn.Sequential(
                *(
                    ResidualBlock(
                        before if b == 0 else width, width, self.kernels[s], self.strides[s] if b == 0 else one
                    )
                    for b in range(count)
                )
            )
            stages.append(_Chain(chain))
        stem = ConvStack(in_channels, features[0], 1, self.kernels[0], one)
        self.encoder = Encoder(stages, stem)
        self.decoder = Decoder(features, self.kernels, self.strides, decoder_convs, num_classes)
        self.apply(_init_weights)


class _Chain(nn.Module):
    """Blocks of a residual stage, under the authors' name."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


def _init_weights(module: nn.Module) -> None:
    """He's normal for leaky ReLU, biases zero; a residual branch starts silent."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)


def from_checkpoint(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict, which names each tensor of the encoder up to four times, with each tensor once."""
    return {k: v for k, v in state.items() if ".all_modules." not in k and not k.startswith("decoder.encoder.")}


_THREE: dict[str, Any] = {"features": (32, 64, 128, 256, 320, 320), "strides": ((1, 1, 1), *[(2, 2, 2)] * 5)}
_TWO: dict[str, Any] = {"features": (32, 64, 128, 256, 512, 512, 512, 512), "strides": ((1, 1), *[(2, 2)] * 7)}


def nnunet_3d_fullres(*, in_channels: int = 1, num_classes: int = 3, deep_supervision: bool = False) -> PlainConvUNet:
    """Six stages of isotropic strides: what is planned for large images of cubic voxels."""
    return PlainConvUNet(in_channels=in_channels, num_classes=num_classes, deep_supervision=deep_supervision, **_THREE)


def nnunet_2d(*, in_channels: int = 1, num_classes: int = 3, deep_supervision: bool = False) -> PlainConvUNet:
    """Eight stages: what is planned for slices of 512 x 512 pixels."""
    return PlainConvUNet(in_channels=in_channels, num_classes=num_classes, deep_supervision=deep_supervision, **_TWO)


def nnunet_resenc_m_3d(*, in_channels: int = 1, num_classes: int = 3, deep_supervision: bool = False) -> PlainConvUNet:
    """The residual encoder of the presets M and L, in six stages."""
    return ResidualEncoderUNet(
        in_channels=in_channels, num_classes=num_classes, deep_supervision=deep_supervision, **_THREE
    )


# --- training and use ---------------------------------------------------------------------------------------------


def dice_and_cross_entropy(logits: Tensor, classes: Tensor, *, batch_dice: bool = False) -> Tensor:
    """Cross-entropy, plus one minus the soft Dice coefficient of the foreground classes: a scalar.

    Args:
        logits: [N, K, ...].
        classes: [N, ...], long.
        batch_dice: one Dice coefficient for the batch, not one for each image; so it is planned for 2D.
    """
    target = F.one_hot(classes, logits.shape[1]).movedim(-1, 1).to(logits.dtype)[:, 1:]
    found = logits.softmax(dim=1)[:, 1:]
    axes = [0, *range(2, logits.dim())] if batch_dice else list(range(2, logits.dim()))
    common, both = (found * target).sum(axes), found.sum(axes) + target.sum(axes)
    dice = (2 * common + 1e-5) / (both + 1e-5).clamp_min(1e-8)
    return F.cross_entropy(logits, classes) + 1 - dice.mean()


def objective(output: Tensor | Sequence[Tensor], target: Tensor, *, batch_dice: bool = False) -> Tensor:
    """The loss of the finest stage or, of several, their mean with weights 1, 1/2, 1/4, ..., and 0 for the coarsest.

    Args:
        output: logits [N, K, ...], or those of all stages from fine to coarse.
        target: classes [N, ...], long; taken at the nearest place for coarser stages.
        batch_dice: see :func:`dice_and_cross_entropy`.
    """
    if isinstance(output, Tensor):
        return dice_and_cross_entropy(output, target, batch_dice=batch_dice)
    weights = [0.5**i for i in range(len(output) - 1)]
    loss = output[0].new_zeros(())
    for weight, logits in zip(weights, output, strict=False):
        classes = F.interpolate(target[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0].long()
        loss = loss + weight / sum(weights) * dice_and_cross_entropy(logits, classes, batch_dice=batch_dice)
    return loss


def gaussian(patch: Sequence[int]) -> Tensor:
    """Weight of each voxel of a window: 1 in the middle, falling with a deviation of an eighth of the side."""
    axes = [torch.exp(-0.5 * ((torch.arange(side) - side // 2) / (side / 8)) ** 2) for side in patch]
    weights = axes[0]
    for axis in axes[1:]:
        weights = weights[..., None] * axis
    return weights


def starts(side: int, patch: int, step: float) -> list[int]:
    """Where windows begin on an axis: evenly, at most step * patch apart, the last one at the end."""
    count = math.ceil((side - patch) / (patch * step)) + 1
    return [round((side - patch) / (count - 1) * i) for i in range(count)] if count > 1 else [0]


@torch.no_grad()
def predict(model: PlainConvUNet, x: Tensor, patch: Sequence[int], *, step: float = 0.5, mirror: bool = True) -> Tensor:
    """An image of any size in overlapping windows, whose logits are averaged with weights of :func:`gaussian`.

    Args:
        model: in eval mode.
        x: [N, C, (D,) H, W]; what is smaller than a window is padded with zeros on both sides.
        patch: size of a window.
        step: from one window to the next, as a share of the window.
        mirror: average over all mirror images too.

    Returns:
        logits [N, K, (D,) H, W].

    Raises:
        ValueError: a patch of other dimensions, or a step outside (0, 1].
    """
    size = x.shape[2:]
    if len(patch) != len(size) or not 0 < step <= 1:
        raise ValueError(f"predict: patch={tuple(patch)} and step={step} do not fit an image {list(x.shape)}")
    missing = [max(p - side, 0) for p, side in zip(patch, size, strict=True)]
    padding = [part for m in reversed(missing) for part in (m // 2, m - m // 2)]
    x = F.pad(x, padding)
    dims = range(2, x.dim())
    flips = [c for n in range(len(dims) + 1) for c in itertools.combinations(dims, n)] if mirror else [()]
    weights = gaussian(patch).to(x)
    total, norm = x.new_zeros(0), x.new_zeros(x.shape[2:])
    for corner in itertools.product(*(starts(s, p, step) for s, p in zip(x.shape[2:], patch, strict=True))):
        window: tuple[Any, ...] = (..., *(slice(a, a + p) for a, p in zip(corner, patch, strict=True)))
        logits = x.new_zeros(0)
        for axes in flips:
            output = model(x[window].flip(axes))
            output = (output if isinstance(output, Tensor) else output[0]).flip(axes) / len(flips)
            logits = logits + output if logits.numel() else output
        if not total.numel():
            total = logits.new_zeros(*logits.shape[:2], *x.shape[2:])
        total[window] += logits * weights
        norm[window] += weights
    inside: tuple[Any, ...] = (..., *(slice(m // 2, m // 2 + side) for m, side in zip(missing, size, strict=True)))
    return (total / norm)[inside]


# --- the plan -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fingerprint:
    """What the rules look at: of each training image its spacing in mm and its shape without an empty border.

    An image has three axes; a picture has one of length 1 and any large spacing in front, as 999.
    """

    spacings: Sequence[Sequence[float]]
    shapes: Sequence[Sequence[int]]
    channels: int = 1
    classes: int = 2
    """Background included."""


@dataclass(frozen=True)
class Configuration:
    """One network of a plan. Axes are in the order of ``axes``, the coarsest first."""

    axes: Axes
    """Which axis of the image each one is."""
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    """Of the images at that spacing."""
    patch: Axes
    batch: int
    strides: tuple[Axes, ...]
    kernels: tuple[Axes, ...]
    features: Axes
    batch_dice: bool


def fingerprint(images: Iterable[Tensor], spacings: Iterable[Sequence[float]], *, classes: int) -> Fingerprint:
    """The fingerprint of images [C, D, H, W], each cropped to the smallest box that holds all that is not zero.

    Raises:
        ValueError: images that are not such, or have different channels, or none.
    """
    shapes, channels = [], set()
    for image in images:
        if image.dim() != 4 or not image.count_nonzero():
            raise ValueError(f"fingerprint: an image must be [C, D, H, W] and not empty, got {list(image.shape)}")
        places = (image != 0).any(dim=0).nonzero()
        shapes.append(tuple((places.amax(dim=0) - places.amin(dim=0) + 1).tolist()))
        channels.add(image.shape[0])
    if len(channels) != 1:
        raise ValueError(f"fingerprint: all images need the same channels, got {sorted(channels)}")
    return Fingerprint([tuple(map(float, s)) for s in spacings], shapes, channels.pop(), classes)


def topology(spacing: Sequence[float], patch: Sequence[float]) -> tuple[tuple[Axes, ...], tuple[Axes, ...], Axes]:
    """Strides and kernels of each stage for a patch, and the patch enlarged to what the strides divide.

    Axes are halved as long as they keep at least 4 voxels, and only those whose spacing is less than twice the finest
    one of them; a single axis only while it has 12. Every axis starts with kernels of 1.
    """
    spacing, sides, dims = list(spacing), list(patch), range(len(spacing))
    kernel = [1] * len(spacing)
    halved = [0] * len(spacing)
    strides, kernels = [(1,) * len(spacing)], []
    while True:
        large = [i for i in dims if sides[i] >= 8]
        finest = min((spacing[i] for i in large), default=0.0)
        now = [i for i in large if spacing[i] / finest < 2]
        if not now or (len(now) == 1 and sides[now[0]] < 12):
            break
        kernel = [3 if spacing[i] / min(spacing) < 2 else kernel[i] for i in dims]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if i in now else 1 for i in dims))
        for i in now:
            halved[i] += 1
            spacing[i] *= 2
            sides[i] = math.ceil(sides[i] / 2)
    kernels.append((3,) * len(spacing))  # the lowest stage
    enlarged = tuple(math.ceil(side / 2**n) * 2**n for side, n in zip(patch, halved, strict=True))
    return tuple(strides), tuple(kernels), enlarged


def _features(stages: int, dims: int) -> Axes:
    return tuple(min(512 if dims == 2 else 320, 32 * 2**i) for i in range(stages))


def _memory(patch: Axes, strides: Sequence[Axes], classes: int) -> int:
    """Numbers in all feature maps of the network: two convolutions per stage, and what comes up from below."""
    total, size = 0, patch
    features = _features(len(strides), len(patch))
    for s, (stride, width) in enumerate(zip(strides, features, strict=True)):
        size = tuple(side // step for side, step in zip(size, stride, strict=True))
        total += math.prod(size) * width * (2 if s == len(strides) - 1 else 5)
    return total + classes * math.prod(patch)


def _configure(
    spacing: Sequence[float], median: Sequence[float], voxels: float, axes: Axes, classes: int, gigabytes: float
) -> Configuration:
    """Patch, stages and batch for images of a spacing and a median shape; voxels is the size of the data set."""
    dims = len(spacing)
    # Feature maps of this many numbers for one image fit into the memory, with a batch of that size.
    reference, at_reference = (85e6 if dims == 2 else 560e6) * gigabytes / 8, 12 if dims == 2 else 2
    inverse = [1 / s for s in spacing]
    scale = ((2048**2 if dims == 2 else 256**3) / math.prod(inverse)) ** (1 / dims)
    start = [min(round(i * scale), m) for i, m in zip(inverse, median, strict=True)]
    strides, kernels, patch = topology(spacing, start)
    while (memory := _memory(patch, strides, classes)) / at_reference * 2 > reference:  # room for two at least
        _, axis = max((side / m, i) for i, (side, m) in enumerate(zip(patch, median, strict=True)))

        def less(multiple: int, patch: Axes = patch, axis: int = axis) -> list[int]:
            return [side - multiple * (i == axis) for i, side in enumerate(patch)]

        # A smaller patch may be halved less often, and then need not shrink by as much.
        smaller = less(math.prod(stride[axis] for stride in strides))
        strides, kernels, patch = topology(
            spacing, less(math.prod(stride[axis] for stride in topology(spacing, smaller)[0]))
        )
    batch = round(reference / memory * at_reference)
    batch = max(min(batch, round(voxels * 0.05 / math.prod(patch))), 2)
    return Configuration(
        axes=axes,
        spacing=tuple(spacing),
        median_shape=tuple(median),
        patch=patch,
        batch=batch,
        strides=strides,
        kernels=kernels,
        features=_features(len(strides), dims),
        batch_dice=dims == 2,
    )


def target_spacing(data: Fingerprint) -> list[float]:
    """The median of each axis; of an axis more than three times as coarse and as short as the others, the tenth
    percentile, but not finer than they are."""
    spacings = torch.tensor(data.spacings, dtype=torch.float64)
    target = spacings.quantile(0.5, dim=0).tolist()
    sizes = torch.tensor(data.shapes, dtype=torch.float64).quantile(0.5, dim=0).tolist()
    worst = max(range(3), key=lambda i: (target[i], -i))
    others = [i for i in range(3) if i != worst]
    coarsest = max(target[i] for i in others)
    if target[worst] > 3 * coarsest and 3 * sizes[worst] < min(sizes[i] for i in others):
        target[worst] = spacings[:, worst].quantile(0.1).item()
        if target[worst] < coarsest:
            target[worst] = coarsest + 1e-5
    return target


def plan(data: Fingerprint, *, gigabytes: float = 8.0) -> dict[str, Configuration]:
    """The configurations for a data set: ``2d``; for volumes ``3d_fullres``; for large ones ``3d_lowres``.

    Args:
        data: of the training images.
        gigabytes: memory of the accelerator that the plan may use.

    Raises:
        ValueError: a fingerprint without images or with axes that do not fit.
    """
    if not data.shapes or len(data.shapes) != len(data.spacings) or {len(s) for s in data.spacings} != {3}:
        raise ValueError("plan: needs at least one image, and of each a shape and a spacing of three axes")
    target = target_spacing(data)
    resampled = [
        [round(s / t * side) for s, t, side in zip(spacing, target, shape, strict=True)]
        for spacing, shape in zip(data.spacings, data.shapes, strict=True)
    ]
    worst = max(range(3), key=lambda i: (target[i], -i))
    axes = (worst, *(i for i in range(3) if i != worst))
    medians = torch.tensor(resampled, dtype=torch.float64).quantile(0.5, dim=0).tolist()
    spacing, median = [target[i] for i in axes], [medians[i] for i in axes]
    voxels = math.prod(median) * len(data.shapes)
    plans = {"2d": _configure(spacing[1:], median[1:], voxels, axes[1:], data.classes, gigabytes)}
    if median[0] == 1:
        return plans
    full = _configure(spacing, median, voxels, axes, data.classes, gigabytes)
    low, coarse, now = None, list(spacing), math.prod(median)
    while math.prod((low or full).patch) / now < 0.25:
        # Coarser, first along the axes that are much finer than the coarsest one.
        fine = [max(coarse) / s > 2 for s in coarse]
        coarse = [s * 1.03 if f or not any(fine) else s for s, f in zip(coarse, fine, strict=True)]
        shape = [f / c * m for f, c, m in zip(spacing, coarse, median, strict=True)]
        now = math.prod(shape)
        low = _configure(coarse, [round(side) for side in shape], now * len(data.shapes), axes, data.classes, gigabytes)
    if low is not None and math.prod(median) / now >= 2:
        plans["3d_lowres"] = low
        full = replace(full, batch_dice=True)
    plans["3d_fullres"] = full
    return plans


def network_of(
    configuration: Configuration, *, in_channels: int, num_classes: int, deep_supervision: bool = True
) -> PlainConvUNet:
    """The network of a plan."""
    return PlainConvUNet(
        in_channels=in_channels,
        num_classes=num_classes,
        features=configuration.features,
        strides=configuration.strides,
        kernels=configuration.kernels,
        deep_supervision=deep_supervision,
    )
