r"""Volumetric ConvNet: short and long skips in three dimensions, and both are sums.

Four levels of 3x3x3 convolutions go down by maximum poolings, three deconvolutions come up again. On either way a block
learns a residual: the short skip goes around its convolutions, through a 1x1x1 projection on the way down, where the
channels double, and unchanged on the way up. The long skip hands the last map of a level to the deconvolved map of the
same size. U-Net concatenates there; here the two are *added*, so that the deconvolution, too, has only to supply what
the finer map does not hold:

.. math::  e_l &= \mathrm{ReLU}\bigl(F_l(p_{l-1}) + W_l p_{l-1}\bigr),  & p_l &= \mathrm{pool}(e_l) \\
           u_l &= \mathrm{ReLU}\bigl(\mathrm{up}(d_{l+1}) + e_l\bigr),  & d_l &= \mathrm{ReLU}\bigl(G_l(u_l) + u_l\bigr)

with l counted from the finest level, whose :math:`e_1` is one convolution without a short skip, and :math:`d_4 = e_4`.
Two auxiliary classifiers learn from the coarser :math:`d_l`, so that the gradient has a shorter way to the bottom.

L. Yu, X. Yang, H. Chen, J. Qin, P.-A. Heng: "Volumetric ConvNets with Mixed Residual Connections for Automated Prostate
Segmentation from 3D MR Images", AAAI 2017, pp. 66-72.

Deviations from the paper, as in the authors' definition of the network for Caffe:

- The sums on the way down pass a projection; only those on the way up are identities.
- The auxiliary scores are enlarged by deconvolutions that start as trilinear interpolation, each class for itself, and
  learn ten times more slowly than the rest, which is left to the optimiser.

Where the definition gives no figure: how far the crops of a volume overlap when it is segmented (:func:`segment`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VolumetricConvNet", "objective", "segment", "trilinear_kernel", "volumetric_convnet_prostate"]

LEVELS = 4
DEVIATION = 0.01
"""Of the Gaussian that weights start from."""
LOSS_WEIGHTS = {"out": 0.5, "aux2": 0.333, "aux1": 0.167}


def trilinear_kernel(classes: int, size: int) -> Tensor:
    """Weights [classes, 1, size, size, size] of a grouped deconvolution that interpolates each class for itself."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    cube = line[:, None, None] * line[:, None] * line
    return cube.expand(classes, 1, -1, -1, -1).clone()


class VolumetricConvNet(nn.Module):
    """The network of Figure 2. Layers have the names of the authors' definition.

    Args:
        in_channels: channels of the volume; 1 in the paper, with 0.3 subtracted from values in [0, 1].
        num_classes: 2 in the paper, prostate and everything else.
        widths: channels of the four levels.

    Raises:
        ValueError: not four widths.
    """

    def __init__(
        self, *, in_channels: int = 1, num_classes: int = 2, widths: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        if len(widths) != LEVELS:
            raise ValueError(f"VolumetricConvNet: widths needs four numbers, got {tuple(widths)}")
        self.in_channels = in_channels
        self.conv1a = nn.Conv3d(in_channels, widths[0], 3, padding=1)
        self.conv1_batch = nn.BatchNorm3d(widths[0])
        self.pool = nn.MaxPool3d(2)
        for i in range(1, LEVELS):
            narrow, wide = widths[i - 1], widths[i]
            self._layer(f"conv{i + 1}a", nn.Conv3d(narrow, wide, 3, padding=1))
            self._layer(f"conv{i + 1}b", nn.Conv3d(wide, wide, 3, padding=1))
            self._layer(f"conv{i + 1}_branch2", nn.Conv3d(narrow, wide, 1))
        for j in range(1, LEVELS):
            wide, narrow = widths[LEVELS - j], widths[LEVELS - j - 1]
            self._layer(f"Deconv{j}a", nn.ConvTranspose3d(wide, narrow, 4, stride=2, padding=1))
            self._layer(f"Deconv{j}b", nn.Conv3d(narrow, narrow, 1))
            self._layer(f"Deconv{j}c", nn.Conv3d(narrow, narrow, 3, padding=1))
        self.score_main = nn.Conv3d(widths[0], num_classes, 1)
        for name, width, factor in (("aux1", widths[2], 4), ("aux2", widths[1], 2)):
            up = nn.ConvTranspose3d(
                num_classes, num_classes, 2 * factor, factor, padding=factor // 2, groups=num_classes, bias=False
            )
            self.add_module(f"score_{name}", nn.Conv3d(width, num_classes, 1))
            self.add_module(f"upscore_{name}", up)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.normal_(layer.weight, std=DEVIATION)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                else:  # an auxiliary score's
                    with torch.no_grad():
                        layer.weight.copy_(trilinear_kernel(num_classes, layer.kernel_size[0]))

    def _layer(self, name: str, layer: nn.Conv3d | nn.ConvTranspose3d) -> None:
        self.add_module(name, layer)
        self.add_module(f"{name}_batch", nn.BatchNorm3d(layer.out_channels))

    def _run(self, name: str, x: Tensor) -> Tensor:
        """A convolution and its normalisation."""
        return getattr(self, f"{name}_batch")(getattr(self, name)(x))  # type: ignore[no-any-return]

    def down(self, level: int, x: Tensor) -> Tensor:
        """Two convolutions and the short skip: [N, C, D, H, W] -> [N, 2C, D, H, W]."""
        branch = F.relu(self._run(f"conv{level}a", x))
        branch = self._run(f"conv{level}b", branch)
        return F.relu(branch + self._run(f"conv{level}_branch2", x))  # the short skip, projected

    def up(self, step: int, x: Tensor, skip: Tensor) -> Tensor:
        """Deconvolution, the long skip, and a block with its short one: -> as ``skip``."""
        x = F.relu(self._run(f"Deconv{step}a", x) + skip)  # the long skip
        branch = F.relu(self._run(f"Deconv{step}b", x))
        return F.relu(self._run(f"Deconv{step}c", branch) + x)  # the short skip

    def _auxiliary(self, name: str, x: Tensor) -> Tensor:
        """The scores of a coarser level, at full size."""
        return getattr(self, f"upscore_{name}")(getattr(self, f"score_{name}")(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: volumes [N, in_channels, D, H, W], multiples of 8 -> logits ``out``, ``aux1``, ``aux2`` [N, K, D, H, W].

        Raises:
            ValueError: x is not a batch of volumes with in_channels channels, or three poolings do not divide it.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels or any(not size or size % 8 for size in x.shape[2:]):
            raise ValueError(
                f"VolumetricConvNet: expected volumes [N, {self.in_channels}, D, H, W] with D, H and W multiples of 8, "
                f"got {list(x.shape)}"
            )
        first = F.relu(self.conv1_batch(self.conv1a(x)))
        second = self.down(2, self.pool(first))
        third = self.down(3, self.pool(second))
        x = self.down(4, self.pool(third))
        x = self.up(1, x, third)
        aux1 = self._auxiliary("aux1", x)
        x = self.up(2, x, second)
        aux2 = self._auxiliary("aux2", x)
        x = self.up(3, x, first)
        return {"out": self.score_main(x), "aux1": aux1, "aux2": aux2}


def volumetric_convnet_prostate(*, in_channels: int = 1, num_classes: int = 2) -> VolumetricConvNet:
    """The published network, for crops of 16 x 64 x 64 voxels."""
    return VolumetricConvNet(in_channels=in_channels, num_classes=num_classes)


def objective(output: dict[str, Tensor], target: Tensor) -> Tensor:
    """Softmax cross-entropy of the three outputs, weighted 0.5, 0.333 and 0.167, the coarsest least: a scalar.

    Args:
        output: logits ``out``, ``aux1`` and ``aux2`` [N, K, D, H, W].
        target: classes [N, D, H, W], long.
    """
    terms = [weight * F.cross_entropy(output[name], target) for name, weight in LOSS_WEIGHTS.items()]
    return torch.stack(terms).sum()


@torch.no_grad()
def segment(
    model: VolumetricConvNet, volume: Tensor, *, crop: Sequence[int] = (16, 64, 64), overlap: float = 0.5
) -> Tensor:
    """Probabilities of a volume of any size, the mean of overlapping crops.

    Args:
        model: in eval mode.
        volume: [N, C, D, H, W]; where it is smaller than a crop, zeros are put around its end and cut off again.
        crop: voxels of a crop, multiples of 8.
        overlap: least share of a crop that its neighbour sees too, below 1.

    Returns:
        [N, K, D, H, W], sums to one over K.
    """
    size = volume.shape[2:]
    lacking = [max(0, edge - have) for edge, have in zip(crop, size, strict=True)]
    padded = F.pad(volume, [pad for lack in reversed(lacking) for pad in (0, lack)])
    starts = [_starts(edge, whole, overlap) for edge, whole in zip(crop, padded.shape[2:], strict=True)]
    seen = padded.new_zeros(padded.shape[2:])
    found: Tensor | None = None
    for front, top, left in itertools.product(*starts):
        place = (
            ...,
            slice(front, front + crop[0]),
            slice(top, top + crop[1]),
            slice(left, left + crop[2]),
        )
        part = model(padded[place])["out"].softmax(dim=1)
        if found is None:
            found = part.new_zeros(*part.shape[:2], *padded.shape[2:])
        found[place] += part
        seen[place] += 1
    assert found is not None
    found = found / seen
    return found[..., : size[0], : size[1], : size[2]]


def _starts(edge: int, whole: int, overlap: float) -> list[int]:
    """Evenly spread positions of crops along an axis, the last of which ends where it does."""
    step = max(1, int(edge * (1 - overlap)))
    count = -(-(whole - edge) // step) + 1
    return [round(i * (whole - edge) / max(count - 1, 1)) for i in range(count)]
