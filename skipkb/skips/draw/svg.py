"""The pieces of an SVG file: path elements, their commands and numbers, and the colours."""

from __future__ import annotations

from collections.abc import Iterable

from skipkb.skips.draw.arcs import Stroke
from skipkb.skips.graph import KINDS, Kind
from skipkb.vocabulary import MERGES


def path_element(pieces: Iterable[str], *, kind: Kind | None = None, **attributes: str | float | None) -> list[str]:
    """A path element, or none if there is nothing to draw. In the light colours; ``stylesheet`` has the dark."""
    d = "".join(pieces)
    if not d:
        return []
    if kind is not None:
        attributes = {"class": kind, "stroke": MERGES[kind].light, **attributes}
    words = [
        f'{name.replace("_", "-")}="{value if isinstance(value, str) else f"{value:.2g}".removeprefix("0")}"'
        for name, value in attributes.items()
        if value is not None
    ]
    return [f'<path {" ".join(words)} d="{d}"/>']


def stylesheet(name: str, body: Iterable[str]) -> str:
    """Colours on dark. As an image or a file of its own the picture also needs light text there."""
    text = "".join(body)
    used = [kind for kind in KINDS if f'class="{kind}"' in text]
    alone = "".join(f"#{name}:root .{kind}{{stroke:{MERGES[kind].dark}}}" for kind in used)
    inline = "".join(f'[data-md-color-scheme="slate"] #{name} .{kind}{{stroke:{MERGES[kind].dark}}}' for kind in used)
    return f"@media(prefers-color-scheme:dark){{#{name}:root{{color-scheme:dark;color:#e3e5ea}}{alone}}}{inline}"


def dashes(stroke: Stroke, small: bool) -> dict[str, str]:
    """The attributes of a path drawn that way."""
    if stroke == "solid":
        return {}
    if stroke == "dotted":
        return {"stroke_linecap": "round", "stroke_dasharray": "0 3" if small else "0 4"}
    return {"stroke_dasharray": "3 2" if small else "5 3"}


def command(letter: str, *numbers: float) -> str:
    """A path command, its numbers parted by a space only where no sign parts them."""
    text = letter
    for number in numbers:
        shown = short(number)
        text += shown if text == letter or shown.startswith("-") else " " + shown
    return text


def short(number: float) -> str:
    """At most one digit after the point, no superfluous character."""
    text = f"{round(number, 1):g}"
    return "0" if text == "-0" else text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
