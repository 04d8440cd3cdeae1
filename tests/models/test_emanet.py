"""EMANet: bases of unit length, a map of their rank, an average that moves, and the input added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skipkb.models.segmentation import emanet as module
from skipkb.models.segmentation.emanet import EMAU, EMANet, objective

SMALL = {"layers": (1, 1, 2, 3), "widths": (4, 4, 8, 8), "channels": 8, "bases": 4, "num_classes": 3}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def unit(channels: int = 12, **options: int) -> EMAU:
    return EMAU(channels, **({"bases": 4} | options)).double()  # type: ignore[arg-type]


def pixels(channels: int = 12) -> Tensor:
    return torch.randn(2, channels, 5, 6, dtype=torch.float64)


def test_expectation_and_maximisation_by_hand() -> None:
    emau, x = unit(), pixels().flatten(2)
    mu, z = emau.expectation_maximisation(x)
    for n in range(2):
        bases = [emau.mu[0, :, k] for k in range(4)]
        for _ in range(3):
            shares = []
            for p in range(30):
                powers = torch.stack([(x[n, :, p] @ base).exp() for base in bases])
                shares.append(powers / powers.sum())
            bases = []
            for k in range(4):
                mean = torch.stack([shares[p][k] * x[n, :, p] for p in range(30)]).sum(0)
                bases.append(mean / mean.norm())
        torch.testing.assert_close(mu[n], torch.stack(bases, dim=1), rtol=0, atol=1e-5)  # epsilon of the divisions
        torch.testing.assert_close(z[n], torch.stack(shares), rtol=0, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_bases_have_unit_length_after_every_number_of_steps(iterations: int) -> None:
    emau = unit(iterations=iterations)
    mu, z = emau.expectation_maximisation(100 * pixels().flatten(2))
    assert mu.shape == (2, 12, 4)
    torch.testing.assert_close(mu.norm(dim=1), torch.ones(2, 4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.sum(dim=2), torch.ones(2, 30, dtype=torch.float64))
    torch.testing.assert_close(emau.mu.norm(dim=1), torch.ones(1, 4, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bases", [1, 3, 7])
def test_what_is_rebuilt_has_the_rank_of_the_bases_at_most(bases: int) -> None:
    emau, x = unit(bases=bases).eval(), pixels()
    assert torch.linalg.matrix_rank(x[0].flatten(1)) == 12
    rebuilt = emau.rebuild(x)
    ranks = [int(torch.linalg.matrix_rank(y.flatten(1))) for y in rebuilt]
    assert ranks == [bases, bases]
    if bases == 1:  # then all pixels are one vector
        torch.testing.assert_close(rebuilt, rebuilt[..., :1, :1].expand_as(rebuilt))


def test_the_first_bases_are_a_moving_average_over_the_batches() -> None:
    emau, x = unit(), pixels()
    before = emau.mu.clone()
    mu, _ = emau.expectation_maximisation(x.flatten(2))
    emau.eval().rebuild(x)
    assert torch.equal(emau.mu, before)
    emau.train().rebuild(x)
    torch.testing.assert_close(emau.mu, 0.9 * before + 0.1 * mu.mean(dim=0, keepdim=True))
    assert "mu" in emau.state_dict()
    assert "mu" not in dict(emau.named_parameters())


def test_bases_of_one_picture_do_not_depend_on_the_others() -> None:
    emau, x = unit().eval(), pixels()
    torch.testing.assert_close(emau(x)[1:], emau(x[1:]))


def test_positions_in_another_order_come_out_in_that_order() -> None:
    emau, x = unit().eval(), pixels()
    order = torch.randperm(30)
    other = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(emau(other), emau(x).flatten(2)[:, :, order].view_as(x))


def test_the_cost_grows_with_the_pixels_and_not_with_their_square() -> None:
    emau = EMAU(16, bases=8).to("meta").eval()
    costs = []
    for width in (20, 40, 60):
        with FlopCounterMode(display=False) as counter:
            emau(torch.empty(1, 16, 10, width, device="meta"))
        costs.append(counter.get_total_flops())
    assert costs[1] == 2 * costs[0]
    assert costs[2] == 3 * costs[0]


def test_the_input_is_added() -> None:
    emau, x = unit().eval(), pixels()
    expected = F.relu(emau.conv2(F.relu(emau.rebuild(emau.conv1(x)))) + x)
    torch.testing.assert_close(emau(x), expected)
    nn.init.zeros_(emau.get_parameter("conv2.1.weight"))
    assert torch.equal(emau(x), F.relu(x))


def test_no_gradient_passes_the_steps_unless_asked() -> None:
    x = pixels()
    frozen, learning = unit(), unit(em_gradient=True)
    learning.load_state_dict(frozen.state_dict())
    assert [name for name, p in frozen.named_parameters() if not p.requires_grad] == ["conv1.weight", "conv1.bias"]
    torch.testing.assert_close(frozen(x), learning(x))
    torch.testing.assert_close(frozen.mu, learning.mu)
    for emau in (frozen, learning):
        emau(x).square().sum().backward()
    assert frozen.conv1.weight.grad is None
    assert learning.conv1.weight.grad is not None
    assert learning.conv1.weight.grad.abs().max() > 0


def test_the_skip_is_the_only_way_of_a_gradient_to_the_trunk() -> None:
    emau, x = unit().eval(), pixels().requires_grad_()
    emau(x).sum().backward()
    added = emau.conv2(F.relu(emau.rebuild(emau.conv1(x)))) + x
    assert x.grad is not None
    assert torch.equal(x.grad, (added > 0).double())  # that of the sum and the last ReLU, and nothing else
    assert not emau.rebuild(x).requires_grad


def test_how_it_starts() -> None:
    emau = EMAU(64, bases=16)
    torch.testing.assert_close(emau.mu.norm(dim=1), torch.ones(1, 16), rtol=0, atol=1e-4)
    model = EMANet(**SMALL)  # type: ignore[arg-type]
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {3e-4}


def test_the_published_network() -> None:
    with torch.device("meta"):
        model = module.emanet_resnet50()
        assert model(torch.empty(1, 3, 65, 97)).shape == (1, 21, 65, 97)
    assert model.emau.mu.shape == (1, 512, 64)
    assert model.emau.iterations == 3


def test_the_trunk_is_that_of_the_authors_code() -> None:
    model = EMANet(**SMALL)  # type: ignore[arg-type]
    rates = [
        [m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for stage in list(model.extractor)[4:]
    ]
    assert rates == [[1], [1], [1, 2], [2, 8, 16]]
    stem = [m for m in model.extractor[0].modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in stem] == [(4, 3, 2), (4, 3, 1), (8, 3, 1)]


def test_the_corner_pixels_of_both_maps_lie_on_each_other() -> None:
    model = EMANet(**SMALL).eval()  # type: ignore[arg-type]
    x = torch.rand(1, 3, 41, 49)
    small = model.fc2(model.fc1(model.emau(model.fc0(model.extractor(x)))))
    assert small.shape[2:] == (6, 7)
    torch.testing.assert_close(model(x)[..., ::8, ::8], small)


def test_pixels_without_a_label_count_in_the_average() -> None:
    logits, classes = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(objective(logits, classes), F.cross_entropy(logits, classes))
    classes[:, :1] = 255
    kept = F.cross_entropy(logits[:, :, 1:], classes[:, 1:])
    torch.testing.assert_close(objective(logits, classes), kept * 3 / 4)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="EMANet: layers and widths need one positive number per stage each"):
        EMANet(**SMALL | {"layers": (1, 1)})  # type: ignore[arg-type]
    for change in ({"bases": 0}, {"iterations": 0}, {"channels": 1}, {"layers": (1,), "widths": (8,)}):
        with pytest.raises(ValueError, match="EMANet: there must be four stages, one base, one iteration and two chan"):
            EMANet(**SMALL | change)  # type: ignore[arg-type]
    model = EMANet(**SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"EMANet: expected input \[N, 3, H, W\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))
    assert model.eval()(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    with pytest.raises(TypeError):
        module.emanet_resnet50(num_clases=2)
