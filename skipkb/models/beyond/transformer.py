r"""Transformer: attention alone translates, and every sublayer has a shortcut around it.

An *encoder* reads the source sentence, a *decoder* writes the target one word after the other (Figure 1). Both are
stacks of layers, and a layer is made of sublayers: attention, in which every position asks all others,

.. math::  \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\bigl(Q K^\top / \sqrt{d_k}\bigr) V

(equation 1), in h heads on projections of their own, and a network of two layers that treats every position alone
(equation 2). Attention in the decoder is masked, so that a position sees none after it; a second attention there asks
the output of the encoder. The shortcut is the identity around each sublayer, and the normalisation comes after the
addition (Sections 3.1 and 5.4),

.. math::  x \leftarrow \mathrm{LayerNorm}\bigl(x + \mathrm{Dropout}(\mathrm{Sublayer}(x))\bigr) .

So the path is not clean: each addition is normalised, also on the shortcut. Later Transformers moved the normalisation
into the branch. Attention does not know the order of what it reads; sinusoids are added to the embeddings to tell it
(Section 3.5), and only the shortcuts carry them upwards. One matrix is the embedding of both languages and the weight
of the output (Section 3.4).

A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser, I. Polosukhin: "Attention Is All You
Need", NeurIPS 2017, arXiv:1706.03762.

Deviations from the paper:

- Weights start uniform with a variance of 2 / (fan-in + fan-out), embeddings normal with a variance of 1 / d, biases at
  zero: the paper gives no initial values.
- The smoothed label gives the right word its share of what is spread, as Inception-v3 has it; the paper gives the value
  0.1 and cites that work.
- ``source_padding`` hides words that only fill up a batch; the paper does not say how its batches are filled up.

Where the paper gives no figure: the epsilon of a normalisation is 1e-6. Projections of attention and the output have no
bias, since equations and text have none. Which word stands for the beginning is for the data to say.

The authors' library has this network as ``transformer_base_v1``; what it calls ``transformer_base`` since then
normalises the input of each sublayer instead, and drops out inside of attention and feed-forward networks too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipkb.nn.published import published

__all__ = [
    "Attention", "DecoderLayer", "EncoderLayer", "FeedForward", "Residual", "Transformer", "learning_rate", "objective",
    "positions", "transformer_base", "transformer_big",
]  # fmt: skip

EPSILON = 1e-6
"""Of every layer normalisation."""
SMOOTHING = 0.1
"""Probability that is spread over the vocabulary, epsilon_ls (Section 5.4)."""


def positions(length: int, d_model: int, *, device: torch.device | None = None) -> Tensor:
    """Sinusoids [length, d_model]: even channels are sines, odd ones cosines of the same frequency (Section 3.5).

    Wavelengths grow from 2 pi to 10000 times that.
    """
    even = torch.arange(0, d_model, 2, device=device, dtype=torch.float32)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * 10000.0 ** (-even / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class Attention(nn.Module):
    """Multi-head attention (Section 3.2): each place of x asks all places of the memory.

    Args:
        d_model: channels, a multiple of the heads.
        heads: number of heads h; each has d_model / h channels.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor | None = None) -> Tensor:
        """x: [N, L, d_model], memory: [N, S, d_model] -> [N, L, d_model].

        ``seen`` is true where a place may look, and fits [N, h, L, S]; None: everywhere.
        """
        # softmax(q k^T / sqrt(d_k)) v in each head
        found = F.scaled_dot_product_attention(
            self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory)), attn_mask=seen
        )
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def weights(self, x: Tensor, memory: Tensor, seen: Tensor | None = None) -> Tensor:
        """Where each place looks, for pictures: [N, h, L, S], and every row sums to one."""
        q, k = self._split(self.query(x)), self._split(self.key(memory))
        scores: Tensor = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        return scores.softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        """[N, L, d_model] -> [N, h, L, d_model / h]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, the same at every place (equation 2): [N, L, d_model] -> the same."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """What stands at the end of every sublayer: the addition of its input, and after it the normalisation."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(d_model, eps=EPSILON)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x: input of the sublayer, branch: its output, both [N, L, d_model] -> [N, L, d_model]."""
        return self.norm(x + self.dropout(branch))  # type: ignore[no-any-return]  # the skip


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with its shortcut (Figure 1, left)."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads)
        self.residual1 = Residual(d_model, dropout)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.residual2 = Residual(d_model, dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """[N, S, d_model] -> [N, S, d_model]; ``seen`` as in :class:`Attention`."""
        x = self.residual1(x, self.attention(x, x, seen))
        x = self.residual2(x, self.feed_forward(x))
        return x


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the encoder's output, feed-forward network (Figure 1, right)."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads)
        self.residual1 = Residual(d_model, dropout)
        self.cross_attention = Attention(d_model, heads)
        self.residual2 = Residual(d_model, dropout)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.residual3 = Residual(d_model, dropout)

    def forward(self, x: Tensor, memory: Tensor, before: Tensor, seen: Tensor | None = None) -> Tensor:
        """x: [N, L, d_model], memory: [N, S, d_model] -> [N, L, d_model].

        ``before`` is true where a place of x may look in x; ``seen``, where it may look in the memory.
        """
        x = self.residual1(x, self.attention(x, x, before))
        x = self.residual2(x, self.cross_attention(x, memory, seen))
        x = self.residual3(x, self.feed_forward(x))
        return x


class Transformer(nn.Module):
    """Embedding, positions, encoder, decoder, and the embedding again as output (Figure 1).

    Args:
        vocabulary: number of words, the same for both languages.
        num_layers: layers N of the encoder, and of the decoder.
        d_model: channels.
        heads: heads h of every attention.
        d_ff: width of the feed-forward networks.
        dropout: P_drop, of each branch before the addition and of the embeddings.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self, *, vocabulary: int = 37000, num_layers: int, d_model: int, heads: int, d_ff: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if min(vocabulary, num_layers, d_model, heads, d_ff) < 1:
            raise ValueError(
                f"Transformer: sizes must be positive, got vocabulary={vocabulary}, num_layers={num_layers}, "
                f"d_model={d_model}, heads={heads} and d_ff={d_ff}"
            )
        if d_model % heads or d_model % 2:
            raise ValueError(
                f"Transformer: d_model must be even and a multiple of heads, got d_model={d_model} and heads={heads}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"Transformer: dropout must be at least 0 and below 1, got {dropout}")
        self.d_model = d_model
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderLayer(d_model, heads, d_ff, dropout) for _ in range(num_layers))
        self.decoder = nn.ModuleList(DecoderLayer(d_model, heads, d_ff, dropout) for _ in range(num_layers))
        self.apply(_init_weights)

    def forward(self, source: Tensor, target: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Logits of the next word at every place of the target: [N, L, vocabulary].

        Args:
            source: words, LongTensor [N, S].
            target: the target one place later, behind a word for the beginning, LongTensor [N, L]. Place i sees the
                places up to i, so it knows all words before the one that it is to find.
            source_padding: true where the source is filled up, BoolTensor [N, S].

        Raises:
            ValueError: source and target are not two batches of as many sentences.
            IndexError: a word is not in the vocabulary.
        """
        seen = None if source_padding is None else ~source_padding[:, None, None]
        return self.decode(target, self.encode(source, seen), seen)

    def encode(self, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """The memory: [N, S] -> [N, S, d_model]."""
        x = self.embed(source, "source")
        for layer in self.encoder:
            x = layer(x, seen)
        return x

    def decode(self, target: Tensor, memory: Tensor, seen: Tensor | None = None) -> Tensor:
        """Logits [N, L, vocabulary] of a target [N, L], given the memory [N, S, d_model]."""
        x = self.embed(target, "target")
        if len(target) != len(memory):
            raise ValueError(f"Transformer: expected as many targets as sources, got {len(target)} and {len(memory)}")
        before = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).tril()
        for layer in self.decoder:
            x = layer(x, memory, before, seen)
        return F.linear(x, self.embedding.weight)

    def embed(self, words: Tensor, name: str = "words") -> Tensor:
        """Embeddings times sqrt(d_model), and positions: [N, L] -> [N, L, d_model]."""
        if words.dim() != 2 or words.shape[1] < 1 or words.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"Transformer: expected {name} of whole numbers [N, L] with L at least 1, "
                f"got {list(words.shape)} of {words.dtype}"
            )
        x = self.embedding(words) * math.sqrt(self.d_model)
        return self.dropout(x + positions(words.shape[1], self.d_model, device=words.device).to(x.dtype))  # type: ignore[no-any-return]


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def objective(output: Tensor, target: Tensor, *, smoothing: float = SMOOTHING) -> Tensor:
    """Cross-entropy with smoothed labels, averaged over all words: a scalar (Section 5.4).

    Args:
        output: logits [N, L, K].
        target: words [N, L], long.
        smoothing: the right word is asked for with 1 - smoothing + smoothing / K, any other with smoothing / K.
    """
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), label_smoothing=smoothing)


def learning_rate(step: int, *, d_model: int = 512, warmup_steps: int = 4000) -> float:
    """Rate of Adam at ``step``, counted from 1: it grows in a line, then falls with the root (equation 3).

    Raises:
        ValueError: there is no step before the first.
    """
    if step < 1 or warmup_steps < 1:
        raise ValueError(f"learning_rate: steps are counted from 1, got step={step} and warmup_steps={warmup_steps}")
    return float(d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5))


# Table 3; dropout 0.3 is that of English to German
transformer_base = published(
    Transformer, num_layers=6, d_model=512, heads=8, d_ff=2048, dropout=0.1, free=["vocabulary", "dropout"]
)
transformer_big = published(
    Transformer, num_layers=6, d_model=1024, heads=16, d_ff=4096, dropout=0.3, free=["vocabulary", "dropout"]
)
