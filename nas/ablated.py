"""What an ablation receipt says: what each piece of a winner is worth, in words, as a table, Markdown or JSON.

In go the winner and its variants as `ablate` traced and trained them, out comes a `Receipt`: the difference that each
piece makes with its interval, and the sentences that a reader needs with it. It reads no store and trains nothing, and
the test split is not in it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from rich.text import Text

from nas.judge.lift import t_quantile
from nas.judge.noise import seed_sigma
from nas.progress import one_line, plain_console, short
from nas.propose.pieces import Piece
from nas.propose.resize import MATCHED, Size
from nas.records import Value, to_plain
from nas.standings import Records, Row
from nas.store import Entry
from nas.tables import markdown

LEVEL = 0.05
"""Share of intervals that miss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is ablated, and against what.

    Attributes:
      row: of the winner in its search.
      entry: its entry.
      values: of its tunables, those of its best trial.
      recipe: learning rate and weight decay, likewise.
      source: the winner without tunables.
      baseline: the nearest baseline's entry.
      ancestor: whether the winner descends from it.
      against: the baseline's source without tunables.
      standing: whether the winner is confirmed, in words.
      gain: fresh validation of the baseline, as it was confirmed; empty if it was not.
    """

    row: Row
    entry: Entry
    values: Mapping[str, Value]
    recipe: Mapping[str, float]
    source: str
    baseline: Entry
    ancestor: bool
    against: str
    standing: str
    gain: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One line of the receipt.

    Attributes:
      number: of the piece, from 1; 0 is the winner itself.
      piece: which; None for the winner.
      size: at which it was trained; None if it could not be.
      reason: why there is no program.
      lr: learning rate; None before it is chosen.
      scores: of the fresh seeds that finished, on validation.
      failed: seeds that did not.
    """

    number: int
    piece: Piece | None
    size: Size | None = None
    reason: str = ""
    lr: float | None = None
    scores: Sequence[float] = ()
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a piece is worth: winner minus variant, positive if the piece helps, after Welch (1947).

    Attributes:
      value: difference of the means in score units.
      low, high: ends of the interval that misses with probability `LEVEL`; None if no noise was seen.
    """

    value: float
    low: float | None
    high: float | None


def worth(winner: Sequence[float], other: Sequence[float], sign: int) -> Worth | None:
    """Compare the winner with something else; None if either has fewer than two scores."""
    if min(len(winner), len(other)) < 2:
        return None
    value = sign * (fmean(winner) - fmean(other))
    spreads = [variance(scores) for scores in (winner, other)]
    parts = [spread / len(scores) for spread, scores in zip(spreads, (winner, other), strict=True)]
    if not sum(parts):
        return Worth(value=value, low=None, high=None)
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(scores) - 1) for part, scores in zip(parts, (winner, other), strict=True)
    )
    half = t_quantile(1 - LEVEL / 2, degrees) * math.sqrt(sum(parts))
    return Worth(value=value, low=value - half, high=value + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Everything that is printed.

    Attributes:
      records: of the run.
      subject: what was ablated.
      winner: trained anew, the control.
      variants: a line for every piece.
      worths: by the piece's number, of those that have enough seeds.
      seeds: of each that were asked for.
      sigma: typical deviation from seed to seed over all lines; None if no noise was seen.
      stopped: whether somebody stopped what was to be trained for it.
    """

    records: Records
    subject: Subject
    winner: Variant
    variants: Sequence[Variant]
    worths: Mapping[int, Worth]
    seeds: int
    sigma: float | None
    stopped: bool = False

    @property
    def digits(self) -> int:
        return self.records.config["decimals"]

    @property
    def gain(self) -> Worth | None:
        """Of the winner over the baseline as it was confirmed, on fresh seeds of validation."""
        return worth(self.winner.scores, self.subject.gain, self.records.sign)


def receipt(records: Records, subject: Subject, lines: Sequence[Variant], seeds: int) -> Receipt:
    """Compare what was trained with the winner."""
    winner, *variants = lines
    found = {one.number: worth(winner.scores, one.scores, records.sign) for one in variants}
    noise = seed_sigma([one.scores for one in lines])
    return Receipt(
        records=records, subject=subject, winner=winner, variants=variants, seeds=seeds,
        worths={number: one for number, one in found.items() if one is not None},
        sigma=noise.sigma if noise and noise.sigma else None,
    )  # fmt: skip


# ---- in words


def title(made: Receipt) -> str:
    """Who was ablated, against whom."""
    config, subject = made.records.config, made.subject
    kin = "its ancestor" if subject.ancestor else "the nearest by its source"
    return (
        f"{config['space_name']}@{config['space_version']} · run {config.get('name', 'without a name')} · ablation of "
        f"candidate {subject.row.candidate} ({subject.standing}) against baseline "
        f"{subject.baseline.candidate.operator}, {kin}"
    )


def notes(made: Receipt) -> list[str]:
    """What the lines come to, and what a reader must know to read them."""
    groups: dict[str, list[str]] = {}
    for one in made.variants:
        size = " (unmatched)" if one.size and _matched(one, made.winner) != "matched" else ""
        groups.setdefault(_verdict(one, made.worths.get(one.number)), []).append(f"{one.number}{size}")
    told = [f"{verdict}: {', '.join(groups[verdict])}" for verdict in _VERDICTS if verdict in groups]
    config = made.records.config
    steps = config["ladder"]["steps"][-1]
    sigma = "not seen" if made.sigma is None else f"{made.sigma:.{made.digits + 1}f}"
    return [
        *(told or [f"no piece: the winner is baseline {made.subject.baseline.candidate.operator} at other numbers"]),
        *([_sum(made)] if made.worths else []),
        "worth: winner minus variant, positive where the piece helps; interval: Welch's, 95 %, each for itself and not "
        f"corrected for their number, so one in twenty misses. σ: {sigma}, typical of a seed over all lines.",
        f"score: {config['metric']} on validation after {steps:,} steps, mean ± standard error of {made.seeds} fresh "
        "seeds. The test split is for confirmation alone. The winner (0) is trained anew like its variants: learning "
        "rate the best of 1, ½ and 2 times the search's, by one seed, which no interval accounts for.",
        "size: each variant has all hidden features multiplied by one factor, so that it has the winner's number of "
        f"parameters to {MATCHED:.0%}; where whole features or limits allow no such size, the nearest: what is "
        "then shown is of the piece and the size together. fit: a linear map was added where features were at odds.",
    ]  # fmt: skip


_VERDICTS = (
    "shown to matter", "shown to hurt", "not distinguishable from nothing", "too many seeds failed to say",
    "not put back", "not trained yet",
)  # fmt: skip


def _verdict(one: Variant, value: Worth | None) -> str:
    if one.reason:
        return "not put back"
    if value is None:
        return "too many seeds failed to say" if one.failed else "not trained yet"
    if value.low is None or value.high is None or value.low <= 0 <= value.high:
        return "not distinguishable from nothing"
    return "shown to matter" if value.low > 0 else "shown to hurt"


def _sum(made: Receipt) -> str:
    total = sum(value.value for value in made.worths.values())
    text = f"effects alone need not add up: these sum to {total:+.{made.digits}f}"
    name = made.subject.baseline.candidate.operator
    if made.gain is None:
        return f"{text}; baseline {name} has no fresh seeds to say what the whole is worth"
    return f"{text}, and the winner is {_interval(made.gain, made.digits)} over {name} (its own numbers and size)"


def _interval(value: Worth, digits: int) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:+.{digits}f}"
    return f"{value.value:+.{digits}f} [{value.low:+.{digits}f}, {value.high:+.{digits}f}]"


def cells(one: Variant, made: Receipt) -> dict[str, str]:
    """A line as a person reads it."""
    value, digits = made.worths.get(one.number), made.digits
    error = math.sqrt(variance(one.scores) / len(one.scores)) if len(one.scores) > 1 else None
    score = f"{fmean(one.scores):.{digits}f}" if one.scores else "–"
    flags = [_matched(one, made.winner)] if one.number and one.size else []
    flags += ["fit"] if one.piece and one.piece.fitted else []
    flags += [f"{one.failed} failed"] if one.failed else []
    return {
        "number": str(one.number),
        "before": one_line(one.piece.before) or "(nothing)" if one.piece else "",
        "after": one_line(one.piece.after) or "(nothing)" if one.piece else "",
        "score": score + ("" if error is None else f" ± {error:.{digits}f}"),
        "worth": _interval(value, digits) if value else "–",
        "sigmas": "–" if value is None or made.sigma is None else f"{value.value / made.sigma:+.1f}",
        "params": short(one.size.params) if one.size else "–",
        "flops": short(one.size.facts["cost"]["flops"]) if one.size else "–",
        "remarks": ", ".join(flags),
        "reason": one_line(one.reason),
    }


def _matched(one: Variant, winner: Variant) -> str:
    """How a variant's number of parameters compares with the winner's."""
    if one.size is None or winner.size is None:
        return ""
    gap = one.size.params / winner.size.params - 1
    if abs(gap) <= MATCHED:
        return "matched"
    return f"unmatched ({gap:+.0%} parameters{', held by the limits' if one.size.limited else ''})"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


# ---- formats


_HEADINGS = ("score", "worth", "sigmas", "params", "flops")
_WIDTHS = (15, 26, 6, 7, 7)


def write_table(made: Receipt, stream: Any) -> None:
    """Print the receipt for a terminal, or 80 columns of a pipe: three lines a piece."""
    console = plain_console(stream)
    width = max(console.width, 60)
    console.print(Text(one_line(title(made)), style="bold"))
    console.print(Text("was: what baseline and variant have there; is: what the winner has", style="dim"))
    head = ("put back, score", "worth [95 %]", "σ", "params", "FLOPs")
    console.print(Text("    " + "  ".join(f"{h:>{w}}" for h, w in zip(head, _WIDTHS, strict=True)), style="dim"))
    for one in (made.winner, *made.variants):
        told = cells(one, made)
        numbers = "    " + "  ".join(f"{told[key]:>{w}}" for key, w in zip(_HEADINGS, _WIDTHS, strict=True))
        if one.piece is None:
            console.print(Text(f"{0:>2}  the winner itself, candidate {made.subject.row.candidate}"))
        else:
            console.print(Text(f"{told['number']:>2}  was {_shortened(told['before'], width - 8)}"))
            console.print(Text(f"    is  {_shortened(told['after'], width - 8)}"))
        if told["reason"]:
            console.print(Text(f"    not put back: {told['reason']}"))
            continue
        console.print(Text(numbers, style="cyan" if one.piece is None else ""))
        if told["remarks"]:
            console.print(Text(f"    {told['remarks']}", style="dim"))
    for note in notes(made):
        console.print(Text(one_line(note)))


def to_markdown(made: Receipt) -> str:
    """The receipt as a Markdown table with its sentences as a list."""
    keys = ("number", "before", "after", "score", "worth", "sigmas", "params", "flops", "remarks")
    heads = ("#", "the baseline has", "the winner has", "score, put back", "worth", "σ", "params", "FLOPs", "size")
    lines = [
        f"**{markdown(one_line(title(made)))}**",
        "",
        f"| {' | '.join(heads)} |",
        "|--:|:--|:--|" + "--:|" * 5 + ":--|",
    ]
    for one in (made.winner, *made.variants):
        told = cells(one, made)
        told |= {"remarks": f"not put back: {told['reason']}"} if told["reason"] else {}
        told |= {"after": "the winner itself"} if one.piece is None else {}
        lines.append("| " + " | ".join(markdown(_shortened(told[key], 160)) for key in keys) + " |")
    return "\n".join([*lines, "", *(f"- {markdown(one_line(note))}" for note in notes(made))]) + "\n"


def to_json(made: Receipt) -> str:
    """The receipt as JSON with sorted keys; the sources of the variants are in it."""
    digits = made.digits + 2

    def plain(value: Worth | None) -> dict[str, float | None] | None:
        fields = to_plain(value) if value is not None else None
        return fields and {k: None if v is None else round(v, digits) for k, v in fields.items()}

    lines = [
        {
            "number": one.number,
            "before": one.piece.before if one.piece else None,
            "after": one.piece.after if one.piece else None,
            "source": one.size.source if one.size else None,
            "fitted": one.piece.fitted if one.piece else None,
            "factor": one.size and round(one.size.factor, 4),
            "params": one.size and one.size.params,
            "flops": one.size and one.size.facts["cost"]["flops"],
            "matched": one.size and _matched(one, made.winner) == "matched",
            "held_by_limits": one.size and one.size.limited,
            "lr": one.lr and float(f"{one.lr:.6g}"),
            "scores": [round(score, digits) for score in one.scores],
            "failed_seeds": one.failed,
            "worth": plain(made.worths.get(one.number)),
            "verdict": _verdict(one, made.worths.get(one.number)) if one.piece else None,
            "reason": one.reason or None,
        }
        for one in (made.winner, *made.variants)
    ]
    config = made.records.config
    whole = {
        "run": config.get("name"),
        "space": config["space_name"],
        "space_version": config["space_version"],
        "metric": config["metric"],
        "maximize": config["maximize"],
        "candidate": made.subject.row.candidate,
        "standing": made.subject.standing,
        "baseline": made.subject.baseline.candidate.operator,
        "ancestor": made.subject.ancestor,
        "gain": plain(made.gain),
        "sigma": made.sigma and round(made.sigma, digits),
        "lines": lines,
        "notes": notes(made),
    }
    return json.dumps(whole, indent=1, sort_keys=True) + "\n"
