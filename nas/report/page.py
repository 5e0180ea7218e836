"""A snapshot as one HTML file: style, chart library, program and data inline, under a content security policy.

In goes the plain data of `nas.report.snapshot`, out comes text that is complete in itself and asks nothing of any
network. The policy names the hashes of the only scripts and the only style sheet that may run or apply; data is JSON in
a block that is never executed, with every `<` escaped, so that no text can end it. The same snapshot, the same bytes.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
"""The page's parts: template, style, program, and the chart library with its licences (made by `make charts`)."""
PROGRAM = ("dom.js", "figures.js", "lineage.js", "board.js", "candidate.js", "app.js")
"""The page's own scripts, in the order in which they are put together."""


def render(snapshot: Mapping[str, Any], *, live: str | None = None) -> str:
    """The whole page as HTML.

    Args:
      snapshot: what `nas.report.snapshot.snapshot` made.
      live: name of this state, by which the page asks the server that it came from for a newer one; None for a page
        that may not ask anybody anything.
    """
    library, style = _part("charts.js"), _part("page.css")
    program = "\n".join(_part(name) for name in PROGRAM)
    program = f'"use strict";\n(() => {{\n{program}\n}})();\n'
    parts = {
        "policy": html.escape(policy((library, program), style, live=live is not None)),
        "title": html.escape(f"{snapshot['run']['name']} · {snapshot['run']['space']}"),
        "style": style,
        "live": html.escape(live or "no"),
        "data": embedded(snapshot),
        "licenses": html.escape(_part("charts.licenses.txt"), quote=False),
        "library": library,
        "program": program,
    }
    pieces = _part("page.html").split("@@")  # text, name, text, name, … so that nothing put in is read again
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def embedded(snapshot: Mapping[str, Any]) -> str:
    """JSON that can stand inside an HTML element: no `<`, so neither an end tag nor a comment can begin in it.

    Raises:
      ValueError: the snapshot holds a number that JSON cannot.
    """
    text = json.dumps(snapshot, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").encode("utf-8", "replace").decode("utf-8")


def policy(scripts: tuple[str, ...], style: str, *, live: bool) -> str:
    """The content security policy: these scripts and this style by hash, no network, or only the page's own server."""
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _part(name: str) -> str:
    return (STATIC / name).read_text("utf-8")
