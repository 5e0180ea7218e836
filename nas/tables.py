"""Tables of text: for a terminal and as Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

NAME_CHARACTERS = 100
"""Names are cut to so many in Markdown."""
_MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the key of its cells, its heading, and on which side it is aligned."""

    key: str
    heading: str
    right: bool = True


def headed(columns: Sequence[Column], widths: Mapping[str, int]) -> Table:
    """An empty table for a terminal; what is too long for a column's width ends in a dot."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=widths[column.key],
        )
    return table


def markdown_table(columns: Sequence[Column], cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a Markdown table; a cell `name` is cut where it is very long."""
    lines = ["| " + " | ".join(column.heading.strip() for column in columns) + " |"]
    lines += ["|" + "|".join("--:" if column.right else ":--" for column in columns) + "|"]
    for row in cells:
        texts = {**row, "name": cut(row["name"])} if "name" in row else row
        lines.append("| " + " | ".join(markdown(texts[column.key]) for column in columns) + " |")
    return lines


def cut(text: str) -> str:
    """At most `NAME_CHARACTERS` of a text."""
    return text if len(text) <= NAME_CHARACTERS else text[: NAME_CHARACTERS - 1].rstrip() + "…"


def markdown(text: str) -> str:
    """Text without any markup, HTML, links or mentions of its own."""
    text = text.translate(_MARKDOWN).replace("://", "&#58;//")
    return re.sub(r"(?<!\w)@", "&#64;", text)
