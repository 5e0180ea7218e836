"""How a task is carried out: the jobs behind a decision, one after another, and what came of them as plain data.

A flow decides nothing that the search could decide: it depends on its own task alone, so tasks may run in any order
and on any machine. Numbers, seeds and names of files are given to it.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from nas.admit import Admitted, Flow, admit
from nas.execute import Event, Job, Need
from nas.execute.local import PRELOAD as LOCAL_PRELOAD
from nas.judge.doubt import Doubt
from nas.llm import Request
from nas.records import Candidate, Failure, Point, Trial, Value, seed_of, to_plain
from nas.space import SearchSpace, SpaceError, load
from nas.store import Score, Store, StoreError, write_file
from nas.train.engine import plan, plan_to_plain

T = TypeVar("T")

PRELOAD = (
    *LOCAL_PRELOAD,
    "scipy.linalg",  # lowering an exported call looks LAPACK up there: a third of a second in every trainer
    "jax.interpreters.mlir",
    "jax.extend.mlir",
    "jaxlib.mlir.dialects.stablehlo",
    "nas.admit.trace",
    "nas.admit.program",
    "nas.admit.leaks",
    "nas.admit.skeleton",
    "nas.train.engine",
    "nas.train.job",
    "nas.train.interpret",
)
"""What a forkserver imports once, so that no job has to."""

Asking = Generator[Sequence[Job | Request], Sequence[Event], T]
"""A flow that also asks a model: a request's event holds an `Answer`."""

_OF_FILES = re.compile(r"SpaceError: |\w+: \[Errno \d+\] ")
"""How the errors of a trainer begin that are no candidate's: of its files, and of the space's data."""
TRAIN_TIMEOUT_S = 3600.0
UNANSWERED = ("error", "timeout", "memory", "lost", "cancelled")
"""Rules of the failure of a training that brought no answer, as events are called."""
_WRITTEN = {"checkpoints": "save", "test": "test"}
"""Folders of a run that a training writes into only if one of its trials says so, under this key."""
_BAD_ENDS = ("memory", "lost")
"""How a process ends that takes with it what it had measured, and soon: what ran to its limit is not tried again."""
TRAIN_MEMORY_BYTES = 8 << 30


def preload(space: SearchSpace) -> tuple[str, ...]:
    """Modules for the forkserver of this space: ours, and the space's own where it can be imported by name."""
    module = space.task.loss.__module__
    return PRELOAD if module.startswith("nas_space_") else (*PRELOAD, module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task came to.

    Attributes:
      facts: the candidate's program at its defaults, if this task admitted it.
      failure: why the task ended without scores.
      scores: measured points and failures of trials.
      programs: for trials at values other than the defaults, their program or failure.
      trials: trials that the task made up itself, from numbers it measured.
      candidate: what a model wrote, if the task asked for it; its last draft, if none was admitted.
      drafts: what the model wrote before and why it was rejected: `source` and `failure`.
      calls: what was asked of a model, in order: id, role, model, outcome.
      spent: what each of them cost: attempts, tokens, dollars.
      claims: what the model said of the candidate: its hypothesis, and what would refute it.
      forecasts: by trial the probability that a model gave it, and its reason.
    """

    facts: Mapping[str, Any] | None = None
    failure: Failure | None = None
    scores: Sequence[Score] = ()
    programs: Mapping[int, Mapping[str, Any]] | None = None
    trials: Sequence[Trial] = ()
    candidate: Candidate | None = None
    drafts: Sequence[Mapping[str, Any]] = ()
    calls: Sequence[Mapping[str, Any]] = ()
    spent: Sequence[Mapping[str, Any]] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    forecasts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and for what a run's tasks work.

    Attributes:
      reference: of the space.
      space: what it names.
      store: of the run.
      examples: in the validation split.
      accelerators: how many there are.
      platform: `cpu`, `cuda` or `tpu`.
      data: folder of the arrays that trainers map; None is the run's own.
      devices: accelerators (or, for tests, a CPU's pretended devices) over which one trial lays each batch.
    """

    reference: str
    space: SearchSpace
    store: Store
    examples: int
    accelerators: int = 0
    platform: str = "cpu"
    data: Path | None = None
    devices: int = 1

    def keep_program(self, admitted: Admitted) -> dict[str, Any]:
        """Write a program's artifacts where trainers find them, and decide how it is run."""
        import msgpack

        facts = dict(admitted.facts)
        path = self.store.program_path(facts["digest"])
        if not path.exists():
            write_file(path, msgpack.packb(dict(admitted.blobs)) or b"")
        traits, flops = frozenset(facts["traits"]), facts["cost"]["flops"]
        return facts | {"plan": plan_to_plain(plan(traits, flops, self.space, self.examples, self.platform))}


def admission(
    place: Place, slot: int, source: str, values: Mapping[str, Value], *, tag: str | None = None
) -> Flow[Outcome]:
    """Trace and check a candidate at its defaults; `tag` begins the ids of the jobs, the slot if None."""
    found = yield from admit(
        place.reference, source, values, platform=place.platform, tag=tag or f"{slot}", priority=slot
    )
    if isinstance(found, Failure):
        _check_space(place, found)
        return Outcome(failure=found)
    return Outcome(facts=place.keep_program(found))


def _check_space(place: Place, failure: Failure) -> None:
    """Whether a job failed for want of the space, whose data may have been moved; the job's own word is not believed.

    Raises:
      StoreError: the space cannot be loaded any more.
    """
    if failure.rule != "error" or "SpaceError" not in failure.message:
        return
    try:
        load(place.reference)
    except SpaceError as error:
        raise StoreError(f"{error}; bring it back, then --resume") from error


def first_rung(
    place: Place, slot: int, source: str, facts: Mapping[str, Any], at_defaults: bool, trials: Sequence[Trial],
    bar: Mapping[str, float] | None = None, doubt: Doubt | None = None,
) -> Flow[Outcome]:  # fmt: skip
    """Train draws of one candidate that share its own values, on one compiled program, to the first rung.

    In a space of several tasks, what is hopeless against `bar` (a score for each task) is left after some of them.
    What `doubt` strikes is trained again before it counts.
    """
    programs = None
    if not at_defaults:
        found = yield from admit(
            place.reference, source, trials[0].values, platform=place.platform, tag=f"{slot}", priority=slot
        )
        if isinstance(found, Failure):
            _check_space(place, found)
            return Outcome(failure=found, programs={trial.id: {"failure": to_plain(found)} for trial in trials})
        facts = place.keep_program(found)
        programs = {trial.id: {"program": facts} for trial in trials}
    scores = yield from _drawn(place, slot, facts, trials, bar)
    scores = yield from _believed(place, slot, facts, trials, scores, doubt)
    return Outcome(scores=scores, programs=programs)


def _drawn(
    place: Place, slot: int, facts: Mapping[str, Any], draws: Sequence[Trial], bar: Mapping[str, float] | None = None
) -> Flow[list[Score]]:
    """Train draws to the first rung: all in one process, and each in one of its own if that came to a bad end.

    Which of them it was cannot be known then, and the others shall not fail for it.
    """
    (event,) = yield [_training(place, slot, "first", facts, draws, -1, (0,), keep=True, bar=bar)]
    if len(draws) == 1 or event.kind not in _BAD_ENDS:
        return _scores(place, slot, event, draws, (0,))
    alone = [_training(place, slot, f"first{d.id}", facts, [d], -1, (0,), keep=True, bar=bar) for d in draws]
    events = yield alone
    return [one for d, ended in zip(draws, events, strict=True) for one in _scores(place, slot, ended, [d], (0,))]


def promotion(
    place: Place, slot: int, facts: Mapping[str, Any], trial: Trial, rung: int, doubt: Doubt | None = None
) -> Flow[Outcome]:
    """Train one paused trial to a rung, from its checkpoint of the rung below; `doubt` as in `first_rung`."""
    (event,) = yield [_training(place, slot, "next", facts, [trial], rung - 1, (rung,), keep=True)]
    scores = _scores(place, slot, event, [trial], (rung,))
    scores = yield from _believed(place, slot, facts, [trial], scores, doubt)
    return Outcome(scores=scores)


def _believed(
    place: Place, slot: int, facts: Mapping[str, Any], trials: Sequence[Trial], scores: Sequence[Score],
    doubt: Doubt | None,
) -> Flow[list[Score]]:  # fmt: skip
    """The scores, after those that are too good to be believed at once have been trained again with other data.

    One that comes again is kept, and marked with what it came to; one that does not is a failure of its trial.
    """
    doubted = [s for s in scores if doubt is not None and s.point is not None and doubt.strikes(s.point.score)]
    if not doubted or doubt is None:
        return list(scores)
    by_id, rung = {trial.id: trial for trial in trials}, doubted[0].rung
    again = [replace(by_id[score.trial], seed=seed_of(f"again {by_id[score.trial].seed} {rung}")) for score in doubted]
    job = _training(place, slot, "again", facts, again, -1, (rung,), keep=False, other_data=True)
    (event,) = yield [job]
    second = {score.trial: score for score in _scores(place, slot, event, again, (rung,))}
    return [_settled(score, second[score.trial], doubt) if score in doubted else score for score in scores]


def _settled(first: Score, second: Score, doubt: Doubt) -> Score:
    """What a doubted score counts: only what was measured speaks against it, and no job that brought no answer."""
    assert first.point is not None
    if second.failure is not None and second.failure.rule in UNANSWERED:
        failure = replace(second.failure, blame="machine")
        return replace(first, point=None, failure=failure, losses=())
    if second.point is not None and doubt.settled(second.point.score):
        return replace(first, point=replace(first.point, again=second.point.score))
    came = f"{second.point.score:.4g}" if second.point is not None else str(second.failure)
    message = (
        f"a score of {first.point.score:.4g} is too good to be believed at once (beyond {doubt.beyond:.4g}); trained "
        f"again, with other data, it came to {came}, so it does not count"
    )
    failure = Failure(stage="train", rule="too_good", message=message)
    return replace(first, point=None, failure=failure, losses=())


def baseline(
    place: Place, slot: int, source: str, values: Mapping[str, Value], draws: Sequence[Trial],
    more_seeds: Callable[[Trial], Sequence[Trial]],
) -> Flow[Outcome]:  # fmt: skip
    """Admit a baseline, give it as many draws as a candidate, and train the best with several seeds to the top.

    Args:
      place: the run.
      slot: the task's place.
      source: the baseline's text.
      values: its own values.
      draws: its trials at the first rung.
      more_seeds: makes the trials that repeat the best draw with other seeds.
    """
    admitted = yield from admission(place, slot, source, values)
    if admitted.facts is None:
        return admitted
    facts, ladder = admitted.facts, place.space.ladder
    scores = yield from _drawn(place, slot, facts, draws)
    sign = 1 if place.space.task.maximize else -1
    scored = [score for score in scores if score.point is not None]
    if not scored:
        return Outcome(facts=facts, scores=scores, failure=scores[0].failure)
    best = max(scored, key=lambda score: (sign * score.point.score if score.point else 0.0, -score.trial))
    chosen = next(trial for trial in draws if trial.id == best.trial)
    others = more_seeds(chosen)
    above, every = range(1, ladder.top + 1), range(ladder.top + 1)
    jobs = [_training(place, slot, f"top{other.id}", facts, [other], -1, every, keep=False) for other in others]
    if ladder.top:
        jobs.insert(0, _training(place, slot, "top", facts, [chosen], 0, above, keep=False))
    events = list((yield jobs)) if jobs else []
    if ladder.top:
        scores += _scores(place, slot, events.pop(0), [chosen], above)
    for other, ended in zip(others, events, strict=True):
        scores += _scores(place, slot, ended, [other], every)
    return Outcome(facts=facts, scores=scores, trials=others)


def _training(
    place: Place, slot: int, name: str, facts: Mapping[str, Any], trials: Sequence[Trial], below: int,
    rungs: Sequence[int], *, keep: bool, bar: Mapping[str, float] | None = None, other_data: bool = False,
) -> Job:  # fmt: skip
    """A job that trains trials from rung `below` (-1: from the start) through `rungs`."""
    steps, store = place.space.ladder.steps, place.store
    return training(
        place, f"{slot}.{name}", facts, [steps[rung] for rung in rungs],
        [
            {
                "id": trial.id,
                "seed": trial.seed,
                "lr": trial.recipe["lr"],
                "wd": trial.recipe["wd"],
                "load": [(str(store.checkpoint_path(trial.id, rung)), steps[rung]) for rung in range(below, -1, -1)],
                "save": str(store.checkpoint_path(trial.id, rungs[-1])) if keep else None,
                **({"bar": dict(bar)} if bar else {}),
            }
            for trial in trials
        ],
        start=steps[below] if below >= 0 else 0, priority=slot, other_data=other_data,
    )  # fmt: skip


def training(
    place: Place, name: str, facts: Mapping[str, Any], stops: Sequence[int], trials: Sequence[Mapping[str, Any]], *,
    start: int = 0, priority: int = 0, other_data: bool = False,
) -> Job:  # fmt: skip
    """A job that trains one program: see `nas.train.job.train_job` for `stops`, `trials`, `start`, `other_data`."""
    store = place.store
    payload = {
        "space": place.reference,
        "program": str(store.program_path(facts["digest"])),
        "digest": facts["digest"],
        "param_leaves": facts["param_leaves"],
        "how": dict(facts["plan"]),
        "data": str(place.data or store.folder / "data"),
        "cache": None if other_data else str(store.folder / "cache"),
        "start": start,
        "stops": list(stops),
        "trials": [dict(trial) for trial in trials],
        **({"devices": place.devices} if place.devices > 1 else {}),
        **({"other_data": True} if other_data else {}),
    }
    folders = ["cache", *(part for part, key in _WRITTEN.items() if any(trial.get(key) for trial in trials))]
    need = Need(cpus=1, accelerators=min(place.devices, place.accelerators), memory_bytes=TRAIN_MEMORY_BYTES)
    return Job(
        id=name, entry="nas.train.job:train_job", payload=payload, need=need,
        timeout_s=TRAIN_TIMEOUT_S, attempts=3, priority=priority, writable=store.folders_of_trainers(folders),
    )  # fmt: skip


def _scores(place: Place, slot: int, event: Event, trials: Sequence[Trial], rungs: Sequence[int]) -> list[Score]:
    """What a training job measured, as rows; a job without an answer is a failure of every trial in it."""
    failure = without_answer(event)
    if failure is not None:
        return [Score(trial=t.id, rung=rungs[0], slot=slot, point=None, failure=failure) for t in trials]
    rows = []
    for trial, result in zip(trials, event.result["trials"], strict=True):
        for rung, (point, losses) in zip(rungs, result["points"], strict=False):
            rows.append(Score(trial=trial.id, rung=rung, slot=slot, point=Point(**point), failure=None, losses=losses))
        if "failure" in result:
            reached = rungs[len(result["points"])]
            failed = Failure(**result["failure"])
            rows.append(Score(trial=trial.id, rung=reached, slot=slot, point=None, failure=failed))
    return rows


def without_answer(event: Event) -> Failure | None:
    """Why a training job brought no answer; None if it did.

    Raises:
      StoreError: its files or the space's data could not be used: a full or broken disk is nobody's failure.
    """
    if event.kind == "done":
        return None
    if event.kind == "error" and _OF_FILES.match(event.error):
        raise StoreError(f"a trainer could not use its files ({event.error}); see to it, then --resume")
    blame = "candidate" if event.kind in ("error", "timeout", "memory") else "machine"
    text = f"training ended with {event.kind}: {event.error[:300] or 'no further word'}"
    return Failure(stage="train", rule=event.kind, message=text, blame=blame)
