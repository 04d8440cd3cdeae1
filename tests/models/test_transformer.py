"""Transformer: a shortcut around every sublayer, a normalisation behind it, a decoder that cannot look ahead."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.models.beyond import transformer
from skipkb.models.beyond.transformer import Attention, DecoderLayer, EncoderLayer, Residual, Transformer

SMALL: dict[str, Any] = {"vocabulary": 11, "num_layers": 2, "d_model": 16, "heads": 4, "d_ff": 24}


def small(**change: Any) -> Transformer:
    return Transformer(**(SMALL | change)).double().eval()


def words(*shape: int) -> Tensor:
    return torch.randint(1, 11, shape)


def silence(model: nn.Module) -> None:
    """Every sublayer gives zero."""
    for part in model.modules():
        if isinstance(part, transformer.Attention):
            nn.init.zeros_(part.out.weight)
        elif isinstance(part, transformer.FeedForward):
            nn.init.zeros_(part.linear2.weight)
            nn.init.zeros_(part.linear2.bias)


# --- the shortcut ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_without_its_sublayers_the_network_only_normalises_what_it_read() -> None:
    model = small(num_layers=5)
    silence(model)
    source, target = words(3, 7), words(3, 5)
    wanted = [F.layer_norm(model.embed(read), [16]) for read in (source, target)]
    torch.testing.assert_close(model.encode(source), wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(source, target), wanted[1] @ model.embedding.weight.T, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_normalisation_stands_behind_the_addition() -> None:
    layer = EncoderLayer(16, 4, 24, 0.1).double().eval()
    x = 5 + 3 * torch.randn(2, 6, 16, dtype=torch.float64)
    for output in (layer(x), layer.residual1(x, torch.randn_like(x))):
        torch.testing.assert_close(output.mean(2), torch.zeros(2, 6, dtype=torch.float64), rtol=0, atol=1e-9)
        torch.testing.assert_close(
            output.var(2, correction=0), torch.ones(2, 6, dtype=torch.float64), rtol=0, atol=1e-4
        )
    branch = torch.randn_like(x)
    torch.testing.assert_close(layer.residual1(x, branch), F.layer_norm(x + branch, [16], eps=transformer.EPSILON))


def test_dropout_acts_on_the_branch_and_not_on_the_shortcut() -> None:
    residual = Residual(16, 0.5).double().train()
    residual.norm = nn.Identity()  # type: ignore[assignment]
    x, branch = torch.randn(2, 4, 50, 16, dtype=torch.float64).unbind(0)
    added = residual(x, branch) - x
    dropped = added.abs() < 1e-12
    assert 0.3 < dropped.double().mean() < 0.7
    torch.testing.assert_close(added[~dropped], 2 * branch[~dropped])


def test_two_shortcuts_in_an_encoder_layer_and_three_in_a_decoder_layer() -> None:
    kinds = [
        [sum(isinstance(part, Residual) for part in layer.modules()) for layer in layers]
        for layers in (small().encoder, small().decoder)
    ]
    assert kinds == [[2, 2], [3, 3]]


# --- what a place may know ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_later_word_changes_no_earlier_output() -> None:
    model = small()
    source, target = words(1, 5), words(1, 6)
    before = model(source, target)
    for place in range(6):
        other = target.clone()
        other[0, place] = target[0, place] % 10 + 1
        moved = (model(source, other) - before).abs().amax(2)[0]
        assert (moved[:place] == 0).all()
        assert moved[place:].min() > 1e-6, "the word itself and all that follow know of it"


@torch.no_grad()
def test_every_word_of_the_source_is_seen_everywhere() -> None:
    model = small()
    source, target = words(1, 5), words(1, 6)
    before = model(source, target)
    for place in range(5):
        other = source.clone()
        other[0, place] = source[0, place] % 10 + 1
        assert (model(other, target) - before).abs().amax(2).min() > 1e-6


@torch.no_grad()
def test_only_the_sinusoids_know_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    source, target = torch.arange(1, 8)[None], words(1, 4)
    backwards = source.flip(1)
    assert (model(source, target) - model(backwards, target)).abs().max() > 1e-3
    monkeypatch.setattr(transformer, "positions", lambda length, d_model, device: torch.zeros(length, d_model))
    torch.testing.assert_close(model.encode(backwards), model.encode(source).flip(1))
    torch.testing.assert_close(model(backwards, target), model(source, target))


def test_the_sinusoids_by_hand() -> None:
    found = transformer.positions(9, 6)
    for place in range(9):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert found[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


@torch.no_grad()
def test_words_that_fill_up_a_batch_change_nothing() -> None:
    model = small()
    source, target = words(2, 5), words(2, 4)
    padded = torch.cat([source, words(2, 3)], dim=1)
    padding = torch.tensor([[False] * 5 + [True] * 3] * 2)
    torch.testing.assert_close(model(padded, target, padding), model(source, target))
    assert (model(padded, target) - model(source, target)).abs().max() > 1e-4


# --- attention and its layers ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_attention_is_the_mean_of_values_with_the_weights_it_shows() -> None:
    attention = Attention(16, 4).double()
    x, memory = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    seen = torch.rand(5, 7) < 0.7
    seen[:, 0] = True
    weights = attention.weights(x, memory, seen)
    assert weights.shape == (2, 4, 5, 7)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 4, 5, dtype=torch.float64))
    assert (weights[..., ~seen] == 0).all()
    heads = []
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        q, k, v = x @ attention.query.weight[part].T, memory @ attention.key.weight[part].T, attention.value(memory)
        scores = (q @ k.transpose(1, 2) / 4**0.5).masked_fill(~seen, -math.inf)
        torch.testing.assert_close(scores.softmax(2), weights[:, head])
        heads.append(weights[:, head] @ v[..., part])
    torch.testing.assert_close(attention(x, memory, seen), attention.out(torch.cat(heads, dim=2)))


def give(theirs: nn.MultiheadAttention, ours: Attention) -> None:
    """Our weights for theirs, which has biases besides."""
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.out_proj.weight.copy_(ours.out.weight)
    nn.init.zeros_(theirs.in_proj_bias)
    nn.init.zeros_(theirs.out_proj.bias)


def move_norms(layer: nn.Module) -> None:
    for part in layer.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)


def same(ours: nn.Module, theirs: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for mine, other in pairs:
        for name in ("weight", "bias"):
            theirs.get_submodule(other).get_parameter(name).copy_(ours.get_submodule(mine).get_parameter(name))


OPTIONS: dict[str, Any] = {
    "dropout": 0.0,
    "batch_first": True,
    "norm_first": False,
    "layer_norm_eps": transformer.EPSILON,
    "dtype": torch.float64,
}
FEED_FORWARD = [("feed_forward.linear1", "linear1"), ("feed_forward.linear2", "linear2")]


def test_an_encoder_layer_is_that_of_pytorch() -> None:
    ours = EncoderLayer(16, 4, 24, 0.0).double()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, **OPTIONS)
    move_norms(ours)
    with torch.no_grad():
        give(theirs.self_attn, ours.attention)
        same(ours, theirs, [*FEED_FORWARD, *((f"residual{i}.norm", f"norm{i}") for i in (1, 2))])
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    found, wanted = ours(x, ~padding[:, None, None]), theirs(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], wanted[~padding])
    weight = torch.randn_like(found) * ~padding[..., None]
    gradients = [torch.autograd.grad((output * weight).sum(), x)[0] for output in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_a_decoder_layer_is_that_of_pytorch() -> None:
    ours = DecoderLayer(16, 4, 24, 0.0).double()
    theirs = nn.TransformerDecoderLayer(16, 4, 24, **OPTIONS)
    move_norms(ours)
    with torch.no_grad():
        give(theirs.self_attn, ours.attention)
        give(theirs.multihead_attn, ours.cross_attention)
        same(ours, theirs, [*FEED_FORWARD, *((f"residual{i}.norm", f"norm{i}") for i in (1, 2, 3))])
    x, memory = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    x.requires_grad_()
    memory.requires_grad_()
    before = torch.ones(5, 5, dtype=torch.bool).tril()
    outputs = ours(x, memory, before), theirs(x, memory, tgt_mask=~before)
    torch.testing.assert_close(*outputs)
    weight = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad((output * weight).sum(), [x, memory]) for output in outputs]
    torch.testing.assert_close(*gradients)


# --- embedding, loss and learning rate ------------------------------------------------------------------------------


@torch.no_grad()
def test_one_matrix_is_the_embedding_of_both_and_the_output() -> None:
    model = small()
    assert [name for name, p in model.named_parameters() if 11 in p.shape] == ["embedding.weight"]
    one = torch.tensor([[4]])
    torch.testing.assert_close(model.embed(one)[0, 0], 4 * model.embedding.weight[4] + transformer.positions(1, 16)[0])


def test_the_loss_by_hand() -> None:
    output, target = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(0, 5, (2, 3))
    found = []
    for n in range(2):
        for place in range(3):
            wanted = [0.1 / 5 + (0.9 if k == target[n, place] else 0) for k in range(5)]
            assert sum(wanted) == pytest.approx(1)
            total = sum(math.exp(value) for value in output[n, place].tolist())
            found.append(-sum(w * (output[n, place, k].item() - math.log(total)) for k, w in enumerate(wanted)))
    assert transformer.objective(output, target).item() == pytest.approx(sum(found) / 6)
    plain = F.cross_entropy(output.reshape(6, 5), target.reshape(6))
    torch.testing.assert_close(transformer.objective(output, target, smoothing=0.0), plain)


def test_the_learning_rate_grows_in_a_line_and_falls_with_the_root() -> None:
    rates = [transformer.learning_rate(step) for step in range(1, 16001)]
    assert rates[999] == pytest.approx(1000 * rates[0])
    assert max(rates) == rates[3999] == pytest.approx((512 * 4000) ** -0.5)
    assert rates[15999] == pytest.approx(rates[3999] / 2)
    assert transformer.learning_rate(4000, d_model=128) == pytest.approx(2 * rates[3999])
    with pytest.raises(ValueError, match="counted from 1, got step=0"):
        transformer.learning_rate(0)


# --- structure, initial values, bad input ---------------------------------------------------------------------------


def test_published_models() -> None:
    with torch.device("meta"):
        base, big = transformer.transformer_base(), transformer.transformer_big()
        assert transformer.transformer_base(vocabulary=100).embedding.num_embeddings == 100
    for model, width, dropout in ((base, 512, 0.1), (big, 1024, 0.3)):
        assert len(model.encoder) == len(model.decoder) == 6
        assert model.embedding.weight.shape == (37000, width)
        layer = model.decoder[0]
        assert isinstance(layer, DecoderLayer)
        assert width // layer.attention.heads == 64
        assert layer.feed_forward.linear1.out_features == 4 * width
        assert {part.p for part in model.modules() if isinstance(part, nn.Dropout)} == {dropout}


def test_initial_values() -> None:
    model = Transformer(vocabulary=500, num_layers=1, d_model=128, heads=4, d_ff=512)
    assert model.embedding.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            edge = math.sqrt(6 / (part.in_features + part.out_features))
            assert 0.99 * edge < part.weight.abs().max() <= edge
            assert part.weight.std().item() == pytest.approx(edge / 3**0.5, rel=0.03)
            assert part.bias is None or not part.bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "d_model must be even and a multiple of heads, got d_model=16 and heads=3"),
        ({"d_model": 15, "heads": 5}, "must be even"),
        ({"vocabulary": 0}, "sizes must be positive, got vocabulary=0"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
    ],
)
def test_numbers_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(**(SMALL | change))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (words(2, 3, 4), words(2, 3), r"expected source of whole numbers \[N, L\] .* got \[2, 3, 4\]"),
        (torch.rand(2, 3), words(2, 3), "expected source of whole numbers .* torch.float32"),
        (words(2, 3), words(6), r"expected target .* got \[6\]"),
        (words(2, 3), words(2, 0), r"L at least 1, got \[2, 0\]"),
        (words(2, 3), words(3, 3), "as many targets as sources, got 3 and 2"),
    ],
)
def test_bad_input(source: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small()(source, target)


def test_a_word_that_is_not_in_the_vocabulary() -> None:
    with pytest.raises(IndexError):
        small()(torch.tensor([[11]]), words(1, 1))


@torch.no_grad()
def test_source_and_target_may_have_any_length() -> None:
    assert small()(words(2, 9), words(2, 3)).shape == (2, 3, 11)
    assert small()(words(1, 1), words(1, 70)).shape == (1, 70, 11)
