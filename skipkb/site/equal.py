"""The mark of a model whose outputs equal those recorded from released code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from skipkb.evidence.results import Equal
from skipkb.site.text import escape, link

_WHOSE = {"authors": "", "definition": "the authors' definition in ", "port": "the port "}


def equal_marks(equal: Sequence[Equal]) -> str:
    """One mark for each commit that something was compared with, each with the largest difference of its variants."""
    commits: dict[tuple[str, str, str], list[Equal]] = {}
    for one in equal:
        commits.setdefault((one.repository, one.commit, one.whose), []).append(one)
    return "<br>".join(_mark(group) for group in commits.values())


def _mark(group: Sequence[Equal]) -> str:
    """``equal to owner/name@commit, 3e-07``, linked to that commit."""
    first = group[0]
    hashed = re.fullmatch(r"[0-9a-f]{12,40}", first.commit)
    place = f"{first.repository}@{first.commit[:7] if hashed else first.commit}"
    url = f"https://github.com/{first.repository}" + (f"/tree/{first.commit}" if hashed else "")
    largest = max(one.difference for one in group)
    said = f"{largest:.0e}" if largest else "exactly"
    title = "; ".join(f"{one.variant}: {one.difference:.1e}" for one in group)
    return (
        f'<span class="skb-mark skb-checked" title="{escape(title)}">equal to {_WHOSE[first.whose]}'
        f"{link(url, place)}, {said}</span>"
    )
