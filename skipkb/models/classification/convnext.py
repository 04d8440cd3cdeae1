r"""ConvNeXt: a ResNet rebuilt, one decision at a time, after the model of the Swin Transformer.

Vision transformers brought many habits at once. Which of them make a network strong without attention? The paper
walks from ResNet-50 to ConvNeXt-T: blocks distributed 3:3:9:3 over the stages, a stem that cuts the picture into 4x4
patches, depthwise convolutions (they mix positions, as attention does, and leave channels alone), an inverted
bottleneck, kernels of 7x7 in front of it, one activation and one normalisation per block, and separate layers for
down-sampling (Section 2). What remains of the residual block is (Figure 4)

.. math::  y = x + \gamma \odot W_2\, \mathrm{GELU}\bigl(W_1\, \mathrm{LN}(D_{7 \times 7}\, x)\bigr)

with a depthwise convolution D, matrices W1 and W2 that act on the channels of each pixel (1x1 convolutions), and a
factor :math:`\gamma` per channel, the *layer scale*. It starts at 1e-6, so that every block begins as nearly the
identity. The skip carries the input around all of this and nothing acts on the sum. The layers that halve the
resolution have no skip.

Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie: "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.

Deviations from the paper: none known. Stochastic depth is a matter of the recipe (0.1 for T, 0.4 for S and 0.5 for B,
Table 5) and off unless ``drop_path_rate`` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from skipkb.nn.input_check import check_pictures
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.nn.published import published

__all__ = ["Block", "ConvNeXt", "convnext_base", "convnext_small", "convnext_tiny", "objective"]

EPSILON = 1e-6
"""Of every layer normalisation."""


class Block(nn.Module):
    """Depthwise 7x7, normalisation, four times as many channels, GELU, back, layer scale, and the input added.

    The 1x1 convolutions are written as matrix products on channels-last maps, like the authors do: layer normalisation
    wants the channels last as well, and one change of layout serves all three.

    Args:
        dim: channels of input and output.
        drop_path: probability that a picture skips the block in training.
        layer_scale_init_value: start of the factors gamma; 0 leaves them out.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, layer_scale_init_value: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init_value)) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, dim, H, W] -> [N, dim, H, W]."""
        return x + self.drop_path(self.function(x))  # type: ignore[no-any-return]  # the skip

    def function(self, x: Tensor) -> Tensor:
        """What the block adds to its input."""
        x = self.dwconv(x)
        x = self.norm(x.permute(0, 2, 3, 1))
        x = self.pwconv2(self.act(self.pwconv1(x)))
        if self.gamma is not None:
            x = self.gamma * x
        return x.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patches, stages of blocks with a down-sampling layer between them, average, classifier (Table 9).

    Args:
        depths: blocks per stage.
        dims: channels of each stage.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first one.
        layer_scale_init_value: start of the factors gamma; 0 leaves them out.
        num_classes: outputs of the classifier.
        in_channels: channels of the picture.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims) or not depths or min(*depths, *dims) < 1:
            raise ValueError(
                "ConvNeXt: depths and dims need one positive number per stage each, "
                f"got depths={tuple(depths)} and dims={tuple(dims)}"
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"ConvNeXt: drop_path_rate must be at least 0 and below 1, got {drop_path_rate}")
        if layer_scale_init_value < 0:
            raise ValueError(
                "ConvNeXt: layer_scale_init_value must be positive, or 0 for no layer scale, "
                f"got {layer_scale_init_value}"
            )
        self.in_channels = in_channels
        self.smallest = 4 * 2 ** (len(dims) - 1)
        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        last, done = max(sum(depths) - 1, 1), 0
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            if i == 0:
                layers = [nn.Conv2d(in_channels, dim, 4, stride=4), LayerNorm2d(dim, eps=EPSILON)]
            else:  # the normalisation comes first here: without it training diverges (Section 2.6)
                layers = [LayerNorm2d(dims[i - 1], eps=EPSILON), nn.Conv2d(dims[i - 1], dim, 2, stride=2)]
            self.downsample_layers.append(nn.Sequential(*layers))
            rates = [drop_path_rate * (done + j) / last for j in range(depth)]
            done += depth
            self.stages.append(
                nn.Sequential(
                    *(Block(dim, drop_path=rate, layer_scale_init_value=layer_scale_init_value) for rate in rates)
                )
            )
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """x: pictures [N, in_channels, H, W] -> logits [N, num_classes].

        Any H and W of at least 32; rows and columns that fill no patch are left out. The paper has 224 x 224.

        Raises:
            ValueError: x is not a batch of pictures with in_channels channels, or too small.
        """
        check_pictures("ConvNeXt", x, self.in_channels, least=self.smallest)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        logits: Tensor = self.head(self.norm(x.mean(dim=(2, 3))))
        return logits


def _init_weights(module: nn.Module) -> None:
    """Appendix A: truncated Gaussians of standard deviation 0.02, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


# As deep and wide as Swin-T, Swin-S and Swin-B.
# fmt: off
convnext_tiny = published(ConvNeXt, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768), free=["drop_path_rate"])
convnext_small = published(ConvNeXt, depths=(3, 3, 27, 3), dims=(96, 192, 384, 768), free=["drop_path_rate"])
convnext_base = published(ConvNeXt, depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024), free=["drop_path_rate"])
# fmt: on
