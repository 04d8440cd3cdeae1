"""DPN: what each of the two paths does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipkb.models.classification import dpn


@pytest.mark.parametrize("name", ["dpn92", "dpn98", "dpn131"])
def test_the_name_counts_the_layers(name: str) -> None:
    with torch.device("meta"):
        model = getattr(dpn, name)()
    main = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "c1x1_w" not in n]
    assert len(main) == int(name.removeprefix("dpn"))


@pytest.mark.parametrize("name", ["dpn92", "dpn98"])
def test_one_path_keeps_its_width_and_the_other_one_grows(name: str) -> None:
    """Table 1: +16, +32, ... behind every block; the residual path has 256, 512, 1024 and 2048 channels."""
    increments = {"dpn92": (16, 32, 24, 128), "dpn98": (16, 32, 32, 128)}[name]
    with torch.device("meta"):
        model = getattr(dpn, name)().eval()
        widths: dict[str, tuple[int, int]] = {}
        for key, module in model.features.named_children():
            if isinstance(module, dpn.DualPathBlock):
                module.register_forward_hook(
                    lambda _m, _x, y, key=key: widths.__setitem__(key, (y[0].shape[1], y[1].shape[1]))
                )
        model(torch.empty(1, 3, 64, 64))
    for key, (residual, dense) in widths.items():
        stage, block = (int(part) for part in key.removeprefix("conv").split("_"))
        assert residual == 256 * 2 ** (stage - 2)
        assert dense == (2 + block) * increments[stage - 2]


def block(projection: int | None = None) -> dpn.DualPathBlock:
    made = dpn.DualPathBlock(12, width=8, residual=8, increment=3, groups=2, projection=projection).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return made


def test_the_residual_path_is_added_to_and_the_dense_path_extended() -> None:
    """Equations 5 to 8, on one block."""
    one = block()
    r, d = torch.randn(2, 8, 5, 5), torch.randn(2, 4, 5, 5)
    y = one.c1x1_c(one.c3x3_b(one.c1x1_a(torch.cat((r, d), 1))))
    residual, dense = one((r, d))
    assert torch.equal(residual, r + y[:, :8])
    assert torch.equal(dense[:, :4], d)  # untouched
    assert torch.equal(dense[:, 4:], y[:, 8:])  # new


def test_an_empty_function_keeps_both_paths() -> None:
    one = block()
    nn.init.zeros_(one.c1x1_c.conv.weight)
    r, d = torch.randn(2, 8, 5, 5), torch.randn(2, 4, 5, 5)
    residual, dense = one((r, d))
    assert torch.equal(residual, r)
    assert torch.equal(dense, torch.cat((d, torch.zeros(2, 3, 5, 5)), 1))


def test_every_block_reads_both_paths() -> None:
    one = block()
    paths = (torch.randn(1, 8, 5, 5, requires_grad=True), torch.randn(1, 4, 5, 5, requires_grad=True))
    new = one(paths)[1][:, 4:]
    for gradient in torch.autograd.grad(new.square().sum(), paths):
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_block_of_a_stage_makes_both_paths_anew(stride: int) -> None:
    residual, dense = block(stride)((torch.randn(2, 12, 7, 9),))
    size = (7, 9) if stride == 1 else (4, 5)
    assert residual.shape == (2, 8, *size)
    assert dense.shape == (2, 3 * 3, *size)  # two increments by the projection, one by the block


@pytest.mark.parametrize("picture", [(64, 64), (33, 47)])
def test_any_picture_size(picture: tuple[int, int]) -> None:
    model = dpn.DPN(layers=(1, 2), increments=(4, 6), width=8, groups=2, stem_width=8, residual=16, num_classes=3)
    assert model(torch.rand(2, 3, *picture)).shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (1,)}, "one positive number per stage each"),
        ({"increments": (4, 0)}, "one positive number per stage each"),
        ({"width": 9}, "width a multiple of groups"),
        ({"groups": 0}, "must be positive"),
        ({"stem_width": 0}, "must be positive"),
    ],
)
def test_mistakes(change: dict[str, object], message: str) -> None:
    right = {"layers": (1, 1), "increments": (4, 4), "width": 8, "groups": 2, "stem_width": 8, "residual": 16}
    with pytest.raises(ValueError, match=message):
        dpn.DPN(**(right | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input \[N, 3, H, W\], got \[1, 1, 8, 8\]"):
        dpn.DPN(**right)(torch.rand(1, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        dpn.dpn92(groups=1)  # type: ignore[call-arg]
