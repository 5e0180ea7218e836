import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from nas.progress import REDRAW_S, Snapshot, View, counts, duration, make_view, one_line, render, short, size

HOSTILE = "\x1b]0;title\x07\x1b[31m[bold]evil[/bold]\u202e\x00 :smile:\nnext\x9b2Jline"
SNAPSHOT = Snapshot(
    space="mnist1d@1", metric="accuracy", decimals=4, maximize=True, budget=200, spent=34,
    best=(42, f"Gated convolutions {HOSTILE}", 0.951, 2), baseline=("gru", 0.93, 0.002),
    rungs=((250, 102, 2), (1000, 25, 0), (4000, 6, 1)), failures={"trace/shape": 5, "program/flops": 19},
    trials=133, running=("promote 42", "admit 57"), elapsed_s=192, left_s=1080, disk_bytes=34_000_000,
)  # fmt: skip
EMPTY = replace(
    SNAPSHOT, best=None, baseline=None, rungs=((250, 0, 0), (1000, 0, 0), (4000, 0, 0)), spent=0, failures={},
    running=(), left_s=None, elapsed_s=0, trials=0, disk_bytes=0,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.time = 1_795_176_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "25"}.items():
        monkeypatch.setenv(name, value)


def text_of(snapshot: Snapshot, width: int = 80, last: str = "") -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(render(snapshot, last, width))
    return console.export_text()


def pairs(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in shlex.split(line))


# ---- the panel


@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY], ids=["full", "empty"])
@pytest.mark.parametrize("width", [40, 80, 110, 200])
def test_panel_fits_the_terminal_and_keeps_its_lines(snapshot: Snapshot, width: int) -> None:
    lines = text_of(snapshot, width, last="score · trial 42").splitlines()
    assert {cell_len(line) for line in lines} == {min(width, 110)}
    labels = ["best", "baseline", "budget", "250", "1,000", "4,000", "trials", "rejected", "running", "last"]
    assert [line.split()[1] for line in lines[1:-1]] == labels


def test_panel_at_80_columns_shows_what_matters() -> None:
    text = text_of(SNAPSHOT)
    for part in (
        "mnist1d@1 · 3 min 12 s · about 18 min left", "0.9510 at 4,000 steps, unconfirmed · 42 Gated",
        "0.9300 ± 0.0020 gru · Δ +0.0210 · accuracy, higher is better", "34 of 200", "102 done, 2 running", "25 done",
        "133 · disk 34 MB", "24: program/flops 19, trace/shape 5", "promote 42, admit 57",
    ):  # fmt: skip
        assert part in text


def test_panel_of_a_new_search_says_what_is_not_known_yet() -> None:
    text = text_of(EMPTY)
    assert "no candidate has a score yet" in text and "none has reached the last rung yet" in text
    assert "time left unknown" in text and "disk" not in text


def test_panel_compares_only_at_the_top_rung() -> None:
    assert SNAPSHOT.best is not None
    text = text_of(replace(SNAPSHOT, best=(*SNAPSHOT.best[:3], 1)))
    assert "Δ" not in text and "at 1,000 steps" in text


def test_bars_grow_with_what_is_done() -> None:
    lengths = [text_of(replace(SNAPSHOT, spent=spent)).splitlines()[3].count("━") for spent in (0, 1, 100, 200, 300)]
    assert lengths[0] == 0 < lengths[1] < lengths[2] < lengths[3] == lengths[4]


def test_panel_shows_hostile_text_as_text() -> None:
    hostile = replace(SNAPSHOT, running=(HOSTILE,), failures={HOSTILE: 1}, space=HOSTILE, baseline=(HOSTILE, 0.9, 0.1))
    text = text_of(hostile, 110)
    assert "[bold]evil[/bold] :smile: next" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text) and "title" not in text


def test_panel_is_redrawn_at_its_pace() -> None:
    clock, stream = Clock(), Terminal()
    view = make_view(stream, now=clock)
    drawn = []
    for _ in range(100):
        before = stream.tell()
        view.update(SNAPSHOT)
        drawn.append(stream.tell() > before)
        clock.time += REDRAW_S / 10
    view.close()
    assert 9 <= sum(drawn) <= 11 and drawn[0]


def test_panel_is_redrawn_after_the_clock_is_set_back() -> None:
    clock, stream = Clock(), Terminal()
    view = make_view(stream, now=clock)
    view.update(SNAPSHOT)
    clock.time -= 7200
    before = stream.tell()
    view.update(SNAPSHOT)
    after = stream.tell()
    view.close()
    assert after > before


def test_panel_leaves_standard_output_alone_and_gives_the_cursor_back() -> None:
    stdout, stderr, stream = sys.stdout, sys.stderr, Terminal()
    view = make_view(stream)
    view.update(SNAPSHOT)
    assert sys.stdout is stdout
    view.say(f"a note {HOSTILE}")
    view.event("score", trial=42)
    view.close()
    view.close()
    shown = stream.getvalue()
    assert "a note [bold]evil[/bold] :smile: next" in shown and "\x1b]0" not in shown and "\x9b" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l") and sys.stderr is stderr


def test_panel_stays_away_once_closed_and_notes_are_still_said() -> None:
    stream = Terminal()
    view = make_view(stream, now=Clock())
    view.close()
    view.update(SNAPSHOT)
    assert stream.getvalue() == ""
    view.say("continue with --resume results/runs/one")
    assert stream.getvalue() == "continue with --resume results/runs/one\n"


def test_panel_honours_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> str:
        stream = Terminal()
        view = make_view(stream)
        view.update(SNAPSHOT)
        view.close()
        return stream.getvalue()

    assert "\x1b[32m" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in drawn()


# ---- lines


def lines_of(act: Callable[[View], object], clock: Clock | None = None) -> list[str]:
    stream = io.StringIO()
    act(make_view(stream, now=clock or Clock()))
    return stream.getvalue().splitlines()


def test_event_is_one_line_with_the_time_first() -> None:
    (line,) = lines_of(lambda view: view.event("score", trial=42, rung=1, score=0.951, lr=None, pinned=True))
    assert line == "time=2026-11-20T12:00:00Z event=score trial=42 rung=1 score=0.951 pinned=true"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("two words", "two words"),
        ('a "quoted" \\ one', 'a "quoted" \\ one'),
        ("a=b", "a=b"),
        ("", ""),
        (HOSTILE, "[bold]evil[/bold] :smile: nextline"),
        ("plain,text", "plain,text"),
        ([1, 2.5, "x"], "1,2.5,x"),
        ({"shape": 3}, "shape:3"),
        (0.1 + 0.2, "0.3"),
        ("naïve 系列", "naïve 系列"),
        ("\u2028\x85", ""),
    ],
)
def test_values_are_read_back_as_they_were(value: object, read: str) -> None:
    (line,) = lines_of(lambda view: view.event("rejected", message=value, last=1))
    if value != HOSTILE:
        assert pairs(line)["message"] == read
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u202e]", line) and line.endswith(" last=1")


def test_note_is_a_line_too() -> None:
    (line,) = lines_of(lambda view: view.say("the search goes on\nwith another arm"))
    assert pairs(line) | {"time": ""} == {"time": "", "event": "note", "text": "the search goes on with another arm"}


def test_standing_of_the_search_is_a_line_a_minute() -> None:
    clock = Clock()

    def act(view: View) -> None:
        for _ in range(180):
            view.update(SNAPSHOT)
            clock.time += 1
        view.update(EMPTY)

    lines = lines_of(act, clock)
    assert len(lines) == 3
    assert "event=progress spent=34 budget=200 trials=133 best=0.9510 candidate=42 rung=2 baseline=0.9300" in lines[0]
    assert "best" not in pairs(lines[2]) and "left_s" not in pairs(lines[2])


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_dumb_terminals_and_ci_get_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    stream = Terminal()
    view = make_view(stream)
    view.update(SNAPSHOT)
    view.event("end")
    view.close()
    assert re.fullmatch(r"time=\S+ event=end\n", stream.getvalue())


def test_pipe_gets_lines_even_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    (line,) = lines_of(lambda view: view.event("end"))
    assert "\x1b" not in line


def test_lines_are_flushed_and_fit_the_encoding(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        make_view(stream, now=Clock()).event("score", idea="naïve ●")
        assert (tmp_path / "log").read_text() == 'time=2026-11-20T12:00:00Z event=score idea="na\\xefve \\u25cf"\n'


def test_view_falls_silent_when_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    raw = io.FileIO(writer, "w")
    view = make_view(io.TextIOWrapper(raw, write_through=True))
    view.event("start")
    raw.close()
    view.event("end")
    view.close()


def test_panel_falls_silent_when_the_terminal_is_gone() -> None:
    stream = Terminal()
    view = make_view(stream)
    stream.close()
    view.update(SNAPSHOT)
    view.say("nobody reads this")
    view.close()


# ---- text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1200, "1.2k"), (9940, "9.9k"), (9960, "10k"), (34_000, "34k"), (999_400, "999k"),
     (999_600, "1.0M"), (1_200_000, "1.2M"), (2.5e9, "2.5G"), (3e12, "3.0T")],
)  # fmt: skip
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (120, "120 B"), (34_000_000, "34 MB"), (1_500, "1.5 kB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (48.4, "48 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (3900, "1 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_put_the_most_frequent_first() -> None:
    assert counts({"b": 1, "shape": 5, "a": 1}) == "7: shape 5, a 1, b 1"
    assert counts({}) == "none"


def test_one_line_keeps_what_can_be_read() -> None:
    assert one_line("  café\t系列\r\n\u200bx\ud800 ") == "café 系列 x"
