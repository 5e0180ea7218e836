"""The leaderboard of one run: store → rows → a table in the terminal, Markdown, CSV or JSON; and its command line.

    python -m nas.leaderboard [RUN] --format table|markdown|csv|json [--top N] [--show ID]

In goes a run's store, read only, also while the search goes on; out come one row per candidate, by its best trial, with
the baselines among them by the mean over their seeds, and a caption that says how far the numbers can be trusted. The
same store gives the same bytes. Those scores are what the search chose by, so the best of them is partly luck; what
fresh seeds and the test split say stands above them once the run is confirmed, and nothing else is called better.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from nas import confirmed, control, spending
from nas.dossier import write_candidate
from nas.files import spreadsheet
from nas.improvements import write_improvements
from nas.judge import proxy
from nas.judge.proxy import Proxy
from nas.progress import counts, drop_output, duration, moment, one_line, plain_console, print_any_text, short
from nas.records import to_plain
from nas.space import SpaceError
from nas.standings import Arm, Board, Front, Row, board, cut, read
from nas.store import Store, StoreError, locks
from nas.tables import Column, headed, markdown, markdown_table

RESULTS = Path("results/runs")
"""Where runs are looked for by name."""

_SIZES = {"params": "params", "flops": "FLOPs", "step_us": "µs of a training step"}
FRONT = 12
"""Candidates of a front in the caption, from the best down; the page and JSON have them all."""
MESSAGES = 5
"""Messages of people under a table, the last ones."""
TOP = 20
"""Rows, besides the baselines, of a table made for reading, unless told otherwise."""

UNCONFIRMED = "search score, unconfirmed"


# ---- the caption


def summary(board: Board) -> str:
    """What is confirmed; before that, the best candidate against the best baseline, in one careful sentence."""
    if board.confirmed:
        return confirmed.summary(board)
    ours = [row for row in board.rows if row.arm != "baseline"]
    if not ours:
        return "no candidate has a score yet"
    best, digits = ours[0], board.config["decimals"]
    against = board.references.get(best.rung)
    where = f"best candidate {best.candidate}: {best.score:.{digits}f} at {_steps(board)[best.rung]:,} steps"
    luck = f"one seed, chosen as the best of {len(ours)}: unconfirmed"
    if against is None:
        return f"{where}; no baseline has run as far with several seeds, so there is nothing to compare it with; {luck}"
    difference = best.score - against.score
    sigmas = f"{abs(difference) / against.noise.sigma:.1f}σ of a seed" if against.noise.sigma else "σ of a seed is 0"
    ahead = difference if board.config["maximize"] else -difference
    side = "ahead of" if ahead >= 0 else "behind"
    mean = f"{against.score:.{digits}f} ± {against.error:.{digits}f} ({against.seeds} seeds)"
    return f"{where} is {abs(difference):.{digits}f} ({sigmas}) {side} the best baseline {against.name} {mean}; {luck}"


def caption(board: Board) -> list[str]:
    """What a reader must know to read the rows, in lines without markup."""
    config, digits = board.config, board.config["decimals"]
    head = f"{config['space_name']}@{config['space_version']} · run {config.get('name', 'without a name')}"
    head += f" · {board.spent} of {config['budget']} candidates · {board.trials} trials"
    head += f" · not finished: {board.open_tasks} tasks run or were cut off" if board.open_tasks else ""
    direction = "higher" if config["maximize"] else "lower"
    sigmas = (
        f"{against.noise.sigma:.{digits + 1}f} at {_steps(board)[rung]:,} steps ({against.noise.degrees} d.f.)"
        for rung, against in sorted(board.references.items())
    )
    arms = (
        f"{arm.name} "
        + ", ".join(([f"{arm.proposed} ({arm.rejected} rejected)"] if arm.proposed else []) + [f"{arm.draws} draws"])
        for arm in board.arms
    )
    lines = [
        head,
        summary(board),
        f"score: {config['metric']} on validation, {direction} is better; {UNCONFIRMED}. Candidates: best trial, one "
        "seed. Baselines: mean of n seeds ± σ/√n.",
        f"Δσ: better than the best baseline at the same rung by so many σ of a seed; σ {', '.join(sigmas) or '?'}",
        f"rungs: {', '.join(f'{_dots(rung, board)} {steps:,}' for rung, steps in enumerate(_steps(board)))} steps",
        f"rejected {counts(board.rejected)} · failed trials {counts(board.failed)}",
        f"arms: {'; '.join(arms) or 'none'}",
        f"lift over random: {_lifts(board.arms)}",
        *doubted(board),
        *_front_lines(board),
        *_time_lines(board),
        *proxy.lines(board.proxy, _steps(board), cut(board.config)),
        *(confirmed.notes(board) if board.confirmed else ()),
        *([board.control] if board.control else ()),
        *(spending.lines(board.spending) if board.spending else ()),
        *unlocked(board.messages),
        *_told(board.messages),
    ]
    return [one_line(line) for line in lines]


def doubted(board: Board) -> list[str]:
    """Which rows have a score that was too good to be believed at once, as a sentence; none if no row has."""
    digits = board.config["decimals"]
    rows = [row for row in board.rows if row.again is not None]
    if not rows:
        return []
    each = ", ".join(f"candidate {row.candidate} {row.score:.{digits}f}, then {row.again:.{digits}f}" for row in rows)
    return [f"too good to be believed at once, so trained again with other data, where it held: {each}"]


def _front_lines(board: Board) -> list[str]:
    """Quality against size at the highest rung that a candidate has a score at."""
    top = max((one.rung for one in board.front if one.results), default=None)
    if top is None:
        return []
    head = (
        "front (p: params, f: FLOPs, s: step time): nobody at the same rung is both better and smaller. Hypervolume: "
        f"in {board.config['metric']} × doublings of size, from the worst baseline's score and twice the largest size."
    )
    return [head, *(_front_line(one, board) for one in board.front if one.rung == top)]


def _front_line(front: Front, board: Board) -> str:
    digits = board.config["decimals"]
    shown = front.points[-FRONT:]
    points = ", ".join(f"{candidate} ({score:.{digits}f}, {short(size)})" for candidate, size, score in shown)
    hidden = len(front.points) - len(shown)
    smaller = f"{hidden} smaller, " if hidden else ""
    area = f"hypervolume {front.hypervolume:.{digits}f}, of the baselines alone {front.baselines:.{digits}f}"
    return f"front at {_steps(board)[front.rung]:,} steps against {_SIZES[front.measure]}: {smaller}{points} · {area}"


def _time_lines(board: Board) -> list[str]:
    """Where times were measured, and what seconds and dollars mean."""
    if not board.costs.device:
        return []
    others = board.costs.others
    moved = f"; {others} measured on another device are not told" if others else ""
    return [
        f"step: time of a training step at the values of the best trial, fastest of several, on {board.costs.device}"
        f"{moved}. used: time for which a candidate's jobs held a worker; $: of the calls that wrote it"
    ]


def _on_front(row: Row, board: Board) -> list[str]:
    """Measures by which no candidate at a row's rung is both better and smaller."""
    return [one.measure for one in board.front if one.rung == row.rung and row.candidate in one.candidates]


def unlocked(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What candidates could do for want of a lock, wherever the run was at work; nothing if every lock held."""
    found = {
        message["content"]["missing"]: message["content"]["mode"]
        for message in messages
        if message["kind"] == "sandbox"
    }
    return [
        f"Code that was written by a model ran without these locks of its process (--sandbox {mode}): {missing}."
        for missing, mode in found.items()
        if missing != "nothing"
    ]


def _told(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What people said to the search, the last of it; proposals stand in the table."""
    said = [message for message in messages if message["kind"] not in ("proposal", "sandbox")]
    lines = []
    for message in said[-MESSAGES:]:
        what = " ".join(f"{value}" for value in message["content"].values())
        lines.append(f"{message['time']} {message['author']}: {message['kind']} {what}"[:200])
    hidden = len(said) - len(lines)
    return ([f"{hidden} earlier messages are not shown"] if hidden else []) + lines


def _lifts(arms: Sequence[Arm]) -> str:
    known = [(arm.name, arm.lift) for arm in arms if arm.lift is not None]
    shown = (
        f"{name} {lift.lift:+.2f} [{lift.low:+.2f}, {lift.high:+.2f}]{'' if lift.shown else ' not shown'}"
        for name, lift in known
    )
    unit = "normal scores of the first rung's ranks, at equal lr, 95 % interval"
    return f"{', '.join(shown)} ({unit})" if known else "not shown (too few candidates)"


def _steps(board: Board) -> Sequence[int]:
    return board.config["ladder"]["steps"]


def _dots(rung: int, board: Board) -> str:
    return "●" * (rung + 1) + "○" * (len(_steps(board)) - rung - 1)


# ---- the formats


_COLUMNS = (
    Column("rank", "#"),
    Column("candidate", "id"),
    Column("name", "idea or name", right=False),
    Column("arm", "arm", right=False),
    Column("rung", "rung", right=False),
    Column("score", "score"),
    Column("again", "again"),
    Column("error", "±"),
    Column("seeds", "n"),
    Column("delta", "Δσ"),
    Column("params", "params"),
    Column("flops", "FLOPs"),
    Column("step", "step"),
    Column("front", "front", right=False),
    Column("lr", "lr"),
    Column("used", "used"),
    Column("usd", "$"),
    Column("parents", "parents", right=False),
)
_CONFIRMED = tuple(
    Column(key, heading, right=key not in ("name", "arm", "claim", "rank")) for key, heading in confirmed.COLUMNS
)
_DROPPED = ("parents", "usd", "used", "lr", "step", "front", "flops", "error", "params", "again", "seeds", "rank")
"""Columns that go, in this order, where the terminal is too narrow."""
_OPTIONAL = ("again", "step", "usd", "inference", "match")
"""Columns that are left out where no row has anything there."""
_NAME_CELLS = 24
"""A column is dropped rather than names be cut shorter than this."""


def _cells(row: Row, board: Board) -> dict[str, str]:
    """A row as a person reads it."""
    digits, cost = board.config["decimals"], board.costs.of(row.candidate)
    return {
        "rank": str(row.rank),
        "candidate": str(row.candidate),
        "name": row.name or "(no idea given)",
        "arm": row.arm,
        "rung": _dots(row.rung, board),
        "score": f"{row.score:.{digits}f}",
        "again": "–" if row.again is None else f"{row.again:.{digits}f}",
        "error": "" if row.error is None else f"{row.error:.{digits}f}",
        "seeds": str(row.seeds),
        "delta": "–" if row.delta is None else f"{row.delta:+.1f}",
        "params": "–" if row.params is None else short(row.params),
        "flops": "–" if row.flops is None else short(row.flops),
        "step": "–" if (step := cost.step_at(row.values)) is None else moment(step),
        "used": duration(cost.device_s),
        "usd": "–" if cost.usd is None else f"{cost.usd:.3f}",
        "front": " ".join(measure[0] for measure in _on_front(row, board)),
        "lr": "–" if row.lr is None else f"{row.lr:.2g}",
        "parents": " ".join(map(str, row.parents)),
    }


_FACTS = (
    "rank", "candidate", "name", "arm", "rung", "steps", "search_score", "standard_error", "seeds", "delta_sigmas",
    "params", "flops", "step_us", "front", "lr", "device_seconds", "usd", "trial", "again", "parents",
)  # fmt: skip


def _facts(row: Row, board: Board) -> dict[str, Any]:
    """A row as a program reads it, with as many digits as mean something."""
    digits, cost = board.config["decimals"], board.costs.of(row.candidate)
    step = cost.step_at(row.values)
    return {field: getattr(row, field) for field in _FACTS if field in Row.__slots__} | {
        "steps": _steps(board)[row.rung],
        "search_score": round(row.score, digits),
        "standard_error": None if row.error is None else round(row.error, digits + 1),
        "delta_sigmas": None if row.delta is None else round(row.delta, 2),
        "lr": None if row.lr is None else float(f"{row.lr:.6g}"),
        "again": None if row.again is None else round(row.again, digits),
        "parents": list(row.parents),
        "front": _on_front(row, board),
        "step_us": None if step is None else round(1e6 * step, 2),
        "device_seconds": round(cost.device_s, 1),
        "usd": None if cost.usd is None else float(round(cost.usd, 6)),
        **confirmed.facts(confirmed.by_candidate(board).get(row.candidate), board),
    }


def _chosen(board: Board, top: int | None) -> list[Row]:
    """The first `top` candidates, or all, and every baseline."""
    ours = [row.rank for row in board.rows if row.arm != "baseline"]
    last = math.inf if top is None or top >= len(ours) else ours[top - 1]
    return [row for row in board.rows if row.arm == "baseline" or row.rank <= last]


def _hidden(board: Board, rows: Sequence[Row]) -> list[str]:
    count = len(board.rows) - len(rows)
    return [f"{count} more candidates are not shown; --top all shows them"] if count else []


def write_table(board: Board, stream: TextIO, top: int | None = TOP) -> None:
    """Print the table for a terminal, or for a pipe as a terminal of 80 columns would have it."""
    console = plain_console(stream)
    head, *notes = caption(board)
    console.print(Text(f"{head} · {duration(board.cpu_s)} of processor time"))
    console.print(Text(notes[0]))
    if board.confirmed:
        cells, colours = _confirmed_cells(board), [one.row.arm == "baseline" for one in board.confirmed]
        console.print(_table(_CONFIRMED, confirmed.DROPPED, cells, colours, console.width))
        console.print(Text(f"All of the search, {UNCONFIRMED}:", style="dim"))
    rows = _chosen(board, top)
    if rows:
        cells = [_cells(row, board) for row in rows]
        console.print(_table(_COLUMNS, _DROPPED, cells, [row.arm == "baseline" for row in rows], console.width))
    for note in _hidden(board, rows) + notes[1:]:
        console.print(Text(note, style="dim"))


def _confirmed_cells(board: Board) -> list[dict[str, str]]:
    """Confirmed rows with what their rows of the search say of size."""
    found = []
    for one in board.confirmed:
        searched = _cells(one.row, board)
        found.append(confirmed.cells(one, board) | {key: searched[key] for key in ("params", "flops", "step")})
    return found


def _table(
    columns: Sequence[Column], dropped: Sequence[str], cells: Sequence[Mapping[str, str]], blue: Sequence[bool],
    width: int,
) -> Table:  # fmt: skip
    """A table for a terminal, without the columns that it has no room for; baselines are blue."""
    columns = _filled(columns, cells)
    widths = {c.key: max(cell_len(text) for text in (c.heading, *(row[c.key] for row in cells))) for c in columns}
    shown = list(columns)
    for key in dropped:
        if _room(shown, widths, width) < min(_NAME_CELLS, widths["name"]):
            shown = [column for column in shown if column.key != key]
    widths["name"] = max(min(widths["name"], _room(shown, widths, width)), 1)
    table = headed(shown, widths)
    for row, is_blue in zip(cells, blue, strict=True):
        whole = {**row, "name": _shortened(row["name"], widths["name"])}
        table.add_row(*(Text(whole[c.key]) for c in shown), style="cyan" if is_blue else None)
    return table


def _shortened(name: str, width: int) -> str:
    """A name without its middle, if it is too wide: children begin with their parent's idea and end with their own."""
    if cell_len(name) <= width or width < _NAME_CELLS:
        return name
    end = len(name)
    while cell_len(name[end - 1 :]) <= 2 * width // 3:
        end -= 1
    return f"{set_cell_size(name, width - 1 - cell_len(name[end:])).rstrip()}…{name[end:]}"


def _filled(columns: Sequence[Column], cells: Sequence[Mapping[str, str]]) -> list[Column]:
    return [c for c in columns if c.key not in _OPTIONAL or any(row[c.key] != "–" for row in cells)]


def _room(shown: Sequence[Column], widths: Mapping[str, int], width: int) -> int:
    """Cells that the other columns, two apart, leave to names."""
    return width - sum(widths[column.key] for column in shown if column.key != "name") - 2 * (len(shown) - 1)


def to_markdown(board: Board, top: int | None = TOP) -> str:
    """The leaderboard as Markdown: a table and its caption as a list."""
    rows = _chosen(board, top)
    head, *notes = caption(board)
    lines = [f"**{markdown(head)}**", ""]
    if board.confirmed:
        cells = _confirmed_cells(board)
        lines += [*markdown_table(_filled(_CONFIRMED, cells), cells), "", f"All of the search, {UNCONFIRMED}:", ""]
    cells = [_cells(row, board) for row in rows]
    lines += markdown_table(_filled(_COLUMNS, cells), cells)
    lines += ["", *(f"- {markdown(note)}" for note in _hidden(board, rows) + notes)]
    return "\n".join(lines) + "\n"


def to_csv(board: Board, top: int | None = None) -> str:
    """The rows as CSV; text that a spreadsheet would take for a formula is prefixed with an apostrophe."""
    out = io.StringIO()
    of_the_run = {"sandbox": locks(board.config, board.messages)}
    rows = [_facts(row, board) | of_the_run for row in _chosen(board, top)]
    digits = {
        "search_score": board.config["decimals"],
        "standard_error": board.config["decimals"] + 1,
        "delta_sigmas": 2,
    }
    writer = csv.writer(out, lineterminator="\n")
    names = (*_FACTS, *confirmed.FACTS, "sandbox")
    writer.writerow(names)
    writer.writerows([_csv_cell(row[key], digits.get(key)) for key in names] for row in rows)
    return out.getvalue()


def _csv_cell(value: Any, digits: int | None) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, str):
        return spreadsheet(value)
    return value if value is None or digits is None else f"{value:.{digits}f}"


def to_json(board: Board, top: int | None = None) -> str:
    """Rows and caption as JSON with sorted keys."""
    config = board.config
    plain = {
        "run": config.get("name"),
        "space": config["space_name"],
        "space_version": config["space_version"],
        "metric": config["metric"],
        "maximize": config["maximize"],
        "score": UNCONFIRMED,
        "accesses": dict(board.accesses),
        "device": board.costs.device,
        "budget": config["budget"],
        "spent": board.spent,
        "trials": board.trials,
        "open_tasks": board.open_tasks,
        "rejected": dict(board.rejected),
        "failed": dict(board.failed),
        "caption": caption(board),
        "proxy": [_proxy_facts(one, board) for one in board.proxy],
        "fronts": [_front_facts(one, board) for one in board.front],
        "rows": [_facts(row, board) for row in _chosen(board, top)],
    }
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def _proxy_facts(one: Proxy, board: Board) -> dict[str, Any]:
    """A pair of rungs, in training steps, with as many digits as mean something."""
    plain = to_plain(one)
    for key in ("tau", "of_all", "loss"):
        plain[key] = plain[key] and {end: round(value, 4) for end, value in plain[key].items()}
    steps = {key: _steps(board)[plain[key]] for key in ("lower", "upper")}
    return plain | steps | {"by_chance": round(one.by_chance, 2), "verdict": one.verdict}


def _front_facts(one: Front, board: Board) -> dict[str, Any]:
    digits = board.config["decimals"]
    return {
        "steps": _steps(board)[one.rung],
        "measure": one.measure,
        "candidates": list(one.candidates),
        "reference": [one.reference[0], round(one.reference[1], digits)],
        "hypervolume": round(one.hypervolume, digits),
        "hypervolume_of_baselines": round(one.baselines, digits),
        "growth": [[results, trial, round(area, digits)] for results, trial, area in one.growth],
        "results": one.results,
    }


# ---- the command line


def find_run(run: str | None, results: Path) -> Path:
    """The folder of a run: a path, a name under `results`, or of None the run that was written to last.

    Raises:
      StoreError: there is none.
    """
    try:
        return _found(run, results)
    except OSError as error:  # a folder that may not be entered, or that goes away meanwhile
        text = f"'{error.filename or results}' cannot be read ({error.strerror}); make it readable, or name another run"
        raise StoreError(text) from error


def _found(run: str | None, results: Path) -> Path:
    known = sorted(results.glob("*/run.json"), key=_written) if results.is_dir() else []
    if run is None:
        if not known:
            text = f"there is no run in '{results}'; start one with python -m nas.search, or say where with --results"
            raise StoreError(text)
        return known[-1].parent
    for folder in (Path(run), results / run):
        if (folder / "run.json").is_file():
            return folder
    names = ", ".join(sorted(path.parent.name for path in known[-5:])) or "none"
    raise StoreError(f"'{run}' is no run, neither a folder nor a name in '{results}' (the latest there: {names})")


def _written(config: Path) -> float:
    files = (config, config.with_name("run.db"), config.with_name("run.db-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.leaderboard: {one_line(message)}; --help lists what is allowed\n")


def _top(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of rows; give one from 1, or 'all'")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nas.leaderboard", description="Print what a search has found.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder or name of a run (default: the latest)")
    parser.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")
    rows = f"candidates to print besides the baselines, or 'all' (default: {TOP} in table and markdown, else all)"
    parser.add_argument("--top", type=_top, metavar="N", default=0, help=rows)
    parser.add_argument("--show", type=int, metavar="ID", help="print one candidate: idea, trials, lineage, source")
    confirm = "train the best N candidates and all baselines again with fresh seeds, and score them on the test split"
    parser.add_argument("--records", action="store_true", help="print the history of confirmed improvements")
    parser.add_argument("--confirm", type=int, metavar="N", help=confirm)
    parser.add_argument("--workers", type=int, metavar="N", help="of a confirmation: jobs at once (as in a search)")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _confirm(run: Path, finalists: int, workers: int | None) -> bool:
    """Confirm; returns whether nobody stopped it."""
    from nas.confirm import confirm_run
    from nas.workplace import default_workers

    for flag, count in (("confirm", finalists), ("workers", workers)):
        if count is not None and count < 1:
            raise StoreError(f"--{flag} {count}: give 1 or more")
    done = confirm_run(run, finalists, workers or default_workers(), lambda text: print(text, file=sys.stderr))
    if not done:
        print(f"nas.leaderboard: stopped; the same command goes on where it was, with {run}", file=sys.stderr)
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with one line on standard error, or 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["submit"]:
        from nas.submit import main as submit

        return submit(arguments[1:])
    parsed = _parser().parse_args(arguments)
    reading = parsed.format in ("table", "markdown")
    top = parsed.top if parsed.top != 0 else (TOP if reading else None)
    writers: dict[str, Callable[[Board], Any]] = {
        "table": lambda made: write_table(made, sys.stdout, top),
        "markdown": lambda made: sys.stdout.write(to_markdown(made, top)),
        "csv": lambda made: sys.stdout.write(to_csv(made, top)),
        "json": lambda made: sys.stdout.write(to_json(made, top)),
    }
    try:
        print_any_text()
        for flag, given in (("show", parsed.show is not None), ("records", parsed.records)):
            if given and parsed.format != "table":
                raise StoreError(f"--{flag} prints text only, not {parsed.format}; leave out --format")
        run = find_run(parsed.run, parsed.results)
        whole = parsed.confirm is None or _confirm(run, parsed.confirm, parsed.workers)
        with contextlib.closing(Store(run)) as store:
            records = read(store)
        if parsed.show is not None:
            write_candidate(records, parsed.show, sys.stdout)
        elif parsed.records:
            write_improvements(records, sys.stdout)
        else:
            writers[parsed.format](replace(board(records), control=control.sentence(run, records)))
        sys.stdout.flush()
        return 0 if whole else 130
    except (StoreError, SpaceError) as error:
        if parsed.debug:
            raise
        print(f"nas.leaderboard: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        drop_output()
        return 0
    except KeyboardInterrupt:
        print("nas.leaderboard: interrupted; nothing that was stored is lost", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
