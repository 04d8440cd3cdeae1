"""The page of a method: everything the catalogue claims, beside everything that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skipkb.catalog.entry import Compared, Peer, Variant, Work
from skipkb.catalog.loading import Catalogue
from skipkb.catalog.paths import PACKAGE
from skipkb.evidence.counts import Counts, read_counts, refresh_command
from skipkb.evidence.recorded import Recorded, equal_now, state, why_not_counted, why_stale
from skipkb.evidence.results import Equal, Report
from skipkb.site.equal import equal_marks
from skipkb.site.family import family_figure
from skipkb.site.figure import skip_figure
from skipkb.site.fingerprints import found_skips
from skipkb.site.groups import method_chips, venue_links
from skipkb.site.machines import article
from skipkb.site.rows import rows_script, work_row
from skipkb.site.text import (
    escape,
    fence,
    front_matter,
    heading,
    link,
    number_cell,
    shape,
    short_number,
    source_mark,
    table,
    verdict,
)


def method_page(work: Work, catalogue: Catalogue, recorded: Recorded, notebook: str) -> str:
    """The Markdown page of one entry.

    Args:
        catalogue: where the entry stands, for the links to other entries.
        notebook: the rendered notebook, or nothing.
    """
    numbers: dict[str, str] = {table.key: table.number for table in catalogue.survey.tables}
    parts = [
        f"---\ntitle: {front_matter(work.name)}\ndescription: {front_matter(work.contribution)}\n---\n",
        f"# {heading(work.name)}\n",
        f'<p class="skb-lead">{escape(work.contribution)}</p>\n',
        _paper(work, catalogue),
        _section("What it changed", f"<p>{escape(work.description)}</p>\n"),
        _section("Skip connections", _skips(work)),
        _section("Models", _models(work, recorded)),
        _section("Configurations the authors publish", _configurations(work)),
        _section("Related works", _related(work, catalogue)),
        _section("In the survey", _survey(work, numbers)),
        _section("Code", _code(work)),
        _section("The same architecture elsewhere", _peers(work)),
        _section("Results the paper reports", _results(work)),
        _section("Deviations from the paper", _deviations(work)),
        _section("Evidence", _evidence(work, recorded)),
        _section("Cite", fence(work.bibtex, "bibtex")),
        _section("Implementation", _implementation(work)),
        _section("Notebook", notebook),
        article(work),
    ]
    return "\n".join(part for part in parts if part)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _paper(work: Work, catalogue: Catalogue) -> str:
    links = []
    if work.arxiv:
        links.append(link(f"https://arxiv.org/abs/{work.arxiv}", f"arXiv:{work.arxiv}"))
    if work.doi:
        links.append(link(f"https://doi.org/{work.doi}", f"doi:{work.doi}"))
    if work.url:
        links.append(link(work.url))
    authors = escape(", ".join(work.authors))
    return (
        f'<p class="skb-paper">{authors}. <cite>{escape(work.title)}</cite>. {venue_links(work)}. '
        f"{' · '.join(links)}</p>\n{method_chips(work, catalogue)}"
    )


def _skips(work: Work) -> str:
    if not work.skips:
        return found_skips(work)
    rows = [[escape(s.start), escape(s.end), escape(s.merge), escape(s.span), escape(s.shortcut)] for s in work.skips]
    return f"{found_skips(work)}<figure>{skip_figure(work.name, work.skips)}</figure>\n\n" + table(
        ("From", "To", "Merge", "Span", "On the shortcut"), rows, caption="Skip connections"
    )


def _models(work: Work, recorded: Recorded) -> str:
    if not work.variants:
        reason = work.implementation.reason if work.implementation else ""
        status = work.implementation.status if work.implementation else ""
        return f"<p>No running code here ({escape(status)}): {escape(reason)}</p>\n"
    counts = read_counts(work.key)
    outdated = why_not_counted(work, recorded)
    equal = equal_now(work, recorded)
    rows = [_variant_row(variant, None if outdated else counts, equal) for variant in work.variants]
    headers = ("Model", "Input", "Output", "Parameters", "Published", "MACs", "Published", "Outputs")
    notes = "".join(
        f"<li><code>{escape(v.name)}</code>: {escape(v.derivation)}</li>" for v in work.variants if v.derivation
    )
    body = table(headers, rows, caption="Declared, counted and published size")
    if counts is None:
        body += f"<p>Nothing has been counted yet; <code>{refresh_command(work.key)}</code> does it.</p>\n"
    elif outdated:
        body += f"<p>The recorded counts are not shown: {escape('; '.join(outdated))}.</p>\n"
    else:
        body += f"<p>Counted with {escape(counts['tool'])}, torch {escape(counts['torch'])}.</p>\n"
    if notes:
        body += f"<details><summary>How the exact figures follow</summary><ul>{notes}</ul></details>\n"
    first = work.variants[0]
    body += "\n" + fence(f'import skipkb\n\nmodel = skipkb.create_model("{first.name}")', "python")
    return body + _checkpoints(work)


def _variant_row(variant: Variant, counts: Counts | None, equal: Sequence[Equal]) -> list[str]:
    counted = counts["variants"].get(variant.name) if counts else None
    published = variant.published
    badge = source_mark(published.source) if published else ""

    def size(declared: int, name: str, text: str) -> str:
        """The declared figure and under it whether counting gave the same."""
        if counted is None:
            mark = verdict("not counted", good=False)
        elif counted[name] == declared:
            mark = verdict("counted", good=True)
        else:
            mark = verdict(f"counted {counted[name]:,}", good=False)
        return f'<td class="skb-number" title="{declared:,}">{escape(text)}<br>{mark}</td>'

    return [
        f'<code>{escape(variant.name)}</code><br><span class="skb-small">{escape(variant.title)}</span>',
        escape(shape(variant.input)),
        escape(shape(variant.output)),
        size(variant.parameters, "parameters", f"{variant.parameters:,}"),
        f"{escape(published.parameters)} {badge}" if published and published.parameters else "not printed",
        size(variant.macs, "macs", short_number(variant.macs)),
        f"{escape(published.macs)} {badge}" if published and published.macs else "not printed",
        equal_marks([one for one in equal if one.variant == variant.name]) or "not compared",
    ]


def _configurations(work: Work) -> str:
    rows = [
        [
            escape(c.name),
            escape(c.input or ""),
            escape(c.parameters or "not printed"),
            escape(c.macs or "not printed"),
            source_mark(c.source),
        ]
        for c in work.configurations
    ]
    headers = ("Configuration", "Input", "Parameters", "MACs", "Source")
    return table(headers, rows, caption="As printed; not rebuilt here") if rows else ""


_RELATIONS = {
    "extends": ("Extends", "Extended by"),
    "uses": ("Uses", "Used by"),
    "explains": ("Explains", "Explained by"),
}


def _related(work: Work, catalogue: Catalogue) -> str:
    rows = []
    for relation in work.relations:
        other = catalogue.entries[relation.to]
        rows.append([_RELATIONS[relation.type][0], _work_link(other), escape(relation.how)])
    for other in catalogue.entries.values():
        rows += [
            [_RELATIONS[relation.type][1], _work_link(other), escape(relation.how)]
            for relation in other.relations
            if relation.to == work.key
        ]
    if not rows:
        return ""
    return f"{family_figure(work, catalogue)}\n" + table(
        ("", "Work", "How"), rows, caption="Related works in the catalogue"
    )


def _work_link(work: Work) -> str:
    return f'<a href="{work.key}.html">{escape(work.name)}</a> ({work.year})'


def _checkpoints(work: Work) -> str:
    found = [(p.ours, p.package, p.call, "tests/parity/test_peers.py") for p in work.peers if p.loads_here]
    found += [(v.name, s.library, s.constructor, s.test) for v in work.variants for s in v.state_dicts]
    place = {variant.name: number for number, variant in enumerate(work.variants)}
    found.sort(key=lambda row: place[row[0].partition("(")[0]])
    rows = [
        [
            f"<code>{escape(ours)}</code>",
            escape(library),
            f"<code>{escape(call)}</code>",
            f"<code>{escape(test)}</code>",
        ]
        for ours, library, call, test in found
    ]
    if not rows:
        return ""
    return "\n" + table(
        ("Model", "Checkpoints of", "Built there by", "Proved by"),
        rows,
        caption="Checkpoints that load without renaming",
    )


def _survey(work: Work, numbers: Mapping[str, str]) -> str:
    rows = []
    for row in work.survey.rows:
        for title, claim in (("Data sets", row.datasets), ("Code", row.code)):
            verified = escape(", ".join(claim.verified)) if claim.verified else "not checked"
            place = f'<a href="../tables/{row.table}.html">Table {numbers[row.table]}</a>'
            rows.append([place, title, escape(claim.survey), f"{verified} {source_mark(claim.source)}"])
    places = [f"section {place}" for place in work.survey.sections] + [f"figure {n}" for n in work.survey.figures]
    if work.survey.reference:
        places.insert(0, f"reference [{work.survey.reference}]")
    body = f"<p>{escape(', '.join(places))}</p>\n" if places else ""
    if rows:
        body += table(("Where", "Column", "The survey says", "Verified"), rows, caption="Claims of the survey")
    if work.survey.page:
        items = [
            [
                escape(f"Part {item.part}, {item.section}, item {item.number}"),
                escape(item.name),
                escape(item.paper or "none"),
                escape(item.code or "none"),
            ]
            for item in work.survey.page
        ]
        headers = ("Place", "Listed as", "Link to the paper", "Link to code")
        body += "\n### On the survey's project page\n\n"
        body += "<p>The links as they stand there, working or not.</p>\n"
        body += table(headers, items, caption="Project page")
    if work.errata:
        body += f"\n### Errata\n\n{errata_list(work)}"
    if work.notes:
        body += f"\n### Notes\n\n<p>No errors: what is worth adding.</p>\n{notes_list(work)}"
    return body


def errata_list(work: Work) -> str:
    """The errata of one work as a list, each with an address of its own."""
    items = [
        f'<li id="erratum-{number}"><strong>{escape(e.where)}</strong>, {escape(e.type)} '
        f"{verdict(e.status, good=e.status == 'confirmed')} "
        f"{source_mark(e.evidence)}<br>Survey: {escape(e.says)}<br>Truth: {escape(e.truth)}</li>"
        for number, e in enumerate(work.errata, start=1)
    ]
    return '<ol class="skb-errata">' + "\n".join(items) + "</ol>\n"


def notes_list(work: Work) -> str:
    """The notes of one work as a list, each with an address of its own."""
    items = [
        f'<li id="note-{number}"><strong>{escape(note.where)}</strong> {source_mark(note.evidence)}<br>'
        f"{f'Survey: {escape(note.says)}<br>' if note.says else ''}{escape(note.adds)}</li>"
        for number, note in enumerate(work.notes, start=1)
    ]
    return '<ol class="skb-notes">' + "\n".join(items) + "</ol>\n"


def _code(work: Work) -> str:
    rows = [
        [
            link(r.url),
            escape(r.role),
            escape(r.framework),
            escape(r.licence or "unknown"),
            f"{escape(r.holds)} {source_mark(r.source)}",
        ]
        for r in work.code
    ]
    return (
        table(("Repository", "Role", "Framework", "Licence", "What it holds"), rows, caption="Repositories")
        if rows
        else ""
    )


_COMPARED: dict[Compared, tuple[str, str]] = {
    "as built": ("same outputs and gradients as", ""),
    "difference undone": ("same outputs and gradients as", " once the difference is undone"),
    "names and shapes": ("the same tensors as", ""),
}


def _peers(work: Work) -> str:
    rows = [
        [
            escape(f"{p.package} {p.version}"),
            f"<code>{escape(p.call)}</code>",
            number_cell(p.parameters),
            _compared(p),
            f"{escape(p.difference)} {source_mark(p.source)}",
        ]
        for p in work.peers
    ]
    headers = ("Library", "Constructor", "Parameters", "Compared with ours", "Difference")
    return table(headers, rows, caption="Peers") if rows else ""


def _compared(peer: Peer) -> str:
    if not peer.compared:
        return "not compared"
    same, after = _COMPARED[peer.compared]
    return f"{same} <code>{escape(peer.ours)}</code>{after}, compared by a test"


def _results(work: Work) -> str:
    rows = [
        [escape(r.dataset), escape(r.metric), escape(r.value), escape(r.variant), source_mark(r.source)]
        for r in work.results
    ]
    return table(("Data set", "Metric", "Value", "Configuration", "Source"), rows, caption="As printed") if rows else ""


def _deviations(work: Work) -> str:
    if not work.variants:
        return ""
    if not work.deviations:
        return "<p>None known.</p>\n"
    items = [
        f"<li>{escape(d.what)} Why: {escape(d.reason)} Pinned by <code>{escape(d.test)}</code>.</li>"
        for d in work.deviations
    ]
    return "<ul>" + "\n".join(items) + "</ul>\n"


def _evidence(work: Work, recorded: Recorded) -> str:
    if not work.variants:
        return ""
    reports = recorded.of(work.key)
    body = "".join(_report(report, work) for report in reports)
    if not reports:
        body = f"<p>The contract has not been recorded yet; <code>{refresh_command(work.key)}</code> does it.</p>\n"
    if all(report.device.kind != "cuda" for report in reports):
        body += "<p>Not yet run on a GPU.</p>\n"
    return body


def _report(report: Report, work: Work) -> str:
    rows = [
        [escape(name), verdict("holds" if c.ok else "fails", good=c.ok), escape(c.statement), escape(c.detail)]
        for name, c in report.checks.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    found = state(report, work)
    reasons = "; ".join(why_stale(report, work))
    words = {"holds": "The contract holds.", "fails": "The contract does not hold.", "stale": f"Stale: {reasons}."}
    return (
        f"### On {heading(report.device.name)} ({heading(report.device.kind)})\n\n"
        f"<p>{verdict(found, good=found == 'holds')} {escape(words[found])}</p>\n"
        f"<p>{report.date:%Y-%m-%d}; {escape(versions)}; "
        f"{report.seconds:.0f} s, {report.peak_mib:,} MiB at most.</p>\n\n"
        + table(("Check", "Result", "Measured", "Detail"), rows, caption=f"Contract on {report.device.name}")
        + "\n"
    )


def _implementation(work: Work) -> str:
    files = dict.fromkeys(_model_files(work))
    return "".join(
        f'<details markdown="1">\n<summary><code>{escape(file.relative_to(PACKAGE.parent).as_posix())}</code></summary>'
        f"\n\n{fence(file.read_text(encoding='utf-8'), 'python')}\n</details>\n"
        for file in files
    )


def _model_files(work: Work) -> Iterator[Path]:
    for variant in work.variants:
        module = variant.build.partition(":")[0]
        yield PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")


def methods_index(works: Sequence[Work]) -> str:
    """The page that lists every entry."""
    rows = [
        [
            f'<a href="{w.key}.html">{escape(w.name)}</a>',
            f"<td>{w.year}</td>",
            escape(", ".join(w.tasks)),
            escape(", ".join(w.merges)),
            "yes" if w.runs else "no",
            escape(w.contribution),
        ]
        for w in works
    ]
    headers = ("Method", "Year", "Tasks", "Merge", "Runs here", "What it changed")
    choices = ("Kind", "Task", "Merge", "Span", "Framework", "Official code", "Licence", "Runs here", "Errata", "Notes")
    body = table(headers, rows, caption="All entries", interactive="methods")
    return f"# Methods\n\n{body}\n{rows_script([work_row(work) for work in works], choices=choices)}"
