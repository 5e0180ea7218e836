"""Candidates the project's way, as a search carries them out: `python -m benchmarks.behind_wall --data FOLDER`.

In go the frozen candidates, out comes one line of JSON: scores, and CPU seconds by stage. Everything that a search pays
for a candidate's first rung is in it: coordinator, forkserver, gate, trace, check, fingerprint, compilation into an
empty cache, training, evaluation, checkpoints. What is not: making the data, the store's transactions, proposing.
"""

import argparse
import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.admit import Flow
from nas.admit.gate import check
from nas.execute import Event, Executor
from nas.execute.local import LocalExecutor
from nas.flows import Outcome, Place, admission, first_rung, preload
from nas.records import Trial, defaults
from nas.space import Ladder, load, read_sources
from nas.store import Store
from nas.train.job import read_split

CANDIDATES = Path(__file__).parent / "candidates"
LEARNING_RATES = (0.05, 0.02, 0.1)
"""Of the draws, in their order; the time of a step does not depend on them."""
WEIGHT_DECAY = 0.01
STAGES = ("trace", "check", "leaks", "start", "compile", "train", "evaluate", "checkpoint")


def main(arguments: Sequence[str] | None = None) -> int:
    """Admit and train the candidates; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.behind_wall", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--space", default="mnist1d", help="reference of the space (mnist1d)")
    parser.add_argument("--data", type=Path, required=True, help="folder with the training and validation arrays")
    parser.add_argument("--candidates", type=int, default=24, help="how many of the frozen candidates (24)")
    parser.add_argument("--steps", type=int, default=250, help="training steps (250)")
    parser.add_argument("--draws", type=int, default=1, help="draws of each candidate on one program (1)")
    parser.add_argument("--workers", type=int, default=2, help="jobs at once (2)")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = measure(
            parsed.space, Path(folder) / "run", parsed.data, parsed.candidates, parsed.steps, parsed.draws,
            parsed.workers,
        )  # fmt: skip
    print(json.dumps(made))
    return 0


def measure(
    reference: str, run: Path, data: Path, candidates: int, steps: int, draws: int, workers: int
) -> dict[str, Any]:
    """Carry the candidates through admission and the first rung, all in flight at once.

    Returns:
      `scores` (one a trial), `failures`, and `stages`: CPU seconds in all by stage; see `_stages`.
    """
    space = load(reference)
    space = replace(space, ladder=Ladder(steps=(steps,), eta=space.ladder.eta, draws=draws))
    store = Store.create(run, {})
    (store.folder / "data").rmdir()
    (store.folder / "data").symlink_to(data.resolve())
    examples = len(read_split(str(data), "validation").targets)
    events: list[Event] = []
    boot = 0.0

    def heard(event: Event) -> None:
        nonlocal boot
        boot = boot or _children_cpu_s()
        events.append(event)

    with LocalExecutor(workers, preload(space)) as executor:
        place = Place(reference=reference, space=space, store=store, examples=examples)
        sources = list(read_sources(CANDIDATES).values())[:candidates]
        outcomes = drive_all(executor, [_way(place, slot, source) for slot, source in enumerate(sources)], heard)
    store.close()
    scores = [score.point.score for outcome in outcomes for score in outcome.scores if score.point]
    failures = [str(outcome.failure) for outcome in outcomes if outcome.failure]
    failures += [str(score.failure) for outcome in outcomes for score in outcome.scores if score.failure]
    return {"scores": scores, "failures": failures, "stages": _stages(events, boot)}


def drive_all(executor: Executor, flows: Sequence[Flow[Any]], heard: Callable[[Event], None]) -> list[Any]:
    """Run flows beside each other to their ends.

    Args:
      executor: where their jobs run.
      flows: the flows; ids of their jobs must differ.
      heard: is called with every event.
    Returns:
      What each flow returned, in their order.
    """
    outcomes: dict[int, Any] = {}
    waiting: dict[int, dict[str, Event | None]] = {}
    flow_of: dict[str, int] = {}

    def advance(index: int, events: Sequence[Event] | None) -> None:
        try:
            jobs = next(flows[index]) if events is None else flows[index].send(events)
        except StopIteration as stop:
            outcomes[index] = stop.value
            return
        waiting[index] = {job.id: None for job in jobs}
        for job in jobs:
            flow_of[job.id] = index
            executor.submit(job)

    for index in range(len(flows)):
        advance(index, None)
    while len(outcomes) < len(flows):
        for event in executor.poll(1.0):
            heard(event)
            index = flow_of.pop(event.job_id)
            waiting[index][event.job_id] = event
            ended = [known for known in waiting[index].values() if known is not None]
            if len(ended) == len(waiting[index]):
                advance(index, ended)
    return [outcomes[index] for index in range(len(flows))]


def _way(place: Place, slot: int, source: str) -> Flow[Outcome]:
    """Gate, admission and first rung of one candidate, at its default values."""
    gated = check(source, place.space.scope)
    if gated.failures:
        return Outcome(failure=gated.failures[0])
    values = defaults(gated.tunables)
    admitted = yield from admission(place, slot, source, values)
    if admitted.facts is None:
        return admitted
    return (yield from first_rung(place, slot, source, admitted.facts, True, list(_trials(place, slot, values))))


def _trials(place: Place, slot: int, values: Mapping[str, Any]) -> Iterator[Trial]:
    for draw in range(place.space.ladder.draws):
        number = 1 + slot * place.space.ladder.draws + draw
        recipe = {"lr": LEARNING_RATES[draw % len(LEARNING_RATES)], "wd": WEIGHT_DECAY}
        yield Trial(id=number, candidate=slot, arm="random", values=values, recipe=recipe, seed=1 + draw)


def _stages(events: Sequence[Event], boot: float) -> dict[str, float]:
    """CPU seconds by stage. Together they are all that this process and its descendants have used.

    Jobs are counted by the server that reaps them, whole processes; `process` is what of a training job is outside the
    engine's own stages: fork, reading the call, leaving. The server's own time is what the descendants used beyond the
    jobs; `boot` of it had passed when the first job ended.
    """
    stages = dict.fromkeys((*STAGES, "process"), 0.0)
    for event in events:
        name = event.job_id.rsplit(".", 1)[-1]
        if name in ("trace", "check", "leaks"):
            stages[name] += event.usage.cpu_s
            continue
        spent = event.result["spent"] if event.kind == "done" else {}
        for stage, seconds in spent.items():
            stages[stage] += seconds
        stages["process"] += event.usage.cpu_s - sum(spent.values())
    descendants, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    server = descendants.ru_utime + descendants.ru_stime - sum(event.usage.cpu_s for event in events)
    boot = min(boot, server)
    return stages | {"boot": boot, "server": server - boot, "coordinator": own.ru_utime + own.ru_stime}


def _children_cpu_s() -> float:
    """CPU seconds that the processes started by this one have used themselves so far; 0 where that is not known."""
    total = 0
    try:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text("utf-8").split():
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    except OSError:
        return 0.0
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
