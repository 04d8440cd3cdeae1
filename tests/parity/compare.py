"""What every parity test does: give two builds of one network the same weights, and compare what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scramble(model: nn.Module) -> None:
    """Give every batch normalisation statistics and scales of its own, so that no two layers are alike."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)


def in_order(ours: nn.Module, state: Mapping[str, Tensor], *, late: str = "") -> dict[str, Tensor]:
    """Our names for a state dict with other names whose tensors come in the same order, with the same shapes.

    Args:
        ours: Our network.
        state: Their state dict.
        late: Theirs lists the tensors with this in our name behind the others of the same block.
    """
    wanted = ours.state_dict()
    blocks: dict[str, list[str]] = {}
    for name in wanted:
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(name)
    names = [name for block in blocks.values() for name in sorted(block, key=lambda name: late in name)]
    assert [value.shape for value in state.values()] == [wanted[name].shape for name in names]
    return dict(zip(names, state.values(), strict=True))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, relative to the largest value of theirs."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def same_runs(
    ours: nn.Module, theirs: nn.Module, x: Tensor, *, output: float = 1e-5, gradient: float = 1e-4, double: bool = False
) -> None:
    """Assert equal outputs in eval mode, and equal gradients of one batch in training mode.

    Args:
        ours, theirs: Two classifiers with the same weights. Theirs gets copies.
        x: Pictures, ``(N, C, H, W)``.
        output, gradient: Largest relative difference allowed.
        double: Take the gradients in float64, where float32 leaves too much rounding: with a normalisation over few
            values, or a bias in front of one.

    The gradients compared are those of the picture, and of every parameter when both have the same names or order.
    """
    theirs.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()}, assign=True)
    with torch.inference_mode():
        found, wanted = ours.eval()(x), theirs.eval()(x)
    assert found.shape == wanted.shape
    assert difference(found, wanted) < output
    dtype = torch.float64 if double else x.dtype
    pictures = []
    for net in (ours, theirs):
        torch.manual_seed(2)  # the same dropout
        y = x.to(dtype).detach().requires_grad_()
        F.cross_entropy(net.to(dtype).train()(y), torch.arange(len(x)) + 1).backward()
        pictures.append(y.grad)
    assert_close(pictures[:1], pictures[1:], gradient)
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    if mine.keys() == others.keys():
        others = {name: others[name] for name in mine}
    if [p.shape for p in mine.values()] == [p.shape for p in others.values()]:
        assert_close([p.grad for p in mine.values()], [p.grad for p in others.values()], gradient)


def assert_close(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None], limit: float) -> None:
    """Assert that two lists of gradients differ by less than the limit, each relative to its largest value.

    One smaller than a millionth of the largest is measured by that: a bias before a normalisation gets rounding only.
    """
    floor = max(grad.abs().max().item() for grad in theirs if grad is not None) / 1e6
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine is None or other is None:
            assert mine is other, f"gradient {number} is missing on one side"
        else:
            error = ((mine - other).abs().max() / other.abs().max().clamp(min=floor)).item()
            assert error < limit, f"gradient {number} differs by {error:.2g}"
