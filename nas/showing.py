"""What a model may be shown: from the history that a decision may use to the records of a prompt.

Everything here is a function of revealed outcomes, so that a repeated run asks the same questions. What is worth
showing is chosen here (parents' contrasts, the front, the lines of what was tried); how it is worded is the prompt's.
"""

from collections.abc import Collection, Sequence
from statistics import fmean, median

from nas.history import History, Known
from nas.judge.rungs import ranked
from nas.propose.prompt import FRONT, TRIED, Paused, Shown, Tried, View
from nas.records import Trial

STALLED = 5
"""A search has stalled when the last 1/`STALLED` of its candidates, at least `STALLED_LEAST`, brought no new best."""
STALLED_LEAST = 12


def view(
    history: History, parent: Known | None, *, kind: str, stream: int, number: int, notes: Sequence[str] = (),
    vetoed: Collection[int] = (),
) -> View:  # fmt: skip
    """What is shown to a model that proposes.

    Args:
      history: the search's memory.
      parent: whom to start from.
      kind: of change.
      stream: which of the parallel streams asks.
      number: how many proposals the stream has asked for.
      notes: from people.
      vetoed: candidates that are no parents.
    """
    sigma = history.sigma(0)
    ahead = [known for known in front(history) if known.candidate.id not in vetoed]
    return View(
        space=history.space,
        sigma=history.sigma(history.space.ladder.top) or None,
        baselines=[shown(history, known) for known in _baselines(history)],
        front=[shown(history, known) for known in ahead[:FRONT]],
        parent=shown(history, parent) if parent else None,
        contrasts=[shown(history, known) for known in _contrasts(history, parent, ahead)] if parent else (),
        tried=_tried(history, sigma),
        kind=kind,
        notes=tuple(notes),
        stream=stream,
        number=number,
        stalled=stalled(history),
    )


def shown(history: History, known: Known, trial: int | None = None) -> Shown:
    """A candidate with the curve of one of its trials, the one that got furthest if None."""
    space, facts, candidate = history.space, known.facts or {}, known.candidate
    sign = 1 if space.task.maximize else -1
    if trial is None:
        mine = [t for t in history.trials_of(candidate.id) if t.id in history.curves]
        best = max(mine, key=lambda t: _height(history, t, sign), default=None)
    else:
        best = history.trials[trial]
    curve = history.curves.get(best.id, []) if best else []
    rung = len(curve) - 1 if curve else None
    score = curve[-1].score if curve else None
    cost = facts.get("cost", {})
    return Shown(
        id=candidate.id,
        name=candidate.operator if candidate.arm == "baseline" else candidate.idea or candidate.operator,
        arm=candidate.arm,
        source=candidate.source,
        params=cost.get("params", 0),
        flops=cost.get("flops", 0),
        lr=best.recipe.get("lr") if best else None,
        rung=rung,
        score=score,
        sigmas=_sigmas(history, score, rung),
        curve=[(point.step, point.train_loss, point.loss, point.score) for point in curve],
        parts=curve[-1].parts if curve else {},
        profile=facts.get("profile", {}),
        parents=candidate.parents,
    )


def front(history: History) -> list[Known]:
    """Candidates that no other has both beaten and undercut in FLOPs, best first; baselines are shown elsewhere."""
    sign = 1 if history.space.task.maximize else -1
    able = [known for known in history.scored() if known.candidate.arm != "baseline"]

    def height(known: Known) -> tuple[int, float, int]:
        trials = [t for t in history.trials_of(known.candidate.id) if t.id in history.curves]
        rung, score = max((_height(history, t, sign) for t in trials), default=(-1, 0.0))
        return rung, score, -known.candidate.id

    kept: list[Known] = []
    cheapest = float("inf")
    for known in sorted(able, key=height, reverse=True):
        flops = (known.facts or {})["cost"]["flops"]
        if flops < cheapest:
            kept.append(known)
            cheapest = flops
    return kept


def paused(history: History, trials: Sequence[int], rung: int) -> list[Paused]:
    """Paused trials of a rung, as a forecaster is shown them."""
    space = history.space
    results = ranked(history.results[rung], space.task.maximize)
    scores = [result.score for result in results if result.score is not None]
    place = {result.trial: rank for rank, result in enumerate(results, 1)}
    found = []
    for trial in trials:
        known = history.known[history.trials[trial].candidate]
        parent = next((history.known[p] for p in known.candidate.parents if p in history.known), None)
        found.append(
            Paused(
                id=trial,
                shown=shown(history, known, trial),
                parent=shown(history, parent) if parent else None,
                rank=place[trial],
                of=len(results),
                best=scores[0],
                median=median(scores),
            )
        )
    return found


def stalled(history: History) -> bool:
    """Whether the last part of the candidates brought no new best score at the first rung."""
    sign = 1 if history.space.task.maximize else -1
    scored = [known for known in history.scored() if known.candidate.arm != "baseline"]
    bests = [sign * (history.best(known) or 0.0) for known in scored]
    last = max(STALLED_LEAST, len(bests) // STALLED)
    return len(bests) > 2 * last and max(bests[-last:]) <= max(bests[:-last])


def _height(history: History, trial: Trial, sign: int) -> tuple[int, float]:
    curve = history.curves[trial.id]
    return len(curve), sign * curve[-1].score


def _baselines(history: History) -> list[Known]:
    return [known for known in history.scored() if known.candidate.arm == "baseline"]


def _sigmas(history: History, score: float | None, rung: int | None) -> float | None:
    """How far a score is from the best baseline's mean at the same rung, in deviations between seeds."""
    if score is None or rung is None or not history.sigma(rung):
        return None
    sign = 1 if history.space.task.maximize else -1
    means = [sign * fmean(by_rung[rung]) for by_rung in history.baseline_scores.values() if by_rung[rung]]
    return (sign * score - max(means)) / history.sigma(rung) if means else None


def _contrasts(history: History, parent: Known, ahead: Sequence[Known]) -> list[Known]:
    """Two designs unlike the parent: that whose cost differs most, and the best that it is no kin of."""
    others = [known for known in ahead if known is not parent]
    if len(others) < 2:
        others += [known for known in _baselines(history) if known is not parent]
    flops = (parent.facts or {})["cost"]["flops"]
    found: list[Known] = []
    if others:
        found.append(max(others, key=lambda known: abs((known.facts or {})["cost"]["flops"] - flops)))
    kin = {parent.candidate.id, *parent.candidate.parents}
    strangers = [k for k in others if k not in found and not kin & {k.candidate.id, *k.candidate.parents}]
    return found + strangers[:1]


def _tried(history: History, sigma: float) -> list[Tried]:
    """What helped most, what hurt most, and what was rejected last, a third each."""
    gains: list[tuple[float, int, Known]] = []
    for known in history.scored():
        parents = [history.known[p] for p in known.candidate.parents if p in history.known]
        before = [history.best(parent) for parent in parents]
        after = history.best(known)
        told = [score for score in before if score is not None]
        if told and after is not None and sigma:
            sign = 1 if history.space.task.maximize else -1
            best = max(sign * score for score in told)
            gains.append(((sign * after - best) / sigma, known.candidate.id, known))
    gains.sort(key=lambda gain: (-gain[0], gain[1]))
    third = TRIED // 3
    picked = gains[: TRIED - 2 * third] + [gain for gain in gains[-third:] if gain not in gains[: TRIED - 2 * third]]
    lines = [
        Tried(idea=known.candidate.idea or known.candidate.operator, outcome=gain, why=known.candidate.operator)
        for gain, _, known in picked
    ]
    rejected = [
        (candidate, failure)
        for candidate, failure in history.failures.items()
        if failure.stage not in ("model", "machine") and history.known[candidate].candidate.idea
    ]
    for candidate, failure in rejected[-third:]:
        idea = history.known[candidate].candidate.idea
        lines.append(Tried(idea=idea, outcome=f"rejected ({failure.stage}/{failure.rule})", why=failure.message))
    return lines
