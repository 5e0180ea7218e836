"""Candidates per CPU second, the wall included, against a fresh process for each: `python -m benchmarks.throughput`.

The same frozen candidates (the space's five baselines and nineteen that the random arm drew with seed 24, all admitted
and no two the same program), 250 steps and one evaluation on 20,000 examples each, cold caches, in turns:

    naive         `benchmarks.naive`: a fresh process for each trial, eager init, nnx.jit, a Python loop, two at a time
    one draw      `benchmarks.behind_wall`: admission, compilation and training as in a search, two workers
    three draws   the same with three draws of the learning rate on each compiled program

CPU seconds are what the kernel says of each process and all its descendants when it is reaped (wait4), so that servers,
jobs, compilers' threads and interpreters are all counted. Making the data is left out on both sides. Bytecode of the
libraries is on disk before the first turn; compiled programs are not. A naive trial costs the same whichever draw of a
candidate it is, so what three draws are compared with is one naive trial.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import behind_wall, report
from nas.train.job import prepare_job, read_split

TARGETS = {1: 2.5, 3: 4.0}
"""Ratio of CPU seconds of a naive trial to one of ours, by draws a program."""
COLD = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "NPROC")
"""Variables that would warm a cache or change threads; they are taken out of the environment of both sides."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One side's turn over all candidates.

    Attributes:
      trials: how many were trained.
      cpu_s: CPU seconds in all.
      wall_s: wall seconds in all.
      scores: of the trials.
      failures: of trials that have no score.
      stages: CPU seconds in all by stage, of our side.
    """

    trials: int
    cpu_s: float
    wall_s: float
    scores: Sequence[float]
    failures: Sequence[str] = ()
    stages: Mapping[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take turns, print the tables; returns 0 whether the targets are reached or not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidates", type=int, default=24, help="how many of the frozen candidates (24)")
    parser.add_argument("--steps", type=int, default=250, help="training steps (250)")
    parser.add_argument("--examples", type=int, default=20_000, help="validation examples (20000)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side; every other in reverse order (2)")
    parser.add_argument("--workers", type=int, default=2, help="processes at once, on both sides (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    sides: dict[str, list[Turn]] = {"naive": [], "one draw": [], "three draws": []}
    with tempfile.TemporaryDirectory() as folder:
        data = _make_data(Path(folder), parsed.examples)
        for number in range(parsed.rounds):
            for side in sorted(sides, key=list(sides).index, reverse=number % 2 == 1):
                print(f"round {number + 1}: {side}", file=sys.stderr)
                draws = {"one draw": 1, "three draws": 3}.get(side)
                sides[side].append(_ours(parsed, data, draws) if draws else _naive(parsed, data))
    figures = _figures(sides, parsed.candidates)
    _show(figures)
    if parsed.json:
        settings = {name: value for name, value in vars(parsed).items() if name != "json"}
        report.write(parsed.json, "throughput", settings, figures)
    return 0


def _make_data(folder: Path, examples: int) -> Path:
    prepare_job("mnist1d", str(folder))
    validation = read_split(str(folder), "validation")
    for name, array in validation._asdict().items():
        part = np.array(array[:examples])
        (folder / f"validation.{name}.npy").unlink()
        np.save(folder / f"validation.{name}.npy", part)
    return folder


def _naive(parsed: argparse.Namespace, data: Path) -> Turn:
    """A process for each candidate, `workers` at a time."""
    files = sorted(behind_wall.CANDIDATES.glob("[!_]*.py"))[: parsed.candidates]
    options = ["--data", str(data), "--steps", str(parsed.steps), "--lr", str(behind_wall.LEARNING_RATES[0])]
    options += ["--wd", str(behind_wall.WEIGHT_DECAY)]
    commands = [[sys.executable, "-m", "benchmarks.naive", str(file), *options] for file in files]
    began = time.monotonic()
    ended = _run(commands, parsed.workers)
    wall = time.monotonic() - began
    scores = [answer["score"] for answer, _ in ended]
    return Turn(trials=len(files), cpu_s=sum(cpu for _, cpu in ended), wall_s=wall, scores=scores)


def _ours(parsed: argparse.Namespace, data: Path, draws: int) -> Turn:
    """One coordinator with its server and jobs."""
    command = [sys.executable, "-m", "benchmarks.behind_wall", "--data", str(data), "--draws", str(draws)]
    command += ["--candidates", str(parsed.candidates), "--steps", str(parsed.steps), "--workers", str(parsed.workers)]
    began = time.monotonic()
    ((answer, cpu),) = _run([command], 1)
    wall = time.monotonic() - began
    stages = dict(answer["stages"])
    stages["coordinator"] += cpu - sum(stages.values())  # what it used after it had reported: leaving
    return Turn(
        trials=parsed.candidates * draws, cpu_s=cpu, wall_s=wall, scores=answer["scores"],
        failures=answer["failures"], stages=stages,
    )  # fmt: skip


def _run(commands: Sequence[Sequence[str]], at_once: int) -> list[tuple[Any, float]]:
    """Run commands, so many at a time.

    Returns:
      For each, the JSON that it printed last, and the CPU seconds of it and its descendants.
    Raises:
      RuntimeError: one failed; the message ends with its last line.
    """
    environment = {name: value for name, value in os.environ.items() if name not in COLD} | {"JAX_PLATFORMS": "cpu"}
    waiting = list(enumerate(commands))
    running: dict[int, tuple[int, Path, subprocess.Popen[bytes]]] = {}
    ended: dict[int, tuple[Any, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, command = waiting.pop(0)
                output = Path(folder) / str(number)
                with open(output, "w") as file:
                    process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
                running[process.pid] = (number, output, process)
            # One of ours: the caller has no other children.
            pid, status, usage = os.wait4(-1, 0)
            number, output, process = running.pop(pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            lines = output.read_text("utf-8").strip().splitlines() or ["no word"]
            if process.returncode:
                raise RuntimeError(f"{' '.join(commands[number])} ended with {process.returncode}: {lines[-1]}")
            ended[number] = (json.loads(lines[-1]), usage.ru_utime + usage.ru_stime)
    return [ended[number] for number in range(len(commands))]


def _figures(sides: Mapping[str, Sequence[Turn]], candidates: int) -> dict[str, Any]:
    """Means over the rounds, and ratios for each round."""
    figures: dict[str, Any] = {}
    for side, turns in sides.items():
        figures[side] = {
            "trials": turns[0].trials,
            "cpu_s_per_trial": [turn.cpu_s / turn.trials for turn in turns],
            "wall_s_per_trial": [turn.wall_s / turn.trials for turn in turns],
            "cpu_s_per_candidate": [turn.cpu_s / candidates for turn in turns],
            "wall_s_per_candidate": [turn.wall_s / candidates for turn in turns],
            "mean_score": mean(score for turn in turns for score in turn.scores),
            "failures": sorted({failure for turn in turns for failure in turn.failures}),
            "stages_cpu_s_per_candidate": {
                stage: mean(turn.stages[stage] for turn in turns) / candidates for stage in turns[0].stages
            },
        }
    for side, draws in (("one draw", 1), ("three draws", 3)):
        for kind in ("cpu", "wall"):
            key = f"{kind}_s_per_trial"
            pairs = zip(figures["naive"][key], figures[side][key], strict=True)
            figures[side][f"{kind}_ratio"] = [naive / ours for naive, ours in pairs]
        figures[side]["target"] = TARGETS[draws]
    return figures


def _show(figures: Mapping[str, Any]) -> None:
    rows = []
    for side, found in figures.items():
        ratio, wall = found.get("cpu_ratio"), found.get("wall_ratio")
        rows.append([
            side, found["trials"], mean(found["cpu_s_per_candidate"]), mean(found["cpu_s_per_trial"]),
            mean(found["wall_s_per_trial"]), mean(ratio) if ratio else None, mean(wall) if wall else None,
            found.get("target"), found["mean_score"], len(found["failures"]),
        ])  # fmt: skip
    columns = "side,trials,CPU s/candidate,CPU s/trial,wall s/trial,× CPU,× wall,target,score,failures".split(",")
    print(report.table(columns, rows))
    stages = {side: figures[side]["stages_cpu_s_per_candidate"] for side in ("one draw", "three draws")}
    one, three = stages["one draw"], stages["three draws"]
    total = {side: sum(spent.values()) for side, spent in stages.items()}
    rows = [
        [name, one[name], 100 * one[name] / total["one draw"], three[name], 100 * three[name] / total["three draws"]]
        for name in one
    ]
    print("\nCPU seconds of ours a candidate, by stage")
    print(report.table(["stage", "one draw", "%", "three draws", "%"], rows))
    print("\n" + _sentence(one, three))


def _sentence(one: Mapping[str, float], three: Mapping[str, float]) -> str:
    """Where the time goes that is not training, and what less of it would take.

    The first draw compiles and the two others do not, so the difference between three draws and one, halved, is what
    a draw costs without compiling; the rest of the first is the compiler's.
    """
    again = {stage: max(0.0, (three[stage] - one[stage]) / 2) for stage in ("compile", "train", "evaluate")}
    step, evaluation = one["compile"] - again["compile"], one["evaluate"] - again["evaluate"]
    rest = sum(one[name] for name in ("start", "process", "boot", "server", "coordinator", "checkpoint"))
    total = sum(one.values())
    shorter = total / (one["compile"] + one["train"] + one["evaluate"])
    return (
        f"One draw takes {total:.2f} CPU s: reading, lowering and compiling the step {step:.2f}, compiling the "
        f"evaluation {evaluation:.2f}, initialising {again['compile']:.2f}, training {one['train']:.2f}, evaluating "
        f"{again['evaluate']:.2f}, tracing {one['trace']:.2f}, checking {one['check']:.2f}. The rest, {rest:.2f} s or "
        f"{100 * rest / total:.0f} %, is processes: the server's imports {one['boot']:.2f} and its forks "
        f"{one['server']:.2f} (shared by all candidates), setting up a trainer {one['start']:.2f}, starting and "
        f"leaving it {one['process']:.2f}, the coordinator {one['coordinator']:.2f}, checkpoints "
        f"{one['checkpoint']:.2f}. With nothing but compilation, training and evaluation left, the ratio would be "
        f"{shorter:.2f} times what it is; beyond that, only compiling less helps."
    )


if __name__ == "__main__":
    raise SystemExit(main())
