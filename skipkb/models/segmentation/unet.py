r"""U-Net: a contracting and an expansive path, joined by four long skip connections.

The contracting path sees ever more context at ever lower resolution; the expansive path brings the result
back to full resolution. What pooling threw away on the way down cannot be recovered from below, so at every
resolution the last feature map of the contracting path is cropped and *concatenated* with the upsampled one:

.. math::  x_l^{up} = f_l\bigl([\,\mathrm{crop}(x_l^{down}),\; \mathrm{up}(x_{l+1}^{up})\,]\bigr),
           \qquad l = 4, 3, 2, 1

All convolutions are valid (unpadded), so every output pixel is computed from real image content only. The
output is therefore smaller than the input (572 x 572 gives 388 x 388), the skips must be cropped, and an
image of any size can be segmented seamlessly in overlapping tiles (:func:`overlap_tile`).

Training minimises a pixel-wise softmax cross-entropy whose weights balance the classes and emphasise the
thin gaps between touching cells (equations 1 and 2, with :math:`d_1, d_2` the distances to the borders of the
nearest and the second nearest cell):

.. math::  E = \sum_x w(x)\,\bigl(-\log p_{\ell(x)}(x)\bigr), \qquad
           w(x) = w_c(x) + w_0 \exp\Bigl(-\frac{(d_1(x) + d_2(x))^2}{2\sigma^2}\Bigr)

O. Ronneberger, P. Fischer, T. Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, LNCS 9351, pp. 234-241, arXiv:1505.04597.

Deviations from the paper:

- The energy is averaged over the pixels of the batch where equation 1 sums: a constant factor, which keeps
  the learning rate independent of the tile size.

Where the paper gives no figure: the drop-out ratio is 0.5 and drop-out sits at the end of the two deepest
levels of the contracting path, so that the deepest skip carries dropped-out features; :math:`w_c` is inverse
class frequency; biases start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNet", "objective", "overlap_tile", "unet", "weight_map"]


class DoubleConv(nn.Module):
    """Two valid 3x3 convolutions, each followed by ReLU. [N, C, H, W] -> [N, C', H-4, W-4]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return F.relu(self.conv2(x))


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the middle [size[0], size[1]] out of the last two dimensions of x.

    In a U-Net the difference in size is always even, so both sides lose the same number of pixels and the
    crop lies exactly over the map it is joined with.
    """
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


class UpBlock(nn.Module):
    """One step of the expansive path: up-convolution, the long skip, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upconv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.convs = DoubleConv(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x: [N, C', h, w] from below, skip: [N, C, H, W] with H >= 2h -> [N, C, 2h-4, 2w-4]."""
        x = self.upconv(x)
        x = torch.cat([centre_crop(skip, x.shape[-2:]), x], dim=1)  # the skip
        x = self.convs(x)
        return x


class UNet(nn.Module):
    """U-Net of Figure 1 of the paper.

    Args:
        in_channels: channels of the picture; 1 in the paper.
        num_classes: channels of the output; 2 in the paper (cell, background).
        widths: feature channels per resolution, from full to lowest. One pooling between neighbours.
        dropout: probability of zeroing a feature at the two deepest levels, in training only.

    Raises:
        ValueError: fewer than two widths, or a drop-out probability outside [0, 1).
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"UNet: widths needs at least two resolutions, got {tuple(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"UNet: dropout must lie in [0, 1), got {dropout}")
        self.in_channels = in_channels
        self.depth = len(widths) - 1
        self.down = nn.ModuleList(
            DoubleConv(c_in, c_out) for c_in, c_out in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(
            UpBlock(below, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], num_classes, kernel_size=1)
        self.apply(_init_weights)

    @property
    def margin(self) -> int:
        """Pixels that the output is smaller than the input, on each side (92 for the paper's depth)."""
        return 6 * (1 << self.depth) - 4

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless every pooling meets an even size and at least one output pixel is left.

        Legal edges are ``2^d * k - 4`` (572 for d = 4), no shorter than what leaves an output.
        """
        step = 2**self.depth
        smallest = 2 * self.margin + 1
        smallest += (-4 - smallest) % step  # smallest + 4 is a multiple of step
        for name, edge in (("height", height), ("width", width)):
            if edge < smallest or (edge + 4) % step:
                below = max(smallest, (edge + 4) // step * step - 4)
                raise ValueError(
                    f"UNet: input {name} {edge} does not fit the {self.depth} poolings of unpadded maps; "
                    f"legal sizes are {step}*k - 4 from {smallest} on, "
                    f"the nearest are {below} and {below + step} "
                    f"(an output is {2 * self.margin} smaller; overlap_tile takes any size)"
                )

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, H, W] -> logits [N, num_classes, H - 2*margin, W - 2*margin].

        Raises:
            ValueError: the size does not fit, see :meth:`check_size`.
        """
        self.check_size(x.shape[-2], x.shape[-1])
        skips: list[Tensor] = []
        for level, convs in enumerate(self.down):
            x = convs(x if level == 0 else self.pool(x))
            if level >= self.depth - 1:  # the end of the contracting path
                x = self.dropout(x)
            skips.append(x)
        x = skips.pop()  # the lowest resolution goes on; the others wait for their partner
        for block in self.up:
            x = block(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits


def _init_weights(module: nn.Module) -> None:
    """Section 3: Gaussian with standard deviation sqrt(2/N), N the incoming nodes of one neuron."""
    if isinstance(module, nn.Conv2d):
        incoming = module.in_channels * math.prod(module.kernel_size)
    elif isinstance(module, nn.ConvTranspose2d):
        # With stride = kernel each output pixel has one input pixel, hence in_channels incoming nodes.
        incoming = module.in_channels
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def unet(
    *,
    in_channels: int = 1,
    num_classes: int = 2,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    dropout: float = 0.5,
) -> UNet:
    """The published network: 572 x 572 -> 388 x 388."""
    return UNet(in_channels=in_channels, num_classes=num_classes, widths=widths, dropout=dropout)


def weight_map(mask: Tensor, *, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """Equation 2: the weight of every pixel in the loss.

    Args:
        mask: integer labels of single cells [H, W] or [N, H, W], 0 for background, so that touching cells can
            be told apart. The training target is ``(mask > 0).long()``.
        w0: height of the border term.
        sigma: its width in pixels.

    Returns:
        float32 weights of the same shape. Class balance alone has mean 1; where an image holds fewer than two
        cells, there is no second distance and the border term is zero.

    Raises:
        ValueError: mask is not an integer tensor of two or three dimensions.
    """
    from scipy import ndimage  # only training needs it

    if mask.dim() == 3:
        return torch.stack([weight_map(m, w0=w0, sigma=sigma) for m in mask])
    if mask.dim() != 2 or mask.is_floating_point() or mask.is_complex():
        raise ValueError(f"weight_map: mask must be integer [H, W] or [N, H, W], got {mask.dtype} {list(mask.shape)}")
    foreground = mask > 0
    share = foreground.float().mean()
    # Both classes get the same total weight, and one class alone gets weight 1.
    balance = torch.where(foreground, 0.5 / share, 0.5 / (1 - share)) if 0 < share < 1 else torch.ones_like(share)
    weights = balance.expand(mask.shape).float()

    labels = mask.cpu().numpy()
    distances = []
    for label in sorted(set(labels[labels > 0].tolist())):
        cell = labels == label
        border = cell & ~ndimage.binary_erosion(cell, border_value=1)  # the image's edge is not a border
        if border.any():
            distances.append(torch.from_numpy(ndimage.distance_transform_edt(~border)))
    if len(distances) >= 2:
        d1, d2 = torch.stack(distances).topk(2, dim=0, largest=False).values.to(weights)
        weights = weights + w0 * torch.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


def objective(output: Tensor, target: Tensor | Sequence[Tensor]) -> Tensor:
    """Equation 1: softmax cross-entropy, weighted pixel by pixel, averaged over pixels.

    Args:
        output: logits [N, K, H, W].
        target: classes [N, H, W] (long), or a pair of those and weights [N, H, W] from :func:`weight_map`.
    """
    classes, weights = (target, None) if isinstance(target, Tensor) else (target[0], target[1])
    if classes.shape != output.shape[:1] + output.shape[2:]:
        raise ValueError(
            f"objective: target {list(classes.shape)} does not cover the output {list(output.shape)}; "
            "crop the mask to the centre that the valid convolutions leave"
        )
    energy = F.cross_entropy(output, classes, reduction="none")
    return (energy if weights is None else weights * energy).mean()


@torch.no_grad()
def overlap_tile(model: UNet, image: Tensor, *, tile: int = 388) -> Tensor:
    """Section 2, Figure 2: segment an image of any size, seamlessly, with missing context mirrored.

    Args:
        model: the network, in eval mode (drop-out would make seams).
        image: [N, C, H, W], any H, W of at least 2 pixels.
        tile: output pixels per tile and axis; legal input size minus twice the margin (388 for 572).

    Returns:
        logits [N, K, H, W]. Neighbouring tiles start a multiple of 2^depth pixels apart, so that all of them
        pool on one common grid: the result is the one of a single pass over the whole image, whatever the
        tile.

    Raises:
        ValueError: tile is too small or does not fit the poolings.
    """
    margin, grid = model.margin, 2**model.depth
    model.check_size(tile + 2 * margin, tile + 2 * margin)
    step = tile // grid * grid
    if step == 0:
        raise ValueError(f"overlap_tile: tile {tile} is below the pooling grid of {grid} pixels")
    height, width = image.shape[-2:]
    tops, lefts = (range(0, size, step) for size in (height, width))
    rows = _mirror(height, margin, tops[-1] + tile + margin).to(image.device)
    columns = _mirror(width, margin, lefts[-1] + tile + margin).to(image.device)
    padded = image[..., rows, :][..., columns]
    window = tile + 2 * margin
    stripes = []
    for top in tops:
        row = [model(padded[..., top : top + window, left : left + window]) for left in lefts]
        stripes.append(torch.cat([logits[..., :step, :step] for logits in row], dim=-1))
    return torch.cat(stripes, dim=-2)[..., :height, :width]


def _mirror(size: int, before: int, end: int) -> Tensor:
    """Indices -before .. end-1 into an axis of ``size`` pixels, reflected at its two edge pixels."""
    period = 2 * (size - 1)
    index = torch.arange(-before, end).abs() % period
    return torch.where(index < size, index, period - index)
