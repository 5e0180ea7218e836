"""What trainings at other sizes of a space say, as records and as text: does a gain remain, and does the order hold?

In go a run's records with the trainings that `scale.py` stored, and the protocol that asked for them; out comes a
report, and the same as a table for the terminal, Markdown or JSON. The same store gives the same bytes. Nothing is
trained here, and nothing looks at the test split: that is for confirmation alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

from nas.judge.belief import Estimate
from nas.judge.scaling import Fit, fit
from nas.judge.transfer import Gain, Order, compare, order
from nas.progress import one_line, plain_console, short
from nas.records import Retraining
from nas.sizes import FURTHER, SEEDS_TRIED, TRIED, Choice, Protocol, Size, State, Subject
from nas.space import SearchSpace
from nas.standings import Records
from nas.tables import Column, headed, markdown, markdown_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A row at one size.

    Attributes:
      subject: whose.
      scores: of the seeds that came to their end.
      failed: seeds that did not.
      mean: over seeds; None without one.
      lr: learning rate that was found at this size; None if none was.
      at_end: whether that was the smallest or largest of those tried, so that a better one may lie beyond.
      cost: of the program, see `nas.records.Cost`; empty if none was trained.
      problem: why there is no score, or not of all seeds; empty if there is.
    """

    subject: Subject
    scores: tuple[float, ...] = ()
    failed: int = 0
    mean: Estimate | None = None
    lr: float | None = None
    at_end: bool = False
    cost: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One size.

    Attributes:
      size: which.
      rows: best first; those without a score last.
      gains: of finalists over the best baseline here, by id, where the noise is known.
      order: against the order at ×1; None there, and where it is not known.
    """

    size: Size
    rows: Sequence[Standing]
    gains: Mapping[int, Gain]
    order: Order | None = None

    def row(self, candidate: int) -> Standing:
        """A candidate's."""
        return next(row for row in self.rows if row.subject.candidate == candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of a run's finalists and baselines at several sizes.

    Attributes:
      config: the run's configuration.
      choice: who is compared.
      levels: ×1 first.
      seeds: that each row should have.
      missing: trainings that are still to be made.
      fits: how the loss of each row falls with compute over all sizes, by id, where that can be said.
      stopped: whether somebody stopped what was to be trained for it.
    """

    config: Mapping[str, Any]
    choice: Choice
    levels: Sequence[Level]
    seeds: int
    missing: int
    fits: Mapping[int, Fit]
    stopped: bool = False

    def name(self, candidate: int) -> str:
        """Of a baseline its name, else the id."""
        return next((s.name for s in self.choice.subjects if s.candidate == candidate and s.baseline), str(candidate))


# ---- from the store


def report(records: Records, protocol: Protocol) -> Report:
    """Read what the trainings that a protocol asks for say so far."""
    choice, maximize = protocol.choice, records.config["maximize"]
    baselines = [one.candidate for one in choice.subjects if one.baseline]
    made: list[Level] = []
    small: dict[int, list[float]] = {}
    pairs: dict[int, list[tuple[float, float]]] = {}
    for size in protocol.sizes:
        states = {one.candidate: protocol.state(records.retrainings, one, size) for one in choice.subjects}
        scores = {candidate: _scores(state.trained) for candidate, state in states.items()}
        compared = compare(scores, baselines, maximize)
        for candidate, state in states.items():
            pairs.setdefault(candidate, []).extend(_compute_and_loss(protocol.spaces[size], state))
        rows = [_standing(one, states[one.candidate], compared.means.get(one.candidate)) for one in choice.subjects]
        made.append(
            Level(
                size=size,
                rows=sorted(rows, key=lambda row: _height(row, records.sign)),
                gains=compared.gains,
                order=order(small, scores, baselines, maximize) if size.axis else None,
            )
        )
        small = small or scores
    missing = protocol.missing(records.retrainings)
    fits = {candidate: found for candidate, mine in pairs.items() if mine and (found := fit(*zip(*mine, strict=True)))}
    return Report(config=records.config, choice=choice, levels=made, seeds=protocol.seeds, missing=missing, fits=fits)


def _compute_and_loss(space: SearchSpace, state: State) -> list[tuple[float, float]]:
    """FLOPs and validation loss of each finished training at a size."""
    examples = space.recipe.batch * space.ladder.steps[-1] * max(1, len(space.task.parts))
    return [
        (float(row.cost["train_flops"]) * examples, row.point.loss)
        for row in state.trained
        if row.point is not None and row.cost
    ]


def _scores(rows: Sequence[Retraining]) -> list[float]:
    return [row.point.score if row.point is not None else math.nan for row in rows]


def _standing(subject: Subject, state: State, mean: Estimate | None) -> Standing:
    told = tuple(score for score in _scores(state.trained) if math.isfinite(score))
    rates = [row.recipe["lr"] for row in state.tuned]
    lr = state.recipe["lr"] if state.recipe is not None else None
    given_up = not state.missing and state.recipe is None
    failed = [row.failure for row in (state.tuned if given_up else state.trained) if row.failure is not None]
    return Standing(
        subject=subject,
        scores=told,
        failed=len(state.trained) - len(told),
        mean=mean,
        lr=lr,
        at_end=len(rates) > 1 and lr in (min(rates), max(rates)),
        cost=next((row.cost for row in [*state.trained, *state.tuned] if row.cost), {}),
        problem=one_line(str(failed[0])) if failed else "not trained yet" if state.missing else "",
    )


def _height(row: Standing, sign: int) -> tuple[float, int]:
    return -sign * row.mean.value if row.mean is not None else math.inf, row.subject.candidate


# ---- in words


def verdict(report: Report, level: Level, candidate: int) -> str:
    """What became of a finalist's gain at a size, in a word or two."""
    gain, before = level.gains.get(candidate), report.levels[0].gains.get(candidate)
    if gain is None:
        return "not known"
    if level.row(candidate).failed:
        return "seed failed"
    if gain.high < 0:
        return "below" if not level.size.axis else "lost"
    if gain.low <= 0:
        return "not shown"
    if not level.size.axis:
        return "shown"
    return "remains" if before is not None and before.low > 0 else "shown here"


def sentences(report: Report) -> list[str]:
    """What a reader should take away, one sentence a size."""
    return [
        f"{level.size.label}: {_gains_in_words(report, level)}"
        + (f" {_order_in_words(level)}" if level.size.axis else "")
        for level in report.levels
    ]


def _gains_in_words(report: Report, level: Level) -> str:
    words = {
        "shown": "{} ahead of the best baseline",
        "remains": "{} still ahead of the best baseline",
        "shown here": "{} ahead of the best baseline here, which at ×1 is not shown",
        "not shown": "{} not shown to be ahead",
        "below": "{} behind the best baseline",
        "lost": "{} behind the best baseline",
        "seed failed": "{} not shown to be ahead: a seed failed",
        "not known": "{} not known",
    }
    found: dict[str, list[str]] = {}
    for one in report.choice.finalists:
        found.setdefault(verdict(report, level, one.candidate), []).append(str(one.candidate))
    told = "; ".join(text.format(" and ".join(found[word])) for word, text in words.items() if word in found)
    without = [row.subject.name for row in level.rows if row.subject.baseline and row.mean is None]
    return told + (f", but without {' and '.join(without)}, which has no score here." if without else ".")


def _order_in_words(level: Level) -> str:
    one = level.order
    if one is None:
        return "Of the order nothing is known: fewer than two rows have a score at both sizes."
    tau = f"τ {one.tau.value:+.2f} [{one.tau.low:+.2f}, {one.tau.high:+.2f}]"
    if one.tau.high < 0:
        said = f"The order does not hold: {tau}"
    elif one.tau.low > 0:
        said = f"The order holds: {tau}"
    else:
        said = f"Whether the order holds is not known: {tau}"
    pairs, open_pairs = f"{one.pairs} pair{'s' * (one.pairs != 1)}", one.pairs - one.same - one.turned
    return (
        f"{said}; of {pairs} of {one.rows} rows {one.same} stand as at ×1, {one.turned} turned round, and "
        f"{open_pairs} cannot be told from noise."
    )


def head(report: Report) -> str:
    """What the report is about."""
    config, baselines = report.config, len(report.choice.subjects) - len(report.choice.finalists)
    count = f"{len(report.choice.finalists)} candidate{'s' * (len(report.choice.finalists) != 1)}"
    return one_line(
        f"{config['space_name']}@{config['space_version']} · run {config.get('name', 'without a name')} · {count} and "
        f"{baselines} baseline{'s' * (baselines != 1)} at {len(report.levels)} sizes, {report.seeds} fresh seeds each"
    )


def notes(report: Report) -> list[str]:
    """What a reader must know to read the numbers, in lines without markup."""
    config = report.config
    direction = "higher" if config["maximize"] else "lower"
    rates = ", ".join(f"{times:g}" for times in TRIED)
    found = [
        f"not finished: {report.missing} trainings are still to be made; the same command goes on"
        * bool(report.missing),
        f"candidates: {report.choice.how}. ×1 is the space as it was searched, trained anew by the same protocol.",
        f"score: {config['metric']} on validation, {direction} is better, mean ± standard error of n fresh seeds. The "
        "test split is for confirmation alone: nothing here has looked at it.",
        f"learning rate: at every size, ×1 too, {rates} times the one that a row had were tried within the space's "
        f"range, {SEEDS_TRIED} seeds each, and up to {FURTHER} beyond while the best was at that end; another than its "
        "own is taken only if all its seeds are better on validation than the mean of its own. All else of its numbers "
        "stays.",
        "gain: over the best baseline at the same size, with its 95 % interval: Welch's test over seeds, variances "
        "moderated as in confirmation, the validation split as it is. Best of several, that baseline's mean flatters "
        "it a little.",
        "order: of all rows. τ is Kendall's; its interval is what the pairs leave open that are not told apart at both "
        "sizes (p ≤ .05). Baselines that lie far apart hold it up.",
        "exponent: b in loss = a · FLOPs^-b of training, over all sizes above whatever grew, with its 95 % interval; "
        "off is how far a size's mean lies from the line. No irreducible loss is fitted, so it holds for this range."
        * bool(report.fits),
        _how_little(report),
        _at_ends(report),
        _listed("its program is that of ×1, so it does not grow along: {}", _rigid(report)),
        _listed("baselines without numbers, left out: {}", list(report.choice.left_out)),
        _listed("weaker baselines at ×1, left out and perhaps better elsewhere: {}", list(report.choice.weaker)),
        *_problems(report),
    ]
    return [one_line(note) for note in found if note]


def _how_little(report: Report) -> str:
    halves = [(gain.high - gain.low) / 2 for level in report.levels for gain in level.gains.values()]
    if not halves:
        return f"with {report.seeds} seed{'s' * (report.seeds != 1)} a row no interval can be given; --seeds 3 or more"
    digits = report.config["decimals"]
    return (
        f"{report.seeds} seeds say little: half of a gain's interval is {median(halves):.{digits}f} in the middle, and "
        f"what is smaller does not show. {len(halves)} intervals of 95 % each: expect one in twenty to miss."
    )


def _listed(text: str, names: Sequence[str]) -> str:
    return text.format(", ".join(names)) if names else ""


def _at_ends(report: Report) -> str:
    found = [row.at_end for level in report.levels for row in level.rows if row.lr is not None]
    return (
        f"of {len(found)} learning rates {sum(found)} are the smallest or largest of those tried: a better one may lie "
        "beyond"
    ) * any(found)


def _rigid(report: Report) -> list[str]:
    """Rows whose program stays as large as at ×1 where that of others grows."""
    base, found = report.levels[0], []
    for level in report.levels[1:]:
        grown = {
            row.subject.candidate: row.cost != base.row(row.subject.candidate).cost
            for row in level.rows
            if row.cost and base.row(row.subject.candidate).cost
        }
        if any(grown.values()):
            found += [f"{report.name(one)} at {level.size.label}" for one, does in grown.items() if not does]
    return found


def _problems(report: Report) -> list[str]:
    return [
        f"{level.size.label}, {report.name(row.subject.candidate)}: {row.problem}"
        for level in report.levels
        for row in level.rows
        if row.problem
    ]


# ---- the formats


_GAINS = (
    Column("size", "size", right=False), Column("id", "id"), Column("score", "score"), Column("gain", "gain"),
    Column("interval", "95 %"), Column("over", "over", right=False), Column("verdict", "verdict", right=False),
)  # fmt: skip
_FITS = (
    Column("id", "id"), Column("name", "idea or name", right=False), Column("exponent", "exponent"),
    Column("interval", "95 %"), Column("sizes", "sizes"), Column("n", "n"), Column("apart", "off"),
)  # fmt: skip
_ROWS = (
    Column("size", "size", right=False), Column("id", "id"), Column("name", "idea or name", right=False),
    Column("score", "score"), Column("error", "±"), Column("n", "n"), Column("lr", "lr"),
    Column("params", "params"), Column("flops", "FLOPs"),
)  # fmt: skip
_SHORTENED = ("name", "over")
"""Columns that give way where there is no room."""


def _gain_cells(report: Report) -> list[dict[str, str]]:
    digits, cells = report.config["decimals"], []
    for level in report.levels:
        for place, one in enumerate(report.choice.finalists):
            gain, row = level.gains.get(one.candidate), level.row(one.candidate)
            known = {} if gain is None else {
                "gain": f"{gain.value:+.{digits}f}",
                "interval": f"[{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]",
                "over": report.name(gain.against),
            }  # fmt: skip
            cells.append(
                {"gain": "–", "interval": "–", "over": "–"} | known | {
                    "size": level.size.label * (not place),
                    "id": str(one.candidate),
                    "score": "–" if row.mean is None else f"{row.mean.value:.{digits}f}",
                    "verdict": verdict(report, level, one.candidate),
                }
            )  # fmt: skip
    return cells


def _row_cells(report: Report) -> list[dict[str, str]]:
    digits, cells = report.config["decimals"], []
    for level in report.levels:
        for place, row in enumerate(level.rows):
            error = row.mean.error if row.mean is not None else None
            cells.append(
                {
                    "size": level.size.label * (not place),
                    "id": str(row.subject.candidate),
                    "name": row.subject.name or "(no idea given)",
                    "score": "–" if row.mean is None else f"{row.mean.value:.{digits}f}",
                    "error": "–" if error is None else f"{error:.{digits}f}",
                    "n": str(len(row.scores)),
                    "lr": "–" if row.lr is None else f"{row.lr:.2g}",
                    "params": short(row.cost["params"]) if row.cost else "–",
                    "flops": short(row.cost["flops"]) if row.cost else "–",
                }
            )
    return cells


def _fit_cells(report: Report) -> list[dict[str, str]]:
    ordered = sorted(report.fits.items(), key=lambda pair: (-pair[1].exponent, pair[0]))
    return [
        {
            "id": str(candidate),
            "name": report.levels[0].row(candidate).subject.name or "(no idea given)",
            "exponent": f"{one.exponent:.3f}",
            "interval": f"[{one.low:+.3f}, {one.high:+.3f}]",
            "sizes": str(one.sizes),
            "n": str(one.trainings),
            "apart": f"{one.apart:.1%}",
        }
        for candidate, one in ordered
    ]


def _tables(report: Report) -> list[tuple[Sequence[Column], list[dict[str, str]]]]:
    made = [(_GAINS, _gain_cells(report)), (_ROWS, _row_cells(report)), (_FITS, _fit_cells(report))]
    return [(columns, cells) for columns, cells in made if cells]


def write_table(report: Report, stream: TextIO) -> None:
    """Print the report for a terminal, or for a pipe as a terminal of 80 columns would have it."""
    console = plain_console(stream)
    console.print(Text(head(report)))
    for sentence in sentences(report):
        console.print(Text(sentence))
    for columns, cells in _tables(report):
        console.print(_table(columns, cells, console.width))
    for note in notes(report):
        console.print(Text(note, style="dim"))


def _table(columns: Sequence[Column], cells: Sequence[Mapping[str, str]], width: int) -> Table:
    widths = {c.key: max(Text(text).cell_len for text in (c.heading, *(row[c.key] for row in cells))) for c in columns}
    for key in _SHORTENED:
        if key in widths:
            others = sum(widths.values()) - widths[key] + 2 * (len(columns) - 1)
            widths[key] = max(min(widths[key], width - others), 4)
    table = headed(columns, widths)
    for row in cells:
        table.add_row(*(Text(row[column.key]) for column in columns))
    return table


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"**{markdown(head(report))}**", "", *(f"- {markdown(sentence)}" for sentence in sentences(report))]
    for columns, cells in _tables(report):
        lines += ["", *markdown_table(columns, cells)]
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in notes(report))]) + "\n"


def to_json(report: Report) -> str:
    """The report as JSON with sorted keys."""
    config = report.config
    plain = {
        "run": config.get("name"),
        "space": config["space_name"],
        "space_version": config["space_version"],
        "metric": config["metric"],
        "maximize": config["maximize"],
        "split": "validation",
        "seeds": report.seeds,
        "missing": report.missing,
        "summary": sentences(report),
        "caption": notes(report),
        "sizes": [_level_facts(report, level) for level in report.levels],
        "fits": [
            {"candidate": candidate, **{key: round(value, 5) for key, value in asdict(one).items()}}
            for candidate, one in sorted(report.fits.items())
        ],
    }
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def _level_facts(report: Report, level: Level) -> dict[str, Any]:
    digits, one = report.config["decimals"] + 2, level.order
    told = None if one is None else {
        "rows": one.rows, "pairs": one.pairs, "same": one.same, "turned": one.turned, "tau": round(one.tau.value, 4),
        "tau_low": round(one.tau.low, 4), "tau_high": round(one.tau.high, 4),
    }  # fmt: skip
    rows = [_row_facts(report, level, row, digits) for row in level.rows]
    return {"axis": level.size.axis or None, "factor": level.size.factor, "order": told, "rows": rows}


def _row_facts(report: Report, level: Level, row: Standing, digits: int) -> dict[str, Any]:
    subject, gain = row.subject, level.gains.get(row.subject.candidate)
    error = row.mean.error if row.mean is not None else None
    return {
        "candidate": subject.candidate,
        "name": subject.name,
        "baseline": subject.baseline,
        "scores": [round(score, digits) for score in row.scores],
        "failed_seeds": row.failed,
        "mean": None if row.mean is None else round(row.mean.value, digits),
        "standard_error": None if error is None else round(error, digits),
        "lr": None if row.lr is None else float(f"{row.lr:.6g}"),
        "lr_at_end": row.at_end,
        "cost": dict(row.cost),
        "problem": row.problem or None,
        "gain": None if gain is None else {
            "over": gain.against, "value": round(gain.value, digits), "low": round(gain.low, digits),
            "high": round(gain.high, digits),
        },
        "verdict": None if subject.baseline else verdict(report, level, subject.candidate),
    }  # fmt: skip
