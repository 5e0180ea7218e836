"""Kill a search again and again, continue it each time, and compare its store with that of one left alone.

    python -m benchmarks.kill --kills 10 --budget 30 --json kill.json
    python -m benchmarks.kill --kills 5 --budget 60 --model --json kill_model.json

One search runs undisturbed. Another one, with the same arguments, has its coordinator ended by SIGKILL at random
moments and is continued at once, while what the dead one left behind may still be ending. A moment is a number of
tasks that have ended, drawn evenly over those of the undisturbed search, and a delay after it of up to what a start
takes: so kills fall into work, and, where two moments are close, into starts and replays. At the end the canonical
forms of both stores (`python -m nas.store dump`) must be equal, line by line, and no trial may have two scores at one
rung. What a kill costs is counted: the tasks that were decided and had no outcome, and the jobs that were running and
have to run again.

With `--model` a scripted model proposes and forecasts too, over real HTTP on the loopback (`tests/messages_server.py`);
the killed search must ask it nothing twice that was answered, and is then replayed from its transcript, with the
server gone: a third store, which must be equal as well.

Exit status: 0 if all is as it must be, 1 if it is not, 2 if a search could not be run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.process import cpu_seconds, descendants, is_server, search_command
from nas.space import load
from nas.store import Store, StoreError, dump

POLL_S = 0.1
"""Time between two looks at the store [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill of the coordinator.

    Attributes:
      after_s: time since this session began [s].
      tasks: with an outcome in the store.
      open_tasks: decided and without an outcome: they are run again.
      jobs: that were running: their work is lost.
      lost_cpu_s: processor time that these jobs had used [s].
    """

    after_s: float
    tasks: int
    open_tasks: int
    jobs: int
    lost_cpu_s: float


class Moment(NamedTuple):
    """When to kill: so long after so many tasks have ended."""

    tasks: int
    delay_s: float


def moments(tasks: int, start_s: float, kills: int, seed: int) -> list[Moment]:
    """Draw when to kill, in order.

    Args:
      tasks: of the undisturbed search.
      start_s: what it took until it had decided its first task.
      kills: how many.
      seed: of the draw.
    """
    rng = random.Random(seed)
    return sorted(Moment(rng.randrange(max(tasks, 1)), rng.uniform(0.0, start_s)) for _ in range(kills))


def run_undisturbed(command: Sequence[str], folder: Path, errors: Path) -> tuple[float, float]:
    """Run a search to its end; returns its wall-clock time and the time until it had decided something [s]."""
    process, began = _start(command, errors), time.monotonic()
    start_s = 0.0
    while process.poll() is None:
        if not start_s and _counts(folder) != (0, 0):
            start_s = time.monotonic() - began
        time.sleep(POLL_S)
    _must_have_worked(process.returncode, errors)
    return time.monotonic() - began, start_s


def run_killed(command: Sequence[str], folder: Path, errors: Path, when: Sequence[Moment]) -> list[Kill]:
    """Run a search, kill and continue it at each of these moments, and let it end.

    A session that has no run to continue begins anew: the kill came before there was one. If the search ends before it
    is killed, the moments that are left are dropped.
    """
    kills = []
    for moment in when:
        process, began = _start(_continued(command, folder), errors), time.monotonic()
        while process.poll() is None and _counts(folder)[0] < moment.tasks:
            time.sleep(POLL_S)
        try:
            process.wait(moment.delay_s)
        except subprocess.TimeoutExpired:
            kills.append(_kill(process, folder, time.monotonic() - began))
            continue
        _must_have_worked(process.returncode, errors)
        break
    process = _start(_continued(command, folder), errors)
    _must_have_worked(process.wait(), errors)
    return kills


def _continued(command: Sequence[str], folder: Path) -> list[str]:
    return search_command("--resume", str(folder)) if (folder / "run.json").exists() else list(command)


def _start(command: Sequence[str], errors: Path) -> subprocess.Popen[bytes]:
    with errors.open("ab") as stream:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream)


def _kill(process: subprocess.Popen[bytes], folder: Path, after_s: float) -> Kill:
    """Kill the coordinator alone; what it started is left to end by itself."""
    tree = descendants(process.pid)
    servers = [pid for pid in tree if is_server(pid)]
    jobs = [pid for server in servers for pid in descendants(server)]
    lost_cpu_s = sum(cpu_seconds(pid)[0] for pid in jobs)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    tasks, open_tasks = _counts(folder)
    return Kill(after_s=after_s, tasks=tasks, open_tasks=open_tasks, jobs=len(jobs), lost_cpu_s=lost_cpu_s)


def _counts(folder: Path) -> tuple[int, int]:
    """Tasks with and without an outcome; none if there is no run yet, or none that can be read."""
    if not (folder / "run.db").exists():
        return 0, 0
    try:
        store = Store(folder)
        tasks = store.tasks()
        store.close()
    except StoreError:
        return 0, 0
    ended = sum(task.outcome is not None for task in tasks)
    return ended, len(tasks) - ended


def _must_have_worked(status: int, errors: Path) -> None:
    if status not in (0, 1):
        lines = errors.read_text("utf-8", "replace").strip().splitlines()
        raise StoreError(f"a search ended with {status}: {lines[-1] if lines else 'no further word'}")


def differences(one: Path, other: Path) -> list[tuple[str, str]]:
    """The lines in which the canonical forms of two stores differ; missing ones are empty."""
    return [(a, b) for a, b in zip_longest(_lines(one), _lines(other), fillvalue="") if a != b]


def _lines(folder: Path) -> list[str]:
    store = Store(folder)
    try:
        return list(dump(store))
    finally:
        store.close()


def doubled(folder: Path) -> int:
    """Trials that have two scores at one rung; the table's key allows none."""
    store = Store(folder)
    try:
        return sum(count > 1 for count in Counter((s.trial, s.rung) for s in store.scores()).values())
    finally:
        store.close()


def show(figures: dict[str, Any]) -> str:
    """The figures as text."""
    rows = [
        [index, kill["after_s"], kill["tasks"], kill["open_tasks"], kill["jobs"], kill["lost_cpu_s"]]
        for index, kill in enumerate(figures["kills"], 1)
    ]
    heads = ["kill", "after s", "tasks done", "tasks open", "jobs cut off", "CPU s lost"]
    lines = [report.table(heads, rows), ""]
    lines.append(
        f"undisturbed {figures['undisturbed_s']:.0f} s, killed {len(figures['kills'])} times "
        f"{figures['killed_s']:.0f} s; {figures['tasks']} tasks, {figures['jobs_again']} jobs run again, "
        f"{figures['doubled']} scores twice"
    )
    same = "equal" if not figures["different_lines"] else f"DIFFERENT in {figures['different_lines']} lines"
    lines.append(f"stores: {same} ({figures['lines']} lines)")
    lines += [f"  undisturbed: {a[:200]}\n  killed:      {b[:200]}" for a, b in figures["first_differences"]]
    if "asked" in figures:
        same = "equal" if not figures["replay_different_lines"] else "DIFFERENT"
        lines.append(
            f"the model was asked {figures['asked']} times undisturbed, {figures['asked_killed']} times by the killed "
            f"search, {figures['answered_twice']} answered twice; replay: {same}"
        )
    return "\n".join(lines)


def run(kills: int, budget: int, space: str, seed: int, folder: Path, *, model: bool = False) -> dict[str, Any]:
    """Both searches, in a folder that is empty, and what came of them; with a model, the replay too.

    Raises:
      StoreError: a search could not be run.
    """
    if not model:
        return _run(kills, budget, space, seed, folder, [])
    from tests.messages_server import MessagesServer
    from tests.scripted import Scripted

    with MessagesServer(Scripted(load(space))) as server:
        os.environ |= {"NAS_BASE_URL": server.url, "NAS_API_KEY": "any"}
        figures = _run(kills, budget, space, seed, folder, ["--proposer", "claude", "--price", "2/10"])
    del os.environ["NAS_BASE_URL"], os.environ["NAS_API_KEY"]
    replay = ["--proposer", f"replay:{folder / 'killed'}", "--results", str(folder), "--name", "replayed"]
    run_undisturbed(search_command(*replay), folder / "replayed", folder / "replayed.err")
    return figures | {
        "asked": len(list((folder / "undisturbed" / "transcript").glob("[0-9]*.begun"))),
        "asked_killed": len(list((folder / "killed" / "transcript").glob("[0-9]*.begun"))),
        "answered_twice": answered_twice(folder / "killed"),
        "replay_different_lines": len(differences(folder / "killed", folder / "replayed")),
    }


def answered_twice(folder: Path) -> int:
    """Calls of a run that were made again although their answer was on file."""
    again = (folder / "transcript").glob("[0-9]*.[2-9].json")
    return sum(path.with_suffix("").with_suffix(".json").exists() for path in again)


def _run(kills: int, budget: int, space: str, seed: int, folder: Path, more: Sequence[str]) -> dict[str, Any]:
    runs = {name: folder / name for name in ("undisturbed", "killed")}
    errors = {name: folder / f"{name}.err" for name in runs}
    arguments = ["--space", space, "--budget", str(budget), "--seed", str(seed), "--results", str(folder), *more]
    commands = {name: search_command(*arguments, "--name", name) for name in runs}
    duration_s, start_s = run_undisturbed(commands["undisturbed"], runs["undisturbed"], errors["undisturbed"])
    print(f"undisturbed: {duration_s:.0f} s, of which {start_s:.0f} s to start", file=sys.stderr)
    began = time.monotonic()
    tasks, _ = _counts(runs["undisturbed"])
    made = run_killed(commands["killed"], runs["killed"], errors["killed"], moments(tasks, start_s, kills, seed))
    killed_s = time.monotonic() - began
    different = differences(runs["undisturbed"], runs["killed"])
    return {
        "undisturbed_s": duration_s,
        "start_s": start_s,
        "killed_s": killed_s,
        "kills": [asdict(kill) for kill in made],
        "tasks": tasks,
        "jobs_again": sum(kill.jobs for kill in made),
        "doubled": doubled(runs["killed"]),
        "lines": len(_lines(runs["undisturbed"])),
        "different_lines": len(different),
        "first_differences": different[:3],
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.kill", description="Kill a search and continue it.")
    add = made.add_argument
    add("--kills", type=int, default=10, metavar="N", help="how often (10)")
    add("--budget", type=int, default=30, metavar="N", help="of the search (30)")
    add("--space", default="mnist1d", metavar="SPACE", help="of the search (mnist1d)")
    add("--seed", type=int, default=0, metavar="N", help="of the search and of the moments (0)")
    add("--folder", type=Path, metavar="DIR", help="keep both runs there; it must be empty (a temporary folder)")
    add("--model", action="store_true", help="with a scripted model; and replay the killed search")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; its exit status is in the module's docstring."""
    parsed = parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder = parsed.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            figures = run(parsed.kills, parsed.budget, parsed.space, parsed.seed, folder, model=parsed.model)
    except StoreError as error:
        print(f"benchmarks.kill: {error}", file=sys.stderr)
        return 2
    print(show(figures))
    if parsed.json:
        settings = {key: getattr(parsed, key) for key in ("kills", "budget", "space", "seed", "model")}
        report.write(parsed.json, "kill", settings, figures)
    wrong = ("different_lines", "doubled", "replay_different_lines", "answered_twice")
    return 1 if any(figures.get(key) for key in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
