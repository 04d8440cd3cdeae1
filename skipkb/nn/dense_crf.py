r"""The fully connected conditional random field behind the first two DeepLabs: borders from colours.

A network's scores are smooth. The field adds what the picture knows: pixels that are near, or near and of one colour,
should have one label. Every pair of pixels has a term, with Gaussian kernels of positions p and colours I:

.. math::  E(x) = \sum_i \theta_i(x_i) + \sum_{i<j} [x_i \neq x_j]\, \Bigl( w_1\,
           e^{-\frac{|p_i - p_j|^2}{2\sigma_\alpha^2} - \frac{|I_i - I_j|^2}{2\sigma_\beta^2}}
           + w_2\, e^{-\frac{|p_i - p_j|^2}{2\sigma_\gamma^2}} \Bigr)

Its best labelling is out of reach; its marginals are approximated by *mean field*. Each pixel's distribution Q is
fitted to the expectation of all others, again and again,

.. math::  Q_i(l) \propto \exp\Bigl( -\theta_i(l) + \sum_m w_m \sum_{j \ne i} k_m(f_i, f_j)\, Q_j(l) \Bigr).

The inner sum over all pixels is a Gaussian filter. :class:`ExactFilter` computes it with all pairs. Large pictures need
:class:`Permutohedral`, which costs as much as there are pixels: values are spread to the corners of a lattice of
simplices in the space of the features, blurred there along its axes, and collected again.

P. Krähenbühl, V. Koltun: "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. A.
Adams, J. Baek, M. A. Davis: "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ExactFilter", "Permutohedral", "dense_crf", "features_of", "mean_field", "normalised"]

Filter = Callable[[Tensor], Tensor]
"""Values [L, P] of P pixels -> for each pixel the sum of all values, weighted by a kernel: [L, P]."""


class ExactFilter:
    """The Gaussian kernel as a matrix of all pairs.

    Args:
        features: [P, D], each divided by its standard deviation.
        itself: whether a pixel counts among its own neighbours.
    """

    def __init__(self, features: Tensor, *, itself: bool = True) -> None:
        self.kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
        if not itself:
            self.kernel.fill_diagonal_(0)

    def __call__(self, values: Tensor) -> Tensor:
        return values @ self.kernel


class Permutohedral:
    """About a multiple of :class:`ExactFilter`, at a cost that grows with the pixels and not with their square.

    The lattice consists of the points of Z^(D+1) whose coordinates sum to zero and agree modulo D + 1. A pixel lies in
    one simplex, whose D + 1 corners get its value by barycentric weights.

    Args:
        features: [P, D], each divided by its standard deviation.
    """

    def __init__(self, features: Tensor) -> None:
        pixels, d = features.shape
        i = torch.arange(d, device=features.device)
        scaled = features * ((d + 1) * math.sqrt(2 / 3) / torch.sqrt((i + 1) * (i + 2.0)))
        # Into the plane in D + 1 dimensions whose coordinates sum to zero.
        behind = scaled.flip(1).cumsum(1).flip(1)  # sums from each coordinate on
        place = torch.cat([behind, behind.new_zeros(pixels, 1)], dim=1)
        place[:, 1:] -= (i + 1) * scaled
        # The nearest point whose coordinates are multiples of D + 1, brought back into the plane.
        corner = torch.round(place / (d + 1)) * (d + 1)
        excess = torch.round(corner.sum(1, keepdim=True) / (d + 1)).long()
        rank = (place - corner).argsort(dim=1, descending=True, stable=True).argsort(dim=1) + excess
        shift = (rank < 0).long() - (rank > d).long()
        rank, corner = rank + shift * (d + 1), corner + shift * (d + 1)
        # Barycentric weights: differences of neighbours in the order of the ranks.
        ordered = torch.empty_like(place).scatter_(1, rank, (place - corner) / (d + 1))
        first = 1 + ordered[:, -1:] - ordered[:, :1]
        self.weights = torch.cat([first, (ordered[:, :-1] - ordered[:, 1:]).flip(1)], dim=1)
        # The corners' coordinates (the last one follows from the others), each lattice point once.
        k = torch.arange(d + 1, device=features.device)
        steps = torch.where(k[None] <= d - k[:, None], k[:, None], k[:, None] - (d + 1))  # [corner, rank]
        keys = corner.long()[:, None] + steps[:, rank].transpose(0, 1)
        points, index = torch.unique(keys.reshape(-1, d + 1)[:, :d], dim=0, return_inverse=True)
        self.index = index.view(pixels, d + 1)
        self.neighbours = [_neighbours(points, axis) for axis in range(d + 1)]
        self.size = len(points)

    def __call__(self, values: Tensor) -> Tensor:
        labels = len(values)
        spread = (values[:, :, None] * self.weights.to(values.dtype)).flatten(1)
        lattice = values.new_zeros(labels, self.size + 1)  # the last one stands for what is not there
        lattice.index_add_(1, self.index.flatten(), spread)
        for before, after in self.neighbours:
            lattice[:, :-1] = 0.5 * lattice[:, :-1] + 0.25 * (lattice[:, before] + lattice[:, after])
        collected = lattice[:, self.index] * self.weights.to(values.dtype)
        return collected.sum(dim=2)


def _neighbours(points: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The two neighbours of each point, [M, D] and in order, along an axis, by number; M where there is none."""
    count, d = points.shape
    step = torch.ones(d, dtype=torch.long, device=points.device)
    if axis < d:
        step[axis] = -d
    least = points.amin(0) - d - 1
    extent = points.amax(0) + d + 2 - least
    unit = torch.cat([extent.flip(0).cumprod(0).flip(0)[1:], extent.new_ones(1)])
    if float(torch.log2(extent.double()).sum()) > 62:
        raise ValueError(f"Permutohedral: features that spread over {extent.tolist()} lattice points are too many")
    codes = ((points - least) * unit).sum(1)
    found = []
    for sign in (-1, 1):
        wanted = ((points + sign * step - least) * unit).sum(1)
        place = torch.searchsorted(codes, wanted).clamp(max=count - 1)
        found.append(torch.where(codes[place] == wanted, place, count))
    return found[0], found[1]


def normalised(kernel: Filter, pixels: Tensor) -> Filter:
    """The kernel divided on both sides by the root of its row sums, so that a weight has the same meaning everywhere.

    Args:
        kernel: any filter.
        pixels: values [L, P], for their number and type.
    """
    root = kernel(torch.ones_like(pixels[:1])).clamp(min=1e-20).rsqrt()
    return lambda values: root * kernel(root * values)


def mean_field(unaries: Tensor, kernels: Sequence[tuple[float, Filter]], *, iterations: int = 10) -> Tensor:
    """Distributions of all pixels after so many rounds, all at once: energies [L, P] -> probabilities [L, P].

    Args:
        unaries: the energy of each label at each pixel, such as minus the logarithm of a network's probability.
        kernels: each with its weight.
        iterations: rounds; none is the softmax of the unaries.
    """
    q = torch.softmax(-unaries, dim=0)
    for _ in range(iterations):
        messages = [weight * kernel(q) for weight, kernel in kernels]
        q = torch.softmax(sum(messages, start=-unaries), dim=0)
    return q


def features_of(picture: Tensor, position_std: float, colour_std: float | None = None) -> Tensor:
    """[C, H, W] -> [HW, 2 or 2 + C]: position and perhaps colour of each pixel, over their standard deviations."""
    height, width = picture.shape[1:]
    rows = torch.arange(height, device=picture.device).repeat_interleave(width)
    columns = torch.arange(width, device=picture.device).repeat(height)
    place = torch.stack([rows, columns], dim=1).to(picture.dtype) / position_std
    return place if colour_std is None else torch.cat([place, picture.flatten(1).T / colour_std], dim=1)


@torch.no_grad()
def dense_crf(
    probabilities: Tensor,
    picture: Tensor,
    *,
    iterations: int = 10,
    position_weight: float = 3.0,
    position_std: float = 1.0,
    colour_weight: float = 4.0,
    colour_position_std: float = 67.0,
    colour_std: float = 3.0,
    exact: bool = False,
) -> Tensor:
    """A network's probabilities, sharpened by the picture. The kernels are normalised, as in Krähenbühl's code.

    Args:
        probabilities: [L, H, W].
        picture: [C, H, W] with values from 0 to 255, which ``colour_std`` refers to.
        iterations: of mean field.
        position_weight, position_std: of the kernel of positions, w2 and its deviation in pixels.
        colour_weight, colour_position_std, colour_std: of the kernel of positions and colours, w1 and its deviations.
        exact: all pairs of pixels, for small pictures.

    Returns:
        [L, H, W].

    Raises:
        ValueError: sizes that differ.
    """
    if probabilities.dim() != 3 or picture.dim() != 3 or probabilities.shape[1:] != picture.shape[1:]:
        raise ValueError(
            f"dense_crf: expected [L, H, W] and [C, H, W] of one size, got {list(probabilities.shape)} "
            f"and {list(picture.shape)}"
        )
    make: Callable[[Tensor], Filter] = ExactFilter if exact else Permutohedral
    unaries = -probabilities.clamp(min=1e-12).log().flatten(1)
    kernels = [
        (position_weight, features_of(picture, position_std)),
        (colour_weight, features_of(picture, colour_position_std, colour_std)),
    ]
    filters = [(weight, normalised(make(features), unaries)) for weight, features in kernels if weight]
    return mean_field(unaries, filters, iterations=iterations).view_as(probabilities)
