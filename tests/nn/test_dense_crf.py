"""The random field: mean field as its equation says, at the fixed point that it should have, and a fast filter."""

from __future__ import annotations

import itertools

import pytest
import torch
from skimage import data, transform
from torch import Tensor

from skipkb.nn.dense_crf import ExactFilter, Filter, Permutohedral, dense_crf, features_of, mean_field, normalised


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def photograph(size: int) -> Tensor:
    window = transform.resize(data.astronaut()[:200, 100:300], (size, size), anti_aliasing=True)
    return 255 * torch.from_numpy(window).float().permute(2, 0, 1)


def small() -> tuple[Tensor, Tensor, list[tuple[float, Tensor]]]:
    """Three labels on a picture of 2 x 3: energies, kernel matrices without a diagonal, and both with their weights."""
    picture = 10 * torch.rand(3, 2, 3, dtype=torch.float64)
    unaries = torch.randn(3, 6, dtype=torch.float64)
    near, alike = features_of(picture, 1.5), features_of(picture, 2.0, 6.0)
    kernels = [(0.3, ExactFilter(near, itself=False).kernel), (0.6, ExactFilter(alike, itself=False).kernel)]
    return unaries, picture, kernels


def filters(kernels: list[tuple[float, Tensor]]) -> list[tuple[float, Filter]]:
    """Products with the matrices."""

    def product(kernel: Tensor) -> Filter:
        return lambda values: values @ kernel

    return [(weight, product(kernel)) for weight, kernel in kernels]


def test_features_and_kernel_follow_the_equation() -> None:
    picture = 10 * torch.rand(3, 2, 3, dtype=torch.float64)
    kernel = ExactFilter(features_of(picture, 2.0, 6.0)).kernel
    for i, j in itertools.product(range(6), range(6)):
        (y, x), (v, u) = divmod(i, 3), divmod(j, 3)
        place = (y - v) ** 2 + (x - u) ** 2
        colour = (picture[:, y, x] - picture[:, v, u]).square().sum()
        torch.testing.assert_close(kernel[i, j], torch.exp(-place / (2 * 2.0**2) - colour / (2 * 6.0**2)))


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_mean_field_by_hand(iterations: int) -> None:
    unaries, _, kernels = small()
    q = torch.softmax(-unaries, dim=0)
    for _ in range(iterations):
        energy = unaries.clone()
        for i, label in itertools.product(range(6), range(3)):
            for j, other in itertools.product(range(6), range(3)):
                if j != i and other != label:  # a pair pays where its labels differ
                    energy[label, i] += sum(weight * kernel[i, j] * q[other, j] for weight, kernel in kernels)
        q = torch.softmax(-energy, dim=0)
    found = mean_field(unaries, filters(kernels), iterations=iterations)
    torch.testing.assert_close(found, q)


def free_energy(q: Tensor, unaries: Tensor, kernels: list[tuple[float, Tensor]]) -> Tensor:
    """The expected energy minus the entropy, which mean field makes small."""
    total = (q * unaries).sum() + (q * q.log()).sum()
    for weight, kernel in kernels:
        differ = 1 - q.T @ q
        total = total + 0.5 * weight * (kernel * differ).sum()
    return total


def test_mean_field_ends_where_the_free_energy_is_stationary_and_bounds_the_true_one() -> None:
    unaries, _, kernels = small()
    q = mean_field(unaries, filters(kernels), iterations=200)
    logits = q.log().requires_grad_()
    (gradient,) = torch.autograd.grad(free_energy(logits.softmax(0), unaries, kernels), logits)
    assert gradient.abs().max() < 1e-8
    early = mean_field(unaries, filters(kernels), iterations=0).log().requires_grad_()
    (steep,) = torch.autograd.grad(free_energy(early.softmax(0), unaries, kernels), early)
    assert steep.abs().max() > 1e-2
    energies = []
    for labels in itertools.product(range(3), repeat=6):
        energy = unaries[list(labels), range(6)].sum()
        for weight, kernel in kernels:
            energy += sum(weight * kernel[i, j] for i in range(6) for j in range(i + 1, 6) if labels[i] != labels[j])
        energies.append(energy)
    true = -torch.logsumexp(-torch.stack(energies), dim=0)
    bound = free_energy(q, unaries, kernels)
    assert true <= bound < free_energy(torch.softmax(-unaries, dim=0), unaries, kernels)


def test_corners_of_the_lattice_share_a_pixel_out() -> None:
    for dimensions in (2, 5):
        features = 3 * torch.randn(200, dimensions, dtype=torch.float64)
        lattice = Permutohedral(features)
        assert lattice.weights.shape == (200, dimensions + 1)
        assert lattice.weights.min() > -1e-9
        torch.testing.assert_close(lattice.weights.sum(1), torch.ones(200, dtype=torch.float64))


def test_the_lattice_is_one_whatever_the_origin() -> None:
    """A shift by a lattice vector, here (D+1) times a unit of the scaled features, changes nothing but the keys."""
    features = torch.randn(100, 3, dtype=torch.float64)
    values = torch.rand(2, 100, dtype=torch.float64)
    far = torch.cat([features, features + 50])  # two clouds that do not see each other
    both = Permutohedral(far)(torch.cat([values, torch.zeros_like(values)], dim=1))
    torch.testing.assert_close(both[:, :100], Permutohedral(features)(values))
    assert not both[:, 100:].any()


@pytest.mark.parametrize(("position", "colour"), [(3.0, None), (10.0, 20.0), (67.0, 13.0), (67.0, 3.0)])
def test_the_fast_filter_is_near_the_exact_one(position: float, colour: float | None) -> None:
    features = features_of(photograph(40), position, colour)
    values = torch.rand(3, 1600)
    fast, exact = (normalised(kind(features), values)(values) for kind in (Permutohedral, ExactFilter))
    assert (fast - exact).abs().mean() < 0.08 * exact.mean()
    impulse = torch.zeros(1, 1600)
    impulse[0, 820] = 1
    shapes = torch.cat([Permutohedral(features)(impulse), ExactFilter(features)(impulse)])
    assert torch.corrcoef(shapes)[0, 1] > 0.95


def test_the_fast_filter_has_the_right_width() -> None:
    impulse = torch.zeros(1, 1600)
    impulse[0, 820] = 1
    exact = ExactFilter(features_of(photograph(40), 3.0))(impulse)
    likeness = {}
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        fast = Permutohedral(features_of(photograph(40), 3.0 * factor))(impulse)
        likeness[factor] = torch.corrcoef(torch.cat([fast, exact]))[0, 1].item()
    assert max(likeness, key=likeness.__getitem__) == 1.0


def test_the_lattice_does_not_grow_with_the_square() -> None:
    sizes = [Permutohedral(features_of(photograph(n), n / 8, 13.0)).size for n in (24, 48)]
    assert sizes[1] < 6 * 48**2
    assert sizes[1] < 4 * sizes[0]


def test_normalised_rows() -> None:
    features = features_of(photograph(12), 3.0, 20.0).double()
    kernel = ExactFilter(features)
    root = kernel.kernel.sum(0).rsqrt()
    values = torch.rand(2, 144, dtype=torch.float64)
    expected = values @ (root[:, None] * kernel.kernel * root)
    torch.testing.assert_close(normalised(kernel, values)(values), expected)


def test_borders_move_to_where_colours_change_with_both_filters() -> None:
    picture = photograph(40)
    truth = torch.zeros(40, 40)
    truth[:, 17:] = 1
    picture = 0.3 * picture + 110 * truth
    ramp = ((torch.arange(40) - 11.0) / 20).clamp(0.1, 0.9).expand(40, 40)  # its middle is four pixels off
    scores = torch.stack([1 - ramp, ramp])
    found = {exact: dense_crf(scores, picture, colour_std=30.0, exact=exact) for exact in (True, False)}
    for probabilities in found.values():
        torch.testing.assert_close(probabilities.sum(0), torch.ones(40, 40))
        wrong = (probabilities.argmax(0) != truth).float().mean()
        assert wrong < 0.3 * (scores.argmax(0) != truth).float().mean()
    assert (found[True].argmax(0) == found[False].argmax(0)).float().mean() > 0.97
    torch.testing.assert_close(dense_crf(scores, picture, iterations=0), scores)
    torch.testing.assert_close(dense_crf(scores, picture, position_weight=0.0, colour_weight=0.0), scores)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"of one size, got \[2, 4, 4\] and \[3, 4, 5\]"):
        dense_crf(torch.rand(2, 4, 4), torch.rand(3, 4, 5))
    with pytest.raises(ValueError, match="lattice points are too many"):
        Permutohedral(1e6 * torch.randn(4, 5, dtype=torch.float64))
