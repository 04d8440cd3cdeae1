r"""FCN: a classifier that labels every pixel, and two skips that add finer scores to coarse ones.

A fully connected layer on a map of 7x7 positions is a 7x7 convolution with one output position. Read in this way, the
three last layers of VGG-16 slide over a picture of any size and give a map of class scores, one for every 32 pixels.
A deconvolution that starts as bilinear interpolation enlarges it to the size of the picture (FCN-32s).

What the deep layers know about the class, they know 32 pixels apart. Finer layers know less, but at closer positions.
So each of them gives scores of its own, by one 1x1 convolution, and these are *added* to the enlarged coarser ones:

.. math::  s_{16} = \mathrm{up}_2(s_{32}) + W_4 * p_4, \qquad  s_8 = \mathrm{up}_2(s_{16}) + W_3 * p_3

with :math:`p_4, p_3` the maps after the fourth and the third pooling. :math:`\mathrm{up}_{16}(s_{16})` is FCN-16s and
:math:`\mathrm{up}_8(s_8)` FCN-8s. The new layers start at zero, so that each network begins as the coarser one that was
trained before it (:func:`start_from`). FCN-8s at once trains both skips from the beginning, and then fixed factors make
the values of the finer maps comparable with those of the coarsest.

J. Long, E. Shelhamer, T. Darrell: "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
arXiv:1411.4038; extended by the same authors: TPAMI 39(4), 2017, arXiv:1605.06211.

Deviations from the paper, all as in the authors' network definitions:

- The picture is padded by 100 zeros on each side, and maps are cropped at fixed offsets where they meet: so a picture
  of any size has a score for each of its pixels.
- A pooling whose input is odd rounds its size up, as Caffe does.
- The loss is summed over the pixels and averaged over the pictures; pixels of class 255 do not count.
- At once: the fourth pooling is multiplied by 0.01 and the third by 0.0001.

The intermediate deconvolutions are learned and the last one is not, as the paper says; the authors' released
definitions keep all of them fixed. Where the paper gives no figure: it starts from the weights of VGG-16
(:func:`convolutionalise`); without them the trunk starts as Gaussians of variance 2 / fan-in, biases at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "FCN", "bilinear_kernel", "convolutionalise", "fcn8s", "fcn8s_at_once", "fcn16s", "fcn32s", "objective",
    "start_from",
]  # fmt: skip

Stride = Literal[32, 16, 8]

VGG16 = (2, 2, 3, 3, 3)  # convolutions in front of each pooling
PADDING = 100  # zeros around the picture

# Where a map begins in the one that it is cropped from. They follow from the padding: position i of pool3 lies over
# pixel 8i - 95.5 of the picture, of pool4 over 16i - 91.5, of the coarsest scores over 32i + 12.5.
CROP_POOL4, CROP_POOL3 = 5, 9
CROP_SCORE: Mapping[int, int] = {32: 19, 16: 27, 8: 31}


def bilinear_kernel(channels: int, size: int) -> Tensor:
    """Weights [C, C, size, size] of a deconvolution that interpolates each channel for itself."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    weight = torch.zeros(channels, channels, size, size)
    weight[torch.arange(channels), torch.arange(channels)] = line[:, None] * line[None]
    return weight


def upscore(channels: int, factor: int, *, learned: bool) -> nn.ConvTranspose2d:
    """A deconvolution that enlarges scores: [N, C, H, W] -> [N, C, factor (H + 1), factor (W + 1)]."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, bias=False)
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(channels, 2 * factor))
    layer.weight.requires_grad_(learned)
    return layer


def crop(x: Tensor, like: Tensor, offset: int) -> Tensor:
    """The part of x that begins ``offset`` rows and columns inside it and is as large as ``like``."""
    height, width = like.shape[-2:]
    return x[..., offset : offset + height, offset : offset + width]


class FCN(nn.Module):
    """VGG-16 read as convolutions, and none, one or two skips. Layers have the names of the authors' definitions.

    Args:
        stride: pixels between neighbouring scores in front of the last deconvolution: 32 without a skip, 16 with the
            one from pool4, 8 with that from pool3 too.
        pool_scales: factors of pool4 and pool3; 0.01 and 0.0001 in the network that is trained at once.
        num_classes: 21 for PASCAL VOC, background included.
        in_channels: channels of the picture; 3 in the paper, in the order blue, green, red with the means subtracted.
        widths: channels of the five groups of convolutions.
        fc_width: channels of the two layers that were fully connected.
        dropout: probability of zeroing one of their outputs, in training only.

    Raises:
        ValueError: another stride, not five widths, or a drop-out probability outside [0, 1).
    """

    def __init__(
        self,
        *,
        stride: Stride = 8,
        pool_scales: tuple[float, float] = (1.0, 1.0),
        num_classes: int = 21,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        fc_width: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if stride not in get_args(Stride):
            raise ValueError(f"FCN: stride must be 32, 16 or 8, got {stride}")
        if len(widths) != len(VGG16):
            raise ValueError(f"FCN: widths needs one number for each of the five poolings, got {tuple(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"FCN: dropout must lie in [0, 1), got {dropout}")
        self.stride, self.in_channels = stride, in_channels
        self.pool4_scale, self.pool3_scale = pool_scales
        channels = in_channels
        for group, (layers, width) in enumerate(zip(VGG16, widths, strict=True), start=1):
            for layer in range(1, layers + 1):
                padding = PADDING if (group, layer) == (1, 1) else 1
                self.add_module(f"conv{group}_{layer}", nn.Conv2d(channels, width, 3, padding=padding))
                channels = width
        self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.fc6 = nn.Conv2d(channels, fc_width, 7)
        self.fc7 = nn.Conv2d(fc_width, fc_width, 1)
        self.dropout = nn.Dropout(dropout)
        self.score_fr = nn.Conv2d(fc_width, num_classes, 1)
        if stride == 32:
            self.upscore = upscore(num_classes, 32, learned=False)
        else:
            self.upscore2 = upscore(num_classes, 2, learned=True)
            self.score_pool4 = nn.Conv2d(widths[3], num_classes, 1)
        if stride == 16:
            self.upscore16 = upscore(num_classes, 16, learned=False)
        if stride == 8:
            self.upscore_pool4 = upscore(num_classes, 2, learned=True)
            self.score_pool3 = nn.Conv2d(widths[2], num_classes, 1)
            self.upscore8 = upscore(num_classes, 8, learned=False)
        self.apply(he_fan_in)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
                if name.startswith("score"):
                    nn.init.zeros_(module.weight)  # the network starts without an opinion, a skip without an effect

    def trunk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """VGG-16 up to its second last layer: pool3, pool4 and fc7, one position per 8, 16 and 32 pixels."""
        pooled = []
        for group, layers in enumerate(VGG16, start=1):
            for layer in range(1, layers + 1):
                x = F.relu(getattr(self, f"conv{group}_{layer}")(x))
            x = self.pool(x)
            pooled.append(x)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return pooled[2], pooled[3], x

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] of any size -> class scores [N, num_classes, H, W].

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels.
        """
        check_pictures("FCN", x, self.in_channels)
        pool3, pool4, top = self.trunk(x)
        score = self.score_fr(top)
        if self.stride == 32:
            score = self.upscore(score)
            return crop(score, x, CROP_SCORE[32])
        score = self.upscore2(score)
        score = score + crop(self.score_pool4(pool4 * self.pool4_scale), score, CROP_POOL4)  # the first skip
        if self.stride == 16:
            score = self.upscore16(score)
            return crop(score, x, CROP_SCORE[16])
        score = self.upscore_pool4(score)
        score = score + crop(self.score_pool3(pool3 * self.pool3_scale), score, CROP_POOL3)  # the second skip
        score = self.upscore8(score)
        return crop(score, x, CROP_SCORE[8])


fcn32s = published(FCN, stride=32)
fcn16s = published(FCN, stride=16)
fcn8s = published(FCN, stride=8)
fcn8s_at_once = published(FCN, stride=8, pool_scales=(0.01, 0.0001))


def convolutionalise(classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a VGG-16 classifier as those of FCN's trunk, to be loaded with ``strict=False``.

    Args:
        classifier: state dict with torchvision's names, of the network without batch normalisation. Its last layer, of
            the 1,000 classes, is left out.

    Raises:
        ValueError: it is not that of a VGG-16, or its first fully connected layer does not see 7x7 positions.
    """
    convolutions = [f"conv{group}_{i}" for group, layers in enumerate(VGG16, start=1) for i in range(1, layers + 1)]
    places = [n.removesuffix(".weight") for n, t in classifier.items() if n.endswith(".weight") and t.dim() == 4]
    linear = ["classifier.0", "classifier.3"]
    if len(places) != len(convolutions) or any(f"{name}.weight" not in classifier for name in linear):
        raise ValueError(
            f"convolutionalise: expected the 13 convolutions of VGG-16 and {linear}, got {list(classifier)}"
        )
    state = {}
    for name, place in zip([*convolutions, "fc6", "fc7"], [*places, *linear], strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = classifier[f"{place}.weight"], classifier[f"{place}.bias"]
    channels, inputs = len(state["conv5_3.bias"]), state["fc6.weight"].shape[1]
    if inputs != channels * 7 * 7:
        raise ValueError(f"convolutionalise: classifier.0 has {inputs} inputs, expected {channels} x 7 x 7")
    state["fc6.weight"] = state["fc6.weight"].reshape(-1, channels, 7, 7)  # a matrix, cut into kernels
    state["fc7.weight"] = state["fc7.weight"][:, :, None, None]
    return state


def start_from(model: FCN, coarser: FCN) -> None:
    """Section 4.3: give ``model`` all the weights of a network that was trained with one skip less."""
    state = {name: value for name, value in coarser.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(state, strict=False)


def objective(output: Tensor, target: Tensor) -> Tensor:
    """Softmax cross-entropy, summed over the pixels and averaged over the pictures: a scalar.

    Args:
        output: class scores [N, K, H, W].
        target: classes [N, H, W], long; 255 where a pixel has none.
    """
    return F.cross_entropy(output, target, ignore_index=255, reduction="sum") / len(output)
