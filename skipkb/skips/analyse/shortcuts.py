"""From the recorded graph to skip connections: the rules.

A merge has operands; take two of them, r and q, and the latest node S from which both descend. If the longest path
from S to q passes more weighted layers than the shortest from S to r, and nothing but a shortcut's work is done between
S and r, then r is a shortcut around q. Branches of equal standing are listed apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from skipkb.skips.graph import Edge, Kind, MultiBranch, Operand, Site, Skip
from skipkb.skips.record.nodes import (
    ACTIVATED,
    AFFINE,
    GATED,
    MERGED,
    MIXED,
    PARTIAL,
    RESAMPLED,
    SQUASHED,
    UPSAMPLED,
    WEIGHTED,
    Node,
    Trace,
)
from skipkb.skips.record.ops import Family
from skipkb.vocabulary import Shortcut

_TRANSPARENT = {Family.IDENT, Family.RESAMPLE, Family.NORM, Family.SLICE, Family.MUL, Family.SPLIT, Family.ADD}
_NOWHERE: tuple[dict[int, Path], int] = {}, -1
_STEP = 1.5
"""A resolution counts as another one from this factor on (unpadded convolutions lose a few pixels)."""


class Path(NamedTuple):
    """All paths from a source to a node, taken together."""

    short: int
    """Fewest weighted layers."""
    long: int
    """Most weighted layers."""
    convs: int
    """Most convolutions."""
    flags: int
    """What happens on any of them."""
    floor: float
    """Lowest resolution passed on a path that carries it through (attention and broadcasting do not)."""
    ceiling: float


class Relation(NamedTuple):
    """Two operands of one merge seen from their common source."""

    source: int
    mine: Path
    other: Path
    shortcut: Shortcut | None
    """Class of the first operand as a shortcut around the second; None if it is not a shortcut."""

    @property
    def gain(self) -> int:
        """Weighted layers that the first operand saves."""
        return self.other.long - self.mine.short


@dataclass(slots=True)
class Leaf:
    """An operand of a merge: the node, and the operation and position it enters by."""

    node: int
    holder: int
    slot: int


@dataclass(slots=True)
class Found:
    """Everything the analysis has to say."""

    skips: list[Skip]
    gates: list[Skip]
    weak: list[Skip]
    multi_branch: list[MultiBranch]
    notes: list[str]


_SUMS = {"sum", "mean", "matmul", "mm", "mv", "bmm", "einsum", "tensordot"}
"""What may add up along an axis."""


class Analysis:
    """Runs the rules over one trace."""

    def __init__(self, trace: Trace, alive: set[int] | None = None) -> None:
        """``alive`` are the nodes that lead to the output, where that is known."""
        self.alive = alive
        self.nodes = trace.nodes
        self.level = trace.level
        self.consumers: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for pred in dict.fromkeys(node.preds):
                self.consumers[pred].append(number)
        self._link()
        self._summing = False
        self._carried: dict[int, list[int]] = {}
        """Of each sum with a skip, the operands that are shortcuts."""
        self._reach: dict[int, tuple[dict[int, Path], int]] = {}
        self._budget = 400_000 + 300 * len(self.nodes)
        self._stopped = False

    def _link(self) -> None:
        """Ancestors as bit sets. Only forks can be where two paths part, so only forks have a bit."""
        self.forks: list[int] = []
        self.bit: list[int] = []
        self.ancestors: list[int] = []
        self.depth: list[int] = []
        """Fewest weighted layers since the input."""
        for number, node in enumerate(self.nodes):
            seen = 0
            for pred in node.preds:
                seen |= self.ancestors[pred]
            self.depth.append(node.weight + min((self.depth[pred] for pred in node.preds), default=0))
            fork = 0
            if len(self.consumers[number]) > 1:
                fork = 1 << len(self.forks)
                self.forks.append(number)
            self.bit.append(fork)
            self.ancestors.append(seen | fork)

    # -- paths

    def paths(self, source: int, until: int) -> dict[int, Path]:
        """Paths from ``source`` to every node up to ``until`` that descends from it."""
        known, done = self._reach.get(source, (None, source))
        if known is None:
            here = self.nodes[source].places
            known = {source: Path(0, 0, 0, 0, here or float("inf"), here)}
        if until > done:
            nodes = self.nodes
            self._budget -= until - done
            if self._budget < 0:
                self._stopped = True
                return known
            for number in range(done + 1, until + 1):
                node = nodes[number]
                if len(node.preds) == 1:
                    before = known.get(node.preds[0])
                    if before is None:
                        continue
                    if not node.flags:
                        known[number] = before
                        continue
                    short, long, convs, flags, floor, ceiling = before
                else:
                    inside = [(known[p], p) for p in node.preds if p in known]
                    if not inside:
                        continue
                    short = min(path.short for path, _ in inside)
                    long = max(path.long for path, _ in inside)
                    convs = max(path.convs for path, _ in inside)
                    flags = 0
                    for path, _ in inside:
                        flags |= path.flags
                    floor, ceiling = self._resolutions(node, inside, known)
                if node.flags & (RESAMPLED | WEIGHTED) and node.places:
                    floor, ceiling = min(floor, node.places), max(ceiling, node.places)
                known[number] = Path(
                    short + node.weight, long + node.weight, convs + node.conv, flags | node.flags, floor, ceiling
                )
            self._reach[source] = (known, until)
        return known

    def _resolutions(self, node: Node, inside: list[tuple[Path, int]], known: dict[int, Path]) -> tuple[float, float]:
        """Lowest and highest resolution on the way to a node of several operands."""
        nodes = self.nodes
        if node.flags & (MIXED | GATED):  # any operand, also one from elsewhere, carries the resolution through
            elsewhere = [nodes[p].places for p in node.preds if p not in known and nodes[p].places]
            return (
                max([path.floor for path, _ in inside] + elsewhere),
                min([path.ceiling for path, _ in inside] + elsewhere),
            )
        whole = [path for path, pred in inside if node.merge != "add" or nodes[pred].total >= node.total]
        if not whole:  # broadcast over a sum
            return node.places or float("inf"), node.places
        return min(path.floor for path in whole), max(path.ceiling for path in whole)

    def relate(self, mine: int, other: int) -> Relation | None:
        """The better of two views: from the latest common ancestor, or from where ``mine`` leads back to through gates
        and the like."""
        common = self.ancestors[mine] & self.ancestors[other]
        if not common:
            return None
        source = self.forks[common.bit_length() - 1]
        until = mine if mine > other else other
        reach, done = self._reach.get(source, _NOWHERE)
        if done < until:
            reach = self.paths(source, until)
        if mine not in reach or other not in reach:
            return None
        near, far = reach[mine], reach[other]
        if far.long > near.short:
            shortcut = _classify(near, far)
            if shortcut is not None:
                return Relation(source, near, far, shortcut)
        behind = self._behind(mine, other) or (self._behind_sum(mine, other, source) if self._summing else None)
        if behind is not None:
            return behind
        return Relation(source, near, far, _classify(near, far) if far.long == near.short else None)

    def _behind(self, mine: int, other: int) -> Relation | None:
        """Back from ``mine`` along what is carried, to an earlier source: ``x.view() * (1 - t)``, where both operands
        descend from t, carries x."""
        nodes = self.nodes
        at, flags, gated = mine, 0, False
        for _ in range(12):
            node = nodes[at]
            if node.weight or not node.preds:
                return None
            if node.merge == "product":
                if self.bit[at] & self.ancestors[other]:
                    return None  # the other one comes from behind the gate as well: they part there
                values = [p for p in node.preds if not self._squashed(p)]
                if len(values) != 1:
                    return None
                before, gated = values[0], True
            elif len(set(node.preds)) == 1 and (node.family in _TRANSPARENT or node.flags == ACTIVATED):
                before = node.preds[0]
            else:
                return None
            flags |= node.flags
            at = before
            if self.bit[at] & self.ancestors[other] and not (gated and flags & ACTIVATED):
                reach = self.paths(at, max(mine, other))
                if other in reach and mine in reach:
                    path = Path(0, 0, 0, flags, reach[mine].floor, reach[mine].ceiling)
                    relation = Relation(at, path, reach[other], _classify(path, reach[other]))
                    if relation.shortcut is not None and relation.gain > 0:
                        return relation
        return None

    def _behind_sum(self, mine: int, other: int, worker: int) -> Relation | None:
        """A running sum: where ``mine`` is a sum that serves nothing but the next one, what it carries is what its own
        shortcut carries (the image of LapSRN, which goes up and gathers a residual at each level). ``worker`` is the
        latest node that both operands come from: it lies on the way to the residuals, or the sum does not run along."""
        nodes = self.nodes
        at, flags = mine, 0
        for _ in range(12):
            node = nodes[at]
            if not self._serves_only(at, other):
                return None
            if at in self._carried:
                break
            if node.merge or node.weight or node.family not in _TRANSPARENT or len(set(node.preds)) != 1:
                return None
            flags |= node.flags
            at = node.preds[0]
        best: Relation | None = None
        for operand in self._carried.get(at, ()):
            relation = self.relate(operand, other)
            if relation is None or relation.shortcut is None or relation.gain < 1 or relation.source == worker:
                continue
            path = relation.mine._replace(flags=relation.mine.flags | flags)
            relation = relation._replace(mine=path, shortcut=_classify(path, relation.other))
            if relation.shortcut is not None and (best is None or relation.gain > best.gain):
                best = relation
        return best

    def _serves_only(self, number: int, other: int) -> bool:
        """Whether nothing that ``other`` is made of uses the node."""
        users = self.consumers[number]
        return len(users) == 1 or not self.bit[number] & self.ancestors[other]

    def _squashed(self, node: int) -> bool:
        """Whether a sigmoid or the like is the last thing that happened, rearranging and rescaling aside."""
        nodes = self.nodes
        for _ in range(12):
            here = nodes[node]
            if here.flags & SQUASHED:
                return True
            plain = here.family in (Family.IDENT, Family.RESAMPLE, Family.SLICE, Family.SPLIT)
            scaled = here.family in (Family.MUL, Family.ADD) and not here.merge
            if not (plain or scaled) or len(set(here.preds)) != 1:
                return False
            node = here.preds[0]
        return False

    # -- merges

    def run(self) -> Found:
        """Look at every merge."""
        found = Found([], [], [], [], [])
        for number, node in enumerate(self.nodes):
            if node.merge == "product":
                self._product(number, found)
            elif node.merge == "maximum":
                self._branches(number, "maximum", self._operands(number), found)
            elif self._summed_stack(number) is not None or (node.merge and not self._is_part(number)):
                self._merge(number, found)
        if self.alive is not None:
            self._bury(found, self.alive)
        if self._stopped:
            found.notes.append("The graph is too large to search whole: skips over very long distances may be missing.")
        return found

    def _bury(self, found: Found, alive: set[int]) -> None:
        """Leave out merges whose result is thrown away."""
        dead = [skip for skip in (*found.skips, *found.gates) if skip.step not in alive]
        if dead:
            sites = ", ".join(skip.merge for skip in dead[:3]) + (", ..." if len(dead) > 3 else "")
            found.notes.append(f"Not counted, because the result never reaches the output: {sites}.")
        for skips in (found.skips, found.gates, found.weak):
            skips[:] = [
                replace(skip, index=index) for index, skip in enumerate(skip for skip in skips if skip.step in alive)
            ]
        found.multi_branch[:] = [merge for merge in found.multi_branch if merge.step in alive]

    def _operands(self, number: int) -> list[Leaf]:
        node = self.nodes[number]
        return [Leaf(pred, number, slot) for pred, slot in zip(node.preds, node.slots, strict=True)]

    def _summed_stack(self, number: int) -> int | None:
        """``torch.stack([...]).sum(0)`` is an addition, weighted or not, and so is a product over the new axis. This is
        the stack behind such a sum."""
        node = self.nodes[number]
        if node.name not in _SUMS:
            return None
        for pred in dict.fromkeys(node.preds):
            stack = self._stack_behind(pred)
            if stack is not None and node.total == self.nodes[self.nodes[stack].preds[0]].total:
                return stack
        return None

    def _stack_behind(self, number: int) -> int | None:
        """A stack that is at most weighted and rearranged before it gets to this node, and used for nothing else."""
        node = self.nodes[number]
        if len(self.consumers[number]) != 1:
            return None
        if node.family is Family.STACK:
            return number if node.merge else None
        if node.family is not Family.MUL and not (node.family is Family.IDENT and len(node.preds) == 1):
            return None
        behind = (self._stack_behind(pred) for pred in dict.fromkeys(node.preds))
        return next((stack for stack in behind if stack is not None), None)

    def _is_part(self, number: int) -> bool:
        """A sum whose only use is another sum belongs to that one; a stack that is summed up, to the sum."""
        users = self.consumers[number]
        if len(users) != 1:
            return False
        if self.nodes[number].family is Family.STACK:
            while self.nodes[users[0]].family in (Family.MUL, Family.IDENT) and len(self.consumers[users[0]]) == 1:
                if self._summed_stack(users[0]) == number:
                    return True
                users = self.consumers[users[0]]
            return self._summed_stack(users[0]) == number
        return self.nodes[number].merge == "add" and self.nodes[users[0]].merge == "add"

    def _leaves(self, number: int) -> list[Leaf]:
        """Operands of a merge, sums inside sums taken apart."""
        stack = self._summed_stack(number)
        if stack is not None:
            return self._operands(stack)
        leaves = []
        for leaf in self._operands(number):
            inner = self.nodes[leaf.node]
            if self.nodes[number].merge == "add" and inner.merge == "add" and self._is_part(leaf.node):
                leaves.extend(self._leaves(leaf.node))
            else:
                leaves.append(leaf)
        return leaves

    def _merge(self, number: int, found: Found) -> None:
        leaves = self._leaves(number)
        kind: Kind = "add" if self._summed_stack(number) is not None else cast(Kind, self.nodes[number].merge)
        self._summing = kind == "add"
        edges: list[tuple[Leaf, Relation]] = []
        weak: list[tuple[Leaf, Relation]] = []
        for leaf in leaves:
            best = self._straight(leaf, leaves)
            for other in leaves if best is None else ():
                if other.node == leaf.node:
                    continue
                relation = self.relate(leaf.node, other.node)
                if relation is None or relation.shortcut is None:
                    continue
                if relation.gain == 0 and _bypasses_parameters(relation):
                    weak.append((leaf, relation))
                if relation.gain < 1 or not _stands_up(relation, kind):
                    continue
                if best is None or relation.gain > best.gain:
                    best = relation
            if best is not None:
                edges.append((leaf, best))
        # Next to a free shortcut, a projection from the same source is one more branch.
        free = {relation.source for _, relation in edges if not relation.mine.long}
        edges = [(leaf, relation) for leaf, relation in edges if not relation.mine.long or relation.source not in free]
        edges = self._without_main_path(edges, leaves)
        if edges:
            if kind == "add":
                self._carried[number] = [leaf.node for leaf, _ in edges]
            for holders in self._sums(edges):
                mine = [(leaf, relation) for leaf, relation in edges if leaf.holder in holders]
                at, group = number, leaves
                if len(mine) < len(edges):
                    at = max(holders)
                    group = [leaf for holder in sorted(holders) for leaf in self._operands(holder)]
                    group = [leaf for leaf in group if leaf.node not in holders]
                holder = at if len(holders) > 1 else min(holders)
                found.skips.append(self._skip(len(found.skips), kind, at, holder, mine, group))
        elif weak:
            found.weak.append(self._skip(len(found.weak), kind, number, weak[0][0].holder, weak[:1], leaves))
        else:
            self._branches(number, kind, leaves, found)

    def _without_main_path(self, edges: list[tuple[Leaf, Relation]], leaves: list[Leaf]) -> list[tuple[Leaf, Relation]]:
        """Where every operand is a shortcut around another one, the one that was worked on most is the main path."""
        if len(edges) < len(leaves) or len(edges) < 2:
            return edges

        def work(place: int) -> tuple[int, int, int]:
            leaf, relation = edges[place]
            return self.depth[leaf.node], relation.mine.long, leaf.node

        main = max(range(len(edges)), key=work)
        return [edge for place, edge in enumerate(edges) if place != main]

    def _sums(self, edges: list[tuple[Leaf, Relation]]) -> list[set[int]]:
        """The merges that the edges enter, those of one call of a module together: ``a + b + c`` is one sum."""
        calls: dict[int, set[int]] = {}
        for leaf, _ in edges:
            calls.setdefault(id(self.nodes[leaf.holder].frame), set()).add(leaf.holder)
        return sorted(calls.values(), key=min)

    def _straight(self, leaf: Leaf, leaves: list[Leaf]) -> Relation | None:
        """The plainest case: another operand was computed from this very one."""
        bit = self.bit[leaf.node]
        after = [other.node for other in leaves if other.node != leaf.node and bit & self.ancestors[other.node]]
        if not after:
            return None
        reach = self.paths(leaf.node, max(after))
        ways = [reach[node] for node in after if node in reach]
        longest = max(ways, key=lambda path: (path.long, path.convs), default=None)
        if longest is None or not longest.long:
            return None
        return Relation(leaf.node, reach[leaf.node], longest, "identity")

    def _product(self, number: int, found: Found) -> None:
        self._summing = False
        leaves = self._operands(number)
        if len(leaves) != 2:
            return
        for value, gate in (leaves, leaves[::-1]):
            relation = self.relate(value.node, gate.node)
            if relation is None or relation.gain < 1 or relation.mine.long:
                continue
            if relation.mine.flags & (AFFINE | WEIGHTED | MIXED | MERGED):
                continue
            kind: Kind = "gate" if self._squashed(gate.node) else "multiply"
            relation = relation._replace(shortcut=relation.shortcut or "identity")
            found.gates.append(self._skip(len(found.gates), kind, number, number, [(value, relation)], leaves))
            return

    def _branches(self, number: int, kind: str, leaves: list[Leaf], found: Found) -> None:
        """Two operands with weighted layers of their own since they parted."""
        self._summing = False
        for place, leaf in enumerate(leaves):
            for other in leaves[place + 1 :]:
                relation = self.relate(leaf.node, other.node) if leaf.node != other.node else None
                if relation is None or not relation.mine.long or not relation.other.long:
                    continue
                common = -1
                for each in leaves:
                    common &= self.ancestors[each.node]
                source = self.forks[common.bit_length() - 1] if common > 0 else relation.source
                reach = self.paths(source, number)
                node = self.nodes[number]
                found.multi_branch.append(
                    MultiBranch(
                        merge=str(self._site(leaf.holder)),
                        kind=kind,
                        source=self._name(source),
                        branches=tuple(reach[each.node].long if each.node in reach else 0 for each in leaves),
                        start=self.nodes[source].layers,
                        end=node.layers,
                        step=number,
                        shape=node.shape,
                    )
                )
                return

    def _site(self, number: int) -> Site:
        return self.nodes[number].site(self.level)

    def _name(self, number: int) -> str:
        node = self.nodes[number]
        return node.name if not node.preds else str(self._site(number))

    def _skip(
        self, index: int, kind: Kind, number: int, holder: int, edges: list[tuple[Leaf, Relation]], group: list[Leaf]
    ) -> Skip:
        cut = {(leaf.holder, leaf.slot) for leaf, _ in edges}
        made = [self._edge(leaf, relation) for leaf, relation in edges]
        made.sort(key=lambda edge: (-edge.layers, -edge.convs, edge.step))
        node = self.nodes[number]
        return Skip(
            index=index,
            merge=str(self._site(holder)),
            kind=kind,
            end=node.layers,
            step=number,
            shape=node.shape,
            edges=tuple(made),
            others=tuple(self._operand(leaf) for leaf in group if (leaf.holder, leaf.slot) not in cut),
        )

    def _edge(self, leaf: Leaf, relation: Relation) -> Edge:
        source = self.nodes[relation.source]
        operand = self.nodes[leaf.node]
        ends = [node.places for node in (source, operand) if node.places]
        low = relation.other.floor * _STEP <= min(ends, default=0.0)
        high = relation.other.ceiling >= max(ends, default=float("inf")) * _STEP
        return Edge(
            source=self._name(relation.source),
            shortcut=relation.shortcut or "identity",
            layers=relation.other.long,
            convs=relation.other.convs,
            start=source.layers,
            step=relation.source,
            cross_scale=low or high,
            partial=bool(relation.mine.flags & PARTIAL),
            source_shape=source.shape,
            shape=operand.shape,
            operand=self._operand(leaf),
        )

    def _operand(self, leaf: Leaf) -> Operand:
        return Operand(self._site(leaf.holder), leaf.slot)


def _classify(mine: Path, other: Path) -> Shortcut | None:
    """What a shortcut does, from nothing to much; None for more than a shortcut does."""
    flags = mine.flags
    if flags & (MIXED | MERGED):
        return None
    if flags & GATED:
        return "gated" if not mine.long else None
    if mine.long:
        if mine.long > 2:
            return None
        if not flags & ACTIVATED:
            return "projection"
        return "lateral" if other.flags & UPSAMPLED else None
    if flags & ACTIVATED:
        return "activated"
    if flags & AFFINE:
        return "affine"
    return "resampled" if flags & RESAMPLED else "identity"


def _stands_up(relation: Relation, kind: Kind) -> bool:
    """A projection is a shortcut only around something nonlinear; next to a concatenation it is one more branch,
    unless the other side comes back up from a lower resolution (an encoder-decoder)."""
    if relation.shortcut != "projection":
        return True
    if kind == "concat" and not relation.other.flags & UPSAMPLED:
        return False
    return bool(relation.other.flags & (ACTIVATED | MIXED))


def _bypasses_parameters(relation: Relation) -> bool:
    plain = relation.shortcut in ("identity", "resampled")
    return plain and not relation.other.long and bool(relation.other.flags & AFFINE)
