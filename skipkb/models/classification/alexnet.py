r"""AlexNet: eight layers on two GPUs, and with them the first grouped convolution. No skip.

It shows what a deep network was before there were skips. Five convolutions and three fully connected
layers with rectified linear units (Section 3.1) learn ImageNet. One GPU of 2012 could not hold the network, so its
channels are divided (Section 3.2, Figure 2): the second, fourth and fifth convolution see only the half that lies on
their own GPU. On one device this is a convolution in two groups. ResNeXt and ShuffleNet later used groups on purpose,
inside residual blocks. After the first two convolutions each value is divided by a measure of its neighbours in n
channels (Section 3.3):

.. math::  b^i = a^i \Big/ \Bigl(k + \alpha \sum_{j=\max(0,\, i-n/2)}^{\min(N-1,\, i+n/2)} (a^j)^2\Bigr)^{\beta},
           \qquad k = 2,\; n = 5,\; \alpha = 10^{-4},\; \beta = 0.75

Maximum pooling overlaps, 3x3 every second pixel (Section 3.4), and dropout regularises the large layers (Section 4.2).

A. Krizhevsky, I. Sutskever, G. E. Hinton: "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS
2012.

Deviations from the paper: its maps of 55 x 55 do not follow from 224 pixels, kernels of 11 and a stride of 4 alone;
here the last kernel of a row may hang over the edge, where it sees zeros. Normalisation does not cross the border
between the GPUs, as the first layer of each normalises what it has itself.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.objectives import cross_entropy as objective

__all__ = ["AlexNet", "Normalise", "alexnet", "objective"]


class Normalise(nn.Module):
    """Local response normalisation over n neighbouring channels of the same GPU, at each position (Section 3.3).

    PyTorch divides alpha by n, the paper does not.
    """

    def __init__(self, *, groups: int = 1, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.groups, self.n, self.alpha, self.beta, self.k = groups, n, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        parts = x.unflatten(1, (self.groups, -1)).flatten(0, 1)
        parts = F.local_response_norm(parts, self.n, alpha=self.n * self.alpha, beta=self.beta, k=self.k)
        return parts.view_as(x)


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers (Figure 2).

    Args:
        widths: channels of the five convolutions, those of both GPUs together.
        hidden: units of the first two fully connected layers.
        groups: 2 as published, 1 for a network on one GPU in which every kernel sees all channels.
        dropout: probability in the first two fully connected layers.
        alpha: of the normalisation.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: widths that cannot be divided between the GPUs.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        groups: int = 2,
        dropout: float = 0.5,
        alpha: float = 1e-4,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(widths) != 5 or groups < 1 or any(width < 1 or width % groups for width in widths):
            raise ValueError(f"AlexNet: widths must be five numbers that groups={groups} divides, got {tuple(widths)}")
        self.in_channels = in_channels
        one, two, three, four, five = widths
        self.conv1 = nn.Conv2d(in_channels, one, 11, stride=4)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2, groups=groups)
        self.conv3 = nn.Conv2d(two, three, 3, padding=1)  # the only convolution that sees both halves
        self.conv4 = nn.Conv2d(three, four, 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1, groups=groups)
        self.normalise = Normalise(groups=groups, alpha=alpha)
        self.pool = nn.MaxPool2d(3, stride=2)
        self.fc6 = nn.Linear(five * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, 224, 224] -> logits [N, num_classes]; 224 to 255 pixels a side will do.

        Raises:
            ValueError: x has other channels, or a size for which the last map is not 6 x 6.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or not all(224 <= side <= 255 for side in x.shape[2:]):
            wanted = f"[N, {self.in_channels}, H, W] with sides of 224 to 255"
            raise ValueError(f"AlexNet: expected input {wanted}, got {list(x.shape)}")
        height, width = x.shape[2:]
        x = F.pad(x, (0, -(width - 11) % 4, 0, -(height - 11) % 4))  # the last kernels may hang over the edge
        x = self.pool(self.normalise(F.relu(self.conv1(x))))
        x = self.pool(self.normalise(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = self.pool(F.relu(self.conv5(x)))
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        logits: Tensor = self.fc8(x)
        return logits

    def _init_weights(self) -> None:
        """Section 5: Gaussians of deviation 0.01; biases one in convolutions 2, 4, 5 and hidden layers."""
        ones = (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7)
        for layer in (*ones, self.conv1, self.conv3, self.fc8):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, float(layer in ones))  # type: ignore[arg-type]


def alexnet(*, num_classes: int = 1000, in_channels: int = 3, groups: int = 2) -> AlexNet:
    """As published, on two GPUs; on one with groups=1."""
    return AlexNet(groups=groups, num_classes=num_classes, in_channels=in_channels)
