r"""UNet++: nodes between encoder and decoder, and a U-Net of every depth in one network.

A skip of U-Net joins an encoder map with a decoder map that has been through many more layers. UNet++ fills the way
between them with nodes. The node :math:`x^{i,j}`, at resolution i and the j-th from the left, concatenates all earlier
nodes of its resolution and the enlarged node below it, and convolves twice (Section III, equation 1):

.. math::  x^{i,j} = \begin{cases} H(\mathrm{down}(x^{i-1,0})) & j = 0 \\
           H\bigl([\,x^{i,0}, \dots, x^{i,j-1},\; \mathrm{up}(x^{i+1,j-1})\,]\bigr) & j > 0 \end{cases}

:math:`x^{i,0}` is the encoder. The nodes :math:`x^{0,1} \dots x^{0,4}` of full resolution are the ends of U-Nets of one
to four poolings that share their encoder. With deep supervision each has a head and a loss of its own. Then their mean
is the answer; or the network is *pruned*: UNet++ L2 is what :math:`x^{0,2}` needs, and the rest is never computed.

Two forms are here. :class:`UNetPP` is that of the authors' first code, in Keras: no normalisation, drop-out behind each
convolution, the enlarged map in front of the others. :class:`NNUNetPP` is that of their later code inside nnU-Net, in
PyTorch: instance normalisation, strided convolutions instead of poolings, the enlarged map behind the others.

Z. Zhou, M. M. R. Siddiquee, N. Tajbakhsh, J. Liang: "UNet++: Redesigning Skip Connections to Exploit Multiscale
Features in Image Segmentation", IEEE TMI 39(6), 2020, arXiv:1912.05074; first: DLMIA 2018, arXiv:1807.10165.

Deviations from the paper, all as in the authors' code:

- :class:`UNetPP`: the enlarged map stands in front of the maps of the same resolution.
- :class:`UNetPP`: drop-out with probability 0.5 follows each 3x3 convolution.
- The loss is half the binary cross-entropy minus the Dice coefficient, whose two sums are over the whole batch and have
  1 added, where the paper takes the mean over the pictures; the losses of the heads are added with equal weights.
- :class:`NNUNetPP`: the layers of nnU-Net, as said above; its transposed convolutions and heads have no biases.

Where the paper gives no figure: transposed convolutions start as Keras has them (Glorot's uniform values), biases at
zero. Outputs are logits, unless the sigmoid of the authors' Keras code is asked for; :func:`ensemble` is the mean of
probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.initial_values import he_fan_in
from skipkb.nn.input_check import check_pictures
from skipkb.nn.published import published

__all__ = [
    "NNUNetPP", "UNetPP", "UNetPPBase", "ensemble", "objective", "unetpp_l1", "unetpp_l2", "unetpp_l3", "unetpp_l4",
    "unetpp_l4_ds", "unetpp_nnunet",
]  # fmt: skip


class UNetPPBase(nn.Module):
    """The grid of nodes. A class that inherits it says what a node is.

    Args:
        in_channels: channels of the picture.
        depth: poolings; the end of the deepest U-Net is x^{0,depth}.
        deep_supervision: whether each of x^{0,1} to x^{0,depth} has a head, or the last one alone.

    Raises:
        ValueError: no pooling.
    """

    shallowest_first = True
    """The order of the heads in the authors' code."""

    def __init__(self, *, in_channels: int, depth: int, deep_supervision: bool) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"{type(self).__name__}: widths needs at least two resolutions, got {depth + 1}")
        self.in_channels, self.depth, self.deep_supervision = in_channels, depth, deep_supervision

    def encoder(self, i: int, x: Tensor) -> Tensor:
        """x^{i,0} from x^{i-1,0}, for i = 0 from the picture."""
        raise NotImplementedError

    def node(self, i: int, j: int, row: Sequence[Tensor], below: Tensor) -> Tensor:
        """x^{i,j} from the nodes x^{i,0} to x^{i,j-1} of its row, and x^{i+1,j-1}."""
        raise NotImplementedError

    def head(self, j: int, x: Tensor) -> Tensor:
        """Class scores from x^{0,j}."""
        raise NotImplementedError

    def forward(self, x: Tensor, *, prune: int | None = None) -> Tensor | dict[str, Tensor]:
        """The grid, one diagonal after the other: x^{d,0}, x^{d-1,1}, ..., x^{0,d}.

        Args:
            x: pictures [N, in_channels, H, W], H and W multiples of 2^depth.
            prune: the depth at which to stop, 1 to ``depth``: what lies deeper is not computed. By default the whole.

        Returns:
            Logits [N, num_classes, H, W]; with deep supervision those of each head that was computed, by its name, "l1"
            to "l4".

        Raises:
            ValueError: a picture that does not fit, or a depth without a head.
        """
        last = self.depth if prune is None else prune
        if not 1 <= last <= self.depth or (last < self.depth and not self.deep_supervision):
            heads = f"1 to {self.depth}" if self.deep_supervision else f"{self.depth} alone, without deep supervision"
            raise ValueError(f"{type(self).__name__}: prune must be {heads}, got {last}")
        check_pictures(type(self).__name__, x, self.in_channels, multiple=2**last)
        rows: list[list[Tensor]] = [[self.encoder(0, x)]]
        outputs: dict[str, Tensor] = {}
        for d in range(1, last + 1):
            rows.append([self.encoder(d, rows[d - 1][0])])
            for j in range(1, d + 1):
                i = d - j
                rows[i].append(self.node(i, j, rows[i], rows[i + 1][j - 1]))  # the skips: the whole row so far
            if self.deep_supervision or d == last:
                outputs[f"l{d}"] = self.head(d, rows[0][d])
        if not self.deep_supervision:
            return outputs[f"l{last}"]
        return outputs if self.shallowest_first else dict(reversed(outputs.items()))


class UNetPP(UNetPPBase):
    """The form of the authors' Keras code, with its names of layers (which count from 1: ``conv12_1`` is of x^{0,1}).

    Args:
        num_classes: outputs of a head; 1 in the paper, object or background.
        in_channels: channels of the picture.
        widths: channels of the nodes at each resolution; one pooling between neighbours.
        dropout: probability of zeroing a value behind a 3x3 convolution, in training only.
        deep_supervision: whether each depth has a head.
        sigmoid: whether heads give probabilities, as in the authors' Keras code, and not logits.

    Raises:
        ValueError: fewer than two widths, or a drop-out probability outside [0, 1).
    """

    def __init__(
        self,
        *,
        num_classes: int = 1,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        dropout: float = 0.5,
        deep_supervision: bool = False,
        sigmoid: bool = False,
    ) -> None:
        depth = len(widths) - 1
        super().__init__(in_channels=in_channels, depth=depth, deep_supervision=deep_supervision)
        if not 0 <= dropout < 1:
            raise ValueError(f"UNetPP: dropout must lie in [0, 1), got {dropout}")
        self.sigmoid = sigmoid
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        for i, width in enumerate(widths):
            for j in range(depth + 1 - i):
                before = (j + 1) * width if j else widths[i - 1] if i else in_channels
                name = f"{i + 1}{j + 1}"
                if j:
                    self.add_module(f"up{name}", nn.ConvTranspose2d(widths[i + 1], width, 2, stride=2))
                self.add_module(f"conv{name}_1", nn.Conv2d(before, width, 3, padding=1))
                self.add_module(f"conv{name}_2", nn.Conv2d(width, width, 3, padding=1))
        for j in range(1 if deep_supervision else depth, depth + 1):
            self.add_module(f"output_{j}", nn.Conv2d(widths[0], num_classes, 1))
        self.apply(he_fan_in)
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        """H: two 3x3 convolutions, each with ReLU and drop-out."""
        for layer in (f"conv{name}_1", f"conv{name}_2"):
            x = self.dropout(F.relu(self.get_submodule(layer)(x)))
        return x

    def encoder(self, i: int, x: Tensor) -> Tensor:
        return self._convolve(f"{i + 1}1", self.pool(x) if i else x)

    def node(self, i: int, j: int, row: Sequence[Tensor], below: Tensor) -> Tensor:
        name = f"{i + 1}{j + 1}"
        up = self.get_submodule(f"up{name}")(below)
        return self._convolve(name, torch.cat([up, *row], dim=1))

    def head(self, j: int, x: Tensor) -> Tensor:
        x = self.get_submodule(f"output_{j}")(x)
        return torch.sigmoid(x) if self.sigmoid else x


class NormalisedConv(nn.Module):
    """A 3x3 convolution, instance normalisation and leaky ReLU: [N, C, H, W] -> [N, C', H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.instnorm = nn.InstanceNorm2d(out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.instnorm(self.conv(x)), 0.01)


class Stack(nn.Module):
    """Normalised convolutions in a row, the first of which strides."""

    def __init__(self, *channels: int, stride: int = 1) -> None:
        super().__init__()
        layers = pairwise(channels)
        self.blocks = nn.Sequential(
            *(NormalisedConv(a, b, stride=1 if k else stride) for k, (a, b) in enumerate(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


class NNUNetPP(UNetPPBase):
    """The form of the authors' PyTorch code, inside nnU-Net, with its names of layers.

    Args:
        num_classes: outputs of a head.
        in_channels: channels of the picture.
        widths: channels of the nodes at each resolution; each but the first begins with a strided convolution.

    Raises:
        ValueError: fewer than two widths.
    """

    shallowest_first = False

    def __init__(
        self,
        *,
        num_classes: int = 3,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64, 128, 256, 480, 480),
    ) -> None:
        depth = len(widths) - 1
        super().__init__(in_channels=in_channels, depth=depth, deep_supervision=True)
        self.conv_blocks_context = nn.ModuleList(
            Stack(before, width, width, stride=2 if i else 1)
            for i, (before, width) in enumerate(zip((in_channels, *widths[:-2]), widths[:-1], strict=True))
        )
        bottom = nn.Sequential(Stack(widths[-2], widths[-1], stride=2), Stack(widths[-1], widths[-1]))
        self.conv_blocks_context.append(bottom)
        for d in range(depth, 0, -1):  # one list for each diagonal, the deepest is the first
            nodes, ups = nn.ModuleList(), nn.ModuleList()
            for j in range(1, d + 1):
                width = widths[d - j]
                nodes.append(nn.Sequential(Stack((j + 1) * width, width), Stack(width, width)))
                ups.append(nn.ConvTranspose2d(widths[d - j + 1], width, 2, stride=2, bias=False))
            self.add_module(f"loc{depth - d}", nodes)
            self.add_module(f"up{depth - d}", ups)
        self.seg_outputs = nn.ModuleList(nn.Conv2d(widths[0], num_classes, 1, bias=False) for _ in range(depth))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, a=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def encoder(self, i: int, x: Tensor) -> Tensor:
        return self.conv_blocks_context[i](x)  # type: ignore[no-any-return]

    def node(self, i: int, j: int, row: Sequence[Tensor], below: Tensor) -> Tensor:
        diagonal = self.depth - i - j
        up = self.get_submodule(f"up{diagonal}.{j - 1}")(below)
        return self.get_submodule(f"loc{diagonal}.{j - 1}")(torch.cat([*row, up], dim=1))  # type: ignore[no-any-return]

    def head(self, j: int, x: Tensor) -> Tensor:
        return self.seg_outputs[self.depth - j](x)  # type: ignore[no-any-return]


WIDTHS = (32, 64, 128, 256, 512)
unetpp_l1 = published(UNetPP, widths=WIDTHS[:2])
unetpp_l2 = published(UNetPP, widths=WIDTHS[:3])
unetpp_l3 = published(UNetPP, widths=WIDTHS[:4])
unetpp_l4 = published(UNetPP, widths=WIDTHS)
unetpp_l4_ds = published(UNetPP, widths=WIDTHS, deep_supervision=True, free=["sigmoid"])
unetpp_nnunet = published(NNUNetPP)


def _probabilities(num_classes: int) -> Callable[[Tensor], Tensor]:
    return torch.sigmoid if num_classes == 1 else lambda logits: logits.softmax(dim=1)


def ensemble(output: Tensor | Mapping[str, Tensor]) -> Tensor:
    """The accurate mode of Section III-C: the mean of the probabilities that the heads give, [N, K, H, W]."""
    heads = [output] if isinstance(output, Tensor) else list(output.values())
    to_probability = _probabilities(heads[0].shape[1])
    return torch.stack([to_probability(head) for head in heads]).mean(dim=0)


def objective(output: Tensor | Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Half the cross-entropy minus the Dice coefficient, added over the heads: a scalar.

    Args:
        output: logits [N, K, H, W], or those of several heads.
        target: classes [N, H, W], long. With K = 1, 1 is the object and 0 the rest.
    """
    total = torch.zeros((), device=target.device)
    for logits in [output] if isinstance(output, Tensor) else output.values():
        classes = logits.shape[1]
        probability = _probabilities(classes)(logits)
        if classes == 1:
            truth = target[:, None].to(logits)
            entropy = F.binary_cross_entropy_with_logits(logits, truth)
        else:
            truth = F.one_hot(target, classes).movedim(-1, 1).to(logits)
            entropy = F.cross_entropy(logits, target)
        dice = (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
        total = total + 0.5 * entropy - dice
    return total
