"""The battery that every search space must pass: `python -m nas.testing my_space.py`.

In goes the reference of a space, out comes one finding for each check, and for a broken space one sentence that says
what is wrong and what to change. It looks at what the space declares, at its data, at its loss and score, at what the
random arm and evolution make of its grammar, at what each axis of its scale makes of it, and sends the baselines and
some random candidates through the same door as a search does: gate, trace, check, a few training steps. It does not
judge whether the task is a good one: how far the baselines stand from what is possible is measured, in the space's
README.

A stage that finds something wrong is the last: what follows it would fail for the same reason, and say it worse.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nas.admit import Admitted, Flow, admit, drive, gate
from nas.declared import DECLARATIONS, misfit
from nas.execute import Executor, Job
from nas.execute.local import LocalExecutor
from nas.flows import PRELOAD
from nas.progress import drop_output, print_any_text
from nas.propose import evolution, grammar
from nas.records import Failure, defaults
from nas.space import SearchSpace, SpaceError, Split, canonical, load
from nas.train.engine import Plan, plan, plan_to_plain

SPLITS = ("train", "validation", "test")
SAMPLES = 8
"""Random candidates that are drawn; at least half of them must be admitted."""
TRAINING_STEPS = 200
"""Most steps in which a baseline's training loss must fall."""
CHUNKS = 4  # in which they are run; the mean loss of the last is compared with that of the first
FACTOR = 2
"""By which the space is made larger along each axis of its scale, to see whether that works."""

T = TypeVar("T")
Check = tuple[str, Callable[[], str | None]]
"""What is checked, and a function that returns what is wrong, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one check.

    Attributes:
      check: what was looked at, in a few words.
      problem: one sentence that says what is wrong and what to change; None if nothing is.
    """

    check: str
    problem: str | None


def battery(reference: str, executor: Executor | None = None) -> Iterator[Finding]:
    """Check a space, the cheap things first.

    Args:
      reference: as `nas.space.load` takes it.
      executor: runs what needs a process of its own, once for a reference; by default one is started here.
    Raises:
      SpaceError: there is no such space, or it cannot be loaded.
    """
    space, reference = load(reference), canonical(reference)
    apart: dict[str, Any] = {}
    splits: dict[str, Split] = {}
    declarations = list(_declarations(space))
    stages = (iter(declarations[:1]), iter(declarations[1:]), _process(reference, apart), _data(space, splits, apart))
    stages = (*stages, _scales(space, reference, splits), _functions(space, splits), _proposals(space))
    for stage in stages:  # generators: none has run yet
        if (yield from _run(stage)):
            return
    with tempfile.TemporaryDirectory(prefix="nas-testing-") as folder:
        with contextlib.nullcontext(executor) if executor is not None else LocalExecutor(preload=PRELOAD) as runs:
            if not (yield from _run(_programs(space, reference, runs, Path(folder)))):
                yield from _run(_scaled_programs(space, reference, runs))


def _run(stage: Iterator[Check]) -> Generator[Finding, None, bool]:
    """Findings of a stage; returns whether one of them is a problem."""
    broken = False
    for name, look in stage:
        try:
            problem = look()
        except Exception as error:  # the space's own code may raise anything
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; it must not raise"
        broken = broken or problem is not None
        yield Finding(check=name, problem=problem)
    return broken


# ---- what is declared -------------------------------------------------------------------------------------------


def _declarations(space: SearchSpace) -> Iterator[Check]:
    yield from ((name, functools.partial(look, space)) for name, look in DECLARATIONS.items())
    yield "guidance", lambda: None if space.guidance.strip() else "guidance is empty; say what the task asks for"


# ---- data --------------------------------------------------------------------------------------------------------

_APART = """
import hashlib, json, sys
from nas.space import load
space, names = load(sys.argv[1]), sys.argv[2:]
heavy = sorted({"jax", "flax", "optax"} & set(sys.modules))
digests = {name: hashlib.sha256(b"".join(a.tobytes() for a in space.task.split(name))).hexdigest() for name in names}
print(json.dumps({"heavy": heavy, "digests": digests}))
"""
"""Run in a fresh interpreter: what loading the space imports, and a hash of every split."""


def _process(reference: str, apart: dict[str, Any]) -> Iterator[Check]:
    def look() -> str | None:
        command = [sys.executable, "-c", _APART, reference, *SPLITS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"in a fresh process: {(done.stderr.strip().splitlines() or ['it died'])[-1]}"
        apart.update(json.loads(done.stdout.strip().splitlines()[-1]))
        heavy = ", ".join(apart["heavy"])
        return f"loading it imports {heavy}; import inside the functions of the task that need it" if heavy else None

    yield "loads without JAX", look


def _data(space: SearchSpace, splits: dict[str, Split], apart: Mapping[str, Any]) -> Iterator[Check]:
    for name in SPLITS:
        yield f"{name} split", lambda name=name: _split(space, name, splits, apart["digests"][name])
    yield "no example in two splits", lambda: _overlap(splits)


def _split(space: SearchSpace, name: str, splits: dict[str, Split], digest: str) -> str | None:
    inputs, targets = splits[name] = Split(*space.task.split(name))
    again = space.task.split(name)
    contract = space.contract
    if len(inputs) != len(targets):
        return f"{len(inputs)} inputs and {len(targets)} targets; there must be one target for each input"
    if inputs.shape[1:] != contract.input_shape or str(inputs.dtype) != contract.input_dtype:
        found = f"inputs are {inputs.dtype} {inputs.shape[1:]}"
        return f"{found}; the contract says {contract.input_dtype} {contract.input_shape}"
    if targets.dtype.itemsize > 4:
        return f"targets are {targets.dtype}; make them int32 or float32, the widest that JAX keeps"
    if (problem := misfit(space, name, len(inputs))) is not None:
        return problem
    same = all(np.array_equal(a, b) for a, b in zip((inputs, targets), again, strict=True))
    if not same or _hash(splits[name]) != digest:
        return "two calls, or two processes, give different examples; make them from a fixed seed of their own"
    return _values(space, inputs, targets)


def _hash(split: Split) -> str:
    return hashlib.sha256(b"".join(part.tobytes() for part in split)).hexdigest()


def _values(space: SearchSpace, inputs: np.ndarray, targets: np.ndarray) -> str | None:
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        return "there are NaN or infinite numbers in it; remove them"
    if space.spec.vocab and not (0 <= inputs.min() and inputs.max() < space.spec.vocab):
        return f"token ids run from {inputs.min()} to {inputs.max()}; spec.vocab={space.spec.vocab} allows less"
    if _are_labels(space, targets) and not (-1 <= targets.min() and targets.max() < space.spec.classes):
        allowed = f"0 to {space.spec.classes - 1}, and -1 where nothing is to be predicted"
        return f"labels run from {targets.min()} to {targets.max()}; allowed are {allowed}"
    return None


def _are_labels(space: SearchSpace, targets: np.ndarray) -> bool:
    return np.issubdtype(targets.dtype, np.integer) and targets.shape[1:] == space.contract.output_shape[:-1]


def _overlap(splits: Mapping[str, Split]) -> str | None:
    rows = {name: {row.tobytes() for row in np.ascontiguousarray(split.inputs)} for name, split in splits.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = len(rows[first] & rows[second])
        if shared:
            return f"{shared} inputs of {second} are in {first} too; make the splits from different examples"
    return None


# ---- scale -------------------------------------------------------------------------------------------------------


def _scales(space: SearchSpace, reference: str, splits: Mapping[str, Split]) -> Iterator[Check]:
    for axis in space.scale:
        yield f"scale {axis}", lambda axis=axis: _scale(space, f"{reference}@{axis}={FACTOR}", axis, splits)


def _scale(space: SearchSpace, reference: str, axis: str, splits: Mapping[str, Split]) -> str | None:
    if not axis.isidentifier():
        return f"the axis {axis!r} cannot be written as @{axis}={FACTOR}; name it with letters, digits and _"
    made = load(reference)
    for name in ("scope", "baselines", "grammar"):
        if getattr(made, name) != getattr(space, name):
            return f"it changes {name}; what is compared must stay the same, so leave it as it is"
    for name, look in _declarations(made):
        if (problem := look()) is not None:
            return f"at {FACTOR} times, {name}: {problem}"
    if (made.task.metric, made.task.maximize) != (space.task.metric, space.task.maximize):
        return "it changes task.metric or task.maximize; scores must stay comparable, so leave them as they are"
    if made.task.split is not space.task.split:
        return _scaled_data(made, splits)
    return f"it changes nothing at {FACTOR} times; return a larger space" if _same(made, space) else None


def _same(one: SearchSpace, other: SearchSpace) -> bool:
    return dataclasses.replace(one, name=other.name) == other


def _scaled_data(made: SearchSpace, splits: Mapping[str, Split]) -> str | None:
    """More to train on; the same to be scored on, and none of it to train on."""
    found = {name: Split(*made.task.split(name)) for name in SPLITS}
    for name in ("validation", "test"):
        if not all(np.array_equal(a, b) for a, b in zip(found[name], splits[name], strict=True)):
            return (
                f"its {name} split is another one; scores at two sizes need the same examples, so let train alone grow"
            )
    if len(found["train"].inputs) == len(splits["train"].inputs):
        return f"its train split has {len(found['train'].inputs)} examples as before; make more"
    return _split(made, "train", dict(found), _hash(found["train"])) or _overlap(found)


def _scaled_programs(space: SearchSpace, reference: str, executor: Executor) -> Iterator[Check]:
    """Baselines at every axis along which what is traced changes."""
    for axis in space.scale:
        large = f"{reference}@{axis}={FACTOR}"
        made = load(large)
        if all(getattr(made, part) == getattr(space, part) for part in ("spec", "contract", "recipe", "skeleton")):
            continue
        values = {name: defaults(gate.check(source, space.scope).tunables) for name, source in space.baselines.items()}
        flows = [
            admit(large, source, values[name], tag=f"{large} baseline {name}")
            for name, source in space.baselines.items()
        ]
        found = drive(executor, _together(flows))
        for name, outcome in zip(space.baselines, found, strict=True):
            yield f"scale {axis}, baseline {name}: admitted", lambda outcome=outcome: _failure(outcome)


# ---- loss and score ----------------------------------------------------------------------------------------------


def _functions(space: SearchSpace, splits: Mapping[str, Split]) -> Iterator[Check]:
    task, targets = space.task, splits["validation"].targets[: space.recipe.eval_batch]
    shape = (len(targets), *space.contract.output_shape)
    outputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    yield "loss", lambda: _per_example("loss", task.loss, outputs, targets)
    yield "score", lambda: _per_example("score", task.score, outputs, targets)
    yield "gradient of the loss", lambda: _gradient(space, outputs, targets)
    yield "direction of the score", lambda: _direction(space, targets)


def _per_example(name: str, function: Callable[..., Any], outputs: np.ndarray, targets: np.ndarray) -> str | None:
    import jax

    found = np.asarray(jax.jit(function)(outputs, targets))
    if found.shape != (len(outputs),):
        return f"task.{name} returns shape {found.shape} for {len(outputs)} examples; return one number for each"
    if not np.isfinite(found.astype(np.float64)).all():
        return f"task.{name} is not finite for outputs drawn from a normal distribution; it must be for any output"
    alone = np.asarray(jax.jit(function)(outputs[:1], targets[:1]))
    if alone.shape != (1,) or not np.allclose(alone, found[:1], rtol=1e-4, atol=1e-5):
        return f"task.{name} of an example changes with the others in its batch; make it depend on that example alone"
    return None


def _gradient(space: SearchSpace, outputs: np.ndarray, targets: np.ndarray) -> str | None:
    import jax

    found = np.asarray(jax.grad(lambda outputs: space.task.loss(outputs, targets).mean())(outputs))
    if not np.isfinite(found).all():
        return "the gradient of task.loss is not finite; it must be for any output"
    return (
        None if found.any() else "the gradient of task.loss is 0 everywhere; training needs one that says where to go"
    )


def _direction(space: SearchSpace, targets: np.ndarray) -> str | None:
    """A right prediction must be better than a wrong one; where it cannot be told what is right, nothing is checked."""
    classes, task = space.spec.classes, space.task
    if _are_labels(space, targets) and classes > 1:
        known = np.maximum(targets, 0)
        right, wrong = (10 * np.eye(classes, dtype=np.float32)[labels % classes] for labels in (known, known + 1))
    elif targets.shape[1:] == space.contract.output_shape and np.issubdtype(targets.dtype, np.floating):
        right, wrong = targets, targets + np.float32(1)
    else:
        return None
    mean = {
        name: [float(np.mean(function(outputs, targets))) for outputs in (right, wrong)]
        for name, function in (("loss", task.loss), ("score", task.score))
    }
    if not mean["loss"][0] < mean["loss"][1]:
        return "task.loss is {:.3g} for right predictions and {:.3g} for wrong ones; right must be lower".format(
            *mean["loss"]
        )
    gain = mean["score"][0] - mean["score"][1]
    if gain == 0 or (gain > 0) != task.maximize:
        found = "task.score is {:.3g} for right predictions and {:.3g} for wrong ones".format(*mean["score"])
        return f"{found}, but task.maximize is {task.maximize}; turn one of them round"
    return None


# ---- proposals ---------------------------------------------------------------------------------------------------


def _proposals(space: SearchSpace) -> Iterator[Check]:
    for name, source in space.baselines.items():
        yield f"baseline {name}: gate", lambda source=source: _gate(source, space)
    yield (
        "random candidates: gate",
        lambda: next(filter(None, (_gate(source, space) for source in samples(space))), None),
    )
    yield "evolution", lambda: _evolution(space)


def samples(space: SearchSpace) -> list[str]:
    """The random candidates that the battery looks at."""
    rng = np.random.default_rng(0)
    return [grammar.sample(space, rng) for _ in range(SAMPLES)]


def _gate(source: str, space: SearchSpace) -> str | None:
    failures = gate.check(source, space.scope).failures
    return f"{failures[0]} ({_title(source)})" if failures else None


def _title(source: str) -> str:
    return source.strip().splitlines()[0].strip('"')[:60]


def _evolution(space: SearchSpace) -> str | None:
    rng = np.random.default_rng(0)
    for name, source in space.baselines.items():
        try:
            evolution.mutate(source, space, rng)
        except evolution.NoChild:
            return f"no operator changes baseline '{name}'; offer more primitives, of widths that fit"
    return None


# ---- programs and training ---------------------------------------------------------------------------------------


def _programs(space: SearchSpace, reference: str, executor: Executor, folder: Path) -> Iterator[Check]:
    values = {name: defaults(gate.check(source, space.scope).tunables) for name, source in space.baselines.items()}
    flows = [
        admit(reference, source, values[name], tag=f"{reference} baseline {name}")
        for name, source in space.baselines.items()
    ]
    drawn = samples(space)
    tunables = [defaults(gate.check(source, space.scope).tunables) for source in drawn]
    flows += [admit(reference, source, tunables[i], tag=f"{reference} sample {i}") for i, source in enumerate(drawn)]
    found = drive(executor, _together(flows))
    admitted: dict[str, Admitted] = {}
    for name, outcome in zip(space.baselines, found, strict=False):
        if isinstance(outcome, Admitted):
            admitted[name] = outcome
        yield f"baseline {name}: admitted", lambda outcome=outcome: _failure(outcome)
    yield "baselines differ", lambda: _same_program(admitted)
    yield "random candidates: admitted", lambda: _rejections(drawn, found[len(space.baselines) :])
    if len(admitted) == len(space.baselines):
        trained = drive(executor, _train(space, reference, admitted, folder))
        for name, problem in trained.items():
            yield f"baseline {name}: loss falls", lambda problem=problem: problem


def _together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Run flows at the same time: in every round the next jobs of all that have not ended."""
    results: dict[int, T] = {}
    jobs: dict[int, Sequence[Job]] = {}

    def advance(index: int, step: Callable[[], Sequence[Job]]) -> None:
        try:
            jobs[index] = step()
        except StopIteration as stop:
            jobs.pop(index, None)
            results[index] = stop.value

    for index, flow in enumerate(flows):
        advance(index, lambda flow=flow: next(flow))
    while jobs:
        running = dict(jobs)
        events = iter((yield [job for some in running.values() for job in some]))
        for index, some in running.items():
            ended = [next(events) for _ in some]
            advance(index, lambda index=index, ended=ended: flows[index].send(ended))
    return [results[index] for index in range(len(flows))]


def _failure(outcome: Admitted | Failure) -> str | None:
    return str(outcome) if isinstance(outcome, Failure) else None


def _same_program(admitted: Mapping[str, Admitted]) -> str | None:
    first: dict[str, str] = {}
    for name, one in admitted.items():
        other = first.setdefault(one.facts["fingerprint"], name)
        if other != name:
            return f"'{other}' and '{name}' are the same program; remove one, or let them differ"
    return None


def _rejections(drawn: Sequence[str], found: Sequence[Admitted | Failure]) -> str | None:
    rejected = [(source, one) for source, one in zip(drawn, found, strict=True) if isinstance(one, Failure)]
    if 2 * len(rejected) <= len(drawn):
        return None
    source, failure = rejected[0]
    text = (
        f"{len(rejected)} of {len(drawn)} random candidates are rejected, the first with {failure} ({_title(source)})"
    )
    return f"{text}; mend the primitives, or let the limits fit them"


def _train(
    space: SearchSpace, reference: str, admitted: Mapping[str, Admitted], folder: Path
) -> Flow[dict[str, str | None]]:
    """Train every baseline for some steps at the middle of the learning rates; what is wrong with each, by name."""
    import msgpack

    data = str(folder / "data")
    (made,) = yield [
        Job(id=f"{reference} data", entry="nas.train.job:prepare_job", payload={"space": reference, "folder": data})
    ]
    if made.kind != "done":
        return dict.fromkeys(admitted, f"the splits cannot be written: {made.error}")
    jobs = []
    for index, (name, one) in enumerate(admitted.items()):
        program = folder / f"{index}.program"
        program.write_bytes(msgpack.Packer().pack(dict(one.blobs)))
        jobs.append(_training(space, reference, name, one, str(program), data, made.result["validation"]))
    events = yield jobs
    return {name: _falls(event) for name, event in zip(admitted, events, strict=True)}


def _training(
    space: SearchSpace, reference: str, name: str, one: Admitted, program: str, data: str, examples: int
) -> Job:
    facts, recipe = one.facts, space.recipe
    chunk = max(1, min(space.ladder.steps[0], TRAINING_STEPS) // CHUNKS)
    how: Plan = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, examples, "cpu")
    trial = {"id": 0, "seed": 0, "lr": recipe.lr.default, "wd": recipe.wd.default, "load": [], "save": None}
    payload = {
        "space": reference,
        "program": program,
        "digest": facts["digest"],
        "param_leaves": facts["param_leaves"],
        "how": plan_to_plain(dataclasses.replace(how, chunk=chunk)),
        "data": data,
        "cache": None,
        "start": 0,
        "stops": [CHUNKS * chunk],
        "trials": [trial],
    }
    return Job(id=f"{reference} train {name}", entry="nas.train.job:train_job", payload=payload, writable=[data])


def _falls(event: Any) -> str | None:
    if event.kind != "done":
        return f"training ended with {event.kind}: {event.error[:300]}"
    (result,) = event.result["trials"]
    if "failure" in result:
        return str(Failure(**result["failure"]))
    ((_, losses),) = result["points"]
    if losses[-1] < losses[0]:
        return None
    rates = "shift recipe.lr, of which the middle was used, or mend the baseline"
    return f"the training loss goes from {losses[0]:.3g} to {losses[-1]:.3g}; {rates}"


# ---- command line ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each check; 0 if all is well, 1 if not, 2 if there is no space to check, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m nas.testing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("space", metavar="SPACE", help="name, file or module:object")
    reference = parser.parse_args(arguments).space
    broken = count = 0
    print_any_text()
    try:
        for finding in battery(reference):
            count += 1
            broken += finding.problem is not None
            print(
                f"ok    {finding.check}" if finding.problem is None else f"FAIL  {finding.check}: {finding.problem}",
                flush=True,
            )
    except SpaceError as error:
        print(f"nas.testing: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nas.testing: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        drop_output()
        return 2
    print(f"{reference}: {count - broken} of {count} checks passed" + (", the rest was not tried" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
