"""What waiting for a language model costs: workers that idle while replies are under way, in virtual time.

    python -m benchmarks.latency --workers 2 --json latency.json
    python -m benchmarks.latency --trials flat --lookaheads 8 --latencies 0 30 --orders slots arrival

The search is the real one: its loop, strategy, store, desk, prompts and parsing. Only the machine is not: nothing is
traced or trained, no model is asked, and a clock of our own jumps from one event to the next. W workers each run one
job at a time, in order of priority. Tracing and checking take `--check-s` each. A training takes, by `--trials`:

    proportional   `--trial-s` for each trial and each first rung's worth of steps (three draws: three times that)
    each           `--trial-s` for each trial of a job, whatever its rung
    flat           `--trial-s` for a job, however many trials and steps it has: the hardest case, as work is scarce

A reply comes `--latency` seconds after its request and occupies no worker. Ideas, module and repairs are calls one
after another, so a proposal takes twice the latency at least; `--wrong` is the share of modules that are sent back.
Replies are samples of the space's grammar, scores are drawn from a seed, and nobody's own time counts.

Idle is the share of workers times time in which no job ran. What the model costs is *lost*: idle beyond that of the
same search with replies at once; in order of slots both decide and train the same. It is given for the whole search
and for its parts: the start (baselines, random opening) until a model is first asked, the steady part until the last
proposal, and the end, in which what is there is trained and promoted. While a worker idles in order of slots, the
oldest task that has not ended holds the others back; `held by` says what it was: a model that writes, a model that
forecasts, or jobs.
"""

import argparse
import functools
import hashlib
import heapq
import json
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import report
from nas.execute import Event, Job, Need, Usage
from nas.flows import Place
from nas.llm import Reply, Request, Role
from nas.llm.client import Client
from nas.llm.desk import Desk
from nas.llm.ledger import Ledger
from nas.llm.transcript import Transcript
from nas.loop import Search
from nas.progress import Snapshot
from nas.propose import grammar
from nas.propose.claude import Author
from nas.records import ARTIFACTS, hash_blobs
from nas.space import SearchSpace, SpaceError, canonical, load
from nas.store import Store
from nas.strategy import Config

MODELS: dict[Role, str] = {"propose": "virtual", "repair": "virtual", "forecast": "virtual"}
TRIALS = ("proportional", "each", "flat")
IDEAS = [{"idea": f"idea number {n}", "probability": 0.4 / n} for n in range(1, 6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One virtual search.

    Attributes:
      workers: jobs at once.
      lookahead: L for each worker.
      most: L may grow up to this for each worker, as the search measures its model's time; 0 keeps it.
      latency_s: from a request to its reply [s].
      budget: of the search.
      trials: how long trainings are: `proportional`, `each` or `flat`.
      order: of the search's decisions.
      trial_s: seconds of a trial to the first rung, or of a job if flat.
      check_s: seconds of a job that traces or checks.
      wrong: share of a model's modules that are sent back.
      forecasts: whether the model also forecasts.
      seed: of the search and of everything that is made up.
    """

    workers: int = 2
    lookahead: int = 8
    most: int = 0
    latency_s: float = 30.0
    budget: int = 60
    trials: str = "proportional"
    order: str = "slots"
    trial_s: float = 10.0
    check_s: float = 0.3
    wrong: float = 0.3
    forecasts: bool = True
    seed: int = 0


# ---- the virtual machine


class Clock:
    """Virtual time: callbacks at given moments, in order; of one moment, in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        """Have something happen in so many seconds."""
        self._number += 1
        heapq.heappush(self._coming, (self.now + seconds, self._number, then))

    def fire(self) -> bool:
        """Let happen whatever is due; returns whether anything was."""
        fired = False
        while self._coming and self._coming[0][0] <= self.now:
            heapq.heappop(self._coming)[2]()
            fired = True
        return fired

    def jump(self) -> None:
        """Go to the next moment at which something happens, and let it happen.

        Raises:
          RuntimeError: nothing will ever happen again, and somebody waits for it.
        """
        if not self._coming:
            raise RuntimeError("the search waits, and nothing is under way")
        self.now = self._coming[0][0]
        self.fire()


class Workers:
    """An executor in virtual time, whose answers are made up."""

    def __init__(self, clock: Clock, setting: Setting, space: SearchSpace) -> None:
        self.clock, self.setting, self.space = clock, setting, space
        self.free = setting.workers
        self.spans: list[tuple[float, float]] = []
        self._waiting: list[tuple[int, int, Job]] = []
        self._ended: list[Event] = []
        self._number = 0

    def capacity(self) -> Need:
        """One core a worker."""
        return Need(cpus=self.setting.workers)

    def submit(self, job: Job) -> None:
        """Start a job, or have it wait for a worker."""
        self._number += 1
        heapq.heappush(self._waiting, (job.priority, self._number, job))
        # Jobs that are submitted at one moment start by priority: the machine takes its pick after all of them.
        self.clock.after(0.0, self._start)

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        """What has ended; with a timeout and nothing to tell, time goes on to the next event, a reply perhaps."""
        if not self.clock.fire() and timeout_s > 0 and not self._ended:
            self.clock.jump()
        events, self._ended = self._ended, []
        return events

    def cancel(self, job_id: str) -> None:
        """Not needed here."""

    def close(self) -> None:
        """Nothing to close."""

    def _start(self) -> None:
        while self.free and self._waiting:
            _, _, job = heapq.heappop(self._waiting)
            seconds = self._seconds(job)
            self.free -= 1
            self.spans.append((self.clock.now, self.clock.now + seconds))
            self.clock.after(seconds, functools.partial(self._end, job, seconds))

    def _end(self, job: Job, seconds: float) -> None:
        self.free += 1
        usage = Usage(cpu_s=seconds, wall_s=seconds)
        self._ended.append(Event(job_id=job.id, kind="done", result=self._answer(job), usage=usage))
        self._start()

    def _seconds(self, job: Job) -> float:
        if not job.entry.endswith(":train_job"):
            return self.setting.check_s
        if self.setting.trials == "flat":
            return self.setting.trial_s
        seconds = self.setting.trial_s * len(job.payload["trials"])
        if self.setting.trials == "each":
            return seconds
        return seconds * (job.payload["stops"][-1] - job.payload["start"]) / self.space.ladder.steps[0]

    def _answer(self, job: Job) -> dict[str, Any]:
        payload = job.payload
        if job.entry.endswith(":trace_job"):
            text = json.dumps([payload["source"], payload["values"]])
            return {"blobs": {name: f"{name} {text}".encode() for name in ARTIFACTS}, "param_leaves": 2}
        if job.entry.endswith(":leak_job"):
            return {"failure": None}
        if job.entry.endswith(":check_job"):
            return {"program": self._facts(payload["blobs"])}
        return {"trials": [self._curve(payload, trial) for trial in payload["trials"]]}

    def _facts(self, blobs: Mapping[str, bytes]) -> dict[str, Any]:
        """What an admitted program would be said to be; every text is another one."""
        digest = hash_blobs(blobs)
        rng = np.random.default_rng(int(digest[:16], 16))
        flops = int(rng.integers(1_000, 10_000))
        cost = {"params": 100, "flops": flops, "train_flops": 3 * flops, "memory_bytes": 10_000, "ops": 50}
        return {
            "param_leaves": 2, "digest": digest, "fingerprint": digest, "cost": cost, "traits": [], "profile": {},
            "sketch": sorted(int(part) for part in rng.integers(0, 2**32, 64)),
        }  # fmt: skip

    def _curve(self, payload: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
        """Scores that rise with the steps, by the program, the draw and the noise of a seed."""
        program = np.random.default_rng(int(payload["digest"][:16], 16)).normal(0, 0.05)
        rng = np.random.default_rng([self.setting.seed, trial["id"]])
        draw = rng.normal(0, 0.03)
        points = []
        for rung, steps in enumerate(self.space.ladder.steps):
            score = 0.5 + 0.1 * rung + program + draw + rng.normal(0, 0.01)
            if steps in payload["stops"]:
                points.append(({"step": steps, "train_loss": 1 - score, "loss": 1 - score, "score": score}, []))
        return {"points": points}


class Model:
    """A model in virtual time: replies after a while, computed from the request alone."""

    def __init__(self, clock: Clock, setting: Setting, space: SearchSpace) -> None:
        self.clock, self.setting, self.space = clock, setting, space
        self.asked: list[tuple[float, str]] = []
        self.open = self.most = 0

    def submit(self, request: Request) -> Future[Reply]:
        """Ask; the reply comes with virtual time."""
        future: Future[Reply] = Future()
        self.asked.append((self.clock.now, request.id))
        self.open += 1
        self.most = max(self.most, self.open)
        self.clock.after(self.setting.latency_s, functools.partial(self._reply, request, future))
        return future

    def _reply(self, request: Request, future: Future[Reply]) -> None:
        self.open -= 1
        seconds = self.setting.latency_s
        future.set_result(Reply(outcome="ok", text=self._text(request), model=request.model, seconds=seconds))

    def _text(self, request: Request) -> str:
        last = request.messages[-1][1]
        seed = hashlib.sha256(json.dumps([request.id, list(request.system), last]).encode()).digest()
        rng = np.random.default_rng(list(seed))
        if request.role == "forecast":
            ids = re.search(r"for each of these ids: ([0-9, ]+)", last)
            numbers = [int(number) for number in ids[1].split(",")] if ids else []
            told = [{"id": number, "why": "a guess", "probability": float(rng.random())} for number in numbers]
            return json.dumps({"forecasts": told})
        if request.id.endswith(".ideas"):
            return f"<ideas>\n{json.dumps(IDEAS)}\n</ideas>"
        source = grammar.sample(self.space, rng)
        if rng.random() < self.setting.wrong:
            source = f"{source}\nimport os\n"
        meta = {"hypothesis": "it learns faster", "refutes": "it does not", "parents": [], "kind": "free"}
        return f"<meta>\n{json.dumps(meta)}\n</meta>\n<code>\n{source}\n</code>"


# ---- watching


@dataclass(slots=True)
class _Seen:
    """A task as it was seen from outside."""

    kind: str
    began: float
    ended: float = float("inf")


@dataclass(slots=True)
class Watch:
    """A view that draws nothing and notes when tasks began and ended."""

    clock: Clock
    tasks: dict[int, _Seen] = field(default_factory=dict)

    def event(self, kind: str, **fields: Any) -> None:
        """Note a start or an end."""
        if kind == "start":
            self.tasks[fields["slot"]] = _Seen(fields["task"], self.clock.now)
        elif kind == "end":
            self.tasks[fields["slot"]].ended = self.clock.now

    def update(self, snapshot: Snapshot) -> None:
        """Draw nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a search: its length [s], and the share of its workers' time in which no job ran."""

    seconds: float
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a virtual search came to.

    Attributes:
      parts: `whole`, `start`, `steady` and `end`.
      busy_s: seconds of all jobs.
      held: of the workers' time, the share that idled while the oldest task that had not ended was of a kind:
        `writing` and `forecast` (a model is asked), `jobs`, or `none`.
      in_flight: most calls to the model at once.
      calls: to the model.
      tasks: by kind.
      decided: hash of all decisions in their order.
    """

    parts: Mapping[str, Part]
    busy_s: float
    held: Mapping[str, float]
    in_flight: int
    calls: int
    tasks: Mapping[str, int]
    decided: str


def simulate(setting: Setting, reference: str) -> Measured:
    """Run one search in virtual time, in a folder that is removed again."""
    space, clock = load(reference), Clock()
    workers, model, watch = Workers(clock, setting, space), Model(clock, setting, space), Watch(clock)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "run", {})
        try:
            # The desk asks of its client no more than `submit`, and that is what is virtual.
            desk = Desk(workers, Transcript(store.folder / "transcript"), Ledger(), cast(Client, model))
            config = Config(
                budget=setting.budget, seed=setting.seed, lookahead=setting.lookahead * setting.workers,
                most_lookahead=setting.most * setting.workers,
                order=setting.order, author=Author(models=MODELS), forecasts=setting.forecasts,
            )  # fmt: skip
            place = Place(reference=reference, space=space, store=store, examples=1_000)
            if not Search(place, desk, config, watch).run():
                raise RuntimeError("the virtual search was stopped before its end")
            decided = json.dumps([[task.slot, task.kind, task.decision] for task in store.tasks()])
        finally:
            store.close()
    return _measured(workers, model, watch, hashlib.sha256(decided.encode()).hexdigest())


def _measured(workers: Workers, model: Model, watch: Watch, decided: str) -> Measured:
    count, end = workers.setting.workers, workers.clock.now
    writing = {int(name.split(".")[0]) for _, name in model.asked if not name.endswith(".forecast")}
    first = min((when for when, name in model.asked if not name.endswith(".forecast")), default=end)
    proposed = max((seen.began for seen in watch.tasks.values() if seen.kind == "admit"), default=end)
    proposed = max(first, proposed)
    bounds = {"whole": (0.0, end), "start": (0.0, first), "steady": (first, proposed), "end": (proposed, end)}
    return Measured(
        parts={name: Part(seconds=b - a, idle=_idle(workers.spans, count, a, b)) for name, (a, b) in bounds.items()},
        busy_s=sum(b - a for a, b in workers.spans),
        held=_held(workers.spans, count, watch.tasks, writing, end),
        in_flight=model.most,
        calls=len(model.asked),
        tasks=dict(Counter(seen.kind for seen in watch.tasks.values())),
        decided=decided,
    )


def _idle(spans: Sequence[tuple[float, float]], workers: int, begin: float, end: float) -> float:
    """Share of the workers' time between two moments in which no job ran."""
    if end <= begin:
        return 0.0
    busy = sum(max(0.0, min(b, end) - max(a, begin)) for a, b in spans)
    return 1 - busy / (workers * (end - begin))


def _held(
    spans: Sequence[tuple[float, float]], workers: int, tasks: Mapping[int, _Seen], writing: set[int], end: float
) -> dict[str, float]:
    """Shares of the workers' time that idled, by the kind of the oldest task that had not ended."""
    moments = sorted({0.0, end, *(t for span in spans for t in span), *(s.ended for s in tasks.values())} - {np.inf})
    change: Counter[float] = Counter()
    for a, b in spans:
        change[a] += 1
        change[b] -= 1
    slots, busy = sorted(tasks), 0
    held: defaultdict[str, float] = defaultdict(float)
    for now, after in zip(moments, moments[1:], strict=False):
        busy += change[now]
        while slots and tasks[slots[0]].ended <= now:
            slots.pop(0)
        if busy == workers:
            continue
        oldest = tasks[slots[0]].kind if slots and tasks[slots[0]].began <= now else "none"
        name = "writing" if slots and slots[0] in writing else oldest if oldest in ("forecast", "none") else "jobs"
        held[name] += (workers - busy) * (after - now) / (workers * end)
    return dict(held)


# ---- the grid


def compare(settings: Sequence[Setting], reference: str) -> list[dict[str, Any]]:
    """Every setting beside the same one with replies at once: rows of plain data."""

    @functools.cache
    def measured(setting: Setting) -> Measured:
        return simulate(setting, reference)

    rows = []
    for setting in settings:
        at_once = replace(setting, latency_s=0.0)
        found, ideal = measured(setting), measured(at_once)
        lost = {name: found.parts[name].idle - ideal.parts[name].idle for name in found.parts}
        longer = found.parts["whole"].seconds / ideal.parts["whole"].seconds - 1
        same = found.decided == ideal.decided
        rows.append({"setting": asdict(setting), "same": same, "lost": lost, "longer": longer} | asdict(found))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figures as text, shares in percent."""
    heads = [
        "trials", "order", "W", "L/W", "most", "budget", "seed", "reply s", "total s", "start s", "steady s", "end s",
        "idle %", "lost %", "in start", "in steady", "in end", "longer %", "held by writing", "by forecast",
        "calls", "at once",
    ]  # fmt: skip
    cells = []
    for row in rows:
        setting, parts, lost, held = row["setting"], row["parts"], row["lost"], row["held"]
        shares = [
            parts["whole"]["idle"], lost["whole"], lost["start"], lost["steady"], lost["end"], row["longer"],
            held.get("writing", 0.0), held.get("forecast", 0.0),
        ]  # fmt: skip
        cells.append(
            [
                *(setting[name] for name in ("trials", "order", "workers", "lookahead", "most", "budget", "seed")),
                f"{setting['latency_s']:g}",
                *(round(parts[name]["seconds"]) for name in ("whole", "start", "steady", "end")),
                *(f"{100 * share:.1f}" for share in shares),
                row["calls"],
                row["in_flight"],
            ]
        )
    return report.table(heads, cells)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="What waiting for a model costs.")
    add = made.add_argument
    add("--space", default="mnist1d", metavar="SPACE", help="whose ladder, baselines and grammar are used (mnist1d)")
    add("--workers", type=int, nargs="+", default=[2], metavar="N", help="jobs at once (2)")
    add("--lookaheads", type=int, nargs="+", default=[2, 4, 8, 16], metavar="L", help="for each worker (2 4 8 16)")
    add("--most", type=int, default=16, metavar="L", help="L may grow to this for each worker; 0 keeps it (16)")
    add("--latencies", type=float, nargs="+", default=[0, 10, 30, 60], metavar="S", help="of a reply (0 10 30 60)")
    add("--budgets", type=int, nargs="+", default=[60, 200], metavar="N", help="of the searches (60 200)")
    add("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="how long trainings are (all three)")
    add("--orders", nargs="+", choices=("slots", "arrival"), default=["slots"], help="of decisions (slots)")
    add("--trial-s", type=float, default=10.0, metavar="S", help="a trial to the first rung, or a flat job (10)")
    add("--check-s", type=float, default=0.3, metavar="S", help="a job that traces or checks (0.3)")
    add("--wrong", type=float, default=0.3, metavar="P", help="share of modules that are sent back (0.3)")
    add("--no-forecasts", action="store_true", help="have the model write candidates only")
    add("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the searches (0)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the searches and print the figures; 2 if there is no such space."""
    parsed = parser().parse_args(arguments)
    settings = [
        Setting(
            workers=workers, lookahead=lookahead, most=parsed.most, latency_s=latency, budget=budget, trials=trials,
            order=order, trial_s=parsed.trial_s, check_s=parsed.check_s, wrong=parsed.wrong,
            forecasts=not parsed.no_forecasts, seed=seed,
        )
        for trials in parsed.trials for order in parsed.orders for workers in parsed.workers
        for budget in parsed.budgets for lookahead in parsed.lookaheads for seed in parsed.seeds
        for latency in parsed.latencies
    ]  # fmt: skip
    try:
        rows = compare(settings, canonical(parsed.space))
    except SpaceError as error:
        print(f"benchmarks.latency: {error}", file=sys.stderr)
        return 2
    print(show(rows))
    if parsed.json:
        report.write(parsed.json, "latency", {"space": parsed.space}, {"searches": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
