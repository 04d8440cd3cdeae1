r"""RetinaNet: one dense pass over a feature pyramid, trained with the focal loss.

A one-stage detector judges about a hundred thousand anchors per image, nearly all of them easy background.
Summed up, their small losses drown the few that matter. The focal loss turns the easy ones down by what the
network already knows (equations 2 and 5, with :math:`p_t` the probability given to the truth):

.. math::  p_t = \begin{cases} p & y = 1 \\ 1 - p & \text{otherwise} \end{cases} \qquad
           \mathrm{FL}(p_t) = -\alpha_t\,(1 - p_t)^\gamma \log p_t

The network is a ResNet, whose blocks add their input to their output, under a feature pyramid (FPN), whose
levels are joined by *lateral* skips: coarse, meaningful maps are upsampled and added to fine, exact ones.

.. math::  M_5 = W_5 C_5, \qquad M_l = W_l C_l + \mathrm{up}(M_{l+1}) \quad (l = 4, 3), \qquad
           P_l = V_l * M_l

P6 and P7 come from strided convolutions. Two small subnets, shared by all levels but not with each other,
give K class logits and 4 box offsets for each of 9 anchors at every position.

T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár: "Focal Loss for Dense Object Detection", ICCV 2017,
pp. 2999-3007, arXiv:1708.02002. Pyramid: Lin et al., CVPR 2017, arXiv:1612.03144.

Deviations from the paper:

- Anchors lie where torchvision puts them, so that its weights keep their meaning: edges in whole pixels, and
  a level's step is the image size divided by the grid size, rounded down (2^l where the image allows it).
- :func:`retinanet_resnet50_fpn` alone: P6 is computed from P5 (the paper: from C5) and there are 91 class
  outputs, the unused identifiers of COCO included (the paper: 80), again as in torchvision's weights.

Matching follows the rule of the region proposal network, to which the paper refers: thresholds, and the best
anchor for an object that none of them fits. The box loss is the paper's smooth L1 with beta = 1; Detectron sets
0.11, and beta = 0 is torchvision's L1. As in torchvision the 3x3 convolution of a bottleneck strides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, batched_nms, box_iou, clip_boxes_to_image

__all__ = [
    "RetinaNet",
    "focal_loss",
    "losses",
    "match",
    "objective",
    "retinanet_r50",
    "retinanet_r101",
    "retinanet_resnet50_fpn",
]

LEVELS = (3, 4, 5, 6, 7)
RATIOS = (0.5, 1.0, 2.0)  # height : width
SCALES = (2**0, 2 ** (1 / 3), 2 ** (2 / 3))
NUM_ANCHORS = len(RATIOS) * len(SCALES)
MAX_LOG_SCALE = math.log(1000 / 16)  # a box may outgrow its anchor by this much; keeps exp() finite


class Bottleneck(nn.Module):
    """The ResNet block 1x1, 3x3, 1x1 with the identity, or a 1x1 projection, added."""

    def __init__(self, *, in_channels: int, width: int, stride: int, norm: Any) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm(out_channels)
            )

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.downsample(x) + self.residual(x))


class ResNet(nn.Module):
    """The trunk without its classifier. [N, 3, H, W] -> C3, C4, C5 with steps of 8, 16 and 32 pixels."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, *, blocks: Sequence[int], width: int, norm: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            layer = nn.Sequential()
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layer.append(Bottleneck(in_channels=channels, width=inner, stride=stride, norm=norm))
                channels = 4 * inner
            self.add_module(f"layer{stage + 1}", layer)
        self.out_channels = tuple(4 * width * 2**stage for stage in (1, 2, 3))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        c2 = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return [c3, c4, c5]


def _zero_biases(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


class FPN(nn.Module):
    """Feature pyramid: P3-P5 by lateral skips and a top-down path, P6 and P7 by strided convolutions."""

    def __init__(self, *, in_channels: Sequence[int], channels: int, p6_from: str) -> None:
        super().__init__()
        if p6_from not in ("C5", "P5"):
            raise ValueError(f"RetinaNet: p6_from must be 'C5' (the paper) or 'P5', got {p6_from!r}")
        self.p6_from = p6_from
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )
        p6_in = in_channels[-1] if p6_from == "C5" else channels
        self.extra_blocks = nn.ModuleDict(
            {
                "p6": nn.Conv2d(p6_in, channels, 3, stride=2, padding=1),
                "p7": nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            }
        )
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=1)
        _zero_biases(self)

    def forward(self, c: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] -> [P3, P4, P5, P6, P7], all with the same number of channels."""
        lateral = [block(x) for block, x in zip(self.inner_blocks, c, strict=True)]
        merged = lateral[-1:]
        for skip in lateral[-2::-1]:
            merged.insert(0, skip + F.interpolate(merged[0], size=skip.shape[-2:], mode="nearest"))
        p = [block(m) for block, m in zip(self.layer_blocks, merged, strict=True)]
        p6 = self.extra_blocks["p6"](c[-1] if self.p6_from == "C5" else p[-1])
        p7 = self.extra_blocks["p7"](F.relu(p6))
        return [*p, p6, p7]


class Backbone(nn.Module):
    """Trunk and pyramid."""

    def __init__(self, *, body: ResNet, fpn: FPN) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid: list[Tensor] = self.fpn(self.body(x))
        return pyramid


class Subnet(nn.Module):
    """Four 3x3 convolutions and a last one that predicts, over all levels with the same weights.

    ``last`` names that convolution (it differs between the two), ``outputs`` are its values per anchor.
    """

    def __init__(self, *, channels: int, last: str, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.last, self.outputs = last, outputs
        self.conv = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(4))
        )
        self.add_module(last, nn.Conv2d(channels, NUM_ANCHORS * outputs, 3, padding=1))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, std=0.01)
        _zero_biases(self)
        nn.init.constant_(self.get_parameter(f"{last}.bias"), bias)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Levels [N, C, h, w] -> [N, anchors, outputs], level by level, row by row, 9 anchors a position."""
        levels = []
        for features in pyramid:
            y = getattr(self, self.last)(self.conv(features))
            n, _, h, w = y.shape
            y = y.reshape(n, NUM_ANCHORS, self.outputs, h, w)
            levels.append(y.permute(0, 3, 4, 1, 2).reshape(n, -1, self.outputs))
        return torch.cat(levels, dim=1)


def make_anchors(image_size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Boxes (x1, y1, x2, y2) in pixels, one tensor [h * w * 9, 4] per level (Section 4, "Anchors").

    Level l has anchors of area (4 * 2^l)^2 times the three SCALES squared, each in the three RATIOS.
    """
    levels = []
    for level, (h, w) in zip(LEVELS, grids, strict=True):
        edge = torch.tensor([int(4 * 2**level * scale) for scale in SCALES], dtype=torch.float32)
        root = torch.tensor(RATIOS).sqrt()[:, None]
        half_w, half_h = (edge / root).flatten() / 2, (edge * root).flatten() / 2
        shapes = torch.stack([-half_w, -half_h, half_w, half_h], dim=1).round()
        x = torch.arange(w) * (image_size[1] // w)
        y = torch.arange(h) * (image_size[0] // h)
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((centres + shapes).reshape(-1, 4))
    return levels


class RetinaNet(nn.Module):
    """RetinaNet of Figure 3 of the paper.

    Args:
        num_classes: classes K; labels are 0..K-1 (80 for COCO).
        blocks: bottleneck blocks in the four stages of the trunk; (3, 4, 6, 3) is ResNet-50.
        width: channels of the trunk's first stage.
        fpn_channels: channels of pyramid and subnets.
        prior: foreground probability pi that every anchor starts with.
        p6_from: "C5" as in the paper, or "P5".
        frozen_bn: batch norm of the trunk with fixed statistics and fixed scale, as detectors fine-tune a
            pretrained trunk; False trains them.
        bn_eps: added to the variance there. torchvision's own COCO weights want 0.

    Raises:
        ValueError: a setting outside its range.
    """

    def __init__(
        self,
        *,
        num_classes: int = 80,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        fpn_channels: int = 256,
        prior: float = 0.01,
        p6_from: str = "C5",
        frozen_bn: bool = True,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(blocks) != 4:
            raise ValueError(f"RetinaNet: blocks needs the four stages of a ResNet, got {tuple(blocks)}")
        if not 0 < prior < 1:
            raise ValueError(f"RetinaNet: prior is a probability between 0 and 1, got {prior}")

        def norm(channels: int) -> nn.Module:
            return (FrozenBatchNorm2d if frozen_bn else nn.BatchNorm2d)(channels, eps=bn_eps)

        body = ResNet(blocks=blocks, width=width, norm=norm)
        fpn = FPN(in_channels=body.out_channels, channels=fpn_channels, p6_from=p6_from)
        self.backbone = Backbone(body=body, fpn=fpn)
        # Section 3.3: with this bias the first loss is not swamped by a hundred thousand wrong guesses.
        bias = -math.log((1 - prior) / prior)
        self.head = nn.ModuleDict(
            {
                "classification_head": Subnet(channels=fpn_channels, last="cls_logits", outputs=num_classes, bias=bias),
                "regression_head": Subnet(channels=fpn_channels, last="bbox_reg", outputs=4),
            }
        )
        register: Any = self.register_load_state_dict_pre_hook
        register(_rename_old_keys)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Raw predictions for normalised images [N, 3, H, W].

        Returns:
            ``cls_logits`` [N, A, K], ``bbox_regression`` [N, A, 4] (offsets dx, dy in anchor widths and
            heights, dw, dh as logarithms) and ``anchors`` [A, 4] (x1, y1, x2, y2 in pixels).
        """
        pyramid = self.backbone(images)
        grids = [(p.shape[-2], p.shape[-1]) for p in pyramid]
        anchors = torch.cat(make_anchors((images.shape[-2], images.shape[-1]), grids))
        return {
            "cls_logits": self.head["classification_head"](pyramid),
            "bbox_regression": self.head["regression_head"](pyramid),
            "anchors": anchors.to(images.device, torch.promote_types(images.dtype, torch.float32)),
        }

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        *,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        nms_threshold: float = 0.5,
        detections: int = 300,
    ) -> list[dict[str, Tensor]]:
        """Objects in normalised images [N, 3, H, W] (Section 4.1, "Inference").

        Per level the ``candidates`` best scores above ``score_threshold`` are decoded; all levels together go
        through non-maximum suppression, class by class.

        Args:
            image_sizes: height and width of each image inside a padded batch; boxes are clipped to it.

        Returns:
            per image ``boxes`` [M, 4] in pixels, ``scores`` [M] in falling order, and ``labels`` [M].
        """
        height, width = images.shape[-2:]
        sizes = image_sizes if image_sizes is not None else [(height, width)] * len(images)
        output = self(images)
        counts = [math.ceil(height / 2**level) * math.ceil(width / 2**level) * NUM_ANCHORS for level in LEVELS]
        anchors = output["anchors"].split(counts)
        results = []
        for logits, offsets, size in zip(output["cls_logits"], output["bbox_regression"], sizes, strict=True):
            found = []
            for level_logits, level_offsets, boxes in zip(
                logits.split(counts), offsets.split(counts), anchors, strict=True
            ):
                scores = level_logits.sigmoid().flatten()
                index = (scores > score_threshold).nonzero().flatten()
                scores, best = scores[index].topk(min(candidates, len(index)))
                anchor = index[best] // level_logits.shape[1]
                label = index[best] % level_logits.shape[1]
                decoded = clip_boxes_to_image(decode(level_offsets[anchor], boxes[anchor]), size)
                found.append((decoded, scores, label))
            boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
            keep = batched_nms(boxes, scores, labels, nms_threshold)[:detections]
            results.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return results

    def predict(
        self, images: Sequence[Tensor], *, min_size: int = 800, max_size: int = 1333, **settings: Any
    ) -> list[dict[str, Tensor]]:
        """Objects in photographs [3, H, W] of any sizes with values in [0, 1].

        Each is scaled so that its shorter edge has ``min_size`` pixels and its longer one at most
        ``max_size``, normalised as the trunk was trained, and put into the upper left corner of a batch.
        ``settings`` go to :meth:`detect`. Boxes come back in pixels of the photograph.

        Raises:
            ValueError: an image is not [3, H, W].
        """
        batch, sizes = [], []
        for image in images:
            if image.dim() != 3 or image.shape[0] != 3:
                raise ValueError(f"RetinaNet.predict: an image must be [3, H, W], got {list(image.shape)}")
            mean, std = image.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
            edges = image.shape[-2:]
            scaled = F.interpolate(
                ((image - mean) / std)[None],
                scale_factor=min(min_size / min(edges), max_size / max(edges)),
                mode="bilinear",
                recompute_scale_factor=True,
            )[0]
            batch.append(scaled)
            sizes.append((scaled.shape[-2], scaled.shape[-1]))
        height, width = (math.ceil(max(edges) / 32) * 32 for edges in zip(*sizes, strict=True))
        padded = torch.stack([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in batch])
        results = self.detect(padded, image_sizes=sizes, **settings)
        for image, (h, w), result in zip(images, sizes, results, strict=True):
            back = result["boxes"].new_tensor([image.shape[-1] / w, image.shape[-2] / h])
            result["boxes"] = result["boxes"] * back.repeat(2)
        return results


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets [..., 4] that turn anchors into boxes; the regression target."""
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    centre, anchor_centre = boxes[..., :2] + size / 2, anchors[..., :2] + anchor_size / 2
    return torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], dim=-1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of :func:`encode`."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + anchor_size / 2 + offsets[..., :2] * anchor_size
    half = offsets[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def match(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Which object each anchor stands for (Section 4, "Anchors"), [A].

    The index of the object with the largest IoU where that is at least 0.5, or where no other anchor fits the
    object better; -1 (background) below 0.4, and -2 (left out of the loss) between the two.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    iou = box_iou(boxes, anchors)
    best_iou, best = iou.max(dim=0)
    matched = best.where(best_iou >= 0.5, torch.where(best_iou < 0.4, -1, -2))
    favourite = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
    return torch.where(favourite, best, matched)


def focal_loss(logits: Tensor, truth: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Equation 5, element by element: logits and truth (0 or 1) of one shape -> losses of that shape.

    ``z`` is the logit of the truth, so that p_t = sigmoid(z), 1 - p_t = sigmoid(-z), and no probability is
    rounded to zero before its logarithm is taken.
    """
    z = torch.where(truth > 0, logits, -logits)
    alpha_t = torch.where(truth > 0, alpha, 1 - alpha)
    return -alpha_t * torch.sigmoid(-z) ** gamma * F.logsigmoid(z)


def losses(
    output: dict[str, Tensor],
    target: Sequence[dict[str, Tensor]],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
) -> dict[str, Tensor]:
    """Both losses of the paper, each per image divided by its foreground anchors, then averaged over images.

    Args:
        output: what :class:`RetinaNet` returned for N images.
        target: N dicts with ``boxes`` [M, 4] (x1, y1, x2, y2 in pixels) and ``labels`` [M] in 0..K-1.
        alpha, gamma: of the focal loss.
        beta: where smooth L1 turns from a parabola into a line; 0 is plain L1.

    Raises:
        ValueError: the number of targets or a label does not fit the output.
    """
    anchors, num_classes = output["anchors"], output["cls_logits"].shape[-1]
    if len(target) != len(output["cls_logits"]):
        raise ValueError(f"losses: {len(target)} targets for {len(output['cls_logits'])} images")
    classification, regression = [], []
    for logits, offsets, truth in zip(output["cls_logits"], output["bbox_regression"], target, strict=True):
        boxes, labels = truth["boxes"], truth["labels"]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(f"losses: labels must lie in 0..{num_classes - 1}, got {labels.tolist()}")
        matched = match(anchors, boxes)
        foreground, valid = matched >= 0, matched != -2
        objects = matched[foreground]
        normaliser = foreground.sum().clamp(min=1)

        one_hot = torch.zeros_like(logits)
        one_hot[foreground, labels[objects]] = 1
        focal = focal_loss(logits, one_hot, alpha=alpha, gamma=gamma)
        classification.append((focal * valid[:, None]).sum() / normaliser)

        wanted = encode(boxes[objects].to(anchors), anchors[foreground]).to(offsets.dtype)
        error = F.smooth_l1_loss(offsets[foreground], wanted, beta=beta, reduction="sum")
        regression.append(error / normaliser)
    return {
        "classification": torch.stack(classification).mean(),
        "bbox_regression": torch.stack(regression).mean(),
    }


def objective(output: dict[str, Tensor], target: Sequence[dict[str, Tensor]]) -> Tensor:
    """Focal loss plus smooth L1, see :func:`losses`."""
    parts = losses(output, target)
    return parts["classification"] + parts["bbox_regression"]


def _rename_old_keys(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """torchvision's published COCO weights predate its own renaming of the convolutions; take both."""
    for old in [k for k in state_dict if k.startswith(prefix)]:
        new = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", old)
        new = re.sub(r"(_head\.conv)\.(\d+)\.(weight|bias)$", lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", new)
        if new != old:
            state_dict[new] = state_dict.pop(old)


def retinanet_r50(*, num_classes: int = 80, frozen_bn: bool = True) -> RetinaNet:
    """ResNet-50-FPN as the paper describes it."""
    return RetinaNet(num_classes=num_classes, frozen_bn=frozen_bn)


def retinanet_r101(*, num_classes: int = 80, frozen_bn: bool = True) -> RetinaNet:
    """ResNet-101-FPN, the paper's main network."""
    return RetinaNet(num_classes=num_classes, blocks=(3, 4, 23, 3), frozen_bn=frozen_bn)


def retinanet_resnet50_fpn(*, num_classes: int = 91, frozen_bn: bool = True, bn_eps: float = 1e-5) -> RetinaNet:
    """torchvision's network of the same name, with frozen batch normalisation or trained."""
    return RetinaNet(num_classes=num_classes, p6_from="P5", frozen_bn=frozen_bn, bn_eps=bn_eps)
