"""Pages that list the works by what they share: theme, explanation, task, data set, venue, year, framework.

A group has an address that does not depend on how many works it holds, so that other pages may link to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from skipkb.catalog.entry import Work
from skipkb.catalog.loading import Catalogue
from skipkb.site.rows import rows_script, work_row
from skipkb.site.text import escape, heading, table
from skipkb.vocabulary import dataset_name, framework_names, venue_series

CHOICES = ("Task", "Merge", "Span", "Kind", "Runs here")
"""What a list of works can be filtered by."""


def anchor(name: str) -> str:
    """The group's address on its page: ``PASCAL VOC 2012`` as ``pascal-voc-2012``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def chip(page: str, name: str, shown: str | None = None) -> str:
    """A small link to a group; ``page`` is relative to the page that shows it."""
    return f'<a class="skb-chip" href="{page}#{anchor(name)}">{escape(shown or name)}</a>'


def section_titles(catalogue: Catalogue) -> dict[str, str]:
    """The survey's sections that works are filed under, with their titles."""
    survey = catalogue.survey
    return dict([*survey.themes.items(), *survey.explanations.items()])


def section_page_name(section: str) -> str:
    """``IV.A`` as ``themes/iv-a``, ``V.A`` as ``explanations/v-a``."""
    return f"{'themes' if section.startswith('IV') else 'explanations'}/{anchor(section)}"


def method_chips(work: Work, catalogue: Catalogue) -> str:
    """Links from the page of a work to the groups it is in."""
    titles = section_titles(catalogue)
    chips = [chip("../tasks.html", task) for task in work.tasks]
    for name in (*work.themes, *work.explanations):
        chips.append(_section_chip(f"../{section_page_name(name)}.html", name, titles[name]))
    lines = [chips]
    if work.datasets:
        names = dict.fromkeys(map(dataset_name, work.datasets))
        lines.append(["Data sets:", *(chip("../datasets.html", name) for name in names)])
    return "".join(f"<p>{' '.join(line)}</p>\n" for line in lines if line)


def _section_chip(page: str, name: str, title: str) -> str:
    return f'<a class="skb-chip" href="{page}">{escape(f"{name} {title}")}</a>'


def venue_links(work: Work) -> str:
    """Venue and year of a work, each a link to its group."""
    venue = f'<a href="../venues.html#{anchor(venue_series(work.venue))}">{escape(work.venue)}</a>'
    return f'{venue}, <a href="../years.html#{work.year}">{work.year}</a>'


def group_pages(catalogue: Catalogue) -> dict[str, str]:
    """All these pages, by file name."""
    works = sorted(catalogue.entries.values(), key=lambda work: (work.year, work.name.casefold(), work.key))
    titles = section_titles(catalogue)
    pages = {f"{section_page_name(name)}.md": _section_page(name, titles, works) for name in titles}
    kinds = {
        "tasks": ("Tasks", "What the works are for.", _grouped(works, lambda w: [(t, t) for t in w.tasks])),
        "datasets": (
            "Data sets",
            "Data sets on which the papers really evaluate, whatever the survey's tables say.",
            _grouped(works, lambda w: [(dataset_name(d), d) for d in w.datasets]),
        ),
        "venues": (
            "Venues",
            "Where the works were published.",
            _grouped(works, lambda w: [(venue_series(w.venue), w.venue)]),
        ),
        "frameworks": (
            "Frameworks",
            "What the repositories of the works are written in, official or not; the page of a work lists them.",
            _grouped(works, lambda w: [(name, r.framework) for r in w.code for name in framework_names(r.framework)]),
        ),
        "years": ("Years", "Year of publication.", _grouped(works, lambda w: [(str(w.year), str(w.year))])),
    }
    for name, (title, lead, groups) in kinds.items():
        pages[f"{name}.md"] = _page(title, lead, groups, in_order=name == "years")
    pages["browse.md"] = _browse_page(titles, works, {name: (kind[0], kind[2]) for name, kind in kinds.items()})
    return pages


Groups = Mapping[str, tuple[list[Work], list[str]]]
"""The works of each group, and the spellings under which the catalogue has it."""


def _grouped(works: Iterable[Work], values: Callable[[Work], Iterable[tuple[str, str]]]) -> Groups:
    groups: dict[str, tuple[list[Work], list[str]]] = {}
    for work in works:
        for name, spelling in values(work):
            found, spellings = groups.setdefault(name, ([], []))
            if work not in found:
                found.append(work)
            if spelling not in spellings:
                spellings.append(spelling)
    return dict(sorted(groups.items(), key=lambda item: item[0].casefold()))


def _page(title: str, lead: str, groups: Groups, *, in_order: bool = False) -> str:
    """One page for all groups of a kind; groups of one work share a section unless ``in_order``."""
    large = {name: found for name, found in groups.items() if in_order or len(found[0]) > 1}
    chips = _counts("", large, list(large) if in_order else _by_size(large))
    parts = [f"# {title}\n\n<p>{escape(lead)}</p>\n\n<p>{chips}</p>\n"]
    for name, (works, spellings) in large.items():
        others = ", ".join(spelling for spelling in sorted(spellings) if spelling != name)
        note = f'<p class="skb-small">In the records: {escape(others)}</p>\n' if others else ""
        items = "".join(f"<li>{_work_link(work)}</li>" for work in works)
        parts.append(f'## {heading(name)} {{ #{anchor(name)} }}\n\n{note}<ul class="skb-works">{items}</ul>\n')
    single = [(name, works[0]) for name, (works, _) in groups.items() if name not in large]
    if single:
        items = "".join(
            f'<li id="{anchor(name)}"><strong>{escape(name)}</strong>: {_work_link(work)}</li>' for name, work in single
        )
        parts.append(f"## With one work each {{ #one-work }}\n\n<ul>{items}</ul>\n")
    return "\n".join(parts)


def _by_size(groups: Groups) -> list[str]:
    return sorted(groups, key=lambda name: -len(groups[name][0]))


def _counts(page: str, groups: Groups, names: Iterable[str]) -> str:
    return " ".join(chip(page, name, f"{name}: {len(groups[name][0])}") for name in names)


def _browse_page(titles: Mapping[str, str], works: Sequence[Work], kinds: Mapping[str, tuple[str, Groups]]) -> str:
    """The way to all pages of groups and to the pictures."""
    years = f"{works[0].year} to {works[-1].year}"
    parts = [
        f'# Browse\n\n<p>{len(works)} works from {years}: along a <a href="timeline.html">timeline</a>, in a '
        '<a href="family.html">graph of who extends, uses and explains whom</a>, or by what they share.</p>\n'
    ]
    for title, folder in (("Themes of section IV", "themes"), ("Explanations of section V", "explanations")):
        sections = [name for name in titles if section_page_name(name).startswith(folder)]
        items = "".join(
            f'<li><a href="{section_page_name(name)}.html">{escape(f"{name} {titles[name]}")}</a>: '
            f"{sum(name in (*work.themes, *work.explanations) for work in works)} works</li>"
            for name in sections
        )
        parts.append(f"## {title}\n\n<ul>{items}</ul>\n")
    for page, (title, groups) in kinds.items():
        names = list(groups)[-8:] if page == "years" else _by_size(groups)[:8]
        more = f'<a href="{page}.html">all {len(groups)}</a>' if len(groups) > len(names) else ""
        parts.append(f"## {title}\n\n<p>{_counts(f'{page}.html', groups, names)} {more}</p>\n")
    return "\n".join(parts)


def _work_link(work: Work) -> str:
    return f'<a href="methods/{work.key}.html">{escape(work.name)}</a> ({work.year})'


def _section_page(name: str, titles: Mapping[str, str], works: Sequence[Work]) -> str:
    """The works that belong to one section of the survey."""
    found = [work for work in works if name in (*work.themes, *work.explanations)]
    rows = [
        [
            f'<td class="skb-number">{work.year}</td>',
            f'<a href="../methods/{work.key}.html">{escape(work.name)}</a>',
            escape(", ".join(work.merges)),
            escape(", ".join(dict.fromkeys(skip.span for skip in work.skips))),
            f'<td class="skb-text">{escape(work.contribution)}</td>',
            "yes" if work.runs else "no",
        ]
        for work in found
    ]
    folder = section_page_name(name).partition("/")[0]
    siblings = [other for other in titles if other != name and section_page_name(other).startswith(folder)]
    chips = " ".join(_section_chip(f"{anchor(other)}.html", other, titles[other]) for other in siblings)
    headers = ("Year", "Work", "Merge", "Span", "What it changed", "Runs here")
    return f"""---
hide: [toc]
---

# {name} {heading(titles[name])}

<p>The {len(found)} works that belong to section {name} of the survey, in order of year;
{sum(work.runs for work in found)} of them can be run here.</p>

<p>{chips}</p>

{table(headers, rows, caption=f"Works of section {name}", interactive=anchor(name))}
{rows_script([work_row(work) for work in found], choices=CHOICES)}"""
