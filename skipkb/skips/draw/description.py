"""The picture in words, for those who do not see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skipkb.skips.draw.folds import Fold
from skipkb.skips.draw.stages import find_stages
from skipkb.skips.graph import SHORTCUTS, Shape, SkipGraph
from skipkb.vocabulary import MERGES


def describe(graph: SkipGraph, folds: Sequence[Fold] = ()) -> str:
    """What the picture shows, in sentences: its alternative text."""
    counts = graph.counts()
    skips = counts["add"] + counts["concat"]
    said = [f"{many(len(graph.layers), 'weighted layer')} in order of execution"]
    ladder = [stage for stage in find_stages(graph) if stage.places > 1]
    if ladder:
        high = max(ladder, key=lambda stage: stage.places)
        low = min(ladder, key=lambda stage: stage.places)
        top, bottom = size_text(high.size), size_text(low.size)
        said[0] += f" at {top}" if high.places == low.places else f", between {top} and {bottom}"
    if skips:
        kinds = _listed(many(counts[kind], MERGES[kind].noun) for kind in ("add", "concat") if counts[kind])
        edges = sum(not edge.partial for skip in graph.skips if not skip.partial for edge in skip.edges)
        said.append(f"{many(skips, 'skip connection')}: {kinds}" + (f", with {edges} shortcuts" * (edges != skips)))
        said.append("On the shortcut: " + _listed(f"{counts[name]} {name}" for name in SHORTCUTS if counts[name]))
        said.append(f"{counts['long']} long, {counts['cross_scale']} across scales")
    else:
        said.append("No skip connection")
    for kind in ("gate", "multiply"):
        if counts[kind]:
            said.append(many(counts[kind], MERGES[kind].noun))
    partial = sum(skip.partial for skip in (*graph.skips, *graph.gates))
    if partial:
        said.append(f"{many(partial, 'partial skip')}, drawn thin")
    if graph.weak:
        said.append(f"{many(len(graph.weak), 'weak skip')} around a norm or a scale only, drawn thin")
    if graph.multi_branch:
        said.append(f"{many(len(graph.multi_branch), 'merge')} of equal branches, which are not skips")
    if graph.lost:
        said.append(f"{many(len(graph.lost), 'place')} where the trace lost the data")
    for fold in folds:
        drawn = "the first and the last" if fold.keep == 1 else f"the first {fold.keep} and the last {fold.keep}"
        said.append(f"Folded: of {fold.times} equal blocks of {many(fold.period, 'layer')} only {drawn} are drawn")
    return ". ".join(said) + "."


def size_text(size: Shape) -> str:
    """``56×56``."""
    return "×".join(map(str, size)) if size else "1"


def many(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(words: Iterable[str]) -> str:
    """``one, two and three``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
