"""How designs are shown to a model: records of the search go in, text goes out.

Whatever somebody wrote (sources, ideas, messages) is data here and may be hostile: it is shown in a fence longer than
any run of backticks in it, or in one line that begins with words of ours, without invisible characters, and cut at a
bound. Nothing here chooses what is shown, and nothing is asked.
"""

import difflib
import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.propose.reply import plain
from nas.space import SearchSpace

FOLDER = Path(__file__).parent / "prompts"

POINTS = 8
"""Most points of a curve that are shown."""
OPERATIONS = 5
"""Most operations of a profile that are shown."""
LINE_LENGTH = 300
"""Most characters of an idea, a name or a reason."""
SOURCE_LENGTH = 12_000
"""Most characters of a source."""
DIFFERENCE_LENGTH = 4_000
"""Most characters of a difference between two sources."""
QUOTE_LENGTH = 200
"""Most characters of a quoted line of source."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """Parts of a prompt that can be left out, so that what each is worth can be measured.

    Attributes:
      examples: the contrasting designs beside the parent.
      scores: what an example reached, beside its source.
      tried: the lines of what was tried.
      streams: another beginning for each parallel stream.
      kinds: a kind of change is asked for; otherwise every proposal is free.
      ideas: ideas before the module; the caller asks with `ideas_request` if this is on, else with `direct_request`.
      front: the whole front; otherwise the best design alone.
      differences: a paused trial is shown as the difference to its parent; otherwise whole.
      cards: mechanisms from the literature.
      hypothesis: a hypothesis, and what would refute it, are asked for.
      profile: the share of FLOPs by operation.
      curves: learning curves.
      notes: notes from people.
      no_history: the control arm: nothing that was found out in this run, only task, API and the baselines' source.
    """

    examples: bool = True
    scores: bool = True
    tried: bool = True
    streams: bool = True
    kinds: bool = True
    ideas: bool = True
    front: bool = True
    differences: bool = True
    cards: bool = True
    hypothesis: bool = True
    profile: bool = True
    curves: bool = True
    notes: bool = True
    no_history: bool = False


ALL = Switches()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A design as a prompt shows it.

    Attributes:
      id: the candidate's id.
      name: a baseline's name, or the idea.
      arm: who wrote it.
      source: the module.
      params: trainable numbers.
      flops: floating-point operations of one inference on one example.
      lr: learning rate of the trial that is shown, the candidate's best; None if it has none.
      rung: highest rung that the trial reached, from 0; None before the first.
      score: its score there, or None.
      sigmas: by how many standard deviations between seeds it is better than the best baseline, or None.
      curve: points as (step, training loss, validation loss, score), ascending.
      parts: score of each task at the last of them, where a space has several; those that were left out are missing.
      profile: share of the FLOPs by name of the operation.
      parents: ids.
    """

    id: int
    name: str
    arm: str
    source: str
    params: int
    flops: int
    lr: float | None = None
    rung: int | None = None
    score: float | None = None
    sigmas: float | None = None
    curve: Sequence[tuple[int, float, float, float]] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    profile: Mapping[str, float] = field(default_factory=dict)
    parents: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One line of what was tried.

    Attributes:
      idea: what it was.
      outcome: by how many standard deviations it is better than its parent, or why it was rejected.
      why: a reason in a few words, or empty.
    """

    idea: str
    outcome: float | str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """A paused trial of which a forecast is wanted.

    Attributes:
      id: the trial's id.
      shown: its candidate, with this trial's numbers and curve.
      parent: the candidate's parent with its best trial's curve, or None.
      rank: place in its rung, 1 is best.
      of: results in that rung.
      best: the rung's best score.
      median: the rung's median score.
    """

    id: int
    shown: Shown
    parent: Shown | None = None
    rank: int
    of: int
    best: float
    median: float


# ---- templates


@functools.cache
def text_of(name: str) -> str:
    """The file of that name in `prompts/`."""
    return (FOLDER / f"{name}.md").read_text("utf-8").strip()


def filled(name: str, **values: object) -> str:
    """A template with its placeholders filled; a paragraph with one that has nothing to say is left out.

    What is filled in is not looked at again, so braces in it stay what they are.
    """
    paragraphs = text_of(name).split("\n\n")
    said = [part for part in paragraphs if all(values[key] != "" for key in _PLACEHOLDER.findall(part))]
    return "\n\n".join(_PLACEHOLDER.sub(lambda match: str(values[match[1]]), part) for part in said)


def bullets(lines: Iterable[str]) -> str:
    """A list; further lines of an item are indented."""
    return "\n".join("- " + line.replace("\n", "\n  ") for line in lines)


# ---- text of others


def clean(text: str, length: int) -> str:
    """Several lines with Unix ends, without control and invisible characters, cut after a line within `length`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(c for c in text[: 2 * length] if c in "\n\t" or unicodedata.category(c)[0] != "C")
    if len(text) <= length:
        return text
    return text[: max(text.rfind("\n", 0, length), 0)] + "\n… the rest is not shown"


def fenced(text: str, length: int, language: str = "python") -> str:
    """A block that nothing in the text can close: its fence is longer than any run of backticks in it."""
    text = clean(text, length).rstrip("\n")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def quoted(source: str, line: int | None) -> str:
    """A line of a source, counted from 1, with its neighbours; empty if there is no such line."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # as Python counts them
    if line is None or not 1 <= line <= len(lines):
        return ""
    near = range(max(1, line - 1), min(len(lines), line + 1) + 1)
    marked = (f"{'>' if number == line else ' '} {number:3} {lines[number - 1][:QUOTE_LENGTH]}" for number in near)
    return fenced("\n".join(marked), 4 * QUOTE_LENGTH, "")


# ---- designs


def described(shown: Shown, space: SearchSpace, switches: Switches = ALL) -> str:
    """A design without its source: idea, size, result, curve, profile, one a line."""
    return "\n".join([_titled(shown), *_results(shown, space, switches)])


def example(shown: Shown, space: SearchSpace, switches: Switches = ALL) -> str:
    """A design with its source; without its results if the switch says so."""
    results = _results(shown, space, switches) if switches.scores else [_size(shown) + "."]
    return "\n".join([f"### {_titled(shown)}", *results, fenced(shown.source, SOURCE_LENGTH)])


def tried(line: Tried) -> str:
    """Idea, outcome and reason in one line."""
    outcome = plain(line.outcome, LINE_LENGTH) if isinstance(line.outcome, str) else _sigmas(line.outcome)
    return " → ".join(part for part in (plain(line.idea, LINE_LENGTH), outcome, plain(line.why, LINE_LENGTH)) if part)


def paused_trial(paused: Paused, space: SearchSpace, switches: Switches = ALL) -> str:
    """A paused trial beside its parent."""
    shown, parent = paused.shown, paused.parent
    rung, steps = shown.rung or 0, space.ladder.steps
    here, best, median = (score(value, space) for value in (shown.score, paused.best, paused.median))
    lines = [
        f"## Trial {paused.id}: {plain(shown.name, LINE_LENGTH)}",
        f"{_size(shown)}; learning rate {_short(shown.lr)}.",
        f"Rank {paused.rank} of {paused.of} after {steps[rung]:,} steps: {space.task.metric} {here}; the best has "
        f"{best}, the median {median}. Next rung: {steps[rung + 1]:,} steps.",
        *_measured(shown, space, switches),
    ]
    if parent is not None:
        lines.append(f"Its parent, #{parent.id}: {plain(parent.name, LINE_LENGTH)}. {_size(parent)}.")
        lines += _measured(parent, space, switches)
    if parent is None or not switches.differences:
        return "\n".join([*lines, "Its source:", fenced(shown.source, SOURCE_LENGTH)])
    return "\n".join([*lines, "Difference to the parent:", difference(parent.source, shown.source)])


def difference(before: str, after: str) -> str:
    """What changed from one source to another, as a unified diff."""
    old, new = (clean(text, SOURCE_LENGTH).split("\n") for text in (before, after))
    changed = list(difflib.unified_diff(old, new, n=2, lineterm=""))[2:]
    return fenced("\n".join(changed) or "(none)", DIFFERENCE_LENGTH, "diff")


def score(value: float | None, space: SearchSpace) -> str:
    """A score with the digits that mean something."""
    return "none" if value is None else f"{value:.{space.task.decimals}f}"


def _titled(shown: Shown) -> str:
    origin = f" from {' and '.join(f'#{parent}' for parent in shown.parents)}" if shown.parents else ""
    return f"#{shown.id} ({plain(shown.arm, 40)}{origin}): {plain(shown.name, LINE_LENGTH)}"


def _size(shown: Shown) -> str:
    return f"{shown.params:,} parameters, {shown.flops:,} FLOPs"


def _results(shown: Shown, space: SearchSpace, switches: Switches) -> list[str]:
    if shown.score is None or shown.rung is None:
        return [f"{_size(shown)}. No score yet."]
    against = f" ({_sigmas(shown.sigmas)} against the best baseline)" if shown.sigmas is not None else ""
    reached = f"{space.task.metric} {score(shown.score, space)} after {space.ladder.steps[shown.rung]:,} steps{against}"
    return [f"{_size(shown)}; {reached}, learning rate {_short(shown.lr)}.", *_measured(shown, space, switches)]


def _measured(shown: Shown, space: SearchSpace, switches: Switches) -> list[str]:
    """Tasks, curve and profile."""
    lines = []
    if shown.parts:
        left = "" if len(shown.parts) == len(space.task.parts) else "; the others were left, and are guessed from these"
        scores = ", ".join(f"{plain(name, 40)} {score(value, space)}" for name, value in shown.parts.items())
        lines.append(f"By task: {scores}{left}.")
    if switches.curves and shown.curve:
        points = (
            f"{step:,}: {train:.3f}, {loss:.3f}, {score(value, space)}"
            for step, train, loss, value in _some(shown.curve)
        )
        lines.append(f"Curve (step: training loss, validation loss, {space.task.metric}): {'; '.join(points)}.")
    if switches.profile and shown.profile:
        largest = sorted(shown.profile.items(), key=lambda item: (-item[1], item[0]))[:OPERATIONS]
        lines.append(f"FLOPs: {', '.join(f'{plain(name, 40)} {share:.0%}' for name, share in largest)}.")
    return lines


def _some(curve: Sequence[tuple[int, float, float, float]]) -> list[tuple[int, float, float, float]]:
    """At most `POINTS` points, evenly, the first and the last among them."""
    if len(curve) <= POINTS:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (POINTS - 1))] for i in range(POINTS)]


def _sigmas(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f} σ" if math.isfinite(value) else "not measured"  # no -0.0


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}"
