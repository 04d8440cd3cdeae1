"""What a run of CI does again: ``choose`` before it, ``done`` once it has passed, and then what it did and did not do.

An entry is done again where something that its result depends on, one of its tests or its notebook is not what it was
when it passed last; a tenth of the others are done by turns, so that each is done at least every tenth run. ``FULL=1``
does all, and so does a run that remembers nothing. What has changed since something passed is trained in every setting
of the processor; a run that remembers nothing leaves that to the committed results, which a test wants to be current.
``PART=common`` leaves the entries out, ``PART=entries`` is them alone, ``SHARD=2/4`` the second quarter of them.
build/ci remembers what has passed; a cache may carry it along.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from skipkb.catalog.entry import Work  # noqa: E402
from skipkb.catalog.loading import load as load_catalogue  # noqa: E402
from skipkb.evidence.key import installed_torch, key_of, tracer  # noqa: E402

load = functools.cache(load_catalogue)

MEMORY = ROOT / "build" / "ci"
TURNS = 10
APART = ("zoo", "browser")
"""The sweep over timm and torchvision, and the pages in a real browser: chosen like entries, though they are not."""
SHARED = ("constraints.txt", "tests/conftest.py", "tests/models/conftest.py", "tests/parity/conftest.py",
          "tests/parity/compare.py", "tests/parity/test_peers.py", "tests/golden/test_golden.py")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    run: int
    changed: list[str]
    """Not what passed last, or never passed."""
    turn: list[str]
    """Unchanged, and its turn."""
    left: list[str]
    """Unchanged, and not done."""


def choose(now: Mapping[str, str], memory: Mapping[str, Any], *, full: bool = False) -> Plan:
    """The plan for things of these digests, where ``memory`` is {run, passed: {name: {digest, run}}}."""
    run = memory.get("run", 0) + 1
    passed = memory.get("passed", {})
    changed = [name for name in now if passed.get(name, {}).get("digest") != now[name]]
    same = [name for name in now if name not in changed]
    turn = [name for name in same if full or zlib.crc32(name.encode()) % TURNS == run % TURNS]
    return Plan(run, changed, turn, [name for name in same if name not in turn])


def remember(plan: Plan, now: Mapping[str, str], memory: Mapping[str, Any]) -> dict[str, Any]:
    """The memory after a run that has passed."""
    passed = {name: value for name, value in memory.get("passed", {}).items() if name in now}
    passed |= {name: {"digest": now[name], "run": plan.run} for name in (*plan.changed, *plan.turn)}
    return {"run": plan.run, "passed": passed}


def summary(plan: Plan, memory: Mapping[str, Any]) -> str:
    """The last lines of a run."""
    passed = memory["passed"]
    last = [passed[name]["run"] for name in plan.left]
    lines = [
        f"Run {plan.run} did {len(plan.changed) + len(plan.turn)} of {len(passed)}:",
        f"  new or changed ({len(plan.changed)}): {_words(plan.changed)}",
        f"  their turn ({len(plan.turn)}): {_words(plan.turn)}",
        f"  not done ({len(plan.left)}): {_words(plan.left)}",
    ]
    return "\n".join(lines + ([f"  those have passed, unchanged, in runs {min(last)} to {max(last)}"] if last else []))


def _words(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def digests(part: str = "all", shard: str = "1/1") -> dict[str, str]:
    """Digest by name of everything that this part of a run may leave out."""
    number, count = map(int, shard.split("/"))
    keys = sorted(work.key for work in load().entries.values() if work.runs)[number - 1 :: count]
    found = {} if part == "common" else {key: _digest(load().entries[key]) for key in keys}
    if part != "entries":
        found["zoo"] = _hash(tracer(), installed_torch() or "", *_bytes(_files("tests/zoo")), *_shared())
        site = _files("skipkb/site", "skipkb/catalog", "skipkb/vocabulary.py", "docs", "mkdocs.yml", "tests/browser")
        found["browser"] = _hash(*_bytes(site), *_bytes(_files("catalog/survey.yaml", "constraints.txt")))
    return found


def _digest(work: Work) -> str:
    files = [ROOT / "tests" / folder / f"test_{work.key}.py" for folder in ("models", "parity")]
    files += [ROOT / "tests" / "parity" / f"{work.key}.py", ROOT / "notebooks" / work.folder / f"{work.key}.ipynb"]
    peers = json.dumps([peer.model_dump(mode="json") for peer in work.peers])
    return _hash(key_of(work, installed_torch()).digest, peers, *_bytes(files), *_shared())


def _shared() -> list[bytes]:
    return _bytes(ROOT / name for name in SHARED)


def _files(*names: str) -> list[Path]:
    """The files of these names, and those in the folders of these names."""
    paths = [ROOT / name for name in names]
    inside = (file for path in paths for file in path.rglob("*") if "__pycache__" not in file.parts)
    return sorted(file for file in (*paths, *inside) if file.is_file())


def _bytes(files: Iterable[Path]) -> list[bytes]:
    return [file.read_bytes() if file.is_file() else b"" for file in files]


def _hash(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(f"{len(content)} ".encode() + content)
    return found.hexdigest()[:16]


def _read(name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((MEMORY / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write(name: str, content: Mapping[str, Any]) -> None:
    MEMORY.mkdir(parents=True, exist_ok=True)
    part = MEMORY / f"{name}.part"
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(MEMORY / name)


def _entries(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in APART]


def main(command: str) -> None:
    """``choose`` prints the plan and keeps it; ``changed``, ``rest``, ``all`` are parts of it, ``zoo`` and
    ``browser`` say whether; ``done``."""
    if command == "choose":
        now = digests(os.environ.get("PART", "all"), os.environ.get("SHARD", "1/1"))
        memory = _read("passed.json")
        plan = choose(now, memory, full=os.environ.get("FULL") == "1")
        _write("plan.json", {"plan": asdict(plan), "now": now})
        print(f"new or changed: {_words(plan.changed)}\ntheir turn: {_words(plan.turn)}\nnot now: {_words(plan.left)}")
        return
    kept = _read("plan.json")
    plan = Plan(**kept["plan"])
    match command:
        case "changed":
            print(*(_entries(plan.changed) if plan.run > 1 else []))
        case "rest":
            print(*(_entries(plan.changed) if plan.run == 1 else []), *_entries(plan.turn))
        case "all":
            print(*_entries(plan.changed), *_entries(plan.turn))
        case "zoo" | "browser":
            print("yes" if command in (*plan.changed, *plan.turn) else "no")
        case "done":
            memory = remember(plan, kept["now"], _read("passed.json"))
            _write("passed.json", memory)
            print(summary(plan, memory))
        case _:
            raise SystemExit(f"{command!r} is not choose, changed, rest, all, zoo, browser or done")


if __name__ == "__main__":
    main(sys.argv[1])
