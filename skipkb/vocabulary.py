"""The words of the catalogue, the tracer and the pages, each once. Standard library only.

Stylesheet, figures, tables, filters, the JSON Schema and the tracer take them from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TracedMerge = Literal["add", "concat", "gate", "multiply"]
"""How a skip ends, as far as a trace can tell."""
Merge = Literal[TracedMerge, "attention", "indices"]
"""How a skip ends, in an entry."""
Span = Literal["short", "long"]
"""As the survey uses the words: long crosses at least three convolutions (IV.A)."""
Shortcut = Literal["identity", "resampled", "affine", "activated", "projection", "lateral", "gated"]
"""What happens on the shortcut, as a trace tells it."""
SkipCount = Literal[TracedMerge, Shortcut, "long", "cross_scale"]
"""What is counted of the skips of a network."""
DataKind = Literal[
    "classification",
    "detection",
    "segmentation",
    "volume-segmentation",
    "prompted-segmentation",
    "denoising",
    "super-resolution",
    "generation",
    "sequence",
]
"""What a small configuration is trained on: a kind of real batch, a module of skipkb.evidence.data."""

Table = Literal["classification", "detection", "segmentation", "reconstruction"]
"""The survey's four tables."""
TABLE_DATA: Mapping[Table, frozenset[DataKind]] = {
    "classification": frozenset({"classification"}),
    "detection": frozenset({"detection"}),
    "segmentation": frozenset({"segmentation", "volume-segmentation", "prompted-segmentation"}),
    "reconstruction": frozenset({"denoising", "super-resolution", "generation"}),
}
"""What a model must be for, so that a row of a table runs. Sequences belong to none: the survey's tables are of
pictures."""


@dataclass(frozen=True)
class MergeKind:
    """One way to merge."""

    sign: str
    """One character, for the disc at the end of a skip."""
    noun: str
    light: str
    """Colour on a light background, with a contrast of at least 3:1, also under the white sign."""
    dark: str
    """Colour of lines on a dark background."""
    meaning: str


MERGES: Mapping[Merge, MergeKind] = {
    "add": MergeKind("+", "addition", "#4c63d2", "#93a5ff", "values are summed"),
    "concat": MergeKind("‖", "concatenation", "#c94c20", "#ff9466", "channels are put side by side"),
    "gate": MergeKind("σ", "gate", "#12836f", "#45c9ae", "a product with a factor between zero and one"),
    "multiply": MergeKind("×", "product", "#8a5a00", "#e0b04a", "a product with another factor"),
    "attention": MergeKind("∗", "attention", "#8e3fb0", "#d39aee", "weighted sums over positions"),
    "indices": MergeKind("#", "indices", "#5d6470", "#aab2c0", "only positions are passed on, no values to merge"),
}
SHORTCUTS: Mapping[Shortcut, str] = {
    "identity": "unchanged",
    "resampled": "moved, cropped, padded or at another resolution",
    "affine": "normalised or scaled",
    "activated": "through an activation",
    "projection": "through one pointwise convolution or linear layer",
    "lateral": "through weighted layers, fewer than it goes around",
    "gated": "multiplied by a computed factor",
}
TASKS: Mapping[str, str] = {
    "action-segmentation": "which action each frame of a video shows",
    "anomaly-detection": "what does not belong",
    "classification": "what a picture shows",
    "compression": "fewer bits",
    "compressive-sensing": "pictures from few measurements",
    "deblurring": "sharp pictures from blurred ones",
    "dehazing": "clear pictures from hazy ones",
    "denoising": "pictures without noise",
    "depth": "distances",
    "deraining": "pictures without rain",
    "detection": "where things are",
    "distillation": "a small network learns from a large one",
    "enhancement": "better colours and contrast",
    "generation": "new pictures",
    "hyperspectral": "pictures of many wavelengths",
    "image-editing": "changed pictures",
    "initialisation": "values to start from",
    "inpainting": "what is missing",
    "jpeg-artefact-removal": "pictures without traces of compression",
    "language-modelling": "the next word",
    "low-light": "pictures taken in the dark",
    "mri": "magnetic resonance images",
    "normalisation": "values of one size",
    "optimisation": "training that works",
    "pre-training": "what is learned before the task",
    "pruning": "fewer weights",
    "regression": "numbers",
    "reinforcement-learning": "actions that pay",
    "representation": "features for other tasks",
    "rescaling": "smaller pictures that can be enlarged again",
    "review": "works about works",
    "robot-control": "movements",
    "rolling-shutter-correction": "pictures without the skew of a rolling shutter",
    "saliency": "what catches the eye",
    "scene-flow": "motion in space",
    "segmentation": "what each pixel belongs to",
    "sequence-modelling": "what comes next",
    "stereo": "depth from two pictures",
    "super-resolution": "larger pictures",
    "theory": "why it works",
    "translation": "the same in another language",
    "video-prediction": "the next frames",
}
"""What the works are for."""
LICENCES = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0",
    "GPL-2.0-only", "GPL-3.0-only", "AGPL-3.0-only", "LGPL-3.0-only", "ISC", "MIT", "Unlicense",
)  # fmt: skip
"""SPDX identifiers that occur; one of a repository's own text begins with LicenseRef-."""

Patterns = Sequence[tuple[str, str]]
"""The first pattern that is found names the group; what none finds goes by its own name."""

_FRAMEWORKS: Patterns = (
    (r"^PyTorch\b", "PyTorch"),
    (r"^TensorFlow\b", "TensorFlow"),
    (r"^Keras\b", "Keras"),
    (r"^Torch\b", "Torch"),
    (r"^MXNet\b", "MXNet"),
    (r"^Caffe2\b", "Caffe2"),
    (r"^Caffe\b", "Caffe"),
    (r"^JAX\b", "JAX"),
    (r"^Darknet\b", "Darknet"),
    (r"^cuda-convnet\b", "cuda-convnet"),
    (r"^Python 2$", "Python"),
)
_VENUES: Patterns = (
    (r"Workshop.*\(CVPRW\)", "CVPR workshops"),
    (r"Workshop.*\(ICCVW\)", "ICCV workshops"),
    (r"Workshop.*\(ECCVW\)", "ECCV workshops"),
    (r"ICML .*Workshop", "ICML workshops"),
    (r"Computer Vision and Pattern Recognition", "CVPR"),
    (r"Neural Information Processing Systems", "NeurIPS"),
    (r"AAAI Conference", "AAAI"),
    (r"Medical Image Computing", "MICCAI"),
    (r"Transactions on Pattern Analysis", "TPAMI"),
    (r"Transactions on Image Processing", "TIP"),
    (r"Transactions on Medical Imaging", "TMI"),
    (r"International Journal of Computer Vision", "IJCV"),
    (r"Conference.*\((\w+)\)$", r"\1"),
)
_DATASETS: Patterns = (
    (r"MS COCO\b", "MS COCO"),
    (r"ImageNet(-1K| \(ILSVRC.2012\)| ILSVRC.2012)$", "ImageNet-1K"),
    (r"ImageNet-2[12]K$", "ImageNet-21K"),  # one set: its 21,841 classes are rounded both ways
    (r"Kodak(24)?$", "Kodak"),
    (r"Oxford Flowers(-102)?$", "Oxford Flowers-102"),
    (r"Oxford(-IIIT)? Pets$", "Oxford-IIIT Pets"),
    (r"Places365", "Places365"),
    (r"(RESIDE|CLIC|LSUN|WMT 2014|VTAB)\b", r"\1"),
    (r"KITTI (Scene Flow )?2015$", "KITTI 2015"),
    (r"Common ?Crawl", "Common Crawl"),
)


def venue_series(venue: str) -> str:
    """The short name of the series or journal: the record's own text where no pattern fits."""
    return _by_pattern(venue, _VENUES)


def dataset_name(dataset: str) -> str:
    """The data set under one spelling."""
    return _by_pattern(dataset, _DATASETS)


def framework_names(text: str) -> list[str]:
    """``Caffe, PyTorch (mmdetection)`` as Caffe and PyTorch; versions are left off, ``none`` is not a framework."""
    parts = re.split(r",\s*|\s+with\s+", re.sub(r"\s*\([^)]*\)", "", text))
    names = [_by_pattern(re.sub(r"\s+[\d.]+$|/.*$", "", part.strip()), _FRAMEWORKS) for part in parts]
    return list(dict.fromkeys(name for name in names if name and name != "none"))


def _by_pattern(text: str, patterns: Patterns) -> str:
    for pattern, name in patterns:
        if found := re.search(pattern, text):
            return found.expand(name)
    return text


def stylesheet() -> str:
    """Colours of the merge kinds for the pages: a variable each, light and dark, and the classes that use them."""
    light = "".join(f"--skb-{name}:{kind.light};" for name, kind in MERGES.items())
    dark = "".join(f"--skb-{name}-line:{kind.dark};" for name, kind in MERGES.items())
    lines = "".join(f"--skb-{name}-line:var(--skb-{name});" for name in MERGES)
    rules = [f":root{{{light}{lines}}}", f'[data-md-color-scheme="slate"]{{{dark}}}']
    for name in MERGES:
        rules.append(f".skb-figure .skb-{name}{{stroke:var(--skb-{name}-line)}}")
        rules.append(f".skb-figure .skb-merge.skb-{name},.skb-timeline .skb-{name}{{fill:var(--skb-{name})}}")
    return "\n".join(rules) + "\n"
