"""Kill a search again and again, continue it each time, and compare its store with that of one left alone.

    python -m benchmarks.kill --kills 10 --budget 30 --json kill.json
    python -m benchmarks.kill --kills 5 --budget 60 --model --json kill_model.json
    python -m benchmarks.kill --kills 200 --anyone --budget 30 --space tests/spaces/rings.py --json kill_anyone.json

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

With `--anyone` each kill hits a process of the search's tree that is drawn at random: first its kind (the coordinator,
the server of jobs, a tracer, which is any job that is sealed, or a trainer) among those that there are just then, then
one of them. Where the coordinator dies it is continued; else the search must go on by itself. A search that has ended
before the last kill is continued, and killed while it finds out that nothing is left to do. A job may be started a few
times only (`Job.attempts`), and what is killed in every attempt is lost, as it should be; so a second job is killed
only when no task is open any more that was open at the last such kill and a task has ended since, or when the
coordinator has died since. Of every kill it is noted how long what had to die with it took to be gone. At the end no
process of the search may be there, and no task may be without an outcome.

Exit status: 0 if all is as it must be, 1 if it is not, 2 if a search could not be run.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.process import cpu_seconds, descendants, is_server, search_command
from nas.space import load
from nas.store import Store, StoreError, Task, dump
from nas.store.check import check

POLL_S = 0.1
"""Time between two looks at the store [s]."""
GONE_S = 2.0
"""What must die with a killed process has this long to be gone [s]."""
KINDS = ("coordinator", "server", "tracer", "trainer")
WEIGHTS = {"coordinator": 1, "server": 1, "tracer": 6, "trainer": 3}
"""How often each is drawn where all are there: jobs are often not, or must not be killed just then."""
LOOKAHEAD = 4
"""Of the searches in which any process is killed."""


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


class Process(NamedTuple):
    """A process that cannot be taken for a later one with the same number: when it began is in clock ticks."""

    pid: int
    began: int

    def alive(self) -> bool:
        """Whether it is there and no zombie."""
        return _state(self.pid) == (self.began, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyKill:
    """One kill of any process of a search.

    Attributes:
      kind: of `KINDS`.
      tasks: with an outcome in the store.
      open_tasks: decided and without an outcome.
      dependents: processes that had to die with it.
      gone_s: how long after the kill the last of them was gone [s]; None if one never was.
    """

    kind: str
    tasks: int
    open_tasks: int
    dependents: int
    gone_s: float | None


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


@dataclass(slots=True)
class _Killer:
    """Kills processes of one search, and remembers what it must not kill again just yet.

    Attributes:
      folder: of the run.
      rng: draws kinds and processes.
      seen: every process of the search that was ever seen.
      cut: tasks that were open when a job was killed last, and may have lost an attempt by it.
      ended: tasks that had an outcome then; -1 if no job may have lost an attempt.
    """

    folder: Path
    rng: random.Random
    seen: set[Process] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    ended: int = -1

    def look(self, coordinator: int) -> dict[str, list[Process]]:
        """The processes of the search, by kind."""
        found = processes(coordinator)
        self.seen.update(*found.values())
        return found

    def kill(self, coordinator: subprocess.Popen[bytes]) -> AnyKill | None:
        """Kill one process, and wait until what had to die with it has died, or for as long as that may take.

        None if the search has just ended.
        """
        found = self.look(coordinator.pid)
        spared = self.cut & _open_slots(self.folder) or _counts(self.folder)[0] <= self.ended
        kinds = [kind for kind in KINDS if found[kind] and not (spared and kind in ("tracer", "trainer"))]
        if not found["coordinator"]:
            return None
        (kind,) = self.rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        victim = self.rng.choice(found[kind])
        below = found["tracer"] + found["trainer"] if kind != "coordinator" else [p for k in KINDS for p in found[k]]
        dependents = {victim} | (set(below) if kind in ("coordinator", "server") else set())
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(victim.pid, signal.SIGKILL)
        if kind == "coordinator":
            coordinator.wait()
            self.cut, self.ended = set(), -1  # one that continues counts attempts anew
        elif kind != "server":
            self.cut, self.ended = _open_slots(self.folder), _counts(self.folder)[0]
        while any(process.alive() for process in dependents) and time.monotonic() < began + GONE_S:
            time.sleep(0.01)
        gone_s = None if any(process.alive() for process in dependents) else time.monotonic() - began
        tasks, open_tasks = _counts(self.folder)
        return AnyKill(kind=kind, tasks=tasks, open_tasks=open_tasks, dependents=len(dependents) - 1, gone_s=gone_s)


def kill_anyone(
    command: Sequence[str], folder: Path, errors: Path, when: Sequence[Moment], seed: int
) -> tuple[list[AnyKill], int]:
    """Run a search, kill a process of it at each of these moments, continue it where needed, and let it end.

    Returns:
      The kills, and how many processes of the search were still there after its end.
    """
    killer, kills = _Killer(folder, random.Random(seed)), list[AnyKill]()
    process = _start(_continued(command, folder), errors)
    for moment in when:
        while process.poll() is None and _counts(folder)[0] < moment.tasks:
            killer.look(process.pid)
            time.sleep(POLL_S)
        at_work = killer.rng.random() < 0.5  # the other half may fall into the start
        while at_work and process.poll() is None and not any(killer.look(process.pid)[kind] for kind in KINDS[2:]):
            time.sleep(POLL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.delay_s)
        if process.poll() is not None:
            _must_have_worked(process.returncode, errors)
            process = _start(_continued(command, folder), errors)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.delay_s)
        while (made := killer.kill(process)) is None:
            _must_have_worked(process.wait(), errors)
            process = _start(_continued(command, folder), errors)
        kills.append(made)
        print(f"{len(kills)}: {kills[-1]}", file=sys.stderr)
        if process.poll() is not None and kills[-1].kind == "coordinator":
            process = _start(_continued(command, folder), errors)
    while process.poll() is None:
        killer.look(process.pid)
        time.sleep(POLL_S)
    _must_have_worked(process.returncode, errors)
    end = time.monotonic() + GONE_S
    while (left := [one for one in killer.seen if one.alive()]) and time.monotonic() < end:
        time.sleep(POLL_S)
    return kills, len(left)


def processes(coordinator: int) -> dict[str, list[Process]]:
    """The processes of a search that are alive, by kind."""
    found: dict[str, list[Process]] = {kind: [] for kind in KINDS}
    for pid in [coordinator, *descendants(coordinator)]:
        began, alive = _state(pid)
        if alive:
            found["coordinator" if pid == coordinator else _kind(pid)].append(Process(pid, began))
    return found


def _kind(pid: int) -> str:
    """What a process below the coordinator is. A job that is sealed is in the root folder, once it has been set up."""
    if is_server(pid):
        return "server"
    with contextlib.suppress(OSError):
        return "tracer" if os.readlink(f"/proc/{pid}/cwd") == "/" else "trainer"
    return "trainer"


def _state(pid: int) -> tuple[int, bool]:
    """When a process began, in clock ticks since the machine did, and whether it is alive; (0, False) if it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]), fields[0] not in "ZX"
    return 0, False


def _open_slots(folder: Path) -> set[int]:
    """Tasks that have been decided and have no outcome."""
    return {task.slot for task in _tasks(folder) if task.outcome is None}


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
    tasks = _tasks(folder)
    ended = sum(task.outcome is not None for task in tasks)
    return ended, len(tasks) - ended


def _tasks(folder: Path) -> list[Task]:
    if not (folder / "run.db").exists():
        return []
    try:
        store = Store(folder)
        tasks = store.tasks()
        store.close()
    except StoreError:
        return []
    return tasks


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
    if "kinds" in figures:
        return _show_anyone(figures)
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


def _show_anyone(figures: dict[str, Any]) -> str:
    rows = [[kind, *numbers.values()] for kind, numbers in figures["kinds"].items()]
    heads = ["killed", "times", "gone with it", "longest s", "never gone"]
    same = "equal" if not figures["different_lines"] else f"DIFFERENT in {figures['different_lines']} lines"
    lines = [report.table(heads, rows), ""]
    lines += [
        f"undisturbed {figures['undisturbed_s']:.0f} s, killed {len(figures['kills'])} times "
        f"{figures['killed_s']:.0f} s; {figures['tasks']} tasks, {figures['doubled']} scores twice, "
        f"{figures['without_outcome']} tasks without an outcome, {figures['left']} processes left at the end",
        f"stores: {same} ({figures['lines']} lines)",
        *(f"  undisturbed: {a[:200]}\n  killed:      {b[:200]}" for a, b in figures["first_differences"]),
        *(f"  {finding}" for finding in figures["findings"]),
    ]
    return "\n".join(lines)


def run(
    kills: int, budget: int, space: str, seed: int, folder: Path, *, model: bool = False, anyone: bool = False
) -> dict[str, Any]:
    """Both searches, in a folder that is empty, and what came of them; with a model, the replay too.

    Raises:
      StoreError: a search could not be run.
    """
    if anyone:
        return _run_anyone(kills, budget, space, seed, folder)
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


def _run_anyone(kills: int, budget: int, space: str, seed: int, folder: Path) -> dict[str, Any]:
    whole, killed = folder / "undisturbed", folder / "killed"
    # A short lookahead: few tasks are open at once, so that a job may be killed again soon.
    arguments = ["--space", space, "--budget", str(budget), "--seed", str(seed), "--lookahead", str(LOOKAHEAD)]
    commands = {
        run: search_command(*arguments, "--results", str(folder), "--name", run.name) for run in (whole, killed)
    }
    duration_s, start_s = run_undisturbed(commands[whole], whole, folder / "undisturbed.err")
    print(f"undisturbed: {duration_s:.0f} s, of which {start_s:.0f} s to start", file=sys.stderr)
    tasks, _ = _counts(whole)
    began = time.monotonic()
    made, left = kill_anyone(
        commands[killed], killed, folder / "killed.err", moments(tasks, start_s, kills, seed), seed
    )
    killed_s = time.monotonic() - began
    different = differences(whole, killed)
    store = Store(killed)
    findings = [finding.what for finding in check(store)[1]]
    store.close()
    return {
        "undisturbed_s": duration_s,
        "start_s": start_s,
        "killed_s": killed_s,
        "kinds": {kind: _of_kind([kill for kill in made if kill.kind == kind]) for kind in KINDS},
        "kills": [asdict(kill) for kill in made],
        "tasks": tasks,
        "never_gone": sum(kill.gone_s is None for kill in made),
        "left": left,
        "without_outcome": _counts(killed)[1],
        "doubled": doubled(killed),
        "lines": len(_lines(whole)),
        "different_lines": len(different),
        "first_differences": different[:3],
        "findings": findings,
    }


def _of_kind(kills: Sequence[AnyKill]) -> dict[str, Any]:
    return {
        "times": len(kills),
        "dependents": sum(kill.dependents for kill in kills),
        "longest_s": max((kill.gone_s or 0.0 for kill in kills), default=0.0),
        "never_gone": sum(kill.gone_s is None for kill in kills),
    }


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
    add("--anyone", action="store_true", help="kill any process of the search, not the coordinator alone")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; its exit status is in the module's docstring."""
    parsed = parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder = parsed.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            how = {"model": parsed.model, "anyone": parsed.anyone}
            figures = run(parsed.kills, parsed.budget, parsed.space, parsed.seed, folder, **how)
    except StoreError as error:
        print(f"benchmarks.kill: {error}", file=sys.stderr)
        return 2
    print(show(figures))
    if parsed.json:
        settings = {key: getattr(parsed, key) for key in ("kills", "budget", "space", "seed", "model", "anyone")}
        report.write(parsed.json, "kill", settings, figures)
    wrong = ("different_lines", "doubled", "replay_different_lines", "answered_twice",
             "without_outcome", "left", "never_gone")  # fmt: skip
    return 1 if any(figures.get(key) for key in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
