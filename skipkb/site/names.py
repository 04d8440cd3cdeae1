"""One name for what the catalogue spells in several ways: venues, data sets, frameworks."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The first pattern that is found names the group; what none finds goes by its own name.
_VENUES = (
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
_DATASETS = (
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
    """``Caffe, PyTorch (mmdetection)`` as Caffe and PyTorch; versions are left off, ``none`` is no framework."""
    parts = re.split(r",\s*|\s+with\s+", re.sub(r"\s*\([^)]*\)", "", text))
    names = [re.sub(r"\s+[\d.]+$|/.*$", "", part.strip()) for part in parts]
    return list(dict.fromkeys(name for name in names if name and name != "none"))


def _by_pattern(text: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, name in patterns:
        if found := re.search(pattern, text):
            return found.expand(name)
    return text
