"""Known mixers on each task of `recall` by our harness, beside published scores: `python -m benchmarks.recall`.

Every baseline of the space's `Mixer` scope passes gate, trace and checks and is trained in jobs, as candidates are, on
one task at a time, longer than a search does. The learning rate is chosen for each baseline and task by the mean
validation accuracy of a few seeds at the last step; what is reported has that rate, fresh seeds and the test split.
Printed are the mean and its 95 % interval over seeds (Student's t), what one paper and another have for the same kind
of model, and a sentence for each order that is known from the literature and each interval that leaves their range.

    rate     the best of those that were tried, by baseline and task
    test     accuracy [%] with its interval
    papers   lowest and highest of what they have
    val n    validation accuracy after n steps: attention finds the look-up between two of them

Published: MAD's tasks (arXiv 2403.17844) as run by DeltaNet (2406.06484), RWKV-7, MesaNet (2506.05233) and Atlas, and
by one independent harness. Those are of 128 features, 20,000 steps and mean over settings up to 8 times longer; scores
of one model differ by up to 30 points between papers, so orders can be compared, and numbers hardly.
"""

import argparse
import dataclasses
import functools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from benchmarks import report
from nas.admit import Admitted, Flow, admit, drive_all
from nas.admit.gate import check
from nas.execute import Event, Job, Need
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import defaults
from nas.search_spaces.recall import data
from nas.search_spaces.recall import space as recall
from nas.space import SearchSpace
from nas.store import write_file
from nas.train.engine import plan, plan_to_plain
from nas.train.job import prepare_job

MODULE = "benchmarks.recall"
"""This module, also where it runs as a program: jobs load its spaces by it."""
CHOOSING, REPORTING = 1_001, 1
"""First seeds of what chooses a rate and of what is reported."""
WEIGHT_DECAY = 0.01
TIMEOUT_S = 12 * 3600.0

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "attention": {
        "recall": (94.1, 100, 100, 90.5), "noisy_recall": (86.8, 100, 100, 89.7),
        "fuzzy_recall": (29.8, 48.6, 48.2, 56.5), "selective_copying": (99.6, 96.0, 95.9, 99.8),
        "compression": (51.6, 49.5, 49.4, 43.2), "memorisation": (85.2, 84.7, 83.8, 78.8),
    },
    "selective_state_space": {
        "recall": (90.4, 100), "noisy_recall": (90.1, 100), "fuzzy_recall": (6.7, 51.2),
        "selective_copying": (86.3, 95.4), "compression": (52.7, 41.3), "memorisation": (89.5, 42.0),
    },
    "gated_linear_attention": {
        "recall": (80.8, 100), "noisy_recall": (81.6, 100), "fuzzy_recall": (6.9, 39.0, 15.5),
        "selective_copying": (88.6, 96.1), "compression": (38.8, 42.3), "memorisation": (63.3, 82.5),
    },
    "gated_delta_net": {
        "recall": (100, 100), "noisy_recall": (100, 100), "fuzzy_recall": (32.7, 32.5),
        "selective_copying": (95.7, 96.2), "compression": (45.0, 44.8), "memorisation": (81.7, 81.7, 55.2),
    },
    "long_convolution": {
        "recall": (81.7,), "noisy_recall": (78.8,), "fuzzy_recall": (7.9,), "selective_copying": (93.1,),
        "compression": (45.2,), "memorisation": (89.5,),
    },
    "recurrence": {
        "recall": (93,), "noisy_recall": (93,), "fuzzy_recall": (13.6,), "selective_copying": (77.0,),
        "compression": (47.7,), "memorisation": (91.3,),
    },
}  # fmt: skip
"""Published scores [%] by baseline and task, one a paper.

Of a transformer; Mamba and Mamba-2; GLA; Gated DeltaNet; Hyena; Hawk. In the order DeltaNet's table (reused by RWKV-7),
MesaNet, Atlas, independent harness, as far as they have them; MesaNet and Atlas have one number for recall with and
without noise.
"""

DIFFERENT = {
    "recall": "{keys} of {half} keys in {length} tokens, where MAD has 8 of 8 in 128 and up to 64 of 64 in 1,024",
    "noisy_recall": "{noise:.0%} noise among {keys} keys in {length} tokens, where MAD has 20 to 80 % in 128 to 1,024",
    "fuzzy_recall": "one distribution for all splits, where MAD tests on the longest keys alone",
    "selective_copying": "{tokens} tokens in {length}, where MAD has 16 to 96 in 256 to 1,024",
    "compression": "{tokens} tokens that tell their place, where MAD compresses 32 to 256 that do not",
    "memorisation": "keys of {key_length} tokens, where MAD has one, whose embedding can hold the answer",
}
"""How our task differs from what the papers trained, from its settings."""


class Order(NamedTuple):
    """An order known from the literature.

    Attributes:
      says: in words.
      tasks: on which it is looked for.
      better: baselines that are ahead.
      worse: of these.
      least: what those that are ahead reach on it [%]; 0 is no claim.
    """

    says: str
    tasks: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    least: float = 0.0


ORDERS = (
    Order(
        "attention and the delta rule are near 100 %; gated linear attention and long convolution fall behind",
        ("recall", "noisy_recall"),
        ("attention", "gated_delta_net"),
        ("gated_linear_attention", "long_convolution"),
        95.0,
    ),
    Order(
        "recurrent models are ahead of attention on memorisation at equal size",
        ("memorisation",),
        ("recurrence", "selective_state_space"),
        ("attention",),
    ),
    Order(
        "attention is ahead of a plain recurrence on copying", ("selective_copying",), ("attention",), ("recurrence",)
    ),
)


def alone(task: str) -> SearchSpace:
    """The space with one of its tasks only, and rungs that leave any number of steps to the benchmark."""
    place = list(data.TASKS).index(task)
    one = dataclasses.replace(
        recall.SPACE.task, parts=(), split=functools.partial(_only, place=place, tasks=len(data.TASKS))
    )
    return dataclasses.replace(recall.SPACE, name=f"recall:{task}", task=one)


def _only(name: str, *, place: int, tasks: int) -> Any:
    split = data.together(name)
    return type(split)(*(np.split(array, tasks)[place] for array in split))


VARIANTS = {task: alone(task) for task in data.TASKS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the tables and the sentences; returns 0 whatever they say."""
    parsed = _parser().parse_args(arguments)
    chunk = math.gcd(*recall.SPACE.ladder.steps)
    if any(step % chunk for step in parsed.steps) or sorted(parsed.steps) != parsed.steps:
        print(f"{MODULE}: --steps {parsed.steps} must be ascending multiples of {chunk}", file=sys.stderr)
        return 2
    settings = _settings(parsed)
    try:
        rows = _known(parsed.json, settings)
    except ValueError as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(parsed.workers, preload(recall.SPACE)) as executor:
        for task in parsed.tasks:
            prepare_job(f"{MODULE}:{task}", str(Path(folder) / task))
        for name in parsed.baselines:
            tasks = [task for task in parsed.tasks if (name, task) not in {(r["baseline"], r["task"]) for r in rows}]
            if not tasks:
                continue
            began = time.time()
            (found,) = drive_all(executor, [_baseline(parsed, Path(folder), name, tasks)])
            rows += [row | {"wall_s": (time.time() - began) / len(found)} for row in found]
            if parsed.json:
                said = {"orders": orders(rows), "disagreements": disagreements(rows)}
                report.write(parsed.json, "recall", settings, {"rows": rows, **said})
    _show(rows)
    return 0


def _settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """All that a row depends on, as JSON has it."""
    settings: dict[str, Any] = {name: getattr(parsed, name) for name in ("seeds", "choosing", "steps", "rates")}
    settings |= {"batch": recall.SPACE.recipe.batch, "spec": dataclasses.asdict(recall.SPACE.spec)}
    settings["task_settings"] = {name: dataclasses.asdict(task.settings) for name, task in data.TASKS.items()}
    return json.loads(json.dumps(settings))


def _known(path: Path | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that a file has.

    Raises:
      ValueError: they were measured with other settings or versions.
    """
    if path is None or not path.exists():
        return []
    content = json.loads(path.read_text("utf-8"))
    if (content["settings"], content["versions"]) != (settings, report.versions()):
        raise ValueError(f"--json {path} has figures of other settings or versions; give another file, or remove it")
    return content["figures"]["rows"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    known, tasks = list(recall.SPACE.baselines), list(data.TASKS)
    parser.add_argument("--baselines", nargs="+", choices=known, default=known, metavar="NAME", help="(all)")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks, metavar="NAME", help="(all)")
    parser.add_argument("--seeds", type=int, default=5, help="fresh seeds that are reported (5)")
    parser.add_argument("--choosing", type=int, default=1, help="seeds by which a rate is chosen (1)")
    steps, rates = [250, 500, 1_000], [0.003, 0.01, 0.03]
    parser.add_argument("--steps", nargs="+", type=int, default=steps, help="where scores are taken (250 500 1000)")
    parser.add_argument("--rates", nargs="+", type=float, default=rates, help="learning rates (0.003 0.01 0.03)")
    parser.add_argument("--workers", type=int, default=2, help="jobs at once (2)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures after each baseline; rows that it has are kept"
    )
    return parser


# ---- training ----


def _baseline(
    parsed: argparse.Namespace, folder: Path, name: str, tasks: Sequence[str]
) -> Flow[list[dict[str, Any]]]:  # fmt: skip
    """Admit a baseline, choose its rate for each task, and train it with fresh seeds; a row for each task."""
    source = recall.SPACE.baselines[name]
    values = defaults(check(source, "Mixer").tunables)
    admitted = yield from admit("recall", source, values, tag=name)
    if not isinstance(admitted, Admitted):
        raise ValueError(f"baseline '{name}': {admitted}")
    write_file(folder / name, msgpack.packb(dict(admitted.blobs)) or b"")
    job = functools.partial(_job, parsed, folder, name, admitted.facts)
    seeds = range(CHOOSING, CHOOSING + parsed.choosing)
    trials = [_trial(rate, seed) for rate in parsed.rates for seed in seeds]
    chosen: dict[str, dict[float, list[float]]] = {}
    for task, results in zip(tasks, (yield [job(task, "choose", trials) for task in tasks]), strict=True):
        scores: dict[float, list[float]] = {}
        for trial, curve in zip(trials, _curves(results), strict=True):
            scores.setdefault(trial["lr"], []).append(curve[-1] if len(curve) == len(parsed.steps) else 0.0)
        chosen[task] = scores
        print(f"{name}, {task}: rates {_means(scores)}", file=sys.stderr, flush=True)
    best = {task: max(scores, key=lambda rate: statistics.mean(scores[rate])) for task, scores in chosen.items()}
    fresh = range(REPORTING, REPORTING + parsed.seeds)
    jobs = []
    for task, rate in best.items():
        files = {seed: folder / f"{name}.{task}.{seed}.npz" for seed in fresh}
        jobs.append(job(task, "report", [_trial(rate, seed, test=str(file)) for seed, file in files.items()]))
    rows = []
    for task, event in zip(best, (yield jobs), strict=True):
        test = [100 * result["test"]["score"] for result in _results(event) if "test" in result]
        curves = [curve for curve in _curves(event) if len(curve) == len(parsed.steps)]
        row = {
            "baseline": name, "task": task, "rate": best[task], "rates": _means(chosen[task]), "test": test,
            "diverged": parsed.seeds - len(test), **interval(test), "published": list(published(name, task)),
            "params": admitted.facts["cost"]["params"], "flops": admitted.facts["cost"]["flops"],
            "validation": _along(parsed.steps, curves),
            "cpu_s": event.usage.cpu_s,
        }  # fmt: skip
        rows.append(row)
        print(f"{name}, {task}: {_said(row)}, on the way {row['validation']}", file=sys.stderr, flush=True)
    return rows


def _trial(rate: float, seed: int, **more: Any) -> dict[str, Any]:
    return {"id": seed, "lr": rate, "wd": WEIGHT_DECAY, "seed": seed, "load": [], "save": None, **more}


def _job(
    parsed: argparse.Namespace, folder: Path, name: str, facts: Mapping[str, Any], task: str, what: str,
    trials: Sequence[Mapping[str, Any]],
) -> Job:  # fmt: skip
    how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], recall.SPACE, data.EXAMPLES["validation"], "cpu")
    payload = {
        "space": f"{MODULE}:{task}", "program": str(folder / name), "digest": facts["digest"],
        "param_leaves": facts["param_leaves"], "how": plan_to_plain(how), "data": str(folder / task),
        "cache": str(folder / "cache"), "start": 0, "stops": parsed.steps, "trials": [dict(trial) for trial in trials],
    }  # fmt: skip
    need = Need(cpus=1, memory_bytes=8 << 30)
    entry = "nas.train.job:train_job"
    return Job(id=f"{name}.{task}.{what}", entry=entry, payload=payload, need=need, timeout_s=TIMEOUT_S)


def _results(event: Event) -> list[dict[str, Any]]:
    if event.kind != "done":
        raise RuntimeError(f"{event.job_id} ended with {event.kind}: {event.error}")
    return event.result["trials"]


def _curves(event: Event) -> list[list[float]]:
    """Validation accuracy of each trial where it was scored; shorter if it diverged."""
    return [[point["score"] for point, _ in result["points"]] for result in _results(event)]


def _along(steps: Sequence[int], curves: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean validation accuracy [%] of the trials that came to the end, at each of the steps."""
    means = [100 * statistics.mean(at) for at in zip(*curves, strict=True)]
    return dict(zip(map(str, steps), means or [math.nan] * len(steps), strict=True))


def _means(scores: Mapping[float, Sequence[float]]) -> dict[str, float]:
    return {f"{rate:g}": round(100 * statistics.mean(found), 2) for rate, found in scores.items()}


# ---- what is said of it ----


def published(baseline: str, task: str) -> tuple[float, ...]:
    """Scores [%] that papers have for this kind of model on this kind of task; empty if they have none."""
    return PUBLISHED.get(baseline, {}).get(task, ())


def interval(values: Sequence[float], level: float = 0.95) -> dict[str, float | None]:
    """Mean of at least one value with an interval for it from Student's t; of one value there is no interval."""
    if not values:
        return {"mean": None, "low": None, "high": None}
    mean = statistics.mean(values)
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None}
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def orders(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each order that is known, whether it came out, and with which figures."""
    found = {(row["baseline"], row["task"]): row for row in rows if row["mean"] is not None}
    lines = []
    for order, task in ((known, task) for known in ORDERS for task in known.tasks):
        better, worse = ([found.get((name, task)) for name in names] for names in (order.better, order.worse))
        ahead, behind = ([row for row in side if row is not None] for side in (better, worse))
        if None in better + worse:
            continue
        low = [row for row in ahead if row["mean"] < order.least]
        level = [f"{a['baseline']} is not ahead of {b['baseline']}" for a in ahead for b in behind if not _ahead(a, b)]
        wrong = [f"{row['baseline']} is below {order.least:.0f} %" for row in low] + level
        figures = ", ".join(f"{row['baseline']} {_said(row)}" for row in ahead + behind)
        lines.append(f"{task}: {order.says}: {'; '.join(wrong) if wrong else 'it came out'} ({figures})")
    return lines


def _ahead(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a mean is higher beyond the intervals, or, without intervals, at all."""
    if one["low"] is None or other["high"] is None:
        return one["mean"] > other["mean"]
    return one["low"] > other["high"]


def disagreements(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each interval that leaves the range of the papers."""
    lines = []
    for row in rows:
        known = row["published"]
        if not known or row["mean"] is None:
            continue
        low, high = (row[end] if row[end] is not None else row["mean"] for end in ("low", "high"))
        side = "above" if low > max(known) else "below" if high < min(known) else ""
        if side:
            lines.append(
                f"{row['baseline']}, {row['task']}: {_said(row)} is {side} the papers' {_range(known)}; here are "
                f"{different(row['task'])}."
            )
    return lines


def different(task: str) -> str:
    """How our task differs from what the papers trained."""
    settings = data.TASKS[task].settings
    facts = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return DIFFERENT[task].format(**facts, half=getattr(settings, "half", 0))


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    steps = list(rows[0]["validation"]) if rows else []
    cells = [
        [
            f"{row['task']}, {row['baseline']}", row["params"], f"{row['rate']:g}", _said(row),
            _range(row["published"]) if row["published"] else None, *(row["validation"].get(step) for step in steps),
        ]
        for row in sorted(rows, key=lambda row: list(data.TASKS).index(row["task"]))
    ]  # fmt: skip
    columns = ["task, mixer", "params", "rate", "test, 95 %", "papers", *(f"val {step}" for step in steps)]
    print(report.table(columns, cells))
    print("\nAccuracy in %. An asterisk: of one seed there is no interval. Papers: lowest and highest.\n")
    for line in (*orders(rows), *disagreements(rows)):
        print(f"- {line}")


def _said(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "diverged"
    return f"{row['mean']:.1f}*" if row["low"] is None else f"{row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _range(known: Sequence[float]) -> str:
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} … {high:g}"


if __name__ == "__main__":
    raise SystemExit(main())
