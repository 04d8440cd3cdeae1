"""What machines read: schema.org data on the pages, and llms.txt at the root."""

from __future__ import annotations

import json
from typing import Any

from skipkb.catalog.entry import Work
from skipkb.catalog.loading import Catalogue


def article(work: Work) -> str:
    """The publication behind an entry, and its official code, as JSON-LD (schema.org)."""
    addresses = [f"https://arxiv.org/abs/{work.arxiv}"] if work.arxiv else []
    addresses += [f"https://doi.org/{work.doi}"] if work.doi else []
    data: dict[str, Any] = {
        "@type": "ScholarlyArticle",
        "name": work.title,
        "alternateName": [work.name, *work.aliases],
        "author": [{"@type": "Person", "name": name} for name in work.authors],
        "datePublished": str(work.year),
        "isPartOf": {"@type": "PublicationIssue", "name": work.venue},
        "abstract": work.contribution,
        "keywords": [*work.tasks, *work.merges],
    }
    if addresses:
        data |= {"sameAs": addresses, "identifier": work.doi or f"arXiv:{work.arxiv}"}
    official = [repository for repository in work.code if repository.role == "official"]
    if official:
        data["workExample"] = [
            {"@type": "SoftwareSourceCode", "codeRepository": r.url, "runtimePlatform": r.framework}
            | ({"license": r.licence} if r.licence else {})
            for r in official
        ]
    return _script(data)


def dataset(catalogue: Catalogue) -> str:
    """The catalogue itself, with its downloads, as JSON-LD."""
    files = {
        "catalog.json": "application/json",
        "catalog.csv": "text/csv",
        "catalog.sqlite": "application/vnd.sqlite3",
        "references.bib": "application/x-bibtex",
    }
    return _script(
        {
            "@type": "Dataset",
            "name": "skipkb catalogue",
            "description": f"{len(catalogue.entries)} works on skip connections, with checked facts: a companion to "
            f"{catalogue.survey.title}",
            "license": "https://creativecommons.org/licenses/by/4.0/",
            "isBasedOn": f"https://arxiv.org/abs/{catalogue.survey.arxiv}",
            "distribution": [
                {"@type": "DataDownload", "contentUrl": name, "encodingFormat": kind} for name, kind in files.items()
            ],
        }
    )


def _script(data: dict[str, Any]) -> str:
    text = json.dumps({"@context": "https://schema.org", **data}, ensure_ascii=False, sort_keys=True)
    # A script ends at the first "</", whatever the JSON says, and Markdown must not see its characters.
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/ld+json">{safe}</script>\n'


def llms_txt(catalogue: Catalogue) -> str:
    """A plain overview of the site for language models, with a line for each work."""
    lines = [
        "# skipkb",
        "",
        f"> Companion to the survey {catalogue.survey.title} (arXiv {catalogue.survey.arxiv}): the works it "
        "discusses as checked entries, methods as running PyTorch code, and a tracer that finds the skip connections "
        "of any PyTorch model. Unverified figures are marked as such in catalog.json (source.checked).",
        "",
        "## Data",
        "",
        "- [catalog.json](catalog.json): survey and entries with everything they say",
        "- [catalog.csv](catalog.csv): one line per work",
        "- [catalog.sqlite](catalog.sqlite): the same with a full-text index",
        "- [references.bib](references.bib): the bibliography",
        "",
        "## Guides",
        "",
        "- [Getting started](guide.html): look up, cite, run, trace",
        "- [What counts as a skip](skips.html): the rules, with examples",
        "- [Errata](errata.html): where the survey differs from what was found, and notes that add to it",
    ]
    for folder in dict.fromkeys(work.folder for work in catalogue.entries.values()):
        lines += ["", f"## {folder.capitalize()}", ""]
        for work in catalogue.entries.values():
            if work.folder == folder:
                runs = "; runs here" if work.runs else ""
                lines.append(f"- [{work.name} ({work.year})](methods/{work.key}.html): {work.contribution}{runs}")
    return "\n".join(lines) + "\n"
