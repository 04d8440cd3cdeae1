"""What a trace finds: layers on a line, and the skip connections that arch over it.

The line is the network's weighted layers in the order they ran. Position ``k`` on it is the gap in front of
``layers[k]``: a skip with ``start=3, end=5`` leaves the data after three layers had run and comes back after five.

Everything here is plain data: no torch, no reference to the model. ``from_json`` is the inverse of ``to_json``.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from skipkb.vocabulary import Shortcut, TracedMerge

if TYPE_CHECKING:
    from rich.table import Table

Shape = tuple[int, ...]
Kind = TracedMerge
"""How two paths meet. A gate is a product with a sigmoid, softmax or tanh; any other product is a multiply."""

KINDS: tuple[Kind, ...] = get_args(Kind)
SHORTCUTS: tuple[Shortcut, ...] = get_args(Shortcut)
LONG = 3
"""Convolutions a skip must cross to be long: section IV.A of the survey, to the letter."""

_SITE = re.compile(r"^(?P<module>.*?)(?:#(?P<call>\d+))?:(?P<op>[^:#\[\]]+)(?:\[(?P<nth>\d+)\])?$", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One executed operation: the nth ``op`` inside one call of a module. ``layer1.0:iadd``, ``head#2:cat[3]``."""

    module: str
    """Qualified name, empty for the model itself."""
    call: int
    """Which call of that module, from 1."""
    op: str
    nth: int
    """Which operation of that name inside that call, from 1."""

    def __str__(self) -> str:
        call = f"#{self.call}" if self.call > 1 else ""
        nth = f"[{self.nth}]" if self.nth > 1 else ""
        return f"{self.module}{call}:{self.op}{nth}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """The inverse of ``str``."""
        match = _SITE.match(text)
        if match is None:
            raise ValueError(f"not a site: {text!r}; expected something like 'layer1.0:add' or 'head#2:cat[3]'")
        return cls(match["module"], int(match["call"] or 1), match["op"], int(match["nth"] or 1))


@dataclass(frozen=True, slots=True)
class Operand:
    """One input of an operation: what ablation replaces."""

    site: Site
    position: int
    """Among the tensor inputs of the operation, in the order they are written, lists flattened; from 0."""

    def __str__(self) -> str:
        return f"{self.site}/{self.position}"

    @classmethod
    def parse(cls, text: str) -> Operand:
        """The inverse of ``str``."""
        site, _, position = text.rpartition("/")
        return cls(Site.parse(site), int(position))


@dataclass(frozen=True, slots=True)
class Layer:
    """A weighted layer in the order of execution: one point of the line."""

    name: str
    """Qualified name of the module, or of the parameter where no module owns the operation."""
    type: str
    """Class of the module, such as Conv2d."""
    kind: Literal["conv", "linear", "recurrent", "attention", "embedding"]
    channels: int
    size: Shape
    """Spatial size of the output; for tokens their grid or number."""
    places: int
    """Resolution: output positions per sample, whatever the layout (56 x 56 pixels, 64 windows of 49 tokens: 3136)."""
    call: int = 1
    """Which call of the module; 2 and more where weights are shared."""
    step: int = 0
    """Number of the operation in the trace; orders layers, sources and merges."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One shortcut into a merge. Most skips have one; a dense block's concatenation has one per earlier layer."""

    source: str
    """Where the paths part: ``maxpool:max_pool2d``, ``layer1.0.relu#2:relu``, ``input``."""
    shortcut: Shortcut
    layers: int
    """Weighted layers on the longest path bypassed."""
    convs: int
    """Convolutions on the longest path bypassed."""
    start: int
    """Position on the line."""
    step: int
    """Number of the source's operation; -1 for an input."""
    cross_scale: bool
    """The bypassed path leaves the resolution and comes back."""
    partial: bool
    """Only a part of the tensor is carried: a slice of channels or tokens."""
    source_shape: Shape
    shape: Shape
    """Of the operand at the merge."""
    operand: Operand
    """Where to cut it."""

    @property
    def long(self) -> bool:
        """Crosses at least three convolutions (survey, IV.A)."""
        return self.convs >= LONG


@dataclass(frozen=True, slots=True)
class Skip:
    """A merge that at least one shortcut reaches. What it says of itself is said of its longest edge."""

    index: int
    """Place in ``graph.skips`` (or ``.gates``, ``.weak``)."""
    merge: str
    """Where the paths meet: ``layer1.0:iadd``."""
    kind: Kind
    end: int
    """Position of the merge on the line."""
    step: int
    """Number of the merge's operation in the trace."""
    shape: Shape
    """Of the merge's result."""
    edges: tuple[Edge, ...]
    """Every shortcut into this merge, the longest first."""
    others: tuple[Operand, ...]
    """The operands that are not shortcuts: the residual."""

    @property
    def source(self) -> str:
        """Where the shortcut leaves."""
        return self.edges[0].source

    @property
    def shortcut(self) -> Shortcut:
        """What happens on the shortcut."""
        return self.edges[0].shortcut

    @property
    def layers(self) -> int:
        """Weighted layers on the longest path bypassed."""
        return max(edge.layers for edge in self.edges)

    @property
    def convs(self) -> int:
        """Convolutions on the longest path bypassed."""
        return max(edge.convs for edge in self.edges)

    @property
    def long(self) -> bool:
        """Crosses at least three convolutions (survey, IV.A)."""
        return self.convs >= LONG

    @property
    def cross_scale(self) -> bool:
        """The bypassed path leaves the resolution and comes back: what most people mean by a long skip."""
        return any(edge.cross_scale for edge in self.edges)

    @property
    def partial(self) -> bool:
        """Every shortcut carries only a part of its tensor. Left out of the counts."""
        return all(edge.partial for edge in self.edges)

    @property
    def start(self) -> int:
        """Position of the source on the line."""
        return self.edges[0].start

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of the source, of the shortcut where it meets, and of the result."""
        return {"source": self.edges[0].source_shape, "shortcut": self.edges[0].shape, "merge": self.shape}

    def __str__(self) -> str:
        flags = "".join(f", {flag}" for flag in ("long", "cross_scale", "partial") if getattr(self, flag))
        more = f" (+{len(self.edges) - 1})" if len(self.edges) > 1 else ""
        return (
            f"{self.source}{more} -> {self.merge}: {self.kind}, {self.shortcut}, "
            f"{self.layers} layers, {self.convs} convs{flags}"
        )


@dataclass(frozen=True, slots=True)
class MultiBranch:
    """Branches of equal standing that meet (Inception, ASPP, fusions): listed, never counted as a skip."""

    merge: str
    kind: str
    """add, concat, multiply or maximum."""
    source: str
    """The latest point that two of the branches share."""
    branches: tuple[int, ...]
    """Weighted layers on each branch since then."""
    start: int
    end: int
    step: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Lost:
    """A place where the trace cannot follow the data, so that a skip may be missing."""

    where: str
    """The operation that received data of unknown origin."""
    reason: str


@dataclass(frozen=True)
class SkipGraph:
    """The skip connections of one forward pass."""

    model: str
    """Class of the model."""
    capture: Literal["function", "dispatch"]
    """Which capture this comes from."""
    training: bool
    """Mode the model was in."""
    layers: tuple[Layer, ...] = ()
    skips: tuple[Skip, ...] = ()
    """Additions and concatenations, in order of execution; partial ones are among them, flagged."""
    gates: tuple[Skip, ...] = ()
    """Products: squeeze-and-excitation and its kin."""
    weak: tuple[Skip, ...] = ()
    """Like a skip, but what is bypassed has no weighted layer, only a norm or a scale (PoolFormer's token mixer)."""
    multi_branch: tuple[MultiBranch, ...] = ()
    lost: tuple[Lost, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What a reader should know of this trace, in sentences."""

    def counts(self, *, partial: bool = False) -> Counter[str]:
        """Merges by kind, shortcut class (of adds and concats), ``long`` and ``cross_scale``; none reads as 0.

        Partial skips are left out unless asked for.
        """
        found: Counter[str] = Counter()
        for skip in self.skips:
            if partial or not skip.partial:
                found.update({skip.kind: 1, skip.shortcut: 1, "long": int(skip.long)})
                found["cross_scale"] += skip.cross_scale
        found.update(gate.kind for gate in self.gates if partial or not gate.partial)
        order = (*KINDS, *SHORTCUTS, "long", "cross_scale")
        return Counter({name: found[name] for name in order if found[name]})

    def summary(self) -> Table:
        """A rich table: one row per skip and gate, alike neighbours folded."""
        from skipkb.skips.formats import summary

        return summary(self)

    def __str__(self) -> str:
        from skipkb.skips.formats import text

        return text(self)

    def to_json(self) -> str:
        """Small, deterministic JSON."""
        from skipkb.skips.formats import to_dict

        return json.dumps(to_dict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> SkipGraph:
        """The inverse of ``to_json``."""
        from skipkb.skips.formats import from_dict

        return from_dict(json.loads(text))

    def to_networkx(self) -> Any:
        """A ``networkx.MultiDiGraph``: the line as nodes and edges, with an edge per shortcut (``skip=True``)."""
        from skipkb.skips.formats import to_networkx

        return to_networkx(self)

    def to_dot(self) -> str:
        """Graphviz source."""
        from skipkb.skips.formats import to_dot

        return to_dot(self)

    def to_mermaid(self) -> str:
        """A Mermaid flowchart."""
        from skipkb.skips.formats import to_mermaid

        return to_mermaid(self)

    def to_svg(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        title: str | None = None,
        width: int | None = None,
        thumbnail: bool = False,
    ) -> str:
        """The fingerprint: layers on a line, an arc per shortcut. SVG text, written to ``path`` if given."""
        from skipkb.skips.draw.picture import fingerprint

        svg = fingerprint(self, title=title, width=width, thumbnail=thumbnail)
        if path is not None:
            Path(path).write_text(svg, encoding="utf-8", newline="\n")
        return svg
