"""The command line: ``skipkb list | search | show | cite | table | check | smoke | trace | ...``.

Exit codes: 0 fine, 1 the catalogue or a check fails, 2 wrong use. Each command imports what it needs
when it runs, so that a search starts as fast as Python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipkb import __version__
from skipkb.catalog.problems import CatalogueError, UnknownNameError

FINE, FAILED, WRONG_USE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a letter gets a question mark
        sys.stdout.reconfigure(errors="replace")
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CatalogueError as error:
        return _complain(str(error), FAILED)
    except (UnknownNameError, UseError) as error:
        return _complain(str(error), WRONG_USE)
    except ImportError as error:
        return _complain(
            f"{error}\nthis command needs more packages: pip install 'skipkb[{arguments.extra}]'", WRONG_USE
        )
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror or error}{place}", WRONG_USE)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


class UseError(Exception):
    """The command was used wrongly; the message says what would be right."""


def _complain(message: str, code: int) -> int:
    print(f"skipkb: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipkb", description="The survey of skip connections that you can run.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"skipkb {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, *, extra: str = "models", prints_data: bool = True) -> Any:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run, extra=extra)
        if prints_data:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command("list", _list, "List works, or with --models the models that can be built.")
    sub.add_argument("--models", nargs="?", const="*", metavar="PATTERN", help="list model names, such as '*resnet*'")
    _add_filters(sub)

    sub = command("search", _search, "Search the catalogue.")
    sub.add_argument("query", nargs="+", help='words, "phrases", prefix*, task:segmentation year:2015..2018')
    sub.add_argument("--limit", type=_positive, default=10, help="at most so many hits (10)")
    _add_filters(sub)

    sub = command("show", _show, "Show all that the catalogue knows about a work.")
    sub.add_argument("name", help="key, name or alias")

    sub = command("cite", _cite, "Print BibTeX records.")
    sub.add_argument("name", nargs="*", help="keys, names or aliases; none prints all")

    sub = command("table", _table, "Print one of the survey's four tables.", prints_data=False)
    sub.add_argument("table", help="classification, detection, segmentation, reconstruction, or I to IV")
    sub.add_argument("--format", default=None, help="md (default), csv, tsv, html, latex or json")
    sub.add_argument("--json", action="store_true", help="the same as --format json")

    sub = command("check", _check, "Check the catalogue's files; list every problem with file and line.")
    sub.add_argument("--write-schema", action="store_true", help="regenerate the JSON Schema files first")
    sub.add_argument("--links", action="store_true", help="ask whether external links still lead somewhere; takes long")

    sub = command("smoke", _smoke, "Run the contract of methods: build, count, run, train, save, export.")
    sub.add_argument("key", nargs="*", help="entries; none means all that have an implementation")
    sub.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    sub.add_argument("--jobs", type=_positive, default=None, help="entries at a time (one for each core)")
    sub.add_argument(
        "--resume", action="store_true", help="take over what an earlier run found, where nothing has changed"
    )
    sub.add_argument("--record", action="store_true", help="replace the results and counts under catalog/evidence")
    sub.add_argument("--everywhere", action="store_true", help="train with every kind of kernel and number of threads")
    sub.add_argument("--time-limit", type=_positive, default=300, help="seconds for one entry (300)")
    sub.add_argument("--memory-limit", type=_positive, default=6, help="GiB for one entry (6)")

    sub = command("trace", _trace, "Find the skip connections of any PyTorch model.")
    sub.add_argument(
        "target",
        help="a model of skipkb list --models, timm:NAME, torchvision:NAME, or module:NAME or file.py:NAME of yours, "
        "where NAME is a class, a function or a model",
    )
    sub.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=][TYPE:]N,C,H,W",
        help="an input (1,3,224,224); several in order or by name, such as ids=int:1,128; TYPE is float, int or bool",
    )
    sub.add_argument("--svg", type=Path, default=None, metavar="FILE", help="draw the fingerprint")

    sub = command("extract", _extract, "Print a model and all that it needs as one file.", prints_data=False)
    sub.add_argument("name", help="a model of skipkb list --models, or a work that has some")
    sub.add_argument(
        "--output", type=Path, default=None, metavar="FILE", help="write it there, if nothing is there yet"
    )

    sub = command("notebooks", _notebooks, "Execute the notebooks into build/notebooks.", extra="notebooks")
    sub.add_argument("key", nargs="*", help="entries; none means all")
    sub.add_argument("--again", action="store_true", help="execute those too that have not changed")
    sub.add_argument("--jobs", type=_positive, default=None, help="notebooks at a time (one for each core)")

    sub = command("site", _site, "Write the site's pages into build/pages.", extra="site", prints_data=False)
    sub.add_argument("--output", type=Path, default=None, metavar="DIR", help="another directory")

    sub = command("export", _export, "Write the whole catalogue as JSON, CSV, BibTeX and SQLite.")
    sub.add_argument("directory", type=_directory, help="where to write the four files")
    sub.add_argument("--force", action="store_true", help="replace files of these names that are not an earlier export")

    sub = command("new", _new, "Start a method: entry, model file and notebook to fill in.")
    sub.add_argument("key", help="lower-case key, such as squeeze_excite")
    sub.add_argument("--folder", default="classification", help="folder of the catalogue (classification)")
    sub.add_argument("--name", default=None, help="name as people write it (the key)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty name is not a directory; . is the one you are in")
    return Path(text)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    from skipkb.catalog.search import FILTERS

    group = parser.add_argument_group("filters")
    for facet in FILTERS:
        group.add_argument(f"--{facet}", action="append", metavar="VALUE", help=argparse.SUPPRESS)
    group.description = f"--FACET VALUE, repeated for any of several; facets: {', '.join(FILTERS)}"


def _filters(arguments: argparse.Namespace) -> dict[str, Any]:
    from skipkb.catalog.facets import NUMBERS
    from skipkb.catalog.search import FILTERS

    given = {facet: getattr(arguments, facet) for facet in FILTERS if getattr(arguments, facet)}
    for facet in NUMBERS:
        if len(given.get(facet, [])) > 1:
            raise UseError(f"--{facet} takes one number or span, such as 2015..2018 or <5M")
    return {facet: values[0] if facet in NUMBERS else values for facet, values in given.items()}


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def _list(arguments: argparse.Namespace) -> int:
    if arguments.models is not None:
        if _filters(arguments):
            raise UseError("--models takes a pattern and no filters")
        from skipkb.factory import list_models

        names = list_models(arguments.models)
        _print_json(names) if arguments.json else print("\n".join(names))
        return FINE
    from skipkb.catalog.search import entries

    try:
        works = entries(**_filters(arguments))
    except ValueError as error:
        raise UseError(str(error)) from None
    if arguments.json:
        columns = ("key", "name", "year", "folder", "runs", "contribution")
        _print_json([{column: getattr(work, column) for column in columns} for work in works])
        return FINE
    width = max((len(work.key) for work in works), default=0)
    for work in works:
        print(f"{work.key:{width}}  {work.year}  {'runs' if work.runs else '    '}  {work.name}: {work.contribution}")
    return FINE


def _search(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.search import search

    try:
        hits = search(" ".join(arguments.query), limit=arguments.limit, **_filters(arguments))
    except ValueError as error:
        raise UseError(str(error)) from None
    if arguments.json:
        fields = ("key", "name", "title", "year", "score", "snippet")
        found = [{name: getattr(hit, name) for name in fields} for hit in hits]
        _print_json({"hits": found, "suggestions": list(hits.suggestions), "explanations": list(hits.explanations)})
        return FINE
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    for hit in hits:
        parts = hit.snippet.split("**")
        text = "".join(f"{bold}{part}{plain}" if number % 2 else part for number, part in enumerate(parts))
        print(f"{hit.key}  {bold}{hit.name}{plain} ({hit.year})  {hit.title}\n    {text}")
    if not hits:
        print("nothing found")
    if hits.explanations:
        print(f"\nexplained in {', '.join(hits.explanations)}: skipkb list --explanation {hits.explanations[0]}")
    if hits.suggestions:
        print(f"did you mean {' or '.join(hits.suggestions)}?")
    return FINE


def _show(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.search import get
    from skipkb.catalog.show import show

    work = get(arguments.name)
    _print_json(work.model_dump(mode="json")) if arguments.json else print(show(work), end="")
    return FINE


def _cite(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.citations import cite

    text = cite(*arguments.name)
    _print_json({"bibtex": text}) if arguments.json else print(text, end="")
    return FINE


def _table(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.tables import table

    if arguments.json and arguments.format not in (None, "json"):
        raise UseError("--json and --format contradict each other")
    try:
        print(table(arguments.table, "json" if arguments.json else arguments.format or "md"), end="")
    except ValueError as error:
        raise UseError(str(error)) from None
    return FINE


def _check(arguments: argparse.Namespace) -> int:
    from skipkb.catalog import loading, paths, schema

    if arguments.links:
        return _check_links(arguments)
    directory = paths.source_dir()
    if arguments.write_schema:
        for path in schema.write_schemas(directory):
            print(f"wrote {path.name}", file=sys.stderr)
    catalogue, problems = loading.read(directory)
    stale = schema.stale_schemas(directory)
    if arguments.json:
        _print_json({"problems": [vars(problem) for problem in problems], "stale_schemas": stale})
    else:
        for problem in problems:
            print(problem)
        for name in stale:
            print(f"{name}: not what the typed model gives; run `skipkb check --write-schema`")
        files = len(loading.entry_files(directory))
        verdict = f"{len(problems) + len(stale)} problems" if problems or stale else "no problem"
        print(f"{files} entries, {len(catalogue.references) if catalogue else 0} references: {verdict}")
        if catalogue and catalogue.waiting:
            waiting = f"{catalogue.waiting} errata and notes are not published: nobody has read what they rest on"
            print(waiting, file=sys.stderr)
    return FAILED if problems or stale else FINE


def _check_links(arguments: argparse.Namespace) -> int:
    import datetime

    from skipkb.catalog.search import entries
    from skipkb.evidence.addresses import Link, check_links, links_file, read_links, urls_of, write_links

    _checkout()

    def on_done(link: Link, done: int, total: int) -> None:
        state = f"dead since {link.dead_since}" if link.dead_since else link.note or "ok"
        print(f"[{done}/{total}] {link.url}: {state}", file=sys.stderr, flush=True)

    links = check_links(urls_of(entries()), read_links(), datetime.date.today(), on_done=on_done)
    write_links(links)
    dead = [link for link in links if link.dead_since]
    if arguments.json:
        _print_json([vars(link) for link in links])
    else:
        for link in dead:
            print(f"{link.url}: dead since {link.dead_since} ({link.note})")
        print(f"{len(links)} links, {len(dead)} dead; recorded in {links_file()}")
    return FAILED if dead else FINE


def _smoke(arguments: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from rich.console import Console

    from skipkb.evidence import report
    from skipkb.evidence.runner import run

    if find_spec("torch") is None:  # said once here, and not by every worker
        raise ImportError("running the models needs torch, which is not installed")
    _checkout()  # what a run is compared with is not part of a wheel
    messages = Console(stderr=True)
    with report.progress(messages) as on_progress:
        try:
            reports = run(
                arguments.key or None,
                device=arguments.device,
                jobs=arguments.jobs,
                resume=arguments.resume,
                record=arguments.record,
                everywhere=arguments.everywhere,
                time_limit=arguments.time_limit,
                memory_limit_gib=arguments.memory_limit,
                on_progress=on_progress,
            )
        except ValueError as error:
            raise UseError(str(error)) from None
    if arguments.json:
        _print_json([one.to_json() for one in reports])
    else:
        report.summary(reports, Console())
    return FINE if all(one.ok for one in reports) else FAILED


def _trace(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from skipkb.skips import TraceError, trace_skips
    from skipkb.target import inputs_for, load_target, parse_input

    try:
        inputs = [parse_input(text) for text in arguments.input]
        with contextlib.redirect_stdout(sys.stderr):  # what a user's script prints is not what we print
            model = load_target(arguments.target)
        given = inputs_for(model, inputs) if inputs else _usual_inputs(arguments.target)
    except ValueError as error:
        raise UseError(str(error)) from None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                graph = trace_skips(model, given)
            except (RuntimeError, NotImplementedError):
                if not any(parameter.is_meta for parameter in model.parameters()):
                    raise
                graph = trace_skips(load_target(arguments.target, real=True), given)  # its forward asks for numbers
    except TraceError as error:
        raise UseError(str(error)) from None
    except Exception as error:  # whatever the forward of a user's model raises
        shapes = ", ".join(arguments.input) or str([list(x.shape) if hasattr(x, "shape") else x for x in given])
        raise UseError(f"{arguments.target} does not run on {shapes}: {type(error).__name__}: {error}") from None
    if arguments.svg:
        graph.to_svg(arguments.svg, title=arguments.target)
        print(f"drawn: {arguments.svg}", file=sys.stderr)
    if arguments.json:
        print(graph.to_json())
    else:
        Console().print(graph.summary())
    return FINE


def _usual_inputs(target: str) -> Any:
    """What a model of ours takes for its published figures; of any other, a picture of 224 x 224."""
    from skipkb.evidence import data
    from skipkb.factory import declared_input

    declared = declared_input(target)
    if declared is None:
        return (1, 3, 224, 224)
    return data.inputs(*declared) if len(data.blank(*declared)) > 1 else declared[1]


def _extract(arguments: argparse.Namespace) -> int:
    from skipkb.extract import extract

    try:
        text = extract(arguments.name)
    except ValueError as error:
        raise UseError(str(error)) from None
    if arguments.output is None:
        print(text, end="")
        return FINE
    if arguments.output.exists():
        raise UseError(f"{arguments.output} is there already; name another file")
    from skipkb.catalog.writing import write_text

    write_text(arguments.output, text)
    print(f"written: {arguments.output}", file=sys.stderr)
    return FINE


def _notebooks(arguments: argparse.Namespace) -> int:
    import nbclient  # noqa: F401  (says at once what is missing)

    from skipkb.catalog.search import entries, get
    from skipkb.notebooks import BUDGET, Executed, execute, guides, notebook_of

    _checkout()
    extra = {guide.key: guide for guide in guides()}
    if arguments.key:
        notebooks = [extra.get(key) or notebook_of(get(key)) for key in arguments.key]
    else:
        notebooks = [*map(notebook_of, entries()), *extra.values()]
    for notebook in notebooks:
        if arguments.key and not notebook.file.is_file():
            raise UseError(f"{notebook.key} has no notebook: {notebook.file} does not exist")

    def on_done(result: Executed, done: int, total: int) -> None:
        how = "unchanged" if result.cached else f"{result.cpu_seconds:.1f} s of CPU"
        print(f"[{done}/{total}] {'ok  ' if result.ok else 'FAIL'} {result.key} ({how})", file=sys.stderr, flush=True)
        if not result.ok:
            print(result.message, file=sys.stderr)

    results = execute(notebooks, jobs=arguments.jobs, again=arguments.again, on_done=on_done)
    slowest = sorted((r for r in results if not r.cached and r.ok), key=lambda r: r.cpu_seconds, reverse=True)[:10]
    if slowest:
        words = (f"{r.key} {r.cpu_seconds:.1f}{' (over)' if r.cpu_seconds > BUDGET else ''}" for r in slowest)
        print(f"slowest, seconds of CPU, budget {BUDGET}: {', '.join(words)}", file=sys.stderr)
    if arguments.json:
        _print_json([vars(result) for result in results])
    return FINE if all(result.ok for result in results) else FAILED


def _site(arguments: argparse.Namespace) -> int:
    from skipkb.site.build import write_pages

    root = _checkout()  # before anything is touched: a wheel has no pages to write
    output = arguments.output or root / "build" / "pages"
    try:
        pages = write_pages(output, say=lambda step: print(step, flush=True))
    except FileExistsError as error:
        raise UseError(str(error)) from None
    print(f"{pages} pages in {output}")
    return FINE


def _export(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.export import export
    from skipkb.catalog.loading import load

    try:
        paths = export(load(), arguments.directory, force=arguments.force)
    except FileExistsError as error:
        raise UseError(f"{error}; --force replaces it") from None
    if arguments.json:
        _print_json([str(path) for path in paths])
    else:
        for path in paths:
            print(f"{path}  {path.stat().st_size:,} bytes")
    return FINE


def _new(arguments: argparse.Namespace) -> int:
    from skipkb.catalog.scaffold import scaffold

    try:
        created = scaffold(_checkout(), arguments.key, folder=arguments.folder, name=arguments.name)
    except ValueError as error:
        raise UseError(str(error)) from None
    if arguments.json:
        _print_json([str(path) for path in created])
        return FINE
    for path in created:
        print(f"created {path}")
    print("fill them in, then run `skipkb check`: it lists what is still missing")
    return FINE


def _checkout() -> Path:
    """The root of the checkout this package runs from.

    Raises:
        UseError: when it was installed from a wheel, which has nothing to write to.
    """
    from skipkb.catalog.paths import source_dir

    directory = source_dir()
    if directory.name != "catalog":
        raise UseError(
            "this command works in a checkout of the repository (pip install -e .), not in an installed wheel"
        )
    return directory.parent


if __name__ == "__main__":
    sys.exit(main())
