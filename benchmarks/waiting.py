"""What repeatability costs: how long workers idle because decisions wait for outcomes in the order of slots.

    python -m benchmarks.waiting --budget 40 --results results/runs/waiting --json waiting.json
    python -m benchmarks.waiting --runs results/runs/mine --workers 2 4 8 16

The first makes two searches of one budget and one seed, `--order slots` and `--order arrival`, and measures both: idle
is the share of workers times wall-clock time, from the first task's start to the last one's end, in which no job ran.
The two decide differently and so do different work; their times cannot be compared, their idle shares can.

Both then replay the tasks of each run in a simulation with the same rule as the loop: slot k may use the outcomes of
slots up to k - L - 1, and waits for them; in order of arrival whatever has ended counts. Of the tasks that are left,
each slot takes the earliest in the run whose own needs (admission before first draws, a rung before the next one,
scores of parents before a child) are among the outcomes that it may use, or none. Durations are those of the run; jobs
of one task are told apart by their CPU seconds, and a baseline's trainings by their steps. Not simulated: that other
outcomes would have led to other decisions, and the coordinator's own time. How far the simulation can be believed is
seen where a run is replayed under its own rule.
"""

import argparse
import heapq
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.process import event_lines, search_into
from nas.standings import Records, read
from nas.store import Store, StoreError, Task

LOOKAHEADS = (1, 2, 4, 8, 16)
"""L for each worker; the search's default is 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A task of a finished run.

    Attributes:
      batches: seconds of its jobs; those of one batch run side by side, batches one after another.
      needs: places, in the run's order, of the tasks whose outcomes its decision needs.
    """

    batches: Sequence[Sequence[float]]
    needs: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a replay took [s], and the share of its workers' time in which no job ran."""

    wall_s: float
    idle: float


# ---- from a run to tasks


def tasks_of(records: Records) -> list[Replayed]:
    """The tasks of a run that ended, in the order of their slots."""
    done = [task for task in records.tasks if task.outcome is not None]
    place = {task.slot: index for index, task in enumerate(done)}
    made = {entry.candidate.id: entry for entry in records.entries}
    first_draws: dict[int, int] = {}
    for index, task in enumerate(done):
        if task.kind == "baseline" or task.kind == "first" and not task.decision["tune"]:
            first_draws[task.candidate] = index
    scored = {(score.trial, score.rung): place[score.slot] for score in records.scores if score.slot in place}

    def needs(task: Task) -> set[int | None]:
        entry = made[task.candidate]
        if task.kind == "promote":
            return {scored.get((task.decision["trial"], task.decision["rung"] - 1))}
        if task.kind == "first":
            return {first_draws.get(task.candidate) if task.decision["tune"] else place.get(entry.slot)}
        return {first_draws.get(parent) for parent in entry.candidate.parents}

    return [
        Replayed(
            batches=_batches(task, records), needs=frozenset(n for n in needs(task) if n is not None and n < index)
        )
        for index, task in enumerate(done)
    ]


def _batches(task: Task, records: Records) -> list[list[float]]:
    """Seconds of a task's jobs, by their share of its CPU seconds; a baseline's trainings by their steps."""
    usage: Mapping[str, Any] = task.usage or {}
    stages = usage.get("stages", {})
    parts = {name: stages[name] for name in ("trace", "check", "leaks", "trainer") if stages.get(name)}
    per_cpu = usage.get("wall_s", 0.0) / (sum(parts.values()) or 1.0)
    seconds = {name: cpu * per_cpu for name, cpu in parts.items()}
    batches = [[seconds[name]] for name in ("trace", "check", "leaks") if name in seconds]
    if "trainer" not in seconds:
        return batches
    ladder = records.config["ladder"]
    steps, seeds = ladder["steps"], len(task.decision.get("reserved", []))
    if task.kind != "baseline" or len(steps) < 2:
        return [*batches, [seconds["trainer"]]]
    parallel = [steps[-1] - steps[0], *[steps[-1]] * seeds]
    first = ladder["draws"] * steps[0]
    unit = seconds["trainer"] / (first + sum(parallel))
    return [*batches, [unit * first], [unit * count for count in parallel]]


# ---- the simulation


class _Workers:
    """Runs jobs on so many workers: the earliest slot first, as the executor does."""

    def __init__(self, count: int) -> None:
        self.now, self.free = 0.0, count
        self.waiting: list[tuple[int, int, float]] = []
        self.running: list[tuple[float, int]] = []
        self.left: dict[int, int] = {}
        self.later: dict[int, deque[Sequence[float]]] = {}
        self.ended: set[int] = set()
        self._number = 0

    def begin(self, slot: int, batches: Sequence[Sequence[float]]) -> None:
        self.later[slot] = deque(batches)
        self._next_batch(slot)

    def _next_batch(self, slot: int) -> None:
        if not self.later[slot]:
            self.ended.add(slot)
            return
        batch = self.later[slot].popleft()
        self.left[slot] = len(batch)
        for seconds in batch:
            self._number += 1
            heapq.heappush(self.waiting, (slot, self._number, seconds))
        self._start()

    def _start(self) -> None:
        while self.free and self.waiting:
            slot, _, seconds = heapq.heappop(self.waiting)
            heapq.heappush(self.running, (self.now + seconds, slot))
            self.free -= 1

    def wait(self) -> None:
        """Let time pass until a job ends."""
        self.now, slot = heapq.heappop(self.running)
        self.free += 1
        self.left[slot] -= 1
        if not self.left[slot]:
            self._next_batch(slot)
        self._start()


def simulate(tasks: Sequence[Replayed], workers: int, lookahead: int, *, arrival: bool = False) -> Simulated:
    """Replay tasks under the loop's rule.

    Args:
      tasks: in the order of the run.
      workers: jobs at once.
      lookahead: L.
      arrival: whether whatever has ended counts at once; then L is how many tasks are in flight at most.
    """
    pool = _Workers(workers)
    left = list(range(len(tasks)))
    unrevealed: dict[int, int] = {}
    known: set[int] = set()
    slot = 0
    while left or unrevealed:
        if arrival:
            while len(unrevealed) - len(pool.ended & unrevealed.keys()) > lookahead:
                pool.wait()
            ready = [s for s in unrevealed if s in pool.ended]
        else:
            ready = [s for s in unrevealed if s < slot - lookahead]
            while not pool.ended.issuperset(ready):
                pool.wait()
        known.update(unrevealed.pop(s) for s in ready)
        chosen = next((index for index in left if tasks[index].needs <= known), None)
        if chosen is not None:
            left.remove(chosen)
            unrevealed[slot] = chosen
            pool.begin(slot, tasks[chosen].batches)
        elif arrival and unrevealed and not pool.ended & unrevealed.keys():
            pool.wait()
        slot += 1
    busy_s = sum(sum(batch) for task in tasks for batch in task.batches)
    return Simulated(wall_s=pool.now, idle=1 - busy_s / (workers * pool.now) if pool.now else 0.0)


# ---- measuring


def measured(folder: Path, records: Records) -> dict[str, Any]:
    """Wall-clock time, busy time and idle share of a run that this program made in one session; None if it did not."""
    config = records.config
    workers = config["machine"]["workers"]
    moments = [_moment(line) for line in event_lines(folder) if " event=start " in line or " event=end " in line]
    busy_s = sum((task.usage or {}).get("wall_s", 0.0) for task in records.tasks)
    wall_s = (max(moments) - min(moments)).total_seconds() if moments else None
    idle = 1 - busy_s / (workers * wall_s) if wall_s else None
    return {
        "run": str(folder),
        "order": config["order"],
        "workers": workers,
        "lookahead": config["lookahead"],
        "tasks": len(records.tasks),
        "busy_s": busy_s,
        "wall_s": wall_s,
        "idle": idle,
    }


def _moment(line: str) -> datetime:
    return datetime.fromisoformat(line.split()[0].partition("=")[2])


def examine(folder: Path, workers: Sequence[int]) -> dict[str, Any]:
    """A run: measured, replayed under its own rule, and replayed under others.

    Raises:
      StoreError: there is no run, or it cannot be read.
    """
    store = Store(folder)
    records = read(store)
    store.close()
    tasks, found = tasks_of(records), measured(folder, records)
    own = simulate(tasks, found["workers"], found["lookahead"], arrival=found["order"] == "arrival")
    replays = []
    for count in workers or [found["workers"]]:
        for each in LOOKAHEADS:
            replays.append({"workers": count, "order": f"slots, L = {each} a worker"})
            replays[-1] |= asdict(simulate(tasks, count, each * count))
        replays.append({"workers": count, "order": "arrival"})
        replays[-1] |= asdict(simulate(tasks, count, 8 * count, arrival=True))
    return found | {"own_rule": asdict(own), "replays": replays}


def show(runs: Sequence[Mapping[str, Any]]) -> str:
    """The figures as text."""
    rows: list[list[Any]] = []
    for run in runs:
        idle, own = run["idle"], run["own_rule"]
        rows.append([
            Path(run["run"]).name, run["order"], run["workers"], run["lookahead"], run["tasks"], run["busy_s"],
            run["wall_s"], None if idle is None else 100 * idle, own["wall_s"], 100 * own["idle"],
        ])  # fmt: skip
    heads = ["run", "order", "workers", "L", "tasks", "busy s", "wall s", "idle %", "replayed s", "replayed idle %"]
    parts = [report.table(heads, rows)]
    for run in runs:
        least = {r["workers"]: r["wall_s"] for r in run["replays"] if r["order"] == "arrival"}
        rows = [
            [r["order"], r["workers"], r["wall_s"], 100 * r["idle"], 100 * (r["wall_s"] / least[r["workers"]] - 1)]
            for r in run["replays"]
        ]
        heads = [f"replay of {Path(run['run']).name}", "workers", "seconds", "idle %", "above arrival %"]
        parts.append(report.table(heads, rows))
    return "\n\n".join(parts)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description="What waiting in order costs.")
    add = made.add_argument
    add("--runs", type=Path, nargs="+", metavar="DIR", help="replay these finished runs instead of making two")
    add("--budget", type=int, default=40, metavar="N", help="of the searches (40)")
    add("--space", default="mnist1d", metavar="SPACE", help="of the searches (mnist1d)")
    add("--seed", type=int, default=0, metavar="N", help="of the searches (0)")
    add("--workers", type=int, nargs="+", metavar="N", help="workers of the replays (those of the run)")
    add("--results", type=Path, default=Path("results/runs/waiting"), metavar="DIR",
        help="where the searches are kept (results/runs/waiting)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or read the runs and print the figures; 2 if that cannot be done."""
    parsed = parser().parse_args(arguments)
    try:
        folders = parsed.runs or [parsed.results / order for order in ("slots", "arrival")]
        for folder in () if parsed.runs else folders:
            asked = ["--space", parsed.space, "--budget", str(parsed.budget), "--seed", str(parsed.seed)]
            search_into(folder, *asked, "--order", folder.name)
        runs = [examine(folder, parsed.workers or ()) for folder in folders]
    except StoreError as error:
        print(f"benchmarks.waiting: {error}", file=sys.stderr)
        return 2
    print(show(runs))
    if parsed.json:
        settings = {"budget": parsed.budget, "space": parsed.space, "seed": parsed.seed, "cores": os.cpu_count()}
        report.write(parsed.json, "waiting", settings, {"runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
