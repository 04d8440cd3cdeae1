"""LaTeX formulas as MathML, which browsers draw by themselves: no script, no fonts from elsewhere."""

from __future__ import annotations

import re

_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def with_mathml(markdown: str) -> str:
    """Replace ``$...$`` and ``$$...$$`` outside code by MathML."""
    parts = _CODE.split(markdown)
    for number in range(0, len(parts), 2):
        text = _DISPLAY.sub(lambda found: f"\n\n<div>{mathml(found[1], display=True)}</div>\n\n", parts[number])
        parts[number] = _INLINE.sub(lambda found: mathml(found[1]), text)
    return "".join(parts)


def mathml(tex: str, *, display: bool = False) -> str:
    """One formula as a ``<math>`` element."""
    from latex2mathml.converter import convert

    return str(convert(tex.strip(), display="block" if display else "inline")).replace("\n", " ")
