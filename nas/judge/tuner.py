"""Tuner: draws the numbers of every trial with Optuna's multivariate TPE. The only module that imports Optuna.

In go the tunables of the recipe and of a candidate, and scores at rungs; out come values. The study lives in memory and
is a function of the calls made, in their order: our store keeps every drawn number, and a resumed run makes the same
calls with all numbers given, after which the tuner continues bit for bit. `sync` writes the study out for
optuna-dashboard; nothing reads that copy back.

One Optuna trial stands for one trial at one rung, since Optuna cannot resume: a pause is told as PRUNED with the score
reported, a promotion is a new Optuna trial with the same values, the top rung is COMPLETE. TPE ranks COMPLETE before
PRUNED, and PRUNED by (last step, score), so a score at a low rung never passes for one at a high rung. Two
consequences. A crash is told as PRUNED without any report, which ranks last (FAIL would be invisible to TPE); scores of
lower rungs are therefore reported only when a rung is reached. And what is trained to the top whatever its score, as
baselines and further seeds are, is told up to the first rung only, or its numbers would count as good ones.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import TPESampler
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.records import Choice, Integer, Real, Tunable, Value

RECIPE = "train"
"""Prefix of the recipe's parameters in the study; those of candidate 7 have the prefix `c7`."""

Space = dict[str, BaseDistribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Numbers for one trial.

    Attributes:
      number: of the Optuna trial, from 0; what `tell` and `promote` take.
      values: values of the candidate's own tunables.
      recipe: values of the training tunables.
    """

    number: int
    values: Mapping[str, Value]
    recipe: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class _Open:
    """An Optuna trial that runs, and the scores that its earlier rungs had by step."""

    trial: optuna.Trial
    curve: dict[int, float] = field(default_factory=dict)


class Tuner:
    """Samples hyperparameters and learns from scores. See the module's docstring.

    Args:
      seed: of all draws; draw number n is a function of the seed, n, and what was asked and told before.
      recipe: the training tunables by name; shared by all candidates and modelled jointly over all trials.
      maximize: whether a higher score is better.
    """

    def __init__(self, seed: int, recipe: Mapping[str, Tunable], maximize: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._recipe = dict(recipe)
        self._sampler = _Sampler(seed)
        self._direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        pruner = optuna.pruners.NopPruner()
        self._study = optuna.create_study(direction=self._direction, sampler=self._sampler, pruner=pruner)
        self._declared: dict[int, dict[str, Tunable]] = {}
        self._open: dict[int, _Open] = {}
        self._promoted: set[int] = set()
        self._closed: list[int] = []

    def ask(
        self,
        candidate: int,
        tunables: Mapping[str, Tunable],
        *,
        values: Mapping[str, Value] | None = None,
        recipe: Mapping[str, Value] | None = None,
    ) -> Draw:
        """Draw numbers for a new trial at the first rung.

        The recipe is drawn from one joint model of all trials, the candidate's own tunables from one of its own, at
        random while there are few observations. Given numbers are taken over and the rest is drawn around them. With
        all numbers given nothing is drawn: that is how a run is resumed.

        Args:
          candidate: the candidate's id.
          tunables: what the candidate declares; the same at every call for it.
          values: those of the candidate's values that are given.
          recipe: those of the training values that are given.
        Raises:
          ValueError: a given number is not declared or out of range, or the candidate declared something else before.
        """
        if self._declared.setdefault(candidate, dict(tunables)) != dict(tunables):
            raise ValueError(
                f"candidate {candidate} declares {dict(tunables)} but declared {self._declared[candidate]} before; "
                "tunables of a candidate are fixed, so make a new candidate of it"
            )
        shared, own = _space(RECIPE, self._recipe), _space(f"c{candidate}", tunables)
        given = _encode(RECIPE, self._recipe, recipe or {}) | _encode(f"c{candidate}", tunables, values or {})
        self._sampler.spaces = (_without(shared, given), _without(own, given))
        space = shared | own
        trial = self._start(given, space, {"candidate": candidate, "rung": 0}, {})
        return Draw(
            number=trial.number,
            values=_decode(f"c{candidate}", tunables, trial.params),
            recipe={name: float(value) for name, value in _decode(RECIPE, self._recipe, trial.params).items()},
        )

    def promote(self, number: int) -> int:
        """Open the next rung for a paused trial, with the same numbers.

        Args:
          number: of the Optuna trial that was told at the rung below.
        Returns:
          The number of the Optuna trial that stands for the next rung.
        Raises:
          ValueError: the trial is not paused with a score, or was promoted already.
        """
        parent = self._paused(number)
        self._promoted.add(number)
        attributes = {**parent.user_attrs, "rung": parent.user_attrs["rung"] + 1, "parent": number}
        trial = self._start(parent.params, parent.distributions, attributes, parent.constraints)
        self._open[trial.number].curve = dict(parent.intermediate_values)
        return trial.number

    def tell(
        self,
        number: int,
        step: int | None,
        score: float | None,
        final: bool = False,
        *,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """Say how a trial did at its rung.

        Args:
          number: of the Optuna trial.
          step: training steps at the rung; None if it did not get there.
          score: its score there; None or not finite if it failed, which the sampler learns to avoid.
          final: whether the rung is the top one.
          constraints: measured excess over limits by name, for instance params / limit - 1; above 0 is a violation and
            ranks behind everything that has none. Inherited at a promotion; later values for a name are ignored.
        Raises:
          ValueError: the trial does not run, or the step is missing or not above that of the rung before.
        """
        opened = self._running(number)
        failed = score is None or not math.isfinite(score)
        if not failed and (step is None or step <= max(opened.curve, default=-1)):
            raise ValueError(
                f"trial {number} was told a score at step {step}; its rungs so far ended at {sorted(opened.curve)}. "
                "Give the step of its rung, above those"
            )
        del self._open[number]
        self._closed.append(number)
        for name, excess in (constraints or {}).items():
            if name not in opened.trial.constraints:
                opened.trial.set_constraint(name, excess)
        if failed:
            self._study.tell(opened.trial, state=TrialState.PRUNED)
            return
        assert step is not None and score is not None
        for reached, value in (opened.curve | {step: score}).items():
            opened.trial.report(value, reached)
        if final:
            self._study.tell(opened.trial, score)
        else:
            self._study.tell(opened.trial, state=TrialState.PRUNED)

    def lose(self, number: int) -> None:
        """Say that the machine lost a trial for good: the sampler learns nothing from it.

        Raises:
          ValueError: the trial does not run.
        """
        opened = self._running(number)
        del self._open[number]
        self._closed.append(number)
        self._study.tell(opened.trial, state=TrialState.FAIL)

    def sync(self, url: str, name: str) -> int:
        """Bring the copy of the study in a database up to date, for optuna-dashboard and other readers.

        Finished trials are appended in the order in which they were told, so the numbers of the copy are not ours; ours
        are in the attributes `number` and `parent`. A copy that is ahead of us is written anew. Optuna makes the tables
        `studies`, `trials`, `study_*`, `trial_*`, `version_info` and `alembic_version`. No other connection of this
        process may hold a write transaction meanwhile.

        Args:
          url: SQLAlchemy URL of the database.
          name: of the study.
        Returns:
          How many trials were written.
        """
        storage = optuna.storages.RDBStorage(url)
        try:
            there = _copied(storage, name)
            if there is not None and there > len(self._closed):
                optuna.delete_study(study_name=name, storage=storage)
            copy = optuna.create_study(storage=storage, study_name=name, direction=self._direction, load_if_exists=True)
            there = _copied(storage, name) or 0
            trials = self._study.get_trials(deepcopy=False)
            _append(storage, copy._study_id, there, [trials[number] for number in self._closed[there:]])
            return len(self._closed) - there
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def _start(
        self,
        given: Mapping[str, Any],
        space: Mapping[str, BaseDistribution],
        attributes: Mapping[str, int],
        constraints: Mapping[str, float],
    ) -> optuna.Trial:
        """Open an Optuna trial in which `given` is fixed and the rest of the space is drawn."""
        number = len(self._study.get_trials(deepcopy=False))
        waiting = create_trial(
            state=TrialState.WAITING,
            params=dict(given),
            distributions={name: space[name] for name in given},
            user_attrs={**attributes, "number": number},
            constraints=dict(constraints),
        )
        self._study.add_trial(waiting)
        trial = self._study.ask(fixed_distributions=dict(space))
        self._open[trial.number] = _Open(trial=trial)
        return trial

    def _running(self, number: int) -> _Open:
        if number not in self._open:
            raise ValueError(f"trial {number} does not run; running are {sorted(self._open)}. Ask or promote first")
        return self._open[number]

    def _paused(self, number: int) -> FrozenTrial:
        trials = self._study.get_trials(deepcopy=False)
        trial = trials[number] if 0 <= number < len(trials) else None
        if trial is None or trial.state != TrialState.PRUNED or not trial.intermediate_values:
            state = "unknown" if trial is None else trial.state.name.lower()
            raise ValueError(f"trial {number} ({state}) is not paused with a score; promote one that was told a score")
        if number in self._promoted:
            raise ValueError(f"trial {number} was promoted already; promote the trial that stands for its next rung")
        return trial


class _Sampler(TPESampler):
    """Multivariate TPE that is told its spaces and whose draws depend on seed and trial number alone.

    Optuna would infer the joint space: as the intersection over all trials, which shrinks for good, or by `group`,
    which samples every candidate's parameters at every call. Private names of Optuna 5 are used; tests hold what
    they do.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._seed = seed
        self.spaces: tuple[Space, ...] = ()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        # A sampler that was merely seeded once would repeat its first draws after every resume.
        self._rng.rng.seed(zlib.crc32(f"tpe:{self._seed}:{trial.number}".encode()))
        self._random_sampler._rng.rng.seed(zlib.crc32(f"random:{self._seed}:{trial.number}".encode()))
        super().before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        return {name: distribution for space in self.spaces for name, distribution in space.items()}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        told = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED), use_cache=False)
        drawn: dict[str, Any] = {}
        for space in filter(None, self.spaces):
            seen = sum(space.keys() <= other.params.keys() for other in told)
            if seen >= self._n_startup_trials:
                drawn |= self._sample(study, trial, space)
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)


def _space(prefix: str, tunables: Mapping[str, Tunable]) -> Space:
    return {f"{prefix}/{name}": _distribution(tunables[name]) for name in sorted(tunables)}


def _without(space: Space, given: Mapping[str, Any]) -> Space:
    """What is left to draw: neither given nor with one value only."""
    return {name: dist for name, dist in space.items() if name not in given and not dist.single()}


def _distribution(tunable: Tunable) -> BaseDistribution:
    match tunable:
        case Choice():
            return CategoricalDistribution(_categories(tunable))
        case Integer():
            return IntDistribution(tunable.low, tunable.high, log=tunable.log)
        case Real():
            return FloatDistribution(tunable.low, tunable.high, log=tunable.log)


def _categories(choice: Choice) -> tuple[Value, ...]:
    """The options, spelled out where Optuna could not tell them apart (1, 1.0 and True are equal to it)."""
    return choice.options if len(set(choice.options)) == len(choice.options) else tuple(map(repr, choice.options))


def _encode(prefix: str, tunables: Mapping[str, Tunable], values: Mapping[str, Value]) -> dict[str, Value]:
    """Values as parameters of the study."""
    encoded: dict[str, Value] = {}
    for name, value in values.items():
        tunable = tunables.get(name)
        if tunable is None:
            raise ValueError(f"a value for '{name}' is given; declared are {sorted(tunables)}. Give only those")
        if isinstance(tunable, Choice):
            spelled = [repr(option) for option in tunable.options]
            if repr(value) not in spelled:
                raise ValueError(f"'{name}' is given as {value!r}; its options are {tunable.options}. Give one of them")
            value = _categories(tunable)[spelled.index(repr(value))]
        elif isinstance(value, str) or not tunable.low <= value <= tunable.high:
            raise ValueError(
                f"'{name}' is given as {value!r}; its range is [{tunable.low}, {tunable.high}]. Give a number in it"
            )
        else:
            value = int(value) if isinstance(tunable, Integer) else float(value)
        encoded[f"{prefix}/{name}"] = value
    return encoded


def _decode(prefix: str, tunables: Mapping[str, Tunable], params: Mapping[str, Any]) -> dict[str, Value]:
    """Parameters of the study as values of the types that were declared."""
    decoded: dict[str, Value] = {}
    for name, tunable in tunables.items():
        value = params[f"{prefix}/{name}"]
        if isinstance(tunable, Choice):
            decoded[name] = tunable.options[_categories(tunable).index(value)]
        else:
            decoded[name] = int(value) if isinstance(tunable, Integer) else float(value)
    return decoded


def _copied(storage: optuna.storages.RDBStorage, name: str) -> int | None:
    """How many trials the study of this name has in a database; None if there is no such study."""
    with storage.scoped_session() as session:
        study = models.StudyModel.find_by_name(name, session)
        return None if study is None else models.TrialModel.count(session, study)


def _append(storage: optuna.storages.RDBStorage, study_id: int, there: int, trials: Sequence[FrozenTrial]) -> None:
    """Write finished trials in one transaction, numbered from `there`.

    RDBStorage's own way takes twelve milliseconds of CPU a trial, which makes a person who pressed Ctrl-C wait.
    """
    with storage.scoped_session() as session, session.begin():
        rows: list[Any] = [
            models.TrialModel(
                number=there + i,
                study_id=study_id,
                state=trial.state,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
            )
            for i, trial in enumerate(trials)
        ]
        session.add_all(rows)
        session.flush()
        for row, trial in zip(rows, trials, strict=True):
            session.add_all(_details(row.trial_id, trial))


def _details(trial_id: int, trial: FrozenTrial) -> Iterator[Any]:
    """The rows that hang on a trial's row."""
    for name, distribution in trial.distributions.items():
        value = distribution.to_internal_repr(trial.params[name])
        spelled = distribution_to_json(distribution)
        yield models.TrialParamModel(trial_id=trial_id, param_name=name, param_value=value, distribution_json=spelled)
    for key, attribute in trial.user_attrs.items():
        yield models.TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(attribute))
    for key, attribute in trial.system_attrs.items():
        yield models.TrialSystemAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(attribute))
    for step, score in trial.intermediate_values.items():
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(score)
        yield models.TrialIntermediateValueModel(
            trial_id=trial_id, step=step, intermediate_value=stored, intermediate_value_type=kind
        )
    if trial.value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
        yield models.TrialValueModel(trial_id=trial_id, objective=0, value=stored, value_type=kind)
