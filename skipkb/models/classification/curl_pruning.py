r"""CURL: pruning that goes through the skip, too.

The output channels of a block are tied: the skip adds them to those of the block before, and so on down the stage, so
that a channel can go everywhere or nowhere. Most pruning therefore thins out the inside of the blocks only and leaves
hourglasses. CURL removes tied channels as one, and a block becomes a wallet, open at both ends.

How much is channel :math:`c` worth? Set it to zero in every layer that makes it, and see how far the network's answer
moves, on a few hundred pictures :math:`x_i`:

.. math::  s_c = \frac 1 N \sum_i D_{\mathrm{KL}}\bigl(p(x_i \mid c = 0) \,\|\, p(x_i)\bigr)

The scores of all layers are of one kind, tied or not, and are compared across the network: the lowest are removed, as
many as wanted. A layer that has only three tenths of its channels left keeps them. The rest is fine-tuned. Where data
is short, more pictures are mixed from few (:func:`mixup`), the old network is the teacher (:func:`distillation`), and
at last the teacher's answers are corrected while the small network learns from them (:func:`refinement`).

:func:`prune` takes any network of convolutions, normalisations and linear layers: :class:`Channels` watches one forward
pass, on shapes only. What it cannot follow, such as a grouped convolution, keeps all its channels.

J.-H. Luo, J. Wu: "Neural Network Pruning with Residual-Connections and Limited-Data", CVPR 2020, pp. 1458-1467,
arXiv:1911.08114.

Deviations from the paper, as in the authors' code: the order of the divergence's two arguments, the three tenths, and
what is left alone (the stem, and the features that the classifier reads). Of the paper's ways to make many pictures
out of few, only the mixing of two is here.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.classification.resnet import ResNet
from skipkb.nn.objectives import cross_entropy as objective
from skipkb.skips.channels import Channel, Channels

__all__ = [
    "curl_resnet", "curl_resnet50", "curl_resnet50_cub200", "distillation", "importance", "lowest",
    "mixup", "objective", "prune", "refinement", "remove",
]  # fmt: skip


def prune(
    model: nn.Module, pictures: Tensor, *, discard: int, keep: float = 0.3, leave: Collection[str] | None = None
) -> nn.Module:
    """A smaller copy of a classifier, without the channels that matter least to its answers.

    Args:
        model: a trained network; it stays as it is.
        pictures: [N, C, H, W], some hundreds (the authors take 256), as the network wants them.
        discard: how many of the lowest scores are candidates to go; the limit ``keep`` protects some of them.
        keep: share of its channels below which a layer gives no more.
        leave: names of layers that keep their channels; by default as in :class:`Channels`.

    Raises:
        ValueError: fewer than zero or more channels than there are to discard, or a name that does not exist.
    """
    channels = Channels(model, pictures.shape, leave)
    scores = importance(model, channels, pictures)
    return remove(model, channels, lowest(channels, scores, discard=discard, keep=keep))


@torch.no_grad()
def importance(model: nn.Module, channels: Channels, pictures: Tensor) -> list[list[float]]:
    """The divergence that each channel's absence causes, layer by layer as in ``channels.layers``.

    One forward pass of all pictures for each channel. Weights and modes of the model are restored, also when it fails.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scores: list[list[float]] = []
    with _answering(model):
        complete = F.log_softmax(model(pictures), dim=1)
        for layer in channels.layers:
            scores.append([])
            for channel in layer:
                places = [(parameters[name], index) for name, index in channel.made if name in parameters]
                before = [parameter[index].clone() for parameter, index in places]
                try:
                    for parameter, index in places:
                        parameter[index] = 0
                    without = F.log_softmax(model(pictures), dim=1)
                finally:
                    for (parameter, index), value in zip(places, before, strict=True):
                        parameter[index] = value
                divergence = F.kl_div(complete, without, reduction="batchmean", log_target=True)
                scores[-1].append(divergence.item())
    return scores


@contextlib.contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def lowest(channels: Channels, scores: Sequence[Sequence[float]], *, discard: int, keep: float = 0.3) -> set[Channel]:
    """The channels to remove: those of the ``discard`` lowest scores, except in layers that are down to ``keep``."""
    ranked = sorted((score, number, place) for number, layer in enumerate(scores) for place, score in enumerate(layer))
    if not 0 <= discard <= len(ranked):
        raise ValueError(f"lowest: discard must be from 0 to {len(ranked)}, the channels that may go; got {discard}")
    left = [len(layer) for layer in channels.layers]
    gone = set()
    for _, number, place in ranked[:discard]:
        layer = channels.layers[number]
        if left[number] / len(layer) >= keep:
            left[number] -= 1
            gone.add(layer[place])
    return gone


def remove(model: nn.Module, channels: Channels, gone: Collection[Channel]) -> nn.Module:
    """A copy of the model without these channels, whose output is that of the model with them set to zero."""
    model = copy.deepcopy(model)
    for name, axes in channels.along.items():
        path, _, short = name.rpartition(".")
        layer = model.get_submodule(path)
        tensor = getattr(layer, short)
        small = tensor.detach()
        for axis, along in axes.items():
            stay = [index for index, channel in enumerate(along) if channel not in gone]
            small = small.index_select(axis, torch.tensor(stay, device=small.device))
        if isinstance(tensor, nn.Parameter):
            small = nn.Parameter(small, requires_grad=tensor.requires_grad)
        setattr(layer, short, small)
        if isinstance(layer, nn.Conv2d):
            layer.out_channels = len(layer.weight)
            layer.groups = len(layer.weight) if layer.groups > 1 and 1 not in axes else layer.groups
            layer.in_channels = layer.weight.shape[1] * layer.groups
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = len(small)
    return model


# ---------------------------------------------------------------------------------------------- fine-tuning


def mixup(pictures: Tensor, target: Tensor, *, alpha: float = 1.0) -> tuple[Tensor, Tensor, Tensor, float]:
    """Each picture mixed with another one of the batch: pictures, both classes, and the share of the first."""
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    order = torch.randperm(len(pictures), device=pictures.device)
    return share * pictures + (1 - share) * pictures[order], target, target[order], share


def distillation(output: Tensor, teacher: Tensor, loss: Tensor, *, temperature: float = 2.0) -> Tensor:
    """0.7 parts the teacher's answer, softened by the temperature, and 0.3 parts the loss on the classes.

    Args:
        output, teacher: logits [N, K] of the pruned network and of the one before pruning.
        loss: of the same pictures' classes; of mixed ones, the two losses mixed in the same way.
    """
    hard, soft = F.log_softmax(output / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return 0.7 * temperature**2 * F.kl_div(hard, soft, reduction="batchmean", log_target=True) + 0.3 * loss


def refinement(output: Tensor, noisy: Tensor, target: Tensor) -> Tensor:
    """The loss of the last stage, which also corrects the teacher's answers.

    Args:
        output: logits [N, K] of the network.
        noisy: what the teacher said, logits [N, K]: rows of an ``nn.Embedding.from_pretrained(logits, freeze=False)``,
            which a plain SGD step with a large rate corrects along with the network.
        target: classes [N].
    """
    found, said = F.log_softmax(output, dim=1), F.log_softmax(noisy, dim=1)
    divergence = F.kl_div(said, found, reduction="batchmean", log_target=True)
    return 0.7 * divergence + 0.3 * F.cross_entropy(output, target)


# ------------------------------------------------------------------------------- the networks that they published


def curl_resnet(
    *,
    layers: Sequence[int],
    widths: Sequence[int],
    kept: Mapping[str, int],
    num_classes: int = 1000,
    in_channels: int = 3,
) -> nn.Module:
    """A bottleneck ResNet whose named convolutions keep only some of their channels.

    Args:
        layers, widths, num_classes, in_channels: of the ResNet, see :class:`ResNet`.
        kept: channels left by the name of a convolution, or of one of those whose channels are tied.

    Raises:
        ValueError: a name whose channels cannot go, or more channels than there are.
    """  # fmt: skip
    model = ResNet(block="bottleneck", layers=layers, widths=widths, num_classes=num_classes, in_channels=in_channels)
    channels = Channels(model, (1, in_channels, 32, 32))
    by_name = {name: layer for layer in channels.layers for name in layer[0].makers}
    gone: set[Channel] = set()
    for name, count in kept.items():
        if name not in by_name or not 0 < count <= len(by_name[name]):
            raise ValueError(
                f"curl_resnet: {name} cannot keep {count} channels; it has {len(by_name.get(name, []))} that may go"
            )
        gone.update(by_name[name][count:])
    return remove(model, channels, gone)


def _resnet50(sums: Sequence[int], inside: Sequence[Sequence[int]], *, num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-50 with these channels at the skips of each stage, and in each of its blocks, conv1 before conv2."""
    kept = {f"layer{stage}.0.conv3": count for stage, count in enumerate(sums, 1)}
    for stage, counts in enumerate(inside, 1):
        for place, count in enumerate(counts):
            kept[f"layer{stage}.{place // 2}.conv{place % 2 + 1}"] = count
    return curl_resnet(
        layers=(3, 4, 6, 3), widths=(64, 128, 256, 512), kept=kept, num_classes=num_classes, in_channels=in_channels
    )


def curl_resnet50(*, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """ResNet-50 pruned for ImageNet. The widths are those of the authors' released model."""
    inside = [(43, 41, 19, 25, 19, 62), (92, 102, 38, 44, 38, 52, 38, 46), (203, 148, *[76] * 10), [153] * 6]
    return _resnet50((212, 345, 390), inside, num_classes=num_classes, in_channels=in_channels)


def curl_resnet50_cub200(*, num_classes: int = 200, in_channels: int = 3) -> nn.Module:
    """ResNet-50 pruned for CUB-200. The widths are those in the authors' training log."""
    inside = [
        (39, 42, 19, 22, 21, 55),
        (83, 89, 38, 56, 38, 60, 38, 38),
        (165, 140, *[76] * 10),
        (191, 155, 204, 218, 258, 203),
    ]
    return _resnet50((203, 327, 425), inside, num_classes=num_classes, in_channels=in_channels)
