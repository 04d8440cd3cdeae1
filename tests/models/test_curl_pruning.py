"""CURL: tied channels go together, the scores are divergences, and what is removed was as good as zero before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipkb
from skipkb.evidence.contract import resolve
from skipkb.models.classification import curl_pruning, densenet, i_resnet, resnet
from skipkb.models.classification.curl_pruning import curl_resnet, importance, lowest, prune, remove
from skipkb.skips.channels import Channel, Channels


def scramble(model: nn.Module) -> nn.Module:
    """So that a normalisation moves its input, and no channel is zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def small_resnet() -> nn.Module:
    return scramble(resnet.ResNet(block="bottleneck", layers=(2, 2), widths=(4, 8), num_classes=5))


@torch.no_grad()
def zeroed(model: nn.Module, gone: set[Channel]) -> nn.Module:
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for channel in gone:
        for name, index in channel.made:
            if name in parameters:
                parameters[name][index] = 0
    return model


# --- tied channels ------------------------------------------------------------------------------------------


def test_a_skip_ties_the_channels_of_its_stage() -> None:
    channels = Channels(small_resnet(), (1, 3, 64, 64))
    makers = [layer[0].makers for layer in channels.layers]
    assert makers == [
        ("layer1.0.conv1",),
        ("layer1.0.conv2",),
        ("layer1.0.conv3", "layer1.0.downsample.0", "layer1.1.conv3"),  # the wallet's open end
        ("layer1.1.conv1",),
        ("layer1.1.conv2",),
        ("layer2.0.conv1",),
        ("layer2.0.conv2",),
        ("layer2.1.conv1",),
        ("layer2.1.conv2",),
    ]  # not among them: the stem, and what the classifier reads


def test_without_skips_nothing_is_tied() -> None:
    plain = resnet.ResNet(block="bottleneck", layers=(2, 2), widths=(4, 8), num_classes=5, residual=False)
    assert {len(layer[0].makers) for layer in Channels(plain, (1, 3, 64, 64)).layers} == {1}


def networks() -> list[str]:
    """Every method of ours that classifies, by its own small configuration."""
    return [e.key for e in skipkb.entries() if e.smoke and e.smoke.data == "classification" and e.key != "curl_pruning"]


SOME_TO_REMOVE = {"densenet", "drn", "mobilenet_v2", "preact_resnet", "pyramidnet", "resnet", "resnext", "senet", "wrn"}
"""Others group their convolutions, split maps, normalise along channels or compute their weights, and may keep all."""


@pytest.mark.parametrize("key", networks())
def test_removed_is_the_same_as_zero(key: str) -> None:
    """On all our networks: half of the channels removed gives the answer of the network with these set to zero."""
    smoke: Any = skipkb.get(key).smoke
    model = scramble(resolve(smoke.build)(**smoke.kwargs))
    x = torch.randn(2, *smoke.input[1:])
    channels = Channels(model, x.shape)
    gone = {channel for layer in channels.layers for channel in layer[1::2]}
    found, wanted = remove(model, channels, gone)(x), zeroed(model, gone)(x)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    if key in SOME_TO_REMOVE:
        assert gone, f"{key}: nothing can be removed"


def test_unknown_operations_keep_their_channels() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.last, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sort(self.conv(self.stem(x)), dim=1).values
            out: Tensor = self.fc(self.last(x).mean((2, 3)))
            return out

    assert Channels(Sorted(), (1, 3, 8, 8), leave=()).layers[-1][0].makers == ("last",)
    assert "conv" not in {
        name for layer in Channels(Sorted(), (1, 3, 8, 8), leave=()).layers for name in layer[0].makers
    }


class Between(nn.Module):
    """Something between two convolutions whose channels are asked about."""

    def __init__(self, between: Callable[[Tensor], Tensor], out: int = 8) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 8, 1), nn.Conv2d(out, 4, 1)
        self.between, self.fc = between, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.next(self.between(self.conv(x))).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("between", "out", "may_go"),
    [
        (torch.relu, 8, True),
        (torch.sigmoid, 8, False),  # of zero it is a half
        (lambda x: x * torch.sigmoid(x), 8, True),
        (lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]], 8, False),
        (lambda x: x[:, :, ::2], 8, True),
        (lambda x: x[:, :4], 4, False),
        (lambda x: x.mean(1).mean(2)[:, :, None, None], 8, False),  # eight rows, as many as channels
        (lambda x: x.mean(-3).mean(2)[:, :, None, None], 8, False),
        (lambda x: x.mean((2, 3), keepdim=True), 8, True),
        (lambda x: x + 1, 8, False),
        (lambda x: 2 * x, 8, True),
    ],
)
def test_what_channels_pass_through(between: Callable[[Tensor], Tensor], out: int, may_go: bool) -> None:
    model, x = Between(between, out).eval(), torch.randn(2, 3, 8, 8)
    channels = Channels(model, x.shape, leave=())
    found = {name for layer in channels.layers for name in layer[0].makers}
    assert ("conv" in found) == may_go
    gone = {channel for layer in channels.layers for channel in layer[1::2]}
    torch.testing.assert_close(remove(model, channels, gone)(x), zeroed(model, gone)(x))


def test_zeros_for_new_channels_stay() -> None:
    """Option A copies the old channels of a stage into the next, which so are one, and adds zeros, which are not."""
    model = resnet.resnet_cifar(depth=8, widths=(4, 8, 8), shortcut="A", num_classes=3)
    channels = Channels(model, (1, 3, 32, 32), leave=("conv1",))
    assert all("layer1.0.conv2" not in layer[0].makers for layer in channels.layers)  # tied to the stem by identity
    free = Channels(model, (1, 3, 32, 32), leave=())
    tied = next(layer for layer in free.layers if "layer1.0.conv2" in layer[0].makers)
    assert {"conv1", "layer2.0.conv2", "layer3.0.conv2"} <= set(tied[0].makers)


# --- importance ---------------------------------------------------------------------------------------------


def test_scores_are_divergences_of_the_answers() -> None:
    model = small_resnet()
    x = torch.randn(6, 3, 64, 64)
    channels = Channels(model, x.shape)
    before = copy.deepcopy(model.state_dict())
    scores = importance(model, channels, x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for place in (0, 7):
        channel = channels.layers[2][place]
        with torch.no_grad():
            p, q = F.softmax(zeroed(model, {channel})(x), 1), F.softmax(model(x), 1)
        assert scores[2][place] == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_every_module_stays_in_its_mode(training: bool, fails: bool) -> None:
    """Also a frozen normalisation in a network that trains, and also when the network fails on the way."""
    model = small_resnet().train(training)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.train(not training)
    modes, pictures = [module.training for module in model.modules()], torch.randn(2, 3, 64, 64)
    channels = Channels(model, pictures.shape)
    statistics = norm.running_mean.clone()  # type: ignore[union-attr]
    if fails:
        with pytest.raises(ValueError, match="expected input"):
            importance(model, channels, pictures[:, :2].contiguous())
    else:
        prune(model, pictures, discard=3)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(norm.running_mean, statistics), "scores are taken in eval mode"  # type: ignore[arg-type]


def test_a_dead_channel_scores_nothing_and_goes_first() -> None:
    model = small_resnet()
    channels = Channels(model, (2, 3, 64, 64))
    dead = channels.layers[2][3]
    model = zeroed(model, {dead})
    scores = importance(model, channels, torch.randn(4, 3, 64, 64))
    assert scores[2][3] == pytest.approx(0, abs=1e-7)
    worthless = sum(score <= scores[2][3] for layer in scores for score in layer)
    assert dead in lowest(channels, scores, discard=worthless)
    assert worthless < sum(len(layer) for layer in scores) / 2


def test_weights_return_when_the_model_fails() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = small_resnet(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += x.device.type == "cpu"
            if self.calls > 3:
                raise RuntimeError("out of memory")
            out: Tensor = self.net(x)
            return out

    model = Failing()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="out of memory"):
        importance(model, Channels(model, (2, 3, 64, 64)), torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- selection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cheap", "size", "keep", "left"), [(1, 4, 0.3, 1), (2, 16, 0.3, 4), (2, 16, 0.25, 3)])
def test_layers_compete_until_one_is_down_to_its_share(cheap: int, size: int, keep: float, left: int) -> None:
    """One more goes as long as the share is not below the limit: of 16 channels 5 are 0.31, and 4 are 0.25."""
    channels = Channels(small_resnet(), (2, 3, 64, 64))
    assert len(channels.layers[cheap]) == size
    scores = [[0.0 if number == cheap else 1.0 + place for place in range(len(layer))]
              for number, layer in enumerate(channels.layers)]  # fmt: skip
    gone = lowest(channels, scores, discard=size + 2, keep=keep)
    assert sum(channel in gone for channel in channels.layers[cheap]) == size - left
    assert len(gone) == size - left + 2  # the rest of the cheap ones were candidates, and stayed


def test_the_published_widths_end_where_the_limit_says() -> None:
    """The authors' code removes as long as the share is not below 0.3, and so ends one step under it."""
    with torch.device("meta"):
        model = curl_pruning.curl_resnet50()
    widths = {
        len(m.weight) for name, m in model.named_modules() if name.endswith(("conv1", "conv2")) and "layer" in name
    }
    for width in (64, 128, 256, 512):
        least = next(left for left in range(width, 0, -1) if left / width < 0.3)
        assert least in widths


@pytest.mark.parametrize("discard", [-1, 10_000])
def test_too_many_to_discard(discard: int) -> None:
    with pytest.raises(ValueError, match="discard must be from 0 to"):
        prune(small_resnet(), torch.randn(2, 3, 64, 64), discard=discard)


# --- the whole procedure ------------------------------------------------------------------------------------


def test_prune_makes_a_smaller_network_that_trains() -> None:
    model = small_resnet()
    x = torch.randn(4, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    small = prune(model, x, discard=40)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad for p in small.parameters())
    curl_pruning.objective(small.train()(x), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None for p in small.parameters())
    assert skipkb.trace_skips(small, (1, 3, 64, 64)).counts() == skipkb.trace_skips(model, (1, 3, 64, 64)).counts()


def test_nothing_to_discard_is_the_same_network() -> None:
    model, x = small_resnet(), torch.randn(2, 3, 64, 64)
    assert torch.equal(prune(model, x, discard=0)(x), model(x))


def test_depthwise_and_concatenated_channels_follow() -> None:
    model = scramble(densenet.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3))
    small = prune(model, torch.randn(2, 3, 64, 64), discard=12)
    assert skipkb.trace_skips(small, (1, 3, 64, 64)).counts() == skipkb.trace_skips(model, (1, 3, 64, 64)).counts()


def test_computed_weights_keep_their_channels() -> None:
    smoke: Any = skipkb.get("i_resnet").smoke
    model = resolve(smoke.build)(**smoke.kwargs)
    assert isinstance(model, i_resnet.IResNet)
    assert Channels(model, smoke.input).layers == []


@pytest.mark.parametrize(("name", "classes"), [("curl_resnet50", 1000), ("curl_resnet50_cub200", 200)])
def test_published_networks(name: str, classes: int) -> None:
    with torch.device("meta"):
        model = getattr(curl_pruning, name)()
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, classes)
    with torch.device("meta"):
        whole = resnet.resnet50(num_classes=classes)
    assert list(model.state_dict()) == list(whole.state_dict())


def test_names_that_make_no_channels() -> None:
    with pytest.raises(ValueError, match="conv9 makes no channels; those that do: conv1, layer1"):
        Channels(small_resnet(), (1, 3, 64, 64), leave=["conv9"])
    for kept in ({"layer1.0.conv1": 5}, {"layer1.0.conv1": 0}, {"fc": 1}):
        with pytest.raises(ValueError, match="cannot keep"):
            curl_resnet(layers=(1,), widths=(4,), kept=kept)


# --- fine-tuning --------------------------------------------------------------------------------------------


def test_distillation_is_hintons_loss() -> None:
    output, teacher, target = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    p, q = F.softmax(teacher / 2, 1), F.softmax(output / 2, 1)
    loss = F.cross_entropy(output, target)
    wanted = 0.7 * 4 * (p * (p / q).log()).sum(1).mean() + 0.3 * loss
    assert curl_pruning.distillation(output, teacher, loss).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert curl_pruning.distillation(teacher, teacher, loss).item() == pytest.approx(0.3 * loss.item(), rel=1e-5)


def test_mixup_keeps_both_classes() -> None:
    x, target = torch.randn(6, 3, 4, 4), torch.arange(6)
    mixed, first, second, share = curl_pruning.mixup(x, target)
    assert torch.allclose(mixed, share * x[first] + (1 - share) * x[second])
    assert 0 <= share <= 1
    assert sorted(second.tolist()) == target.tolist()


def test_refinement_is_a_divergence_from_the_teacher() -> None:
    output, noisy, target = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    p, q = F.softmax(output, 1), F.softmax(noisy, 1)
    wanted = 0.7 * (p * (p / q).log()).sum(1).mean() + 0.3 * F.cross_entropy(output, target)
    assert curl_pruning.refinement(output, noisy, target).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_refinement_corrects_a_wrong_teacher() -> None:
    """Where network and classes agree against the teacher, its stored answer moves towards them."""
    target = torch.tensor([0, 1])
    output = 4 * F.one_hot(target, 3).float()
    noisy = nn.Embedding.from_pretrained(4 * F.one_hot(torch.tensor([2, 1]), 3).float(), freeze=False)
    before = noisy.weight.detach().clone()
    optimiser = torch.optim.SGD(noisy.parameters(), lr=1.0)
    for _ in range(30):
        optimiser.zero_grad()
        curl_pruning.refinement(output, noisy(torch.arange(2)), target).backward()
        optimiser.step()
    assert noisy.weight[0].argmax() == 0
    assert torch.allclose(noisy.weight[1], before[1], atol=1e-4)  # was right
