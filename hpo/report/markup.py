"""Escapes texts, and makes the small pieces of HTML that all sections share."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

Rows = Iterable[tuple[str, object]]


def esc(value: object) -> str:
    """Escape a text for HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def as_json(value: Any) -> str:
    """Return JSON that ends no script element, whatever texts are in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def facts_list(rows: Rows, *, kind: str = "facts") -> str:
    """Return names and values as a list of definitions; a row without a value is left out."""
    shown = (
        f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in rows if v not in (None, "")
    )
    return f'<dl class="{kind}">{"".join(shown)}</dl>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a small table; its first column is text, the others numbers."""
    head = "".join(f"<th>{esc(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{esc(v)}</td>' for v in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def code(text: str) -> str:
    """Return lines to copy."""
    return f'<div class="code"><button type="button" class="copy">copy</button><pre>{esc(text)}</pre></div>'  # noqa: E501
