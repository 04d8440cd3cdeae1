"""Which external links still lead somewhere: asked by ``skipkb check --links``, remembered in evidence/links.json.

A link is dead when its host says so (404, 410) or has no address any more. A server that is busy, slow or refuses
robots proves nothing, and what was known before stays.
"""

from __future__ import annotations

import datetime
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from skipkb.catalog.entry import Work
from skipkb.catalog.writing import write_text
from skipkb.evidence.folders import evidence_dir

Answer = Literal["alive", "dead", "unclear"]
_AGENT = "skipkb link check (a companion to arXiv 2405.01725)"
_BETWEEN = 1.0
"""Seconds between two questions to one host."""


@dataclass(frozen=True)
class Link:
    """What is known of one address."""

    url: str
    last_success: str | None = None
    """Day of the last answer that was not an error."""
    dead_since: str | None = None
    """Day on which it was first found dead, if it still is."""
    note: str = ""
    """What the last question got for an answer, where that was not a success."""


def links_file() -> Path:
    """The committed results."""
    return evidence_dir() / "links.json"


def read_links(file: Path | None = None) -> dict[str, Link]:
    """What earlier checks found, by address; empty before the first."""
    file = file or links_file()
    if not file.is_file():
        return {}
    return {item["url"]: Link(**item) for item in json.loads(file.read_text(encoding="utf-8"))}


def write_links(links: Iterable[Link], file: Path | None = None) -> None:
    """Store what is known, one address a line, atomically."""
    lines = ",\n".join(json.dumps(asdict(link), sort_keys=True) for link in sorted(links, key=lambda link: link.url))
    write_text(file or links_file(), f"[\n{lines}\n]\n")


def urls_of(works: Iterable[Work]) -> list[str]:
    """Every address the catalogue vouches for; the survey's own links are claims and are not asked."""
    found: set[str] = set()
    for work in works:
        if work.arxiv:
            found.add(f"https://arxiv.org/abs/{work.arxiv}")
        if work.doi:
            found.add(f"https://doi.org/{work.doi}")
        found |= set(_urls(work.model_dump(mode="json", exclude={"bibtex"})))
    return sorted(found)


def _urls(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "url" and isinstance(value, str):
                yield value
            else:
                yield from _urls(value)
    elif isinstance(data, list):
        for value in data:
            yield from _urls(value)


def check_links(
    urls: Iterable[str],
    known: dict[str, Link],
    today: datetime.date,
    *,
    jobs: int = 8,
    timeout: float = 20.0,
    pause: float = _BETWEEN,
    on_done: Callable[[Link, int, int], None] | None = None,
) -> list[Link]:
    """Ask for every address, hosts side by side, each host one question at a time.

    Args:
        known: results of earlier checks; addresses that are no longer in the catalogue are forgotten.
        timeout: seconds for one question.
        pause: seconds between two questions to one host.
        on_done: called as (link, finished, total) after each.
    """
    hosts: dict[str, list[str]] = {}
    for url in urls:
        hosts.setdefault(urlsplit(url).netloc, []).append(url)
    total = sum(map(len, hosts.values()))
    results: list[Link] = []
    lock = threading.Lock()

    def ask_host(addresses: list[str]) -> None:
        for number, url in enumerate(addresses):
            if number:
                time.sleep(pause)
            link = _updated(known.get(url, Link(url)), *ask(url, timeout), today)
            with lock:
                results.append(link)
                if on_done:
                    on_done(link, len(results), total)

    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(ask_host, addresses) for addresses in hosts.values()]):
            future.result()
    return sorted(results, key=lambda link: link.url)


def _updated(link: Link, answer: Answer, note: str, today: datetime.date) -> Link:
    if answer == "alive":
        return Link(link.url, last_success=today.isoformat())
    if answer == "dead":
        return replace(link, dead_since=link.dead_since or today.isoformat(), note=note)
    return replace(link, note=note)


def ask(url: str, timeout: float) -> tuple[Answer, str]:
    """Whether ``url`` leads somewhere, and what was answered if not. Redirects are followed."""
    for method in ("HEAD", "GET"):  # some servers know no HEAD
        request = urllib.request.Request(
            quote(url, safe=":/?#[]@!$&'()*+,;=%~"), method=method, headers={"User-Agent": _AGENT}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout):
                return "alive", ""
        except urllib.error.HTTPError as error:
            note = f"{error.code} {error.reason}"
            if method == "GET":
                return ("dead" if error.code in (404, 410) else "unclear"), note
        except urllib.error.URLError as error:
            gone = isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME
            return ("dead" if gone else "unclear"), str(error.reason)
        except (OSError, http.client.HTTPException) as error:
            return "unclear", str(error) or type(error).__name__
    return "unclear", ""
