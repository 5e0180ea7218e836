"""The data contract of the page: everything that it shows of a run, as plain data that JSON can hold.

In goes what `nas.standings.read` read; out comes a dict with sorted, rounded, finite content, a function of the store
alone. Text that anybody may have written is stripped of control and invisible characters here, and is shown as text
there. The table of the leaderboard is described by its columns, so a further column needs no change of the page:

    contract     version of this form
    run          name, space, metric, ladder, budget, versions, machine
    state        summary, notices (what a reader must know before the figures), open_tasks, unreadable
    totals       proposed, rejected, spent, trials, cpu_s
    confirmed    what fresh seeds and the test split say of the best candidate and the best baseline; null before
    columns      of the leaderboard: key, heading, title, kind (see `Column`), digits
    rows         of the leaderboard, best first: values by column key, and `candidate`
    references   by rung the best baseline, or null
    progress     results in the order of decisions: [trial, candidate, rung, score, record]
    fronts       by rung and measure: ids of the candidates on the front
    sizes        by rung and measure: size of each candidate's best trial there, by id
    areas        by rung and measure: what the front dominates, whenever it grew
    proxies      for each pair of rungs: how well the lower orders trials, and what a cut there loses
    candidates   each with idea, origin, verdict, cost, trials with curves, what its writer claimed
    ladder, rejected, failed, arms, promoted_by, forecasts, cost, stages, messages
    sources      text by candidate; the last ones are left out where all are too large, see `SOURCES_BYTES`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Any

from nas.confirmed import by_candidate, claim
from nas.judge import forecast
from nas.judge.proxy import Proxy, sentence
from nas.leaderboard import UNCONFIRMED, doubted, summary, unlocked
from nas.progress import one_line, readable
from nas.records import Failure, Trial, to_plain
from nas.report import figures
from nas.spending import evidence
from nas.standings import MEASURES, Arm, Board, Front, Records, Row, board, by_rung, cut, untraced
from nas.store import Entry, Score, Task

CONTRACT = 1
"""Raised when a key of the snapshot changes its meaning or goes; further keys do not raise it."""
SOURCES_BYTES = 1_500_000
"""Most bytes of sources on a page: those of the best rows first, then the newest. The run's folder has them all."""
LOSSES = 48
"""Most points of a trial's training loss at one rung; neighbours are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the leaderboard on the page.

    Attributes:
      key: of the rows' values.
      heading: as short as can be.
      title: what it means, in a sentence.
      kind: `candidate` (an id, a link), `candidates` (several), `text`, `rung` (an index), `count` (a whole number,
        shortened), `number` (with `digits`), `time` (the same, whole from 1,000 on), `signed` (with its sign), `real`
        (three significant digits), `range` ([first, last]), `estimate` ([value, standard error or null], with
        `digits`), `change` (the same, signed).
      digits: after the point.
    """

    key: str
    heading: str
    title: str
    kind: str = "text"
    digits: int = 0


def snapshot(records: Records) -> dict[str, Any]:
    """Everything that the page shows of a run; see the module's docstring."""
    made = board(records)
    scores = by_rung(records)
    config = records.config
    rows = [_row(row, made) | _told_again(made, row.candidate) for row in made.rows]
    return _finite(
        {
            "contract": CONTRACT,
            "run": _run(config),
            "state": _state(records, made),
            "totals": _totals(records, made),
            "confirmed": _confirmed(made),
            "columns": [to_plain(column) for column in columns(config, made.costs.device, rows)],
            "rows": rows,
            "references": [_reference(made, rung) for rung in range(len(config["ladder"]["steps"]))],
            "progress": [[s.trial, s.candidate, s.rung, s.score, s.record] for s in figures.progress(records)],
            "fronts": _fronts(made),
            "sizes": _sizes(made),
            "areas": [_area(one) for one in made.front],
            "proxies": [_proxy(one, made) for one in made.proxy],
            "candidates": _candidates(records, made, scores),
            "ladder": to_plain(figures.ladder(records)),
            "rejected": [_reason(one) for one in figures.rejections(records)],
            "failed": [_reason(one) for one in figures.failures(records)],
            "arms": [_arm(arm) for arm in made.arms],
            "promoted_by": figures.promoted_by(records),
            "forecasts": _forecasts(records),
            "cost": _cost(records, made),
            "stages": figures.stages(records),
            "messages": [_message(message) for message in made.messages],
            "sources": _sources(records, made.rows),
        }
    )


def unreadable(config: Mapping[str, Any], message: str) -> dict[str, Any]:
    """The snapshot of a run that this version cannot read: its configuration, and why."""
    steps = (config.get("ladder") or {}).get("steps", [])
    known = {"space_name": "?", "space_version": "?", "metric": "score", "maximize": True, "decimals": 4, "budget": 0}
    full = known | dict(config) | {"ladder": {"steps": steps, "eta": 0, "draws": 0} | (config.get("ladder") or {})}
    empty = Records(config=full, tasks=(), entries=(), trials=(), scores=())
    plain = snapshot(empty)
    told = {"summary": "this run cannot be shown", "notices": [one_line(message)], "unreadable": True}
    return plain | {"state": plain["state"] | told}


_ALWAYS = ("rank", "candidate", "name", "arm", "rung", "score", "error", "seeds", "delta", "params", "flops", "parents")
"""Columns that are there whatever the rows hold; others only if a row has something there."""


def columns(config: Mapping[str, Any], device: str, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The leaderboard's columns, what decides first: of the confirmation, of the search, then the details of both.

    Args:
      config: of the run.
      device: on which times were measured.
      rows: that the columns are for.
    """
    digits = config["decimals"]
    score = f"{config['metric']} on validation, {'higher' if config['maximize'] else 'lower'} is better; {UNCONFIRMED}"
    found = [
        Column(key="rank", heading="#", title="place: a higher rung comes before a better score", kind="number"),
        Column(key="candidate", heading="id", title="candidate; opens its page", kind="candidate"),
        Column(key="name", heading="idea or name", title="first words of its docstring; of a baseline its name"),
        Column(key="arm", heading="arm", title="who wrote it"),
        Column(key="claim", heading="claim", title="better than every baseline on test, after Holm over the finalists"),
        Column(
            key="test", heading="test", kind="estimate", digits=digits,
            title="mean on the test split over fresh seeds ± standard error",
        ),
        Column(key="rung", heading="rung", title="highest rung with a score, in training steps", kind="rung"),
        Column(key="score", heading="score", title=score, kind="number", digits=digits),
        Column(
            key="again", heading="again", kind="number", digits=digits,
            title="score of a second training with other data, as the first was too good to be believed at once",
        ),
        Column(
            key="delta", heading="Δσ", kind="signed", digits=1,
            title="better than the best baseline at the same rung by so many σ of a seed",
        ),
        Column(key="params", heading="params", title="trainable numbers of the trial", kind="count"),
        Column(key="flops", heading="FLOPs", title="of an inference on one example, of the trial", kind="count"),
        Column(
            key="step_us", heading="step, µs", kind="time", digits=1,
            title=f"time of a training step at the best trial's values, fastest of several, on {device}",
        ),
        Column(key="places", heading="places", title="that the test score allows: all pairs, after Holm", kind="range"),
        Column(
            key="fresh", heading="fresh val", kind="estimate", digits=digits,
            title="mean on validation over fresh seeds ± standard error",
        ),
        Column(key="fresh_seeds", heading="seeds", title="fresh seeds that finished", kind="number"),
        Column(
            key="luck", heading="luck", kind="change", digits=digits,
            title="score of the search minus fresh validation ± standard error",
        ),
        Column(
            key="reuse", heading="reuse", kind="change", digits=digits,
            title="validation minus test, less the baselines' mean of the same, ± standard error",
        ),
        Column(
            key="match", heading="match", kind="number", digits=2,
            title="training FLOPs until the best baseline's score is reached, over that baseline's own",
        ),
        Column(
            key="inference_us", heading="infer, µs", kind="time", digits=2,
            title=f"time of one example in a large batch, fastest of several, on {device}",
        ),
        Column(
            key="error", heading="±", title="standard error of a baseline's mean, σ/√n", kind="number", digits=digits
        ),
        Column(key="seeds", heading="n", title="seeds that the score is the mean of", kind="number"),
        Column(key="lr", heading="lr", title="learning rate of the trial", kind="real"),
        Column(key="used_s", heading="used, s", title="seconds its jobs held a worker", kind="time", digits=1),
        Column(key="usd", heading="$", title="of the calls that wrote it", kind="number", digits=4),
        Column(key="parents", heading="parents", title="what it was made from", kind="candidates"),
    ]  # fmt: skip
    return [one for one in found if one.key in _ALWAYS or any(row.get(one.key) is not None for row in rows)]


# ---- the run


def _run(config: Mapping[str, Any]) -> dict[str, Any]:
    machine, ladder = config.get("machine") or {}, config["ladder"]
    where = [machine.get("system"), machine.get("processor"), machine.get("device")]
    model = config.get("model") or {}
    return {
        "name": one_line(str(config.get("name", "without a name"))),
        "space": f"{config['space_name']}@{config['space_version']}",
        "metric": one_line(config["metric"]),
        "tasks": [one_line(name) for name in config.get("parts", ())],
        "maximize": config["maximize"],
        "decimals": config["decimals"],
        "steps": list(ladder["steps"]),
        "eta": ladder.get("eta"),
        "draws": ladder.get("draws"),
        "budget": config["budget"],
        "seed": config.get("seed"),
        "created": config.get("created"),
        "model": one_line(str(model["model"])) if model.get("model") else None,
        "versions": {name: str(version) for name, version in sorted((config.get("versions") or {}).items())},
        "machine": " · ".join(one_line(str(part)) for part in where if part),
        "workers": machine.get("workers"),
    }


def _state(records: Records, made: Board) -> dict[str, Any]:
    return {
        "summary": one_line(summary(made)),
        "label": _label(made),
        "notices": notices(records, made),
        "open_tasks": made.open_tasks,
        "unreadable": False,
    }


def _label(made: Board) -> str:
    """What may be believed of the scores."""
    if not made.confirmed:
        return UNCONFIRMED
    ours = sum(one.belief.claim is not None for one in made.confirmed)
    again = f"{ours} candidate{'s' * (ours != 1)} and {len(made.confirmed) - ours} baselines"
    return f"{again} were trained again with fresh seeds and scored on the test split; all else is {UNCONFIRMED}"


def _confirmed(made: Board) -> dict[str, Any] | None:
    """The best candidate and the best baseline on the test split; None before a confirmation."""
    if not made.confirmed:
        return None
    ours = [one for one in made.confirmed if one.belief.test and one.row.arm != "baseline"]
    against = [one for one in made.confirmed if one.belief.test and one.row.arm == "baseline"]
    best = next((one for one in ours if one.belief.claim and one.belief.claim.claimed), ours[0] if ours else None)
    return {
        "best": best and _told_again(made, best.row.candidate) | {"candidate": best.row.candidate},
        "baseline": _told_again(made, against[0].row.candidate) | {"name": against[0].row.name} if against else None,
    }


def _told_again(made: Board, candidate: int) -> dict[str, Any]:
    """What fresh seeds and the test split say of a candidate; nothing if it was not trained again."""
    one = by_candidate(made).get(candidate)
    if one is None:
        return {}
    belief = one.belief
    estimates = {"test": belief.test, "fresh": belief.validation, "luck": belief.luck, "reuse": belief.split_reuse}
    told = {key: [found.value, found.error] if found else None for key, found in estimates.items()}
    places = list(belief.rank) if belief.rank else None
    found = made.matches.get(candidate)
    told |= {"match": found and found.ratio, "inference_us": _micro(made.costs.of(candidate).inference_s)}
    return told | {"claim": claim(belief), "places": places, "fresh_seeds": belief.seeds}


def notices(records: Records, made: Board) -> list[str]:
    """What a reader must know before the figures: that a run is empty, unfinished, or without anything to compare."""
    if not records.tasks:
        return ["This run has decided nothing yet: there is nothing to show."]
    told = [*unlocked(made.messages), *(f"{text[0].upper()}{text[1:]}." for text in doubted(made))]
    if made.open_tasks:
        verb = "task is" if made.open_tasks == 1 else "tasks are"
        told.append(f"Not finished: {made.open_tasks} {verb} running or cut off, so all figures may still change.")
    ours = [entry for entry in records.entries if entry.candidate.arm != "baseline"]
    ids = {entry.candidate.id for entry in ours}
    trials = {trial.id for trial in records.trials if trial.candidate in ids}
    ended = [score for score in records.scores if score.trial in trials]
    finished = {score.trial for score in ended if score.point is not None and math.isfinite(score.point.score)}
    rejected = sum(entry.failure is not None for entry in ours)
    if ours and rejected == len(ours):
        told.append(f"Each of the {rejected} proposals was rejected: no candidate has been trained.")
    elif not finished and ended:
        told.append(f"No trial of a candidate has a score: all {len(ended)} that ended failed.")
    elif not finished:
        told.append("No trial of a candidate has finished yet.")
    elif len(finished) == 1:
        told.append("One trial of a candidate has finished: there is nothing to choose from and nothing to compare.")
    if finished and not made.references:
        told.append("No baseline has scores from several seeds, so nothing says how far a score moves by chance.")
    return told


def _totals(records: Records, made: Board) -> dict[str, Any]:
    ours = [entry for entry in records.entries if entry.candidate.arm != "baseline"]
    return {
        "proposed": len(ours),
        "rejected": sum(entry.failure is not None for entry in ours),
        "spent": made.spent,
        "baselines": len(records.entries) - len(ours),
        "trials": made.trials,
        "cpu_s": round(made.cpu_s, 1),
    }


def _row(row: Row, made: Board) -> dict[str, Any]:
    cost = made.costs.of(row.candidate)
    usd = None if cost.usd is None else float(round(cost.usd, 6))
    spent = {"step_us": _micro(cost.step_at(row.values)), "used_s": round(cost.device_s, 1), "usd": usd}
    kept = ("rank", "candidate", "name", "arm", "rung", "score", "again", "error", "seeds", "delta", "params", "flops",
            "lr")  # fmt: skip
    return {key: getattr(row, key) for key in kept} | spent | {"parents": list(row.parents), "trial": row.trial}


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e6 * seconds, 3)


def _reference(made: Board, rung: int) -> dict[str, Any] | None:
    against = made.references.get(rung)
    if against is None:
        return None
    return {
        "name": against.name, "score": against.score, "error": against.error, "seeds": against.seeds,
        "sigma": against.noise.sigma, "degrees": against.noise.degrees,
    }  # fmt: skip


def _sizes(made: Board) -> list[dict[str, dict[str, float]]]:
    found = {(one.rung, one.measure): {str(c): size for c, size in one.sizes.items()} for one in made.front}
    rungs = range(len(made.config["ladder"]["steps"]))
    return [{measure: found.get((rung, measure), {}) for measure in MEASURES} for rung in rungs]


def _fronts(made: Board) -> list[dict[str, list[int]]]:
    found = {(one.rung, one.measure): list(one.candidates) for one in made.front}
    return [{m: found.get((rung, m), []) for m in MEASURES} for rung in range(len(made.config["ladder"]["steps"]))]


def _area(one: Front) -> dict[str, Any]:
    return {
        "rung": one.rung, "measure": one.measure, "reference": list(one.reference), "baselines": one.baselines,
        "growth": [list(step) for step in one.growth], "results": one.results,
    }  # fmt: skip


def _proxy(one: Proxy, made: Board) -> dict[str, Any]:
    told = sentence(one, made.config["ladder"]["steps"], cut(made.config))
    return to_plain(one) | {"verdict": one.verdict, "sentence": told}


def _arm(arm: Arm) -> dict[str, Any]:
    return to_plain(arm) | {"lift": to_plain(arm.lift) | {"shown": arm.lift.shown} if arm.lift else None}


def _reason(one: figures.Reason) -> dict[str, Any]:
    return {
        "reason": one_line(one.reason), "count": one.count, "example": one_line(one.example),
        "candidates": list(one.candidates),
    }  # fmt: skip


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or {}
    text = str(content.get("text") or content.get("candidate", ""))
    return {
        "kind": one_line(str(message.get("kind"))), "author": one_line(str(message.get("author"))),
        "time": one_line(str(message.get("time"))), "text": one_line(text)[:500],
    }  # fmt: skip


# ---- candidates


def _candidates(records: Records, made: Board, scores: Mapping[int, Sequence[float | None]]) -> list[dict[str, Any]]:
    steps = {row.candidate: _micro(made.costs.of(row.candidate).step_at(row.values)) for row in made.rows}
    tasks = {task.slot: task for task in records.tasks}
    at_values, decisions = untraced(records.tasks), _promotions(records.tasks)
    told = _told(records.tasks)
    curves: dict[int, list[Score]] = {}
    for score in records.scores:
        curves.setdefault(score.trial, []).append(score)
    trials: dict[int, list[dict[str, Any]]] = {}
    for trial in records.trials:
        plain = _trial(trial, curves.get(trial.id, ()), at_values.get(trial.id), records.config["ladder"]["steps"])
        plain["promoted"] = decisions.get(trial.id, [])
        plain["forecasts"] = told.get(trial.id, [])
        trials.setdefault(trial.candidate, []).append(plain)
    return [
        _candidate(entry, tasks.get(entry.slot), trials.get(entry.candidate.id, []), scores.get(entry.candidate.id))
        | {"step_us": steps.get(entry.candidate.id)}
        for entry in records.entries
    ]


def _candidate(
    entry: Entry, task: Task | None, trials: list[dict[str, Any]], scores: Sequence[float | None] | None
) -> dict[str, Any]:
    candidate, facts = entry.candidate, entry.program or {}
    outcome, usage = (task.outcome or {}, task.usage or {}) if task else ({}, {})
    costs = [call["usd"] for call in usage.get("calls", ())]
    name = candidate.operator if candidate.arm == "baseline" else candidate.idea or candidate.operator
    return {
        "id": candidate.id,
        "name": one_line(name) or "(no idea given)",
        "idea": "\n".join(one_line(line) for line in candidate.idea.splitlines()).strip(),
        "arm": one_line(candidate.arm),
        "operator": one_line(candidate.operator),
        "parents": list(candidate.parents),
        "status": _status(entry, trials, scores),
        "failure": _failure(entry.failure),
        "scores": list(scores) if scores else [],
        "cost": dict(facts.get("cost", {})),
        "profile": {one_line(kind): share for kind, share in facts.get("profile", {}).items()},
        "traits": list(facts.get("traits", ())),
        "fingerprint": str(facts.get("fingerprint", ""))[:12],
        "tunables": {one_line(name): _described(to_plain(t)) for name, t in candidate.tunables.items()},
        "claims": {one_line(key): one_line(text) for key, text in outcome.get("claims", {}).items() if text},
        "drafts": [one_line(str(Failure(**draft["failure"]))) for draft in outcome.get("drafts", ())],
        "calls": len(costs),
        "usd": str(sum(map(Decimal, costs))) if costs and None not in costs else None,
        "trials": trials,
    }


def _status(entry: Entry, trials: Sequence[Mapping[str, Any]], scores: Sequence[float | None] | None) -> str:
    """`rejected`, `pending` (not admitted yet), `waiting` (for its first score), `failed` or `scored`."""
    if scores is not None and any(score is not None for score in scores):
        return "scored"
    if entry.failure is not None:
        return "rejected"
    if entry.program is None:
        return "pending"
    return "failed" if trials and all(trial["failure"] for trial in trials) else "waiting"


def _described(tunable: Mapping[str, Any]) -> str:
    if tunable["kind"] == "choice":
        return "one of " + ", ".join(one_line(str(option)) for option in tunable["options"])
    kind = "whole number" if tunable["kind"] == "integer" else "number"
    return f"{kind} from {tunable['low']:g} to {tunable['high']:g}{', on a log scale' if tunable['log'] else ''}"


def _trial(trial: Trial, scores: Sequence[Score], failure: Failure | None, steps: Sequence[int]) -> dict[str, Any]:
    """A trial with its points [rung, step, training loss, loss, score] and its training losses [from, to, losses].

    Where a space has several tasks, `tasks` has their scores by task, [rung, scores]; those that were left are missing.
    """
    points, losses, tasks = [], [], []
    for score in sorted(scores, key=lambda score: score.rung):
        failure = score.failure or failure
        if score.point is not None:
            point = score.point
            points.append([score.rung, point.step, _round(point.train_loss), _round(point.loss), _round(point.score)])
            if point.parts:
                tasks.append([score.rung, {one_line(name): _round(value) for name, value in point.parts.items()}])
            begin = steps[score.rung - 1] if score.rung else 0
            if score.losses:
                losses.append([begin, point.step, [_round(loss, 4) for loss in thinned(score.losses, LOSSES)]])
    return {
        "id": trial.id,
        "arm": one_line(trial.arm),
        "recipe": {one_line(k): _round(v) for k, v in trial.recipe.items()},
        "values": {one_line(k): one_line(v) if isinstance(v, str) else _round(v) for k, v in trial.values.items()},
        "seed": trial.seed,
        "points": points,
        "losses": losses,
        "tasks": tasks,
        "failure": _failure(failure),
    }


def thinned(losses: Sequence[float], most: int) -> list[float]:
    """At most so many numbers in equal distances: means of neighbours."""
    if len(losses) <= most:
        return list(losses)
    borders = [round(i * len(losses) / most) for i in range(most + 1)]
    return [fmean(losses[low:high]) for low, high in zip(borders, borders[1:], strict=False)]


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "reason": one_line(f"{failure.stage}/{failure.rule}"), "message": one_line(failure.message),
        "line": failure.line, "blame": failure.blame,
    }  # fmt: skip


def _promotions(tasks: Sequence[Task]) -> dict[int, list[dict[str, Any]]]:
    """By trial: to which rung it was sent on, and whose choice it was."""
    found: dict[int, list[dict[str, Any]]] = {}
    for task in tasks:
        if task.kind == "promote":
            told = {"rung": task.decision["rung"], "why": figures.why(task.decision)}
            found.setdefault(task.decision["trial"], []).append(told)
    return found


def _told(tasks: Sequence[Task]) -> dict[int, list[dict[str, Any]]]:
    """By trial: what a model forecast of it, at which rung and why."""
    found: dict[int, list[dict[str, Any]]] = {}
    for task in tasks:
        for trial, one in ((task.outcome or {}).get("forecasts") or {}).items():
            told = {"rung": task.decision["rung"], "probability": one["probability"], "why": one_line(one["why"])}
            found.setdefault(int(trial), []).append(told)
    return found


def _sources(records: Records, rows: Sequence[Row]) -> dict[str, str]:
    texts = {entry.candidate.id: readable(entry.candidate.source).rstrip() for entry in records.entries}
    ranked = [row.candidate for row in rows]
    order = ranked + sorted(set(texts) - set(ranked), reverse=True)
    kept, left = [], SOURCES_BYTES
    for candidate in order:
        left -= len(texts[candidate].encode())
        if left < 0:
            break
        kept.append(candidate)
    return {str(candidate): texts[candidate] for candidate in sorted(kept)}


# ---- the model


def _forecasts(records: Records) -> dict[str, Any] | None:
    """How good the forecasts were, over all rungs first; None if there were none."""
    count = sum(len((task.outcome or {}).get("forecasts") or ()) for task in records.tasks)
    if not count:
        return None
    resolved = evidence(records.tasks, records.scores, maximize=records.config["maximize"])
    found = forecast.calibration(resolved)
    order = sorted(found, key=lambda rung: -1 if rung is None else rung)
    return {"asked": count, "calibration": [{"rung": rung} | to_plain(found[rung]) for rung in order]}


def _cost(records: Records, made: Board) -> dict[str, Any] | None:
    """What the model cost and brought; None if none was asked."""
    spent = made.spending
    if spent is None:
        return None
    return {
        "calls": dict(spent.calls),
        "usd": {role: str(amount) for role, amount in sorted(spent.usd.items())},
        "total_usd": str(spent.total_usd),
        "limit_usd": (records.config.get("model") or {}).get("max_usd"),
        "open_usd": str(spent.open_usd),
        "over": [[slot, float(usd)] for slot, usd in figures.dollars(records)],
        "prompt_tokens": spent.prompt_tokens,
        "cached_tokens": spent.cached_tokens,
        "output_tokens": spent.output_tokens,
        "drafts": spent.drafts,
        "candidates": spent.candidates,
        "improvements": spent.improvements,
        "forecasts": spent.forecasts,
        "by_model": spent.by_model,
        "weights": [list(pair) for pair in spent.weights],
    }


# ---- numbers


def _round(number: Any, digits: int = 6) -> Any:
    """A number with as many significant digits as mean something; whatever else as it is."""
    return float(f"{number:.{digits}g}") if isinstance(number, float) and math.isfinite(number) else number


def _finite(plain: Any) -> Any:
    """The same with every float rounded, and null for those that JSON cannot hold."""
    if isinstance(plain, Mapping):
        return {key: _finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_finite(value) for value in plain]
    return (_round(plain) if math.isfinite(plain) else None) if isinstance(plain, float) else plain
