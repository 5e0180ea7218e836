"""What whole searches cost and what they find: time, memory, where the CPU seconds go, best scores, lifts.

    python -m benchmarks.searches --seeds 0 1 2 3 4 --budget 200 --results results/runs/searches --json searches.json
    python -m benchmarks.searches --runs results/runs/mine results/runs/other

The first makes the runs, one after another, and goes on with those that were begun; the second reads runs that are
there. Then, over all of them:

*Overhead* is the CPU time of the whole tree of processes that is outside admission, compiling, training and
evaluating, as a share of all. The tree's total is the kernel's, when the search has ended. Admission is everything in
the jobs that trace and check, and the gate, which runs in the coordinator and is timed again here on the same sources;
compiling, training and evaluating are timed inside the training jobs. Overhead is the rest, and is divided into: the
coordinator (proposing, deciding, storing, printing), the server of jobs (its imports and forks), the start of training
jobs (imports, reading the program), checkpoints, the rest of training jobs (fork, answer, exit), and other jobs
(making the data). It is known only for runs that this program made in one session.

*Differences from the best baseline* are search scores: the best of many trials, each with one seed, chosen by the very
number that is reported. They are partly luck and claim nothing; confirmation on unseen data with fresh seeds is another
matter. The interval is that of a difference between one score and a mean over a baseline's seeds, sigma * sqrt(1 +
1 / seeds) times Student's t, with half of the degrees of freedom that sigma's groups have together, since a median of
variances knows about half of what their mean knows. It does not account for the choice. How much the choice alone can
do stands beside it as `luck`: the expected maximum of as many scores of one seed as there are trials at the top rung,
if all were equal (Blom, 1958). Over runs, the run is the unit: mean of
the runs' differences, t of runs - 1, in sigmas of all runs' baselines together.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from benchmarks import report
from benchmarks.process import read_sessions, search_into
from nas.admit.gate import check
from nas.judge.lift import Lift, lifts, pooled, t_quantile
from nas.judge.noise import seed_sigma
from nas.space import load
from nas.standings import Records, baseline_seeds, board, read, reference, samples
from nas.store import Store, StoreError

WORK = ("gate", "trace", "check", "leaks", "compile", "train", "evaluate")
"""What a search is for; everything else is overhead."""
OVERHEAD = ("coordinator", "server", "start", "checkpoint", "rest of training jobs", "other jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The best candidate at the top rung against the best baseline there; positive is better.

    Attributes:
      candidate: its id.
      arm: who wrote it.
      score: its score, of one seed.
      baseline: name of the best baseline.
      baseline_score: mean over its seeds.
      difference: in the unit of the metric.
      sigma: from seed to seed.
      sigmas: the difference in sigmas.
      low: lower end of its 95 % interval, in sigmas; the choice of the best is not accounted for.
      high: upper end.
      trials: at the top rung, without baselines.
      luck: by how many sigmas the best of so many equal trials would exceed their mean.
    """

    candidate: int
    arm: str
    score: float
    baseline: str
    baseline_score: float
    difference: float
    sigma: float
    sigmas: float
    low: float
    high: float
    trials: int
    luck: float


# ---- what one run cost and found


def examine(folder: Path) -> tuple[dict[str, Any], Records]:
    """The figures of one run, and its tables.

    Raises:
      StoreError: there is no run, or it cannot be read.
    """
    store = Store(folder)
    records = read(store)
    disk = store.disk_bytes()
    store.close()
    top = len(records.config["ladder"]["steps"]) - 1
    estimates = lifts(samples(records), records.config["maximize"])
    made, sessions = board(records), read_sessions(folder)
    gap = best_gap(records, top)
    figures = {
        "run": str(folder),
        "seed": records.config["seed"],
        "budget": records.config["budget"],
        "spent": made.spent,
        "open_tasks": made.open_tasks,
        "disk_bytes": disk,
        "sessions": sessions,
        "cpu": cpu_by_stage(records, sessions),
        "gap": asdict(gap) if gap else None,
        "lifts": {arm: asdict(lift) for arm, lift in estimates.items()},
        "arms": {arm.name: {"proposed": arm.proposed, "rejected": arm.rejected} for arm in made.arms},
        "rejected": dict(made.rejected),
        "failed": dict(made.failed),
    }  # fmt: skip
    return figures, records


def cpu_by_stage(records: Records, sessions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """CPU seconds of each part, as the module's docstring divides them; without those that were not measured."""
    stages: Counter[str] = Counter()
    for task in records.tasks:
        stages.update((task.usage or {}).get("stages", {}))
    inside = ("start", "compile", "train", "evaluate", "checkpoint")
    parts = {"gate": _gate_seconds(records)}
    parts |= {name: float(stages[name]) for name in ("trace", "check", "leaks", *inside)}
    parts["rest of training jobs"] = max(0.0, stages["trainer"] - sum(stages[name] for name in inside))
    if len(sessions) == 1 and sessions[0]["finished"] and not sessions[0]["resumed"]:
        whole = sessions[0]
        stored = sum((task.usage or {}).get("cpu_s", 0.0) for task in records.tasks)
        parts["server"] = whole["server_s"]
        parts["other jobs"] = max(0.0, whole["jobs_s"] - stored)
        rest = whole["cpu_s"] - parts["server"] - max(whole["jobs_s"], stored) - parts["gate"]
        parts["coordinator"] = max(0.0, rest)
    return parts


def overhead(cpu: Mapping[str, float]) -> float | None:
    """Share of the CPU seconds that is not work; None if it is not known."""
    if "coordinator" not in cpu:
        return None
    return sum(cpu[name] for name in OVERHEAD) / sum(cpu.values())


def _gate_seconds(records: Records) -> float:
    scope = load(records.config["space"]).scope
    began = time.process_time()
    for entry in records.entries:
        check(entry.candidate.source, scope)
    return time.process_time() - began


def best_gap(records: Records, rung: int) -> Gap | None:
    """The best candidate at a rung against the best baseline; None if there is no candidate, baseline or noise."""
    against = reference(records, rung)
    owner = {trial.id: trial.candidate for trial in records.trials}
    arms = {entry.candidate.id: entry.candidate.arm for entry in records.entries}
    found = [(score.point.score, owner[score.trial]) for score in records.scores if score.rung == rung and score.point]
    ours = [(value, candidate) for value, candidate in found if arms[candidate] != "baseline" and math.isfinite(value)]
    if against is None or not ours or against.noise.sigma == 0:
        return None
    score, candidate = max(ours, key=lambda pair: (records.sign * pair[0], -pair[1]))
    difference, sigma = records.sign * (score - against.score), against.noise.sigma
    half = t_quantile(0.975, max(1.0, against.noise.degrees / 2)) * math.sqrt(1 + 1 / against.seeds)
    return Gap(
        candidate=candidate,
        arm=arms[candidate],
        score=score,
        baseline=against.name,
        baseline_score=against.score,
        difference=difference,
        sigma=sigma,
        sigmas=difference / sigma,
        low=difference / sigma - half,
        high=difference / sigma + half,
        trials=len(ours),
        luck=expected_maximum(len(ours)),
    )


def expected_maximum(count: int) -> float:
    """Expected maximum of so many standard normal variables, to about a hundredth. Source: Blom (1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


# ---- over all runs


def mean_interval(values: Sequence[float]) -> dict[str, float] | None:
    """Mean with its 95 % interval, t of n - 1; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return {"mean": fmean(values), "low": fmean(values) - half, "high": fmean(values) + half, "runs": len(values)}


def pooled_lifts(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm's lift over the random arm, pooled over the runs that have one."""
    arms = sorted({arm for run in runs for arm in run["lifts"]})
    found = {arm: [Lift(**run["lifts"][arm]) for run in runs if arm in run["lifts"]] for arm in arms}
    return {arm: asdict(pooled(estimates)) for arm, estimates in found.items() if len(estimates) > 1}


def baseline_groups(tables: Sequence[Records], rung: int) -> list[tuple[str, list[float]]]:
    """The scores of each baseline's seeds at a rung, with its name, run by run."""
    groups = []
    for records in tables:
        names = {entry.candidate.id: entry.candidate.operator for entry in records.entries}
        for candidate, seeds in baseline_seeds(records, rung).items():
            if len(seeds) > 1:
                groups.append((names[candidate], list(seeds.values())))
    return groups


def headroom(tables: Sequence[Records], rung: int) -> dict[str, Any] | None:
    """How far the best candidate of all runs stands above the best baseline of all runs, in sigmas of a seed.

    The baseline is the best group of seeds in any run, so it has had as many draws as the runs gave it together, and
    sigma is taken over all groups of all runs.
    """
    sign = tables[0].sign
    gaps = [gap for records in tables if (gap := best_gap(records, rung)) is not None]
    groups = baseline_groups(tables, rung)
    noise = seed_sigma(scores for _, scores in groups)
    if noise is None or noise.sigma == 0 or not gaps:
        return None
    name, scores = max(groups, key=lambda group: sign * fmean(group[1]))
    best = max(gaps, key=lambda gap: sign * gap.score)
    return {
        "candidates": sum(board(records).spent for records in tables),
        "trials": sum(gap.trials for gap in gaps),
        "best": best.score,
        "baseline": name,
        "baseline_score": fmean(scores),
        "sigma": noise.sigma,
        "sigmas": sign * (best.score - fmean(scores)) / noise.sigma,
        "luck": expected_maximum(sum(gap.trials for gap in gaps)),
    }


def proposals(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By arm how many were proposed and what share was admitted; by reason how many were rejected."""
    proposed: Counter[str] = Counter()
    turned_away: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for run in runs:
        proposed.update({name: arm["proposed"] for name, arm in run["arms"].items() if arm["proposed"]})
        turned_away.update({name: arm["rejected"] for name, arm in run["arms"].items()})
        reasons.update(run["rejected"])
    admitted = {arm: 1 - turned_away[arm] / count for arm, count in proposed.items()}
    return {"proposed": dict(proposed), "admitted": admitted, "rejected": dict(reasons.most_common())}


def figures_of(folders: Sequence[Path]) -> dict[str, Any]:
    """Everything about these runs.

    Raises:
      StoreError: one cannot be read, or they are of different spaces.
    """
    found = [examine(folder) for folder in folders]
    runs, tables = [figures for figures, _ in found], [records for _, records in found]
    spaces = sorted({f"{r.config['space_name']}@{r.config['space_version']}" for r in tables})
    if len(spaces) > 1:
        raise StoreError(f"the runs are of different spaces, {', '.join(spaces)}; give runs of one")
    top = len(tables[0].config["ladder"]["steps"]) - 1
    noise = seed_sigma(scores for _, scores in baseline_groups(tables, top))
    gaps = [run["gap"]["difference"] for run in runs if run["gap"]]
    return {
        "space": spaces[0],
        "runs": runs,
        "difference": mean_interval(gaps),
        "sigmas": mean_interval([gap / noise.sigma for gap in gaps]) if noise and noise.sigma else None,
        "lifts": pooled_lifts(runs),
        "headroom": headroom(tables, top),
        "proposals": proposals(runs),
    }


# ---- showing


def show(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    runs = figures["runs"]
    names = [Path(run["run"]).name for run in runs]
    parts = [f"{figures['space']}, {len(runs)} runs"]
    parts += [_cost_table(names, runs), _stage_table(names, runs), _gap_table(names, runs, figures)]
    parts += [_lift_table(names, runs, figures["lifts"]), _proposal_table(figures["proposals"])]
    room = figures["headroom"]
    if room:
        parts.append(
            f"Best of {room['candidates']} candidates in all runs together: {room['best']:.4f}, which is "
            f"{room['sigmas']:+.1f} sigma from the best baseline, {room['baseline']} {room['baseline_score']:.4f} "
            f"(sigma {room['sigma']:.4f}; luck alone, of {room['trials']} trials: {room['luck']:.1f})."
        )
    return "\n\n".join(parts)


def _cost_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[Any]] = []
    for name, run in zip(names, runs, strict=True):
        done = run["sessions"]
        share = overhead(run["cpu"])
        rows.append([
            name, run["spent"], len(done) or None, sum(s["wall_s"] for s in done) / 60 if done else None,
            sum(s["cpu_s"] for s in done) / 60 if done else None,
            max(s["resident_bytes"] for s in done) / 2**30 if done else None,
            max(s["proportional_bytes"] for s in done) / 2**30 if done else None,
            run["disk_bytes"] / 2**20, None if share is None else 100 * share,
        ])  # fmt: skip
    heads = ["run", "candidates", "sessions", "minutes", "CPU minutes", "resident GiB", "proportional GiB", "disk MiB"]
    return report.table([*heads, "overhead %"], rows)


def _stage_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> str:
    totals = [sum(run["cpu"].values()) for run in runs]
    rows: list[list[Any]] = []
    for part in (*WORK, *OVERHEAD):
        seconds = [run["cpu"].get(part) for run in runs]
        shares = [s / total for s, total in zip(seconds, totals, strict=True) if s is not None and total]
        label = f"{part} *" if part in OVERHEAD else part
        rows.append([label, *seconds, 100 * fmean(shares) if shares else None])
    rows.append(["sum", *totals, None])
    return report.table(["CPU seconds (* overhead)", *names, "mean %"], rows)


def _gap_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    rows: list[list[Any]] = []
    for name, run in zip(names, runs, strict=True):
        gap = run["gap"]
        if gap is None:
            rows.append([name, *[None] * 9])
            continue
        rows.append([
            name, f"{gap['candidate']} {gap['arm']}", f"{gap['score']:.4f}", gap["baseline"],
            f"{gap['baseline_score']:.4f}", f"{gap['difference']:+.4f}", f"{gap['sigmas']:+.1f}",
            f"{gap['low']:.1f} to {gap['high']:.1f}", f"{gap['luck']:.1f}", gap["trials"],
        ])  # fmt: skip
    heads = ["run", "best", "score", "best baseline", "score", "difference", "sigmas", "95 %", "luck", "trials"]
    text = report.table(heads, rows)
    if figures["sigmas"]:
        text += (
            f"\npooled: difference {_interval(figures['difference'], 4)}, in sigmas {_interval(figures['sigmas'], 1)}"
        )
    return text + "\nSearch scores, the best chosen by the score itself: partly luck, unconfirmed."


def _lift_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], over: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, arm, f"{lift['lift']:+.2f}", f"{lift['low']:+.2f} to {lift['high']:+.2f}", lift["candidates"],
         lift["controls"]]
        for name, run in zip(names, runs, strict=True)
        for arm, lift in run["lifts"].items()
    ]  # fmt: skip
    rows += [
        [f"pooled over {lift['runs']}", arm, f"{lift['lift']:+.2f}", f"{lift['low']:+.2f} to {lift['high']:+.2f}",
         lift["candidates"], lift["controls"]]
        for arm, lift in over.items()
    ]  # fmt: skip
    text = report.table(["run", "arm", "lift over random", "95 %", "candidates", "random"], rows)
    note = (
        "Lifts are differences in normal scores of the rank at the first rung, at equal learning rate. Inside one run"
    )
    return (
        f"{text}\n{note}\nnothing is independent: only the pooled interval, whose unit is the run, is to be believed."
    )


def _proposal_table(found: Mapping[str, Any]) -> str:
    rows = [[arm, count, 100 * found["admitted"][arm]] for arm, count in found["proposed"].items()]
    reasons = ", ".join(f"{reason} {count}" for reason, count in found["rejected"].items())
    return report.table(["arm", "proposed", "admitted %"], rows) + f"\nrejected: {reasons or 'none'}"


def _interval(found: Mapping[str, float], digits: int) -> str:
    return f"{found['mean']:+.{digits}f} ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.searches", description="What searches cost and find.")
    add = made.add_argument
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="folders of runs to read")
    which.add_argument("--seeds", type=int, nargs="+", metavar="N", help="search with each of these seeds first")
    add("--budget", type=int, default=200, metavar="N", help="of each search (200)")
    add("--space", default="mnist1d", metavar="SPACE", help="of each search (mnist1d)")
    add("--workers", type=int, metavar="N", help="of each search (one a core)")
    add("--results", type=Path, default=Path("results/runs/searches"), metavar="DIR",
        help="where the searches are kept (results/runs/searches)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or read the runs and print the figures; 2 if that cannot be done."""
    parsed = parser().parse_args(arguments)
    try:
        folders = parsed.runs or [parsed.results / f"seed-{seed}" for seed in parsed.seeds]
        for folder, seed in zip(folders, parsed.seeds or (), strict=False):
            asked = ["--space", parsed.space, "--budget", str(parsed.budget), "--seed", str(seed)]
            search_into(folder, *asked, *(["--workers", str(parsed.workers)] if parsed.workers else []))
        figures = figures_of(folders)
    except StoreError as error:
        print(f"benchmarks.searches: {error}", file=sys.stderr)
        return 2
    print(show(figures))
    if parsed.json:
        settings = {"runs": [run["run"] for run in figures["runs"]]}
        report.write(parsed.json, "searches", settings, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
