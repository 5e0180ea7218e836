"""What the kernel's locks cost: admission and training with them and without, in turns: `python -m benchmarks.locks`.

    trace      CPU seconds of tracing alone, no locks: what a candidate costs without any wall
    admission  CPU seconds of gate, trace, check and leak check, with the locks
    beyond     admission less trace; below 1.0 is aimed at
    locks      admission with the locks over admission without, median of neighbouring turns with its quartiles
    step       CPU seconds of training a baseline in a locked trainer over an unlocked one; below 1.02 is aimed at

Every job is a real one: a process of its own, forked from the server that a search has.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from benchmarks import report
from nas.admit import Admitted, Flow, admit
from nas.admit.gate import check
from nas.execute import Event, Executor, Job, Sandbox
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import defaults
from nas.space import SearchSpace, load
from nas.store import write_file
from nas.train.engine import plan, plan_to_plain

MODES: tuple[Sandbox, Sandbox] = ("strict", "off")
AIM_S, AIM_RATIO = 1.0, 1.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--space", default="mnist1d", help="whose baselines are admitted and trained (mnist1d)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side (5)")
    parser.add_argument("--steps", type=int, default=1_000, help="steps that a training has (1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    space = load(parsed.space)
    measured: dict[str, dict[str, list[tuple[float, float, float]]]] = {name: {} for name in space.baselines}
    for repeat in range(parsed.repeats):
        for mode in MODES if repeat % 2 else reversed(MODES):
            with (
                tempfile.TemporaryDirectory() as folder,
                LocalExecutor(1, preload(space), sandbox=mode) as executor,
            ):
                examples = _prepared(executor, parsed.space, Path(folder))
                for name in space.baselines:
                    found = _turn(executor, space, parsed, Path(folder), name, examples)
                    measured[name].setdefault(mode, []).append(found)
        print(f"turn {repeat + 1} of {parsed.repeats} is done", file=sys.stderr, flush=True)
    figures = {name: _figures(sides) for name, sides in measured.items()}
    rows = [
        [name, f["trace_s"], f["admission_s"], f["beyond_s"], _said(f["locks"]), _said(f["step"])]
        for name, f in figures.items()
    ]
    columns = ["baseline", "trace s", "admission s", f"beyond, < {AIM_S}", "locks", f"step, < {AIM_RATIO}"]
    print(report.table(columns, rows))
    if parsed.json:
        settings = {"space": parsed.space, "repeats": parsed.repeats, "steps": parsed.steps}
        report.write(parsed.json, "locks", settings, figures)
    return 0


def _figures(sides: dict[str, list[tuple[float, float, float]]]) -> dict[str, Any]:
    locked, free = (sides[mode] for mode in MODES)
    trace, admission = (statistics.median(turn[0] for turn in free), statistics.median(turn[1] for turn in locked))
    return {
        "trace_s": trace, "admission_s": admission, "beyond_s": admission - trace,
        "locks": _ratio([a[1] / b[1] for a, b in zip(locked, free, strict=True)]),
        "step": _ratio([a[2] / b[2] for a, b in zip(locked, free, strict=True)]),
    }  # fmt: skip


def _ratio(values: list[float]) -> list[float]:
    low, high = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else 2 * values
    return [statistics.median(values), low, high]


def _said(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})"


def _prepared(executor: Executor, reference: str, folder: Path) -> int:
    payload = {"space": reference, "folder": str(folder / "data")}
    return _ended(executor, Job(id="data", entry="nas.train.job:prepare_job", payload=payload)).result["validation"]


def _turn(
    executor: Executor, space: SearchSpace, parsed: argparse.Namespace, folder: Path, name: str, examples: int
) -> tuple[float, float, float]:
    """CPU seconds of the trace, of the whole admission, and of the training alone."""
    source = space.baselines[name]
    began = time.process_time()
    values = defaults(check(source, space.scope).tunables)
    gate_s = time.process_time() - began
    admitted, spent = _counted(executor, admit(parsed.space, source, values, tag=name))
    if not isinstance(admitted, Admitted):
        raise ValueError(f"baseline '{name}': {admitted}")
    facts = admitted.facts
    write_file(folder / name, msgpack.packb(dict(admitted.blobs)) or b"")
    how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, examples, "cpu")
    steps = parsed.steps // how.chunk * how.chunk
    trial = {
        "id": 0,
        "seed": 1,
        "lr": space.recipe.lr.default,
        "wd": space.recipe.wd.default,
        "load": [],
        "save": None,
    }
    payload = {
        "space": parsed.space, "program": str(folder / name), "digest": facts["digest"],
        "param_leaves": facts["param_leaves"], "how": plan_to_plain(how), "data": str(folder / "data"), "cache": None,
        "start": 0, "stops": [steps], "trials": [trial],
    }  # fmt: skip
    job = Job(id=f"{name}.train", entry="nas.train.job:train_job", payload=payload, writable=[str(folder)])
    return spent[0], gate_s + sum(spent), _ended(executor, job).result["spent"]["train"]


def _counted(executor: Executor, flow: Flow[Any]) -> tuple[Any, list[float]]:
    """What a flow returns, and the CPU seconds of its jobs in their order."""
    spent: list[float] = []
    try:
        jobs = next(flow)
        while True:
            events = [_ended(executor, dataclasses.replace(job, id=f"{job.id}.{time.monotonic_ns()}")) for job in jobs]
            spent += [event.usage.cpu_s for event in events]
            jobs = flow.send(events)
    except StopIteration as end:
        return end.value, spent


def _ended(executor: Executor, job: Job) -> Event:
    executor.submit(job)
    while not (events := executor.poll(1.0)):
        pass
    if events[0].kind != "done":
        raise RuntimeError(f"{job.id} ended with {events[0].kind}: {events[0].error}")
    return events[0]


if __name__ == "__main__":
    raise SystemExit(main())
