"""The nouns that travel between the stages: what a candidate, a program, a trial and a failure are.

Everything here is plain, frozen data. Nothing here imports JAX, Optuna or another module of `nas`, so that every
process, the one that holds candidate code included, can afford to load it.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Value = bool | int | float | str
"""A value of a tunable."""

ARTIFACTS = ("init", "eval", "forward", "backward")
"""The four exported functions that a candidate consists of once it has crossed the wall."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values; the first is the default."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("choice() got no options; give at least one, for instance choice(3, 5, 7)")
        if len(set(map(repr, self.options))) < len(self.options):
            raise ValueError(f"choice{self.options} names an option twice; name each once")

    @property
    def default(self) -> Value:
        return self.options[0]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in [low, high]; the default is the middle (the geometric middle if `log`)."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range("integer", self.low, self.high, self.log, 1)

    @property
    def default(self) -> int:
        return round(math.sqrt(self.low * self.high)) if self.log else (self.low + self.high) // 2


@dataclass(frozen=True, slots=True)
class Real:
    """A number in [low, high]; the default is the middle (the geometric middle if `log`)."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range("real", self.low, self.high, self.log, 0)

    @property
    def default(self) -> float:
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


Tunable = Choice | Integer | Real
"""What a candidate or a space declares for Optuna to sample."""


def _check_range(kind: str, low: float, high: float, log: bool, smallest: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{kind}({low}, {high}) is empty; the first number must be below the second")
    if log and low <= 0 or log and low < smallest:
        raise ValueError(f"{kind}({low}, {high}, log=True) starts at or below 0; a log range starts above it")


def defaults(tunables: Mapping[str, Tunable]) -> dict[str, Value]:
    """The default value of each tunable."""
    return {name: tunable.default for name, tunable in tunables.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a candidate or a trial ended without a score.

    Attributes:
      stage: where it happened: `model` (nothing usable was written), `gate` (source text), `trace`, `program` (the
        exported bytes), `leak` (what the program depends on), `duplicate`, `train`, or `machine`.
      rule: short stable name of the reason, by which rejections are counted (`import`, `shape`, `flops`, `diverged`).
      message: one sentence that says what was found and what to change.
      line: line of the candidate's source, from 1, where there is one.
      blame: `candidate` is never retried. What the machine did was retried as often as its job allows, and a trial that
        it ended does not count.
    """

    stage: Literal["model", "gate", "trace", "program", "leak", "duplicate", "train", "machine"]
    rule: str
    message: str
    line: int | None = None
    blame: Literal["candidate", "machine"] = "candidate"

    @property
    def discredits(self) -> bool:
        """Whether nothing else that the candidate scored is believed either: it was caught."""
        return self.stage == "leak" or (self.stage, self.rule) == ("train", "too_good")

    def __str__(self) -> str:
        where = f" line {self.line}" if self.line is not None else ""
        return f"{self.stage}/{self.rule}{where}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a program costs, counted by our own walk over its operations (loops times their trip count).

    Attributes:
      params: number of trainable numbers.
      flops: floating-point operations of one inference on one example (the `eval` artifact).
      train_flops: the same for one training step, forward and backward, per example.
      memory_bytes: parameters, optimiser state and residuals of one training batch [bytes].
      ops: number of operations in all four artifacts.
    """

    params: int
    flops: int
    train_flops: int
    memory_bytes: int
    ops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A candidate at one setting of its tunables, as bytes that a trainer may run.

    The artifacts take and return flat tuples of arrays, in this order:

        init(seed u32)                                    -> *params, *state
        eval(*params, *state, x)                          -> outputs
        forward(*params, *state, x, seed u32)             -> outputs, auxiliary loss f32 (), *new state, *residuals
        backward(*residuals, d outputs, d auxiliary f32)  -> *d params

    Attributes:
      blobs: serialized `jax.export` artifact by name, one for each of `ARTIFACTS`.
      param_leaves: how many of init's outputs are parameters; the rest is state.
      digest: SHA-256 over the blobs; a trainer runs only bytes that have it.
      fingerprint: hash of the canonical program, equal for equal programs however they are spelled.
      cost: what it costs.
      traits: what decides how to run it: `convolution`, `loop`.
      profile: share of an inference's FLOPs by kind of operation.
      sketch: of its structure without sizes; see `nas.admit.sketch`.
    """

    blobs: Mapping[str, bytes]
    param_leaves: int
    digest: str
    fingerprint: str
    cost: Cost
    traits: frozenset[str] = frozenset()
    profile: Mapping[str, float] = field(default_factory=dict)
    sketch: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One architecture as source text, and where it came from.

    Attributes:
      id: sequence number in the run, from 1, baselines first.
      source: the module's text.
      idea: its docstring.
      arm: which proposer wrote it: `baseline`, `random`, `evolution`, `claude`, `claude_blind`, `guest` or
        `control`.
      operator: what the proposer did, for instance `insert conv`.
      parents: ids of the candidates it was made from.
      tunables: what its `TUNABLES` declares.
    """

    id: int
    source: str
    idea: str
    arm: str
    operator: str = ""
    parents: tuple[int, ...] = ()
    tunables: Mapping[str, Tunable] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate with one draw of numbers.

    Attributes:
      id: sequence number in the run, from 1.
      candidate: the candidate's id.
      arm: which arm asked for this draw (`tune` may draw again for a candidate that another arm wrote).
      values: values of the candidate's own tunables.
      recipe: values of the space's training tunables (`lr`, `wd`).
      seed: seed of initialisation, data order and dropout.
    """

    id: int
    candidate: int
    arm: str
    values: Mapping[str, Value]
    recipe: Mapping[str, float]
    seed: int


CONFIRMING = ("numbers", "seeds")
"""Purposes of trainings that belong to a confirmation, of the candidates as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """One training after the search: to find a baseline's numbers, to confirm with a fresh seed, or to learn more.

    Attributes:
      candidate: whom it trains.
      purpose: `numbers` are draws of a baseline, `seeds` are trainings with one set of numbers and fresh seeds;
        `scale AXIS=FACTOR` are at another size of the space, `ablate HASH` have a piece of the winner put back.
      place: which one of that purpose, from 0.
      rung: index of the rung that it was trained to.
      values: of the candidate's own tunables.
      recipe: of the space's training tunables.
      seed: of initialisation, data order and dropout.
      point: what it measured on validation at the end; None if it failed.
      test: mean `score` and `loss` on the test split and the number of `examples`; of `seeds` alone.
      failure: why it ended without a point.
      curve: [step, validation score] wherever validation was looked at, the end included; empty is the end alone.
      cost: of the program that it trained, see `Cost`.
      usage: what it took: seconds, of the whole and of a step, and on which device; `cached` if another run did it.
    """

    candidate: int
    purpose: str
    place: int
    rung: int
    values: Mapping[str, Value]
    recipe: Mapping[str, float]
    seed: int
    point: "Point | None" = None
    test: Mapping[str, Any] | None = None
    failure: Failure | None = None
    curve: Sequence[Sequence[float]] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)


def finalist_seed(run_seed: int, candidate: int, place: int) -> int:
    """The fresh seed that a confirmation gives a finalist: nobody can choose it."""
    return seed_of(f"confirm {run_seed} {candidate} {place}")


def baseline_seed(space: str, name: str, place: int) -> int:
    """The fresh seed that a confirmation gives a baseline, the same in every run."""
    return seed_of(f"baseline {space} {name} {place}")


def seed_of(text: str) -> int:
    """32 bits of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point of a learning curve.

    Attributes:
      step: training steps so far.
      train_loss: mean training loss since the point before.
      loss: mean validation loss.
      score: validation score in the unit of the task's metric.
      parts: score of each task, where a space has several. If some are missing, they were not trained any more, and
        `score` is what the others let expect; see `nas.judge.parts`.
      again: score of a second training, with other data, where the first was too good to be believed at once; see
        `nas.judge.doubt`.
    """

    step: int
    train_loss: float
    loss: float
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    again: float | None = None


def hash_blobs(blobs: Mapping[str, bytes]) -> str:
    """SHA-256 over a program's artifacts, each with its name and length, in the order of `ARTIFACTS`."""
    total = hashlib.sha256()
    for name in ARTIFACTS:
        total.update(f"{name}:{len(blobs[name])}:".encode() + blobs[name])
    return total.hexdigest()


def to_plain(record: Any) -> Any:
    """Turn a record into lists, dicts and scalars that JSON and msgpack can hold."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        plain = {f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
        return {"kind": type(record).__name__.lower(), **plain} if isinstance(record, Tunable) else plain
    if isinstance(record, Mapping):
        return {key: to_plain(value) for key, value in record.items()}
    if isinstance(record, tuple | list):
        return [to_plain(value) for value in record]
    if isinstance(record, frozenset | set):
        return sorted(to_plain(value) for value in record)
    return record


def tunable_from_plain(plain: Mapping[str, Any]) -> Tunable:
    """Read back what `to_plain` made of a tunable."""
    if plain["kind"] == "choice":
        return Choice(tuple(plain["options"]))
    kind = Integer if plain["kind"] == "integer" else Real
    return kind(plain["low"], plain["high"], plain["log"])
