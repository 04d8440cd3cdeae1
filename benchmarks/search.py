"""What looking things up costs: import, a cold search command, and warm searches, each beside what was asked of it.

    python benchmarks/search.py [--large 100000]

Figures are medians of CPU time. The peers answer the same queries over the same texts in the same process: a scan in
plain Python (works with all words of the query, counted in lower-cased text) and SQLite without an index (a LIKE for
each word, ranked by the first mention). Neither filters, stems, highlights or suggests, so the ratios flatter them.
Writes build/bench/search.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from skipkb.catalog import index  # noqa: E402
from skipkb.catalog.entry import Work  # noqa: E402
from skipkb.catalog.loading import Catalogue, load  # noqa: E402
from skipkb.catalog.search import search  # noqa: E402

SYLLABLES = [
    "re", "net", "con", "vo", "lu", "den", "se", "gate", "skip", "ba",
    "no", "mu", "ti", "fu", "pra", "xel", "du", "al", "seg", "men",
]  # fmt: skip

WORST = "the phrase of the two most common words"  # no part of the mix: FTS5 reads both lists to the end to rank it


class Texts:
    """Synthetic works: words from a vocabulary of 20,000 whose frequencies follow Zipf's law, as in real text."""

    def __init__(self, pattern: Work, works: int) -> None:
        self.pattern, self.works = pattern, works
        choose = random.Random(0)
        self.words = list(
            dict.fromkeys("".join(choose.choices(SYLLABLES, k=choose.randint(2, 4))) for _ in range(20_000))
        )

    def __iter__(self) -> Iterator[Work]:
        weights = [1 / (rank + 1) for rank in range(len(self.words))]
        for number in range(self.works):
            words = random.Random(number).choices(self.words, weights, k=70)
            yield self.pattern.model_copy(
                update={
                    "key": f"m{number}",
                    "name": self.name(number),
                    "aliases": [],
                    "title": " ".join(words[:9]),
                    "contribution": " ".join(words[9:20]),
                    "description": " ".join(words[20:]),
                    "year": 1990 + number % 35,
                    "authors": [f"{words[1].title()} {words[2].title()}"],
                    "variants": [],
                }
            )

    def name(self, number: int) -> str:
        """A name that no other work has."""
        return f"{random.Random(-number).choice(self.words).title()}Net{number}"

    def queries(self, texts: Sequence[str]) -> dict[str, str]:
        """The fixed mix: common words, rare ones, several, filters, a phrase, a name, a misspelt name, a prefix."""
        counts = Counter(word for text in texts for word in set(text.split()) & set(self.words))
        ranked = [word for word, _ in counts.most_common()]
        return {
            "the most common word": ranked[0],
            "a common word": ranked[5],
            "a middling word": ranked[len(ranked) // 20],
            "a rare word": ranked[-1],
            "two words, common and middling": f"{ranked[3]} {ranked[len(ranked) // 10]}",
            "the three most common words": " ".join(ranked[:3]),
            "a word and a span of years": f"{ranked[40]} year:2000..2005",
            "a word and a task": f"{ranked[40]} task:{self.pattern.tasks[0]}",
            "a phrase": f'"{ranked[3]} {ranked[4]}"',
            "an exact name": self.name(50),
            "a misspelt name": self.name(50)[:-4] + "x" + self.name(50)[-4:],
            "a prefix": f"{ranked[len(ranked) // 5][:4]}*",
            WORST: f'"{ranked[0]} {ranked[1]}"',
        }


def cpu_of_process(command: Sequence[str], repeats: int) -> float:
    """Median CPU seconds, user and system, of a child process."""
    import resource

    seconds = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds)


def cpu_of_call(function: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of a call that was made once before."""
    function()
    seconds = []
    for _ in range(repeats):
        began = time.process_time_ns()
        function()
        seconds.append((time.process_time_ns() - began) / 1e9)
    return statistics.median(seconds)


@contextlib.contextmanager
def index_of(texts: Texts, console: Console) -> Iterator[sqlite3.Connection]:
    """Compile the synthetic works, and have search() use that index."""
    with tempfile.TemporaryDirectory(prefix="skipkb-bench-") as directory, Progress(console=console) as progress:
        task = progress.add_task(f"compiling {texts.works:,} works", total=texts.works)

        class Counted(Mapping[str, Work]):
            def __getitem__(self, key: str) -> Work:
                raise KeyError(key)

            def __iter__(self) -> Iterator[str]:
                return iter(())

            def __len__(self) -> int:
                return texts.works

            def values(self) -> Any:
                return progress.track(texts, task_id=task)

        catalogue = cast(Catalogue, SimpleNamespace(survey=load().survey, synonyms=load().synonyms, entries=Counted()))
        path = Path(directory) / "index.sqlite"
        index.write_index(catalogue, path, "synthetic")
        progress.stop()
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        opened, index.open_index = index.open_index, cast(Any, lambda: connection)
        try:
            yield connection
        finally:
            index.open_index = opened
            connection.close()


def plain_words(query: str) -> list[str]:
    """The words the peers look for: no filters, no marks."""
    return [word.strip('"*').lower() for word in query.split() if ":" not in word]


def scan(texts: Sequence[str], words: Sequence[str], limit: int = 10) -> list[int]:
    """The peer in plain Python: works with all the words, those with most of them first."""
    found = [
        (sum(map(text.count, words)), number)
        for number, text in enumerate(texts)
        if all(word in text for word in words)
    ]
    return [number for _, number in sorted(found, reverse=True)[:limit]]


def like(connection: sqlite3.Connection, words: Sequence[str], limit: int = 10) -> list[Any]:
    """The peer in SQLite: a LIKE for each word, over the same text in one column; an early mention ranks first."""
    condition = " AND ".join("text LIKE ?" for _ in words)
    return connection.execute(
        f"SELECT id FROM plain WHERE {condition} ORDER BY instr(text, ?), id LIMIT ?",
        [*(f"%{word}%" for word in words), words[0], limit],
    ).fetchall()


def warm(works: int, repeats: int, console: Console) -> list[dict[str, Any]]:
    """Milliseconds for each query of the mix: ours, and both peers."""
    pattern = next(iter(load().entries.values()))
    texts = Texts(pattern, works)
    with index_of(texts, console) as connection, contextlib.closing(sqlite3.connect(":memory:")) as plain:
        rows = connection.execute(
            "SELECT name, title, contribution, authors, description FROM entry_text ORDER BY rowid"
        )
        flat = [" ".join(row).lower() for row in rows]
        plain.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        plain.executemany("INSERT INTO plain(text) VALUES (?)", [(text,) for text in flat])
        measured = []
        for kind, query in texts.queries(flat).items():
            hits = search(query)
            if kind == "a misspelt name" and texts.name(50) not in hits.suggestions:
                raise AssertionError(f"{query!r} was answered with {hits.suggestions}, not with {texts.name(50)}")
            if kind not in ("a misspelt name", "a phrase", WORST) and not hits:
                raise AssertionError(f"{query!r} found nothing")
            words = plain_words(query)
            rough = max(3, repeats // (10 if works > 10_000 else 1))
            measured.append(
                {
                    "query": kind,
                    "hits": len(hits),
                    "search_ms": 1e3 * cpu_of_call(lambda query=query: search(query), repeats),
                    "scan_ms": 1e3 * cpu_of_call(lambda words=words: scan(flat, words), rough),
                    "like_ms": 1e3 * cpu_of_call(lambda words=words: like(plain, words), rough),
                }
            )
    return measured


def questions(repeats: int) -> list[float]:
    """Milliseconds for each question of the relevance test, misspelt ones included."""
    groups = yaml.safe_load((ROOT / "tests" / "catalog" / "relevance.yaml").read_text("utf-8"))
    asked = [question for group in groups.values() for question in group]
    return [1e3 * cpu_of_call(lambda question=question: search(question), repeats) for question in asked]


def main() -> int:
    """Measure, print, write; the exit code says whether everything was as asked."""
    parser = argparse.ArgumentParser(description="Measure what looking things up costs.")
    parser.add_argument("--large", type=int, default=100_000, help="synthetic works in the large index (100000)")
    parser.add_argument("--repeats", type=int, default=41, help="runs of which the median is taken (41)")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    console.print("starting processes ...")

    search("unet")  # the real index is compiled
    bare = cpu_of_process([sys.executable, "-c", "pass"], 21)
    imported = cpu_of_process([sys.executable, "-c", "import skipkb"], 21)
    command = cpu_of_process([sys.executable, "-m", "skipkb.cli", "search", "unet"], 21)
    sources = cpu_of_process([sys.executable, "-c", "import skipkb.catalog as c; c.load().entries['unet']"], 5)
    real = questions(arguments.repeats)
    small = warm(200, arguments.repeats, console)
    large = warm(arguments.large, arguments.repeats, console)

    def worst(rows: list[dict[str, Any]]) -> float:
        return max(row["search_ms"] for row in rows if row["query"] != WORST)

    figures = [
        ("import skipkb, over a bare interpreter", 40.0, 1e3 * (imported - bare)),
        ("skipkb search unet, whole process", 150.0, 1e3 * command),
        (f"median of {len(real)} real questions to the catalogue", 1.0, statistics.median(real)),
        ("slowest warm search, 200 works", 1.0, worst(small)),
        (f"slowest warm search, {arguments.large:,} works", 10.0, worst(large)),
    ]
    summary = Table("CPU time", "asked", "measured", "", title="Looking things up")
    for name, asked, measured in figures:
        verdict = "[green]yes[/]" if measured < asked else "[red]no[/]"
        summary.add_row(name, f"< {asked:g} ms", f"{measured:.2f} ms", verdict)
    (hardest,) = (row["search_ms"] for row in large if row["query"] == WORST)
    summary.add_row(f"beyond the mix: {WORST}", "", f"{hardest:.2f} ms", "")
    summary.add_row("beyond the mix: the slowest real question", "", f"{max(real):.2f} ms", "")
    summary.add_row("for comparison: a bare interpreter", "", f"{1e3 * bare:.2f} ms", "")
    summary.add_row("for comparison: reading the YAML files instead", "", f"{1e3 * sources:.2f} ms", "")
    output = Console()
    output.print(summary)
    for works, rows in ((200, small), (arguments.large, large)):
        detail = Table(
            "query", "hits", "search, ms", "Python scan, times", "SQLite LIKE, times", title=f"{works:,} works"
        )
        for row in rows:
            ratios = [f"{row[peer] / row['search_ms']:.1f}" for peer in ("scan_ms", "like_ms")]
            detail.add_row(row["query"], str(row["hits"]), f"{row['search_ms']:.3f}", *ratios)
        output.print(detail)

    ok = all(measured < asked for _, asked, measured in figures)
    result = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "figures": [{"name": name, "asked_ms": asked, "measured_ms": round(ms, 3)} for name, asked, ms in figures],
        "bare_interpreter_ms": round(1e3 * bare, 3),
        "slowest_question_ms": round(max(real), 3),
        "yaml_instead_ms": round(1e3 * sources, 3),
        "warm": {"200": small, str(arguments.large): large},
        "ok": ok,
    }
    path = ROOT / "build" / "bench" / "search.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    output.print(f"written to {path.relative_to(ROOT)}")
    return 0 if ok else 1


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
