r"""GoogLeNet: several kernel sizes side by side in every layer, and 1x1 convolutions that pay for them.

An Inception module shows its input to four branches of equal standing and concatenates what they find:

.. math::  y = [\, b_{1 \times 1}(x),\ b_{3 \times 3}(r_3(x)),\ b_{5 \times 5}(r_5(x)),\ p(\mathrm{maxpool}(x)) \,]

The 1x1 convolutions r_3 and r_5 reduce the channels in front of the larger kernels, and p projects behind the pooling.
Nine modules are stacked to 22 layers with weights. There is no skip in the network: every branch ends in a
convolution of its own, and nothing is added. It is the control for the residual Inception networks.

Gradients reach the lower layers by another way: two auxiliary classifiers, on modules 4a and 4d, whose losses are added
with weight 0.3 in training. They are discarded afterwards.

C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke, A. Rabinovich: "Going Deeper with
Convolutions", CVPR 2015, arXiv:1409.4842. Table 1 is the network.

Deviations from the paper: constants of the local response normalisation and initial values, which it does not give,
are those of the BVLC replication in Caffe. The auxiliary classifiers are defined for maps of 14 x 14 places; for other
sizes, of which the paper does not speak, a mean over 4 x 4 equal parts takes the place of theirs.

State-dict names are those of torchvision. Torchvision's own network is a different one, here :func:`googlenet_bn`:
batch normalisation instead of biases and response normalisation, 3x3 in place of 5x5, 2x2 in the last pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.input_check import check_pictures

__all__ = ["Auxiliary", "Conv", "GoogLeNet", "Inception", "googlenet", "googlenet_bn", "objective"]


class Conv(nn.Module):
    """Convolution that keeps the resolution at stride 1, and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1, 3, 5 or 7.
        stride: of the convolution.
        batch_norm: normalise in front of the ReLU, in place of the bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=not batch_norm
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001) if batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x, inplace=True)


class Inception(nn.Module):
    """Figure 2b: four branches with a common input, concatenated.

    Args:
        in_channels: channels of the input.
        widths: the six numbers of Table 1.
        largest: kernel of the third branch; 5 in the paper.
        batch_norm: see :class:`Conv`.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        largest: int = 5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.branch1 = Conv(in_channels, one, 1, batch_norm=batch_norm)
        self.branch2 = nn.Sequential(
            Conv(in_channels, reduce3, 1, batch_norm=batch_norm), Conv(reduce3, three, 3, batch_norm=batch_norm)
        )
        self.branch3 = nn.Sequential(
            Conv(in_channels, reduce5, 1, batch_norm=batch_norm), Conv(reduce5, five, largest, batch_norm=batch_norm)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), Conv(in_channels, pool, 1, batch_norm=batch_norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 1x1 + 3x3 + 5x5 + pool proj, H, W]."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Auxiliary(nn.Module):
    """A classifier on a map in the middle (Section 5): mean over 5x5 places, 1x1, two linear layers.

    Args:
        in_channels: channels of the map.
        num_classes: outputs.
        dropout: probability between the linear layers.
        batch_norm: as torchvision's, which normalises the 1x1 and takes the mean over equal parts at any size.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float, batch_norm: bool = False) -> None:
        super().__init__()
        self.equal_parts = batch_norm
        self.conv = Conv(in_channels, 128, 1, batch_norm=batch_norm)
        self.fc1 = nn.Linear(4 * 4 * 128, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], 14 x 14 in the paper -> logits [N, num_classes]."""
        own = x.shape[2:] == (14, 14) and not self.equal_parts
        x = F.avg_pool2d(x, 5, stride=3) if own else F.adaptive_avg_pool2d(x, 4)
        x = F.relu(self.fc1(self.conv(x).flatten(1)), inplace=True)
        return self.fc2(self.dropout(x))  # type: ignore[no-any-return]


class GoogLeNet(nn.Module):
    """Two convolutional stages, nine Inception modules with two poolings between, average, dropout, classifier.

    Args:
        aux: with the two auxiliary classifiers.
        dropout: probability in front of the classifier.
        dropout_aux: probability in the auxiliary classifiers.
        batch_norm: torchvision's network instead of the paper's.
        num_classes: outputs of the classifiers.
        in_channels: channels of the picture.

    Raises:
        ValueError: a dropout that is not a probability below 1.
    """

    def __init__(
        self,
        *,
        aux: bool = True,
        dropout: float = 0.4,
        dropout_aux: float = 0.7,
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not 0 <= min(dropout, dropout_aux) <= max(dropout, dropout_aux) < 1:
            raise ValueError(
                "GoogLeNet: dropout and dropout_aux must be in [0, 1), "
                f"got dropout={dropout} and dropout_aux={dropout_aux}"
            )
        self.in_channels = in_channels
        self.smallest = 15 if batch_norm else 31  # the smallest size for which the last pooling has an input
        # Poolings round up, as Table 1 needs: 112 -> 56 -> 28 -> 14 -> 7.
        self.conv1 = Conv(in_channels, 64, 7, stride=2, batch_norm=batch_norm)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm1 = nn.Identity() if batch_norm else nn.LocalResponseNorm(5, alpha=0.0001, beta=0.75)
        self.conv2 = Conv(64, 64, 1, batch_norm=batch_norm)
        self.conv3 = Conv(64, 192, 3, batch_norm=batch_norm)
        self.norm2 = nn.Identity() if batch_norm else nn.LocalResponseNorm(5, alpha=0.0001, beta=0.75)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        def inception(in_channels: int, *widths: int) -> Inception:
            return Inception(in_channels, widths, largest=3 if batch_norm else 5, batch_norm=batch_norm)

        # fmt: off
        #                                    1x1  red  3x3 red  5x5 pool
        self.inception3a = inception(192,     64,  96, 128, 16,  32,  32)
        self.inception3b = inception(256,    128, 128, 192, 32,  96,  64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(480,    192,  96, 208, 16,  48,  64)
        self.inception4b = inception(512,    160, 112, 224, 24,  64,  64)
        self.inception4c = inception(512,    128, 128, 256, 24,  64,  64)
        self.inception4d = inception(512,    112, 144, 288, 32,  64,  64)
        self.inception4e = inception(528,    256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2 if batch_norm else 3, stride=2, ceil_mode=True)
        self.inception5a = inception(832,    256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832,    384, 192, 384, 48, 128, 128)
        # fmt: on
        self.aux1 = Auxiliary(512, num_classes, dropout=dropout_aux, batch_norm=batch_norm) if aux else None
        self.aux2 = Auxiliary(528, num_classes, dropout=dropout_aux, batch_norm=batch_norm) if aux else None
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if batch_norm:
                    nn.init.trunc_normal_(module.weight, std=0.01)
                    continue
                bound = math.sqrt(3 / module.weight[0].numel())  # a variance of 1 / fan-in
                nn.init.uniform_(module.weight, -bound, bound)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.2)
        if not batch_norm:
            for classifier in (self.fc, *(each.fc2 for each in (self.aux1, self.aux2) if each is not None)):
                nn.init.zeros_(classifier.bias)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """x: pictures [N, in_channels, H, W], 224 x 224 in the paper.

        Returns:
            Logits [N, num_classes]. While training with auxiliary classifiers a dictionary of three such tensors:
            ``logits``, ``aux1`` and ``aux2``.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or smaller than 31 x 31 (15 x 15 with
                ``batch_norm``).
        """
        check_pictures("GoogLeNet", x, self.in_channels, least=self.smallest)
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.inception3b(self.inception3a(x))
        middle1 = self.inception4a(self.maxpool3(x))
        middle2 = self.inception4d(self.inception4c(self.inception4b(middle1)))
        x = self.maxpool4(self.inception4e(middle2))
        x = self.inception5b(self.inception5a(x))
        logits: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        return {"logits": logits, "aux1": self.aux1(middle1), "aux2": self.aux2(middle2)}


def googlenet(
    *, num_classes: int = 1000, in_channels: int = 3, aux: bool = True, dropout: float = 0.4, dropout_aux: float = 0.7
) -> GoogLeNet:
    """GoogLeNet as published."""
    return GoogLeNet(
        num_classes=num_classes, in_channels=in_channels, aux=aux, dropout=dropout, dropout_aux=dropout_aux
    )


def googlenet_bn(
    *, num_classes: int = 1000, in_channels: int = 3, aux: bool = True, dropout: float = 0.2, dropout_aux: float = 0.7
) -> GoogLeNet:
    """GoogLeNet as torchvision has it."""
    return GoogLeNet(
        num_classes=num_classes, in_channels=in_channels, aux=aux, dropout=dropout, dropout_aux=dropout_aux,
        batch_norm=True,
    )  # fmt: skip


def objective(output: Tensor | dict[str, Tensor], target: Tensor) -> Tensor:
    """Softmax cross-entropy; in training that of the auxiliary classifiers is added, times 0.3 (Section 5).

    Args:
        output: logits [N, K], or the dictionary of three.
        target: classes [N], long.
    """
    if isinstance(output, Tensor):
        return F.cross_entropy(output, target)
    loss, aux1, aux2 = (F.cross_entropy(output[name], target) for name in ("logits", "aux1", "aux2"))
    return loss + 0.3 * (aux1 + aux2)
