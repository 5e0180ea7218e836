"""What a model wrote, read back: proposals, ideas, forecasts.

In goes the text of a reply that came whole; out comes a record, or a `BadReply` with one sentence that can be sent back
as it is. A proposal's module stands raw between two lines, from the first opening to the last closing one, so that
nothing in it has to be escaped and nothing in it can end it. What is cut off is an error and never used in part. The
module itself is not looked at: the gate reads it, and finds whatever prose or second block may have got into it, since
no such line is Python.
"""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

REPLY_LENGTH = 1_000_000
"""Most characters of a reply that are read."""
META_LENGTH = 20_000
"""Most characters of the block of facts about a proposal, and of a block of ideas."""
TEXT_LENGTH = 600
"""Most characters of a hypothesis, of what would refute it, and of an idea."""
WORD_LENGTH = 200
"""Most characters of a reason, and of the name of a kind of change."""
PARENTS = 4
"""Most parents that a proposal names; further ones are not read."""
IDEAS = 8
"""Most ideas of a reply; further ones are not read."""
SMALLEST = 0.01
"""Smallest probability of an idea, before all are scaled to sum to 1, and of a forecast; 1 less this is the largest."""

_FENCE = re.compile(r"\s*(`{3,}|~{3,})[^\n`~]*\n")


class BadReply(ValueError):
    """A reply that cannot be read; the message is one sentence for the model that wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One module and what its writer said of it. Each text is one line, empty if nothing was said.

    Attributes:
      hypothesis: why it should be better.
      refutes: what result would show that it is not.
      parents: ids of the candidates that it goes back to, as its writer names them: perhaps none that exists.
      kind: the kind of change, as its writer names it.
      source: the module's text.
    """

    hypothesis: str = ""
    refutes: str = ""
    parents: tuple[int, ...] = ()
    kind: str = ""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One line that a module could be written from.

    Attributes:
      text: the line.
      probability: how likely its writer was to have this idea rather than another; those of a reply sum to 1.
      parent: id of the design that it wants to start from, as its writer names it; None if it names none.
      kind: the kind of change, as its writer names it.
    """

    text: str
    probability: float
    parent: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How one paused trial will do.

    Attributes:
      probability: that it ends above the median of those promoted, in [.01, .99].
      why: the reason, in one line.
    """

    probability: float
    why: str = ""


def parse_proposal(text: str) -> Proposal:
    r"""Read a module and the facts about it.

    The facts are a JSON object between `<meta>` and `</meta>`; unknown fields are ignored. The module stands between a
    line `<code>` and a line `</code>` after it, perhaps in one fence.

    Raises:
      BadReply: a block is missing, not closed or empty, or the facts are not what was asked for.
    Example:
      >>> parse_proposal('<meta>\n{"parents": [3]}\n</meta>\n<code>\nx = 1\n</code>').source
      'x = 1\n'
    """
    text = _readable(text)
    meta, end = _meta(text)
    facts = _facts(meta)
    return Proposal(
        hypothesis=_field(facts, "hypothesis", TEXT_LENGTH),
        refutes=_field(facts, "refutes", TEXT_LENGTH),
        parents=_parents(facts.get("parents")),
        kind=_field(facts, "kind", WORD_LENGTH),
        source=_module(text, end),
    )


def parse_ideas(text: str) -> list[Idea]:
    """Read the JSON array in an `<ideas>` block: objects with `idea`, `probability`, and perhaps `parent` and `kind`.

    An idea that repeats another is dropped, and so are those above `IDEAS`; one without a probability gets the
    smallest. Probabilities above 1 are taken for percentages.

    Returns:
      At least one idea, in the order in which they were written.
    Raises:
      BadReply: there is no whole block, or no idea in it.
    """
    text = _readable(text)
    start, end = text.find("<ideas>"), text.rfind("</ideas>")
    if start < 0 or end < start:
        what = "no <ideas> block" if start < 0 else "an <ideas> block that is not closed by </ideas>"
        raise BadReply(f"Your reply has {what}: write the JSON array between <ideas> and </ideas>.")
    block = text[start + len("<ideas>") : end]
    entries = _json(block[block.find("[") : block.rfind("]") + 1], "The text between <ideas> and </ideas>", "array")
    found: dict[str, Idea] = {}
    for entry in entries if isinstance(entries, list) else ():
        told = entry if isinstance(entry, dict) else {"idea": entry}
        line = plain(told["idea"], TEXT_LENGTH) if isinstance(told.get("idea"), str) else ""
        if line and line.casefold() not in found:
            parent, kind = told.get("parent"), told.get("kind")
            found[line.casefold()] = Idea(
                text=line,
                probability=_number(told.get("probability")),
                parent=parent if type(parent) is int else None,
                kind=plain(kind, WORD_LENGTH) if isinstance(kind, str) else "",
            )
    if not found:
        raise BadReply('The <ideas> block holds no idea: write [{"idea": "...", "probability": 0.2}, ...].')
    ideas = list(found.values())[:IDEAS]
    shares = _shares([idea.probability for idea in ideas])
    return [replace(idea, probability=share) for idea, share in zip(ideas, shares, strict=True)]


def parse_forecasts(text: str, ids: Collection[int]) -> dict[int, Forecast]:
    """Read forecasts: a JSON object with a list `forecasts` of objects with `id`, `probability` and `why`.

    Nothing is guessed: an entry whose id was not asked for or comes twice, or whose probability is not a number
    between 0 and 1, is left out, as if nothing had been said of that trial.

    Args:
      text: the reply, alone or with prose or a fence around it.
      ids: the trials that were asked for.
    Returns:
      Forecasts by id, in the order of `ids`.
    Raises:
      BadReply: the text is not such an object.
    """
    text = _readable(text)
    facts = _json(text[text.find("{") : text.rfind("}") + 1], "Your reply", "object")
    entries = facts.get("forecasts") if isinstance(facts, dict) else None
    if not isinstance(entries, list):
        raise BadReply('Your reply has no list of forecasts: write {"forecasts": [{"id": ..., "probability": ...}]}.')
    said: dict[int, list[Forecast | None]] = {}
    for entry in entries:
        if isinstance(entry, dict) and _is_whole(entry.get("id")):
            said.setdefault(entry["id"], []).append(_forecast(entry))
    read = {identity: said.get(identity, []) for identity in ids}
    return {identity: one[0] for identity, one in read.items() if len(one) == 1 and one[0] is not None}


def plain(text: str, length: int) -> str:
    """Make a text one line of at most `length` characters, without control and invisible ones."""
    shown = "".join(map(_visible, text[: 4 * length]))
    line = " ".join(shown.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character)[0] == "C" else character


def _readable(text: str) -> str:
    """The text with Unix line ends, if it can be stored at all."""
    if len(text) > REPLY_LENGTH:
        raise BadReply(f"Your reply has {len(text):,} characters; write at most {REPLY_LENGTH:,}.")
    if re.search("[\ud800-\udfff]", text):
        raise BadReply("Your reply contains surrogate code points, which are no characters; write plain text.")
    return text.replace("\r\n", "\n")


def _lines(text: str, tag: str) -> list[re.Match[str]]:
    """Where a tag stands alone on its line."""
    return list(re.finditer(rf"(?m)^[ \t]*{re.escape(tag)}[ \t]*$", text))


def _meta(text: str) -> tuple[str, int]:
    """What stands in the first `<meta>` block, which may be one line, and where the block ends."""
    opened, module = re.search(r"(?m)^[ \t]*<meta>", text), _lines(text, "<code>")
    if opened is None or module and module[0].start() < opened.start():
        raise BadReply(
            "Your reply has no <meta> block before the module: write <meta>, a JSON object and </meta>, each on lines "
            "of their own, and then the <code> block."
        )
    closed = re.compile(r"(?m)</meta>[ \t]*$").search(text, opened.end())
    if closed is None:
        raise BadReply("The <meta> block is not closed by </meta>: send both blocks again, whole.")
    return text[opened.end() : closed.start()], closed.end()


def _module(text: str, start: int) -> str:
    """What stands between the first `<code>` and the last `</code>` line after `start`, out of its fence."""
    opened = next((line for line in _lines(text, "<code>") if line.start() >= start), None)
    if opened is None:
        raise BadReply(
            "Your reply has no line that is <code> alone after the <meta> block: write the module between a line "
            "<code> and a line </code>."
        )
    closed = [line for line in _lines(text, "</code>") if line.start() > opened.end()]
    if not closed:
        raise BadReply("The <code> block is not closed by a line that is </code> alone: send both blocks again, whole.")
    source = _unfenced(text[opened.end() + 1 : closed[-1].start()])
    if not source.strip():
        raise BadReply("The <code> block is empty: write the whole module in it.")
    return source


def _unfenced(block: str) -> str:
    """The block without a fence around all of it; no module begins with one, so this cannot be mistaken."""
    opened = _FENCE.match(block)
    if opened is None:
        return block
    closed = re.search(rf"(?m)^[ \t]*{re.escape(opened[1])}[`~]*\s*\Z", block[opened.end() :])
    if closed is None:
        raise BadReply(f"The fence {opened[1]} in the <code> block is not closed: send both blocks again, whole.")
    return block[opened.end() :][: closed.start()]


def _facts(block: str) -> Mapping[str, Any]:
    facts = _json(block[block.find("{") : block.rfind("}") + 1], "The text between <meta> and </meta>", "object")
    if not isinstance(facts, dict):
        raise BadReply("The text between <meta> and </meta> is not a JSON object: write one in braces.")
    return facts


def _json(block: str, what: str, kind: str) -> Any:
    """JSON that may hold line breaks in its texts, as models write them."""
    if len(block) > META_LENGTH:
        raise BadReply(f"{what} has {len(block):,} characters; write at most {META_LENGTH:,}.")
    try:
        return json.loads(block, strict=False)
    except json.JSONDecodeError as error:
        at = f"{error.msg} at line {error.lineno} column {error.colno} of it" if block else f"there is no {kind} in it"
        raise BadReply(f"{what} is not a JSON {kind}: {at}.") from None
    except (ValueError, RecursionError):
        raise BadReply(f"{what} is not a JSON {kind} that can be read: write it shorter and less nested.") from None


def _field(facts: Mapping[str, Any], name: str, length: int) -> str:
    value = facts.get(name)
    if value is not None and not isinstance(value, str):
        raise BadReply(f'"{name}" in the <meta> block is {_shown(value)}: write a text in quotes.')
    return plain(value or "", length)


def _parents(value: Any) -> tuple[int, ...]:
    """Ids as a list of whole numbers, `#` before them or not."""
    if value is None:
        return ()
    whole = [_id(part) for part in value] if isinstance(value, list) else [None]
    if None in whole:
        raise BadReply(f'"parents" in the <meta> block is {_shown(value)}: write a list of ids such as [3, 7], or [].')
    return tuple(dict.fromkeys(part for part in whole if part is not None))[:PARENTS]


def _id(part: Any) -> int | None:
    if isinstance(part, str):
        return int(part.lstrip("#")) if re.fullmatch("#?[0-9]{1,9}", part) else None
    return part if _is_whole(part) else None


def _shown(value: Any) -> str:
    return plain(json.dumps(value), 80)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


def _number(value: Any) -> float:
    """A finite number, or NaN for anything else."""
    if _is_whole(value) or isinstance(value, float) and math.isfinite(value):
        return float(value)
    return math.nan


def _shares(given: Collection[float]) -> list[float]:
    """Probabilities that sum to 1."""
    known = [0.0 if math.isnan(number) else number for number in given]
    scale = 100.0 if max(known) > 1 else 1.0
    clipped = [min(max(number / scale, SMALLEST), 1.0) for number in known]
    return [number / sum(clipped) for number in clipped]


def _forecast(entry: Mapping[str, Any]) -> Forecast | None:
    probability, why = _number(entry.get("probability")), entry.get("why")
    if not 0 <= probability <= 1:  # NaN included
        return None
    why = plain(why, WORD_LENGTH) if isinstance(why, str) else ""
    return Forecast(probability=min(max(probability, SMALLEST), 1 - SMALLEST), why=why)
