"""A skip graph as JSON, as a table, and as graphs for other tools."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from skipkb.skips.graph import Edge, Layer, Lost, MultiBranch, Operand, Shape, Site, Skip, SkipGraph
from skipkb.vocabulary import MERGES

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = 1
"""Version of the JSON."""


# -- JSON: what repeats (sources, the merge's own address) is written once, layers and edges are rows


def to_dict(graph: SkipGraph) -> dict[str, Any]:
    """Plain lists and dicts; ``from_dict`` is the inverse."""
    sources: dict[_Source, int] = {}
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": graph.model,
        "capture": graph.capture,
        "training": graph.training,
        "layers": [
            [layer.name, layer.type, layer.kind, layer.channels, list(layer.size), layer.places, layer.call, layer.step]
            for layer in graph.layers
        ],
        "skips": [_skip_to_dict(skip, sources) for skip in graph.skips],
        "gates": [_skip_to_dict(skip, sources) for skip in graph.gates],
        "weak": [_skip_to_dict(skip, sources) for skip in graph.weak],
        "sources": [[name, start, step, list(shape)] for name, start, step, shape in sources],
        "multi_branch": [
            [b.merge, b.kind, b.source, list(b.branches), b.start, b.end, b.step, list(b.shape)]
            for b in graph.multi_branch
        ],
        "lost": [[lost.where, lost.reason] for lost in graph.lost],
        "notes": list(graph.notes),
    }
    return {key: value for key, value in content.items() if value != []}


def from_dict(content: dict[str, Any]) -> SkipGraph:
    """Read what ``to_dict`` wrote."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"not a skip graph of format {FORMAT}")

    def rows(key: str) -> list[Any]:
        found: list[Any] = content.get(key, [])
        return found

    sources = [_Source(name, start, step, tuple(shape)) for name, start, step, shape in rows("sources")]

    def skips(key: str) -> tuple[Skip, ...]:
        return tuple(_skip_from_dict(i, skip, sources) for i, skip in enumerate(rows(key)))

    return SkipGraph(
        model=content["model"],
        capture=content["capture"],
        training=content["training"],
        layers=tuple(Layer(n, t, k, c, tuple(s), p, call, step) for n, t, k, c, s, p, call, step in rows("layers")),
        skips=skips("skips"),
        gates=skips("gates"),
        weak=skips("weak"),
        multi_branch=tuple(
            MultiBranch(m, k, s, tuple(b), start, end, step, tuple(shape))
            for m, k, s, b, start, end, step, shape in rows("multi_branch")
        ),
        lost=tuple(Lost(where, reason) for where, reason in rows("lost")),
        notes=tuple(rows("notes")),
    )


class _Source(NamedTuple):
    name: str
    start: int
    step: int
    shape: Shape


def _skip_to_dict(skip: Skip, sources: dict[_Source, int]) -> dict[str, Any]:
    return {
        "merge": skip.merge,
        "kind": skip.kind,
        "end": skip.end,
        "step": skip.step,
        "shape": list(skip.shape),
        "edges": [_edge_to_row(edge, skip.merge, sources) for edge in skip.edges],
        "others": [_address(operand, skip.merge) for operand in skip.others],
    }


def _skip_from_dict(index: int, content: dict[str, Any], sources: list[_Source]) -> Skip:
    merge = content["merge"]
    return Skip(
        index=index,
        merge=merge,
        kind=content["kind"],
        end=content["end"],
        step=content["step"],
        shape=tuple(content["shape"]),
        edges=tuple(_edge_from_row(row, merge, sources) for row in content["edges"]),
        others=tuple(_operand(address, merge) for address in content["others"]),
    )


def _edge_to_row(edge: Edge, merge: str, sources: dict[_Source, int]) -> list[Any]:
    """Source, shortcut, layers, convs, operand, flags (c: cross-scale, p: partial), and the shape if it changed."""
    source = _Source(edge.source, edge.start, edge.step, edge.source_shape)
    number = sources.setdefault(source, len(sources))
    flags = "c" * edge.cross_scale + "p" * edge.partial
    row = [number, edge.shortcut, edge.layers, edge.convs, _address(edge.operand, merge), flags]
    return row if edge.shape == edge.source_shape else [*row, list(edge.shape)]


def _edge_from_row(row: list[Any], merge: str, sources: list[_Source]) -> Edge:
    number, shortcut, layers, convs, address, flags, *shape = row
    source = sources[number]
    return Edge(
        source=source.name,
        shortcut=shortcut,
        layers=layers,
        convs=convs,
        start=source.start,
        step=source.step,
        cross_scale="c" in flags,
        partial="p" in flags,
        source_shape=source.shape,
        shape=tuple(shape[0]) if shape else source.shape,
        operand=_operand(address, merge),
    )


def _address(operand: Operand, merge: str) -> str | int:
    """Only the position where the operand enters the merge itself."""
    return operand.position if str(operand.site) == merge else str(operand)


def _operand(address: str | int, merge: str) -> Operand:
    return Operand.parse(address) if isinstance(address, str) else Operand(Site.parse(merge), address)


# -- tables


def summary(graph: SkipGraph) -> Table:
    """A row for each skip and gate, in order of execution."""
    from rich.table import Table

    table = Table(title=headline(graph), title_justify="left", title_style="bold", caption_justify="left")
    for name in ("#", "from", "to", "kind", "shortcut"):
        table.add_column(name, overflow="fold")
    for name in ("layers", "convs"):
        table.add_column(name, justify="right")
    table.add_column("")
    for skip in sorted((*graph.skips, *graph.gates), key=lambda skip: skip.step):
        more = f" (+{len(skip.edges) - 1} more)" if len(skip.edges) > 1 else ""
        flags = [flag.replace("_", "-") for flag in ("long", "cross_scale", "partial") if getattr(skip, flag)]
        table.add_row(
            str(skip.index) if skip.kind in ("add", "concat") else "",
            skip.source + more,
            skip.merge,
            skip.kind,
            skip.shortcut,
            str(skip.layers),
            str(skip.convs),
            ", ".join(flags),
        )
    table.caption = "\n".join(_footnotes(graph)) or None
    return table


def headline(graph: SkipGraph) -> str:
    """One line: the model and its counts."""
    counts = graph.counts()
    found = ", ".join(f"{number} {name.replace('_', '-')}" for name, number in counts.items()) or "no skip connections"
    return f"{graph.model}: {len(graph.layers)} weighted layers; {found}"


def _footnotes(graph: SkipGraph) -> Iterable[str]:
    partial = sum(skip.partial for skip in (*graph.skips, *graph.gates))
    if partial:
        yield f"{partial} partial (a slice of channels or tokens), not counted above"
    if graph.weak:
        yield f"{len(graph.weak)} weak: around a norm or scale only, no weighted layer"
    if graph.multi_branch:
        yield f"{len(graph.multi_branch)} merges of branches of equal standing"
    for lost in graph.lost:
        yield f"lost at {lost.where}: {lost.reason}"
    yield from graph.notes


def text(graph: SkipGraph) -> str:
    """The table as plain text."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=140, color_system=None, legacy_windows=False).print(summary(graph))
    return out.getvalue().rstrip() + "\n"


# -- graphs: input, layers and merges in order of execution; an edge along the line, an arc per shortcut


class _Stop(NamedTuple):
    key: str
    label: str
    step: int
    kind: str


class _Arc(NamedTuple):
    start: str
    end: str
    skip: Skip
    edge: Edge


def _line(graph: SkipGraph) -> tuple[list[_Stop], list[_Arc]]:
    merges = [*graph.skips, *graph.gates]
    stops = [
        _Stop(f"layer{i}", f"{layer.name}{f'#{layer.call}' if layer.call > 1 else ''}", layer.step, layer.kind)
        for i, layer in enumerate(graph.layers)
    ]
    stops += [_Stop(f"merge{i}", skip.merge, skip.step, skip.kind) for i, skip in enumerate(merges)]
    stops.sort(key=lambda stop: stop.step)
    stops.insert(0, _Stop("input", "input", -1, "input"))
    arcs = []
    for number, skip in enumerate(merges):
        for edge in skip.edges:
            before = [stop for stop in stops if stop.step <= edge.step]
            arcs.append(_Arc(before[-1].key if before else "input", f"merge{number}", skip, edge))
    return stops, arcs


def to_networkx(graph: SkipGraph) -> Any:
    """A ``networkx.MultiDiGraph``: nodes carry ``label`` and ``kind``, skip edges ``skip=True`` and its facts."""
    from importlib import import_module

    out = import_module("networkx").MultiDiGraph(model=graph.model)
    stops, arcs = _line(graph)
    for stop in stops:
        out.add_node(stop.key, label=stop.label, kind=stop.kind)
    for one, two in pairwise(stops):
        out.add_edge(one.key, two.key, skip=False)
    for arc in arcs:
        out.add_edge(
            arc.start,
            arc.end,
            skip=True,
            kind=arc.skip.kind,
            shortcut=arc.edge.shortcut,
            layers=arc.edge.layers,
            convs=arc.edge.convs,
            long=arc.edge.long,
            cross_scale=arc.edge.cross_scale,
            partial=arc.edge.partial,
        )
    return out


def to_dot(graph: SkipGraph) -> str:
    """Graphviz: the line from top to bottom, dashed where the shortcut is not the identity."""
    stops, arcs = _line(graph)
    lines = [f"digraph {_quoted(graph.model)} {{", "  node [shape=box, fontname=Helvetica];"]
    for stop in stops:
        shape = ", shape=circle" if stop.key.startswith("merge") else ""
        lines.append(f"  {stop.key} [label={_quoted(stop.label)}{shape}];")
    lines += [f"  {one.key} -> {two.key};" for one, two in pairwise(stops)]
    for arc in arcs:
        style = "solid" if arc.edge.shortcut == "identity" else "dashed"
        label = f"{arc.skip.kind} ({arc.edge.shortcut})"
        lines.append(
            f'  {arc.start} -> {arc.end} [color="{MERGES[arc.skip.kind].light}", style={style}, '
            f"constraint=false, label={_quoted(label)}];"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(label: str) -> str:
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def to_mermaid(graph: SkipGraph) -> str:
    """Mermaid: layers as boxes, merges as circles, shortcuts as dotted arrows."""
    stops, arcs = _line(graph)
    lines = ["flowchart TD"]
    for stop in stops:
        label = stop.label.replace('"', "#quot;").replace("\n", " ")
        lines.append(f'  {stop.key}(("{label}"))' if stop.key.startswith("merge") else f'  {stop.key}["{label}"]')
    lines += [f"  {one.key} --> {two.key}" for one, two in pairwise(stops)]
    for arc in arcs:
        lines.append(f'  {arc.start} -. "{arc.skip.kind}, {arc.edge.shortcut}" .-> {arc.end}')
    return "\n".join(lines) + "\n"
