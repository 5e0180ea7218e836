"""What a running search shows: one live panel in a terminal, one `key=value` line per event anywhere else.

In go snapshots and events, out come characters on the standard error stream; results belong to standard output and are
not printed here. The panel is redrawn by whoever updates it, never by a thread of its own, since the search shares its
cores with training. A display that can no longer be written to falls silent: it never ends a search.
"""

import io
import json
import math
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

REDRAW_S = 0.5
"""Shortest time between two drawings of the panel [s]."""

PROGRESS_LINE_S = 60.0
"""Shortest time between two lines about the whole search where there is no panel [s]."""

_WIDEST = 110
_ESCAPE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""Terminal sequences as a whole (ECMA-48: CSI, and the OSC of titles and links), so that no stump of them is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A search at one moment.

    Attributes:
      space: the space's name.
      metric: the score's name.
      decimals: digits with which scores are printed.
      maximize: whether a higher score is better.
      budget: candidates that may be admitted to the first rung.
      spent: candidates that were.
      best: candidate's id, idea, score and rung index of the best so far; None before the first.
      baseline: name, mean score and standard error of the best baseline at the top rung; None before the first.
      rungs: training steps, trials that ended and trials that run, for each rung.
      failures: rejections by reason.
      trials: trials so far.
      running: what each worker does.
      elapsed_s: wall-clock time so far [s].
      left_s: wall-clock time that is left, or None if nobody knows [s].
      disk_bytes: size of the run's folder [bytes].
    """

    space: str
    metric: str
    decimals: int
    maximize: bool
    budget: int
    spent: int
    best: tuple[int, str, float, int] | None
    baseline: tuple[str, float, float] | None
    rungs: tuple[tuple[int, int, int], ...]
    failures: Mapping[str, int]
    trials: int
    running: tuple[str, ...]
    elapsed_s: float
    left_s: float | None
    disk_bytes: int


class View(Protocol):
    """Where a search shows what it does. One thread uses it."""

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened; fields that are None are left out."""
        ...

    def update(self, snapshot: Snapshot) -> None:
        """The search stands here now. Cheap: most calls draw nothing."""
        ...

    def say(self, text: str) -> None:
        """A sentence for the reader that stays in view."""
        ...

    def close(self) -> None:
        """Give the terminal back. May be called twice."""
        ...


def make_view(stream: TextIO | None = None, *, now: Callable[[], float] = time.time) -> View:
    """Choose the display that suits a stream: the panel in a terminal, lines in a pipe, in CI and where TERM is dumb.

    Args:
      stream: where to write; standard error if None.
      now: seconds since 1970, for the lines' times and the pace of drawing.
    """
    output: TextIO = sys.stderr if stream is None else stream
    console = Console(file=output, markup=False, highlight=False, emoji=False)
    terminal = output.isatty() and console.is_terminal and not console.is_dumb_terminal
    return _PanelView(console, now) if terminal and not os.environ.get("CI") else _LineView(output, now)


class _PanelView:
    def __init__(self, console: Console, now: Callable[[], float]) -> None:
        self._console, self._now = console, now
        # Standard output stays as it is: it may be a file or a pipe that results go to.
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._drawn = -math.inf
        self._snapshot: Snapshot | None = None
        self._last = ""
        self._closed = self._silent = False

    def event(self, kind: str, **fields: Any) -> None:
        shown = (f"{key} {_value(value)}" for key, value in fields.items() if value is not None)
        self._last = one_line(" · ".join((kind, *shown)))

    def update(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        moment = self._now()
        if not 0 <= moment - self._drawn < REDRAW_S:
            self._drawn = moment
            self._try(self._draw)

    def say(self, text: str) -> None:
        self._try(lambda: self._console.print(Text(one_line(text))))

    def close(self) -> None:
        self._closed = True
        self._try(self._live.stop)

    def _draw(self) -> None:
        if self._snapshot is not None and not self._closed:
            self._live.start()
            self._live.update(render(self._snapshot, self._last, self._console.width), refresh=True)

    def _try(self, write: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            write()
        except (OSError, ValueError):  # the terminal is gone, or the stream closed
            self._silent = True


class _LineView:
    def __init__(self, stream: TextIO, now: Callable[[], float]) -> None:
        self._stream, self._now = stream, now
        self._written = now()
        self._silent = False

    def event(self, kind: str, **fields: Any) -> None:
        if self._silent:
            return
        moment = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        pairs = {"time": moment, "event": kind} | {key: value for key, value in fields.items() if value is not None}
        line = " ".join(f"{key}={_quoted(_value(value))}" for key, value in pairs.items()) + "\n"
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more, or the stream is closed
            self._silent = True

    def update(self, snapshot: Snapshot) -> None:
        if 0 <= self._now() - self._written < PROGRESS_LINE_S:
            return
        self._written = self._now()
        digits = snapshot.decimals
        self.event(
            "progress",
            spent=snapshot.spent,
            budget=snapshot.budget,
            trials=snapshot.trials,
            best=snapshot.best and f"{snapshot.best[2]:.{digits}f}",
            candidate=snapshot.best and snapshot.best[0],
            rung=snapshot.best and snapshot.best[3],
            baseline=snapshot.baseline and f"{snapshot.baseline[1]:.{digits}f}",
            rejected=sum(snapshot.failures.values()),
            elapsed_s=round(snapshot.elapsed_s),
            left_s=None if snapshot.left_s is None else round(snapshot.left_s),
            disk_bytes=snapshot.disk_bytes,
        )

    def say(self, text: str) -> None:
        self.event("note", text=text)

    def close(self) -> None:
        pass


def render(snapshot: Snapshot, last: str = "", width: int = 80) -> Panel:
    """The panel.

    Args:
      snapshot: what it shows.
      last: what happened last.
      width: columns of the terminal; the panel takes at most 110.
    """
    width = min(width, _WIDEST)
    steps = [f"{steps:,} steps" for steps, _, _ in snapshot.rungs]
    label = max(map(len, ("baseline", *steps))) + 2
    cells = max(width - 4 - label - 24, 8)
    most = max((done + running for _, done, running in snapshot.rungs), default=0)
    rows = [("best", Text(_best(snapshot))), ("baseline", Text(_baseline(snapshot)))]
    rows += [("budget", _bar(snapshot.spent, 0, snapshot.budget, cells, f"{snapshot.spent} of {snapshot.budget}"))]
    for name, (_, done, running) in zip(steps, snapshot.rungs, strict=True):
        text = f"{done} done" + (f", {running} running" if running else "")
        rows.append((name, _bar(done, running, most, cells, text)))
    disk = f" · disk {size(snapshot.disk_bytes)}" if snapshot.disk_bytes else ""
    rows += [
        ("trials", Text(f"{snapshot.trials}{disk}")),
        ("rejected", Text(counts(snapshot.failures))),
        ("running", Text(", ".join(map(one_line, snapshot.running)) or "nothing")),
    ]
    rows += [("last", Text(last))] if last else []
    lines = (Text.assemble((name.ljust(label), "bold"), text, no_wrap=True, overflow="ellipsis") for name, text in rows)
    return Panel(Group(*lines), title=_title(snapshot), title_align="left", width=width, border_style="dim")


def _title(snapshot: Snapshot) -> Text:
    left = "time left unknown"
    if snapshot.left_s is not None:
        left = f"about {duration(60 * round(snapshot.left_s / 60) if snapshot.left_s > 90 else snapshot.left_s)} left"
    return Text(f"{one_line(snapshot.space)} · {duration(snapshot.elapsed_s)} · {left.replace(' 00 s', '')}")


def _best(snapshot: Snapshot) -> str:
    if snapshot.best is None:
        return "no candidate has a score yet"
    candidate, idea, score, rung = snapshot.best
    steps = f" at {snapshot.rungs[rung][0]:,} steps" if rung < len(snapshot.rungs) else ""
    return f"{score:.{snapshot.decimals}f}{steps}, unconfirmed · {candidate} {one_line(idea)}"


def _baseline(snapshot: Snapshot) -> str:
    if snapshot.baseline is None:
        return "none has reached the last rung yet"
    name, score, error = snapshot.baseline
    digits = snapshot.decimals
    spread = f" ± {error:.{digits}f}" if math.isfinite(error) else ""
    against = ""
    if snapshot.best is not None and snapshot.best[3] == len(snapshot.rungs) - 1:  # else they are not comparable
        against = f" · Δ {snapshot.best[2] - score:+.{digits}f}"
    direction = "higher" if snapshot.maximize else "lower"
    return f"{score:.{digits}f}{spread} {one_line(name)}{against} · {one_line(snapshot.metric)}, {direction} is better"


def _bar(done: int, running: int, total: int, cells: int, text: str) -> Text:
    """Done in colour, running pale, what is left thin."""
    ends = [min(cells, math.ceil(cells * number / total)) if total > 0 else 0 for number in (done, done + running)]
    drawn = ("━" * ends[0], "green"), ("━" * (ends[1] - ends[0]), "yellow"), ("─" * (cells - ends[1]), "dim")
    return Text.assemble(*drawn, f"  {text}")


def plain_console(stream: TextIO) -> Console:
    """A console that reads no markup, emoji or highlighting into what it is given."""
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def print_any_text() -> None:
    """Have standard output print '?' for what its encoding lacks: results are worth more than a sign in them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def drop_output() -> None:
    """Have what is still to be printed go nowhere, once nobody reads it: or the interpreter complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: str) -> str:
    """Make text that anybody may have written safe to print: one line, without control or invisible characters."""
    return " ".join(visible(text).split())


def visible(text: str) -> str:
    """Text without terminal sequences, control and invisible characters; every kind of line break is a space."""
    return "".join(map(_visible, _ESCAPE.sub("", text)))


def readable(source: str) -> str:
    """Source text without control and invisible characters; lines as Python counts them, which splitlines does not."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line if line.isprintable() else visible(line.expandtabs(4)).rstrip() for line in lines)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zl", "Zp") or character in "\t\n\v\f\r\x85":
        return " "
    return "" if category[0] == "C" else character


def counts(reasons: Mapping[str, int]) -> str:
    """How many in all, then each reason with its number, the most frequent first: `12: shape 5, params 4, import 3`."""
    order = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{one_line(reason)} {number}" for reason, number in order)
    return f"{sum(reasons.values())}: {listed}" if listed else "none"


def short(number: float) -> str:
    """A count in at most four characters or so: 950, 1.2k, 34k, 1.2M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        scaled = number / unit
        if scaled >= 0.9995:  # 999,600 is 1.0M and not 1000k
            return f"{scaled:.1f}{name}" if scaled < 9.95 else f"{scaled:.0f}{name}"
    return f"{number:.0f}"


def size(count: int) -> str:
    """Bytes in a unit that can be read: 34 MB."""
    text = short(count)
    return f"{text.rstrip('kMGT')} {text[-1] if text[-1] in 'kMGT' else ''}B"


def duration(seconds: float) -> str:
    """Seconds in words: 48 s, 3 min 12 s, 1 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(seconds: float) -> str:
    """A short time in three digits: 85.0 µs, 1.24 ms, 0.31 s."""
    unit, name = next((u, n) for u, n in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= 0.9995 * u or n == "µs")
    scaled = seconds / unit
    return f"{scaled:.{max(0, 2 - math.floor(math.log10(max(scaled, 1))))}f} {name}"


def _value(value: Any) -> str:
    """A field's value as text, without the characters that a terminal or a reader of lines would trip over."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ",".join(f"{_value(key)}:{_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    return one_line(str(value))


def _quoted(text: str) -> str:
    plain = text and not any(character in ' "=\\' or character.isspace() for character in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
