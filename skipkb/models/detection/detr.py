r"""DETR: detection as the prediction of a set, without anchors and without suppression of duplicates.

A fixed number of *object queries*, learned vectors, is turned into as many predictions at once: a class, or "no
object", and a box. Which prediction answers for which object is decided by the cheapest one-to-one assignment
(equation 1), so that a second box on the same object counts as a mistake (equation 2):

.. math::  \hat\sigma = \arg\min_\sigma \sum_i -\mathbf 1_{c_i \ne \varnothing}\, \hat p_{\sigma(i)}(c_i)
           + \mathbf 1_{c_i \ne \varnothing}\, \mathcal L_{box}(b_i, \hat b_{\sigma(i)}), \qquad
           \mathcal L = \sum_i -\log \hat p_{\hat\sigma(i)}(c_i)
           + \mathbf 1_{c_i \ne \varnothing}\, \mathcal L_{box}(b_i, \hat b_{\hat\sigma(i)})

with :math:`\mathcal L_{box} = 5\,\lVert b - \hat b\rVert_1 + 2\,(1 - \mathrm{GIoU}(b, \hat b))`.

The skips: a ResNet, whose blocks add their input to their output, makes one coarse map. A transformer encoder lets its
positions exchange information, and a decoder lets the queries look at it. Every sublayer of either, self-attention,
cross-attention or feed-forward, adds its input to its output, and a normalisation follows:

.. math::  y = \mathrm{LayerNorm}\bigl(x + f(x)\bigr)

Sines and cosines of the position are added to queries and keys, in every layer, and never to values: the sum that the
skips carry stays free of them. For panoptic segmentation a small head makes a mask of each query from its attention
to the map, and three long skips add maps of the ResNet to it while it is enlarged.

N. Carion, F. Massa, G. Synnaeve, N. Usunier, A. Kirillov, S. Zagoruyko: "End-to-End Object Detection with
Transformers", ECCV 2020, arXiv:2005.12872.

Deviations from the paper:

- The class term of the loss is a mean, weighted by 0.1 where there is no object; equation 2 is a sum. So it is in the
  released code.
- A detector has 91 classes, identifiers that COCO does not use included, and the panoptic network 250; the release has
  so many, the paper does not say.
- The mask head takes one softmax over all heads and positions together. So does the release; the paper does not say.
- A batch is of pictures of one size. The release pads smaller ones and hides the padding from attention and encoding.
- All weights can be trained. The release leaves the stem and the first stage as they come from ImageNet.

Masks are not predicted for the earlier decoder layers, nor trained: as in the release, their cost is too high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, box_convert, generalized_box_iou, sigmoid_focal_loss

from skipkb.nn.input_check import check_pictures

__all__ = [
    "DETR", "DETRsegm", "DecoderLayer", "EncoderLayer", "MaskHead", "Trunk", "detr_resnet50", "detr_resnet50_dc5",
    "detr_resnet50_panoptic", "losses", "match", "objective", "sine_encoding",
]  # fmt: skip

NO_OBJECT = 0.1  # weight of the class "no object", which most queries have
L1, GIOU = 5.0, 2.0  # weights of the box losses; the class, and either mask loss, has 1


class Bottleneck(nn.Module):
    """ResNet's block 1x1, 3x3, 1x1 with its input, or a 1x1 projection, added; normalisation is frozen."""

    def __init__(self, *, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, FrozenBatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 width, ceil(H/stride), ceil(W/stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(shortcut + self.bn3(self.conv3(x)))


class Trunk(nn.Module):
    """ResNet without its classifier: [N, 3, H, W] -> the maps of its four stages, with steps of 4 to 32 pixels.

    Args:
        blocks: blocks of each of the four stages.
        width: channels of the stem and of the first stage's 3x3 convolutions.
        dilation: DC5: the last stage keeps the resolution and dilates its convolutions, from its second block on.
    """

    def __init__(self, *, blocks: Sequence[int], width: int, dilation: bool) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"DETR: blocks are four numbers, one or more for each stage, got {tuple(blocks)}")
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.channels = tuple(4 * width * 2**stage for stage in range(4))
        channels = width
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            dilated = dilation and stage == 3
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 and not dilated else 1
                rate = 2 if dilated and i > 0 else 1
                inner = width * 2**stage
                layer.append(Bottleneck(in_channels=channels, width=inner, stride=stride, dilation=rate))
                channels = 4 * inner
            self.add_module(f"layer{stage + 1}", layer)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


def sine_encoding(height: int, width: int, channels: int) -> Tensor:
    """Where each position of a map lies: [H W, channels], the row in the first half, the column in the second.

    A coordinate runs to 2 pi at the far edge, whatever the size of the map; sines and cosines of it alternate, of
    periods that grow geometrically to 10000.
    """
    half = channels // 2
    periods = 10000.0 ** (2 * torch.arange(half).div(2, rounding_mode="floor") / half)
    coded = []
    for size in (height, width):
        angles = (torch.arange(1, size + 1) / (size + 1e-6) * 2 * math.pi)[:, None] / periods
        coded.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=2).flatten(1))
    rows, columns = coded
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=2).flatten(0, 1)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part, each with a skip and a normalisation after it.

    Args:
        dim: channels of a token.
        heads: of the attention.
        hidden: width of the feed-forward part.
        dropout: of attention weights, of the hidden layer and of each output before its skip.
    """

    def __init__(self, *, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: [N, T, dim], position: [T, dim] -> [N, T, dim]."""
        q = k = x + position
        x = self.norm1(x + self.drop(self.self_attn(q, k, x, need_weights=False)[0]))
        x = self.norm2(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))
        return x


class DecoderLayer(EncoderLayer):
    """Self-attention of the queries, attention to the encoder's map, and a feed-forward part; three skips."""

    def __init__(self, *, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(dim=dim, heads=heads, hidden=hidden, dropout=dropout)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm3 = nn.LayerNorm(dim)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, *, query: Tensor, position: Tensor
    ) -> Tensor:
        """x: [N, Q, dim], memory: [N, T, dim], query: [Q, dim], position: [T, dim] -> [N, Q, dim]."""
        q = k = x + query
        x = self.norm1(x + self.drop(self.self_attn(q, k, x, need_weights=False)[0]))
        q, k = x + query, memory + position
        x = self.norm2(x + self.drop(self.multihead_attn(q, k, memory, need_weights=False)[0]))
        x = self.norm3(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))
        return x


class Transformer(nn.Module):
    """Encoder and decoder; one normalisation is shared by the outputs of all decoder layers."""

    def __init__(self, *, enc_layers: int, dec_layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        encoder = [EncoderLayer(dim=dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(enc_layers)]
        decoder = [DecoderLayer(dim=dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(dec_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(encoder)})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList(decoder), "norm": nn.LayerNorm(dim)})
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, query: Tensor, position: Tensor) -> tuple[list[Tensor], Tensor]:
        """[N, T, dim], [Q, dim], [T, dim] -> of each decoder layer [N, Q, dim], and the memory [N, T, dim]."""
        encoder: Any = self.encoder["layers"]
        decoder: Any = self.decoder["layers"]
        memory = tokens
        for layer in encoder:
            memory = layer(memory, position)
        x = torch.zeros_like(query).expand(len(tokens), -1, -1)  # the queries come in with every attention
        found = []
        for layer in decoder:
            x = layer(x, memory, query=query, position=position)
            found.append(x)
        return found, memory


class MLP(nn.Module):
    """Three linear layers with ReLU between them, for boxes."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))  # type: ignore[no-any-return]


class DETR(nn.Module):
    """The detector.

    Args:
        num_classes: K; the output "no object" comes in addition, as the last.
        num_queries: predictions of each picture; more objects than that cannot be found.
        blocks, width, dilation: of the :class:`Trunk`.
        hidden_dim: channels of the transformer, a multiple of 4 and of ``nheads``.
        nheads, enc_layers, dec_layers, dim_feedforward, dropout: of the transformer.
        aux_loss: return what the earlier decoder layers predict, too, for the loss.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int = 91,
        num_queries: int = 100,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        dilation: bool = False,
        hidden_dim: int = 256,
        nheads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        aux_loss: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim % 4 or hidden_dim % nheads:
            raise ValueError(f"DETR: hidden_dim must be a multiple of 4 and of {nheads} heads, got {hidden_dim}")
        if min(num_classes, num_queries, dec_layers) < 1:
            raise ValueError(
                "DETR: at least one class, one query and one decoder layer, "
                f"got {num_classes}, {num_queries} and {dec_layers}"
            )
        self.hidden_dim, self.nheads, self.aux_loss = hidden_dim, nheads, aux_loss
        self.transformer = Transformer(
            enc_layers=enc_layers, dec_layers=dec_layers, dim=hidden_dim, heads=nheads, hidden=dim_feedforward,
            dropout=dropout,
        )  # fmt: skip
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(hidden_dim, 4)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.trunk_channels = tuple(4 * width * 2**stage for stage in range(4))
        self.input_proj = nn.Conv2d(self.trunk_channels[-1], hidden_dim, 1)
        trunk = Trunk(blocks=blocks, width=width, dilation=dilation)
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": trunk})])  # the released weights' name of it

    def steps(self, images: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor]:
        """What all heads need, of images [N, 3, H, W].

        Returns:
            The trunk's maps, the last one projected [N, D, h, w], of each decoder layer [N, Q, D] (with ``aux_loss``,
            else of the last one), and the encoder's memory [N, D, h, w].
        """
        check_pictures(type(self).__name__, images, 3)
        maps = self.backbone[0]["body"](images)  # type: ignore[index]
        projected = self.input_proj(maps[-1])
        height, width = projected.shape[-2:]
        position = sine_encoding(height, width, self.hidden_dim).to(projected.device, projected.dtype)
        tokens = projected.flatten(2).transpose(1, 2)
        found, memory = self.transformer(tokens, self.query_embed.weight, position)
        found = [self.transformer.decoder["norm"](x) for x in (found if self.aux_loss else found[-1:])]
        return maps, projected, found, memory.transpose(1, 2).unflatten(2, (height, width))

    def heads(self, found: Sequence[Tensor], images: Tensor) -> dict[str, Tensor]:
        """Classes and boxes from what the decoder layers found, [N, Q, D] each."""
        logits = [self.class_embed(x) for x in found]
        boxes = [self.bbox_embed(x).sigmoid() for x in found]
        output = {"pred_logits": logits[-1], "pred_boxes": boxes[-1]}
        if len(found) > 1:
            output |= {"aux_logits": torch.stack(logits[:-1], dim=1), "aux_boxes": torch.stack(boxes[:-1], dim=1)}
        return output | {"size": torch.tensor(images.shape[-2:], device=images.device)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Raw predictions for normalised images [N, 3, H, W] of any size.

        Returns:
            ``pred_logits`` [N, Q, K + 1], ``pred_boxes`` [N, Q, 4] (centre, width and height as shares of the
            picture), ``size`` [2] (H and W), and with ``aux_loss`` ``aux_logits`` and ``aux_boxes`` [N, L - 1, Q, ...].

        Raises:
            ValueError: images are not [N, 3, H, W].
        """
        return self.heads(self.steps(images)[2], images)

    @torch.no_grad()
    def detect(self, images: Tensor, *, threshold: float = 0.7) -> list[dict[str, Tensor]]:
        """Per picture ``boxes`` [M, 4] (x1, y1, x2, y2 in pixels), ``scores`` and ``labels`` [M], best first.

        The best class of a query is its label; there is no suppression of duplicates.
        """
        output = self(images)
        scores, labels = output["pred_logits"].softmax(-1)[..., :-1].max(-1)
        boxes = box_convert(output["pred_boxes"], "cxcywh", "xyxy") * output["size"].flip(0).repeat(2)
        results = []
        for score, label, box in zip(scores, labels, boxes, strict=True):
            keep = score.argsort(descending=True)[: int((score > threshold).sum())]
            results.append({"boxes": box[keep], "scores": score[keep], "labels": label[keep]})
        return results


class AttentionMap(nn.Module):
    """How much each query attends to each place of the map, head by head; nothing is read there."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.k_linear = nn.Linear(dim, dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[N, Q, D], [N, D, h, w] -> [N, Q, heads, h, w], of each query 1 in sum over heads and places."""
        q = self.q_linear(x).unflatten(2, (self.heads, -1))
        k = self.k_linear(memory.flatten(2).transpose(1, 2)).unflatten(2, (self.heads, -1))
        scores = torch.einsum("nqhc,nthc->nqht", q / math.sqrt(q.shape[-1]), k)
        weights: Tensor = scores.flatten(2).softmax(-1).view_as(scores).unflatten(3, memory.shape[-2:])
        return weights


class MaskHead(nn.Module):
    """From attention to masks, up to a quarter of the picture's size, over three long skips from the trunk.

    Args:
        dim: channels of the projected map, a multiple of 128 (the normalisations have 8 groups).
        heads: attention maps of each query.
        maps: channels of the trunk's third, second and first stage.
    """

    def __init__(self, *, dim: int, heads: int, maps: Sequence[int]) -> None:
        super().__init__()
        widths = [dim + heads, dim // 2, dim // 4, dim // 8, dim // 16]
        if dim % 128 or widths[0] % 8:
            raise ValueError(f"MaskHead: dim must be a multiple of 128 and heads of 8, got {dim} and {heads}")
        for i, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False), start=1):
            self.add_module(f"lay{i}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"gn{i}", nn.GroupNorm(8, after))
        self.out_lay = nn.Conv2d(widths[4], 1, 3, padding=1)
        for i, (channels, width) in enumerate(zip(maps, widths[1:4], strict=True), start=1):
            self.add_module(f"adapter{i}", nn.Conv2d(channels, width, 1))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=1)
                nn.init.zeros_(m.bias)  # type: ignore[arg-type]

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(f"gn{i}")(self.get_submodule(f"lay{i}")(x)))

    def forward(self, x: Tensor, attention: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """[N, D, h, w], [N, Q, heads, h, w] and the trunk's third, second, first map -> logits [N, Q, H/4, W/4]."""
        count, queries = attention.shape[:2]
        x = x[:, None].expand(-1, queries, -1, -1, -1)
        x = torch.cat([x, attention], dim=2).flatten(0, 1)
        x = self._layer(2, self._layer(1, x))
        for i, fine in enumerate(maps, start=1):
            skip = self.get_submodule(f"adapter{i}")(fine).repeat_interleave(queries, dim=0)
            x = skip + F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = self._layer(i + 2, x)
        masks: Tensor = self.out_lay(x)
        return masks.view(count, queries, *masks.shape[-2:])


class DETRsegm(nn.Module):
    """A detector with a mask for each query.

    Args:
        detr: the detector; its ``hidden_dim`` is a multiple of 128.
    """

    def __init__(self, detr: DETR) -> None:
        super().__init__()
        self.detr = detr
        self.bbox_attention = AttentionMap(detr.hidden_dim, detr.nheads)
        self.mask_head = MaskHead(dim=detr.hidden_dim, heads=detr.nheads, maps=detr.trunk_channels[2::-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """As :class:`DETR`, and ``pred_masks`` [N, Q, ceil(H/4), ceil(W/4)], logits."""
        maps, projected, found, memory = self.detr.steps(images)
        attention = self.bbox_attention(found[-1], memory)
        masks = self.mask_head(projected, attention, maps[2::-1])
        return self.detr.heads(found, images) | {"pred_masks": masks}


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 1 for one picture: the cheapest assignment of queries to objects.

    Args:
        logits: [Q, K + 1].
        boxes: [Q, 4], centre, width and height.
        labels: [M].
        wanted: [M, 4], boxes of the objects in the same form.

    Returns:
        Indices of queries and of the objects that they answer for, min(Q, M) each.
    """
    from scipy.optimize import linear_sum_assignment  # only training needs it

    cost = -logits.float().softmax(-1)[:, labels]
    cost = cost + L1 * torch.cdist(boxes.float(), wanted.float(), p=1)
    corners = [box_convert(b.float(), "cxcywh", "xyxy") for b in (boxes, wanted)]
    cost = cost - GIOU * generalized_box_iou(*corners)
    queries, objects = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries, device=boxes.device), torch.as_tensor(objects, device=boxes.device)


def losses(output: dict[str, Tensor], target: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The parts of equation 2, each with its weight; boxes and masks are divided by the number of objects.

    Args:
        output: what :class:`DETR` or :class:`DETRsegm` returned for N pictures.
        target: N dicts with ``boxes`` [M, 4] (x1, y1, x2, y2 in pixels), ``labels`` [M] in 0..K-1 and, for masks,
            ``masks`` [M, H, W].

    Returns:
        ``class``, ``l1`` and ``giou``, summed over the decoder layers in the output, and ``focal`` and ``dice`` of
        masks, where the output has some.

    Raises:
        ValueError: the number of targets or a label does not fit the output.
    """
    logits, boxes = output["pred_logits"][:, None], output["pred_boxes"][:, None]
    if "aux_logits" in output:
        logits, boxes = torch.cat([output["aux_logits"], logits], 1), torch.cat([output["aux_boxes"], boxes], 1)
    if len(target) != len(logits):
        raise ValueError(f"losses: {len(target)} targets for {len(logits)} images")
    no_object = logits.shape[-1] - 1
    scale = output["size"].flip(0).repeat(2)
    weight = torch.ones(no_object + 1, device=logits.device)
    weight[no_object] = NO_OBJECT
    objects = max(1, sum(len(truth["labels"]) for truth in target))
    parts = {name: boxes.new_zeros((), dtype=torch.float32) for name in ("class", "l1", "giou")}
    last: list[tuple[Tensor, Tensor]] = []
    for layer in range(logits.shape[1]):
        classes = torch.full(logits[:, 0].shape[:2], no_object, device=logits.device)
        last = []
        for n, truth in enumerate(target):
            labels = truth["labels"]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < no_object:
                raise ValueError(f"losses: labels must lie in 0..{no_object - 1}, got {labels.tolist()}")
            wanted = box_convert(truth["boxes"] / scale, "xyxy", "cxcywh")
            queries, chosen = match(logits[n, layer], boxes[n, layer], labels, wanted)
            last.append((queries, chosen))
            classes[n, queries] = labels[chosen]
            found, wanted = boxes[n, layer, queries].float(), wanted[chosen]
            parts["l1"] = parts["l1"] + L1 * (found - wanted).abs().sum() / objects
            corners = [box_convert(b, "cxcywh", "xyxy") for b in (found, wanted)]
            parts["giou"] = parts["giou"] + GIOU * (1 - generalized_box_iou(*corners).diagonal()).sum() / objects
        parts["class"] = parts["class"] + F.cross_entropy(
            logits[:, layer].flatten(0, 1).float(), classes.flatten(), weight
        )
    if "pred_masks" in output:
        parts |= _mask_losses(output["pred_masks"], target, last, objects)
    return parts


def _mask_losses(
    masks: Tensor, target: Sequence[dict[str, Tensor]], matched: Sequence[tuple[Tensor, Tensor]], objects: int
) -> dict[str, Tensor]:
    """Focal loss, a mean over the pixels, and Dice loss of the masks, enlarged to the size of the truth."""
    focal = dice = masks.new_zeros((), dtype=torch.float32)
    for mask, truth, (queries, chosen) in zip(masks, target, matched, strict=True):
        wanted = truth["masks"][chosen].float()
        found = F.interpolate(mask[None, queries].float(), size=wanted.shape[-2:], mode="bilinear")[0]
        focal = focal + sigmoid_focal_loss(found, wanted, alpha=0.25, gamma=2).mean(dim=(1, 2)).sum() / objects
        share, wanted = found.sigmoid().flatten(1), wanted.flatten(1)
        overlap = (2 * (share * wanted).sum(1) + 1) / (share.sum(1) + wanted.sum(1) + 1)
        dice = dice + (1 - overlap).sum() / objects
    return {"focal": focal, "dice": dice}


def objective(output: dict[str, Tensor], target: Sequence[dict[str, Tensor]]) -> Tensor:
    """The sum of :func:`losses`."""
    return torch.stack(list(losses(output, target).values())).sum()


def detr_resnet50(*, num_classes: int = 91, aux_loss: bool = False) -> DETR:
    """DETR with ResNet-50, as the paper's Table 1 has it."""
    return DETR(num_classes=num_classes, aux_loss=aux_loss)


def detr_resnet50_dc5(*, num_classes: int = 91, aux_loss: bool = False) -> DETR:
    """DETR-DC5: the last stage of the trunk keeps a step of 16 pixels, so the transformer has four times the tokens."""
    return DETR(num_classes=num_classes, dilation=True, aux_loss=aux_loss)


def detr_resnet50_panoptic(*, num_classes: int = 250, aux_loss: bool = False) -> DETRsegm:
    """DETR with masks, for panoptic segmentation; what is not a thing gets a box too."""
    return DETRsegm(DETR(num_classes=num_classes, aux_loss=aux_loss))
