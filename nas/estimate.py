"""What a search will cost before it starts: the ladder, the expected trainings, and the time they take here.

The counts follow from the ladder alone. The time is measured: every baseline is traced, compiled and trained for a
few steps on this machine, and their mean stands for a candidate. It promises no more than that: candidates may be
slower or faster than the baselines.
"""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.admit import Admitted, admit, drive
from nas.admit.gate import check
from nas.confirm import GROUPS, SEEDS_OF_NUMBERS
from nas.execute import Job, Sandbox
from nas.execute.local import LocalExecutor
from nas.judge.belief import BASELINE_SEEDS, SEEDS
from nas.judge.rungs import slots
from nas.progress import duration
from nas.propose.mixture import DEFAULT
from nas.records import defaults
from nas.space import Ladder, SearchSpace, SpaceError
from nas.store import write_file
from nas.train.engine import plan, plan_to_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Mean over the baselines, in CPU seconds: admission and compilation, a step, an evaluation."""

    fixed_s: float
    step_s: float
    evaluate_s: float


def trainings(ladder: Ladder, budget: int) -> list[int]:
    """Expected number of trials at each rung, with the share of further draws at its bound, without baselines."""
    counts = [round(budget * ladder.draws / (1 - DEFAULT.tuning))]
    for _ in ladder.steps[1:]:
        counts.append(slots(counts[-1], ladder.eta))
    return counts


def estimate(
    space: SearchSpace, reference: str, budget: int, workers: int, finalists: int, sandbox: Sandbox | None = None
) -> str:
    """The ladder, the expected trainings and the time, as lines of text; confirming the finalists included.

    Says on stderr that it measures, since that takes minutes where baselines are slow to compile.

    Raises:
      SpaceError: the space's data cannot be made, or a baseline cannot be admitted or trained; one line.
    """
    ladder, counts, costs = space.ladder, trainings(space.ladder, budget), _measure(space, reference, sandbox)
    lines = [f"{space.name}@{space.version}, budget {budget}, {workers} workers", "", "rung   steps  trials"]
    lines += [f"{i:>4}  {steps:>6}  {n:>6}" for i, (steps, n) in enumerate(zip(ladder.steps, counts, strict=True))]
    before = [0, *ladder.steps[:-1]]
    steps = sum(n * (b - a) for n, a, b in zip(counts, before, ladder.steps, strict=True))
    others, seeds = len(space.baselines), space.baseline_seeds
    steps += others * (ladder.draws * ladder.steps[0] + seeds * ladder.steps[-1])
    jobs = counts[0] / ladder.draws + sum(counts[1:]) + others * (1 + seeds)
    evaluations = sum(counts) + others * (ladder.draws + seeds * len(ladder.steps))
    seconds = jobs * costs.fixed_s + steps * costs.step_s + evaluations * costs.evaluate_s
    lines += [
        "",
        f"baselines: {others}, {ladder.draws} draws each, the best with {seeds} seeds to the top",
        f"steps: {steps:,}   compilations: at most {round(jobs):,}   evaluations: {evaluations:,}",
        f"here: {costs.fixed_s:.1f} s to admit and compile, {1e3 * costs.step_s:.2f} ms a step, "
        f"{costs.evaluate_s:.2f} s an evaluation (CPU, mean of the baselines)",
        f"time: about {seconds / workers / 60:.0f} minutes",
        *(_confirming(space, costs, workers, finalists) if finalists else ()),
    ]
    return "\n".join(lines)


def _confirming(space: SearchSpace, costs: Costs, workers: int, finalists: int) -> list[str]:
    """What the confirmation adds, at most: the finalists' part every time, the baselines' once."""
    ladder, others, draws = space.ladder, len(space.baselines), GROUPS * space.ladder.draws
    of_baselines = others * (BASELINE_SEEDS + max(1, draws // ladder.eta) * SEEDS_OF_NUMBERS)
    each_s = ladder.steps[-1] * costs.step_s + costs.evaluate_s + costs.fixed_s / 2
    ours, theirs = (duration(count * each_s / workers) for count in (finalists * SEEDS, of_baselines))
    return [
        f"confirming {finalists} finalists: up to {finalists * SEEDS} trainings to the top, about {ours};",
        f"and {of_baselines} of the baselines, once for this space on this machine, about {theirs}",
    ]


def _measure(space: SearchSpace, reference: str, sandbox: Sandbox | None) -> Costs:
    """Trace, compile and train every baseline for one chunk of steps."""
    fixed = step = evaluate = 0.0
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(workers=1, sandbox=sandbox) as executor:
        executor.missing_locks()  # raises if candidates would not run
        data = _run(executor, "data", "nas.train.job:prepare_job", {"space": reference, "folder": folder})
        told = f"measuring a step of each of the {len(space.baselines)} baselines: takes a minute or two"
        print(told, file=sys.stderr, flush=True)  # not before the data, whose errors are one line
        for name, source in space.baselines.items():
            values = defaults(check(source, space.scope).tunables)
            began = time.monotonic()
            admitted = drive(executor, admit(reference, source, values, tag=name))
            fixed += time.monotonic() - began
            if not isinstance(admitted, Admitted):
                raise SpaceError(f"space '{reference}': baseline '{name}' is not admitted: {admitted}")
            payload, steps = _payload(space, reference, admitted, Path(folder), data.result["validation"])
            event = _run(executor, f"training {name}", "nas.train.job:train_job", payload, writable=[folder])
            spent = event.result["spent"]
            fixed += spent["start"] + spent["compile"]
            step += spent["train"] / steps
            evaluate += spent["evaluate"]
    count = len(space.baselines)
    return Costs(fixed_s=fixed / count, step_s=step / count, evaluate_s=evaluate / count)


def _payload(
    space: SearchSpace, reference: str, admitted: Admitted, folder: Path, examples: int
) -> tuple[dict[str, Any], int]:
    import msgpack

    facts = admitted.facts
    how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, examples, "cpu")
    path = folder / facts["digest"]
    write_file(path, msgpack.packb(dict(admitted.blobs)) or b"")
    middle = defaults(space.recipe.tunables)
    trial = {"id": 0, "seed": 0, "lr": middle["lr"], "wd": middle["wd"], "load": [], "save": None}
    payload = {
        "space": reference, "program": str(path), "digest": facts["digest"], "param_leaves": facts["param_leaves"],
        "how": plan_to_plain(how), "data": str(folder), "cache": None, "start": 0, "stops": [how.chunk],
        "trials": [trial],
    }  # fmt: skip
    return payload, how.chunk


def _run(
    executor: LocalExecutor, name: str, entry: str, payload: dict[str, Any], writable: Sequence[str] | None = None
) -> Any:
    """The event of a job that is done; its name tells which one was not."""
    executor.submit(Job(id=name, entry=entry, payload=payload, writable=writable))
    while True:
        for event in executor.poll(1.0):
            if event.kind != "done":
                raise SpaceError(f"space '{payload['space']}', {name}: {_one_line(event.error) or event.kind}")
            return event


def _one_line(error: str) -> str:
    """What a job says; of errors that are told to people without their class and the line of code."""
    said = " ".join(error.split())
    found = re.fullmatch(r"(?:ValueError|SpaceError|OSError|FileNotFoundError): (.*?)(?: \(\w+\.py:\d+\))?", said)
    return found.group(1) if found else said
