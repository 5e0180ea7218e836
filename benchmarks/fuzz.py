"""Damage programs by the thousand, and see that every one ends as a program, a refusal, or one dead process.

    python -m benchmarks.fuzz --blobs 20000 --json fuzz.json

Known candidates are traced, and their artifacts are changed: in their bytes (bits, runs, splices, lengths), in the
numbers of their envelope, in what the envelope declares, and in the text of the module inside, which is then put into
an envelope that is as it should be. Each goes through the function that a search calls (`nas.admit.program:check_job`)
in a process that may die of it, with the limits of time and memory below.

What is admitted is compared with the original. If the module says the same, only what nobody reads was changed (names,
locations, order of tables). If it does not, it is another program, and some of them, all kinds in turn, are run: a few
steps of the real trainer (`nas.train.job:train_job`), and the same steps in another process, on the deserialized
artifacts alone, without engine and interpreter. Losses and score must agree, whatever the program computes.

Every mutant is a function of (seed, its number), so that `--only NUMBER` makes it again.

Exit status: 0 if every mutant ended as it may and every score is that of the program, 1 if not.
"""

import argparse
import hashlib
import json
import math
import os
import re
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import report
from nas.execute import Event, Job, Need
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import ARTIFACTS, Failure, defaults
from nas.space import SearchSpace, load
from nas.train.engine import CALIBRATION, plan, plan_to_plain, rows_for

SUBJECTS = (("mnist1d", "linear"), ("mnist1d", "mlp"), ("mnist1d", "cnn"), ("mnist1d", "gru"), ("byte_lm", "attention"))
"""Space and baseline of the programs that are damaged; one of byte_lm is ten times as large as one of mnist1d."""
SHARES = (0.24, 0.24, 0.24, 0.24, 0.04)
"""How many of the mutants are made of each."""
LIMIT_S = 60.0
"""Time for one mutant, made and checked; the search gives its job as much."""
MEMORY_BYTES = 6 << 30
"""Address space of the process that checks, as the search gives it."""
MUTANTS_OF_A_PROCESS = 500
"""After so many the process is replaced, so that what one of them broke does not last."""
STEPS = 4
"""Training steps of an admitted mutant, too few for rounding to grow."""
TRIAL = {"lr": 0.05, "wd": 0.01, "seed": 3}
LOSS_TOLERANCE = 1e-3
"""How far a loss may be from that of the other process, in units of its size or of 1."""
SCORE_TOLERANCE = 0.01
"""The same of a score: in 2000 examples rounding turns a few that are nearly even."""


class Subject(NamedTuple):
    """A known program: its space, the artifacts, how many leaves are parameters."""

    space: str
    name: str
    blobs: dict[str, bytes]
    param_leaves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A damaged program.

    Attributes:
      kind: what was done, a name of `KINDS`.
      subject: of which program, as an index.
      artifact: which artifact was changed; empty if none was.
      blobs: all four.
      param_leaves: as claimed.
    """

    kind: str
    subject: int
    artifact: str
    blobs: dict[str, bytes]
    param_leaves: int


# ---- how programs are damaged ----

Change = Callable[[bytearray, np.random.Generator, Sequence[Subject]], bytearray]
_INTERESTING = (0, 1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def _flip_a_bit(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    blob[int(rng.integers(len(blob)))] ^= 1 << int(rng.integers(8))
    return blob


def _write_bytes(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        blob[int(rng.integers(len(blob)))] = int(rng.integers(256))
    return blob


def _write_a_run(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    start, size = int(rng.integers(len(blob))), int(rng.integers(1, 65))
    filling = rng.bytes(size) if rng.random() < 0.5 else bytes([int(rng.choice([0, 1, 255]))]) * size
    blob[start : start + size] = filling[: len(blob) - start]
    return blob


def _cut_off(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    return blob[: int(rng.integers(len(blob)))]


def _leave_out(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    start = int(rng.integers(len(blob)))
    del blob[start : start + int(rng.integers(1, 65))]
    return blob


def _double(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    start = int(rng.integers(len(blob)))
    blob[start:start] = blob[start : start + int(rng.integers(1, 65))]
    return blob


def _splice(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    """Part of another artifact, of this program or another."""
    other = subjects[int(rng.integers(len(subjects)))].blobs[ARTIFACTS[rng.integers(len(ARTIFACTS))]]
    size = int(rng.integers(1, 257))
    start, there = int(rng.integers(len(blob))), int(rng.integers(len(other)))
    if rng.random() < 0.5:  # the lengths stay
        there = min(start, max(0, len(other) - size))
    blob[start : start + size] = other[there : there + size]
    return blob


def _change_a_number(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    """A number of the envelope, outside the module's bytes: a length, an offset, an index, a size."""
    first, last = _module_range(bytes(blob))
    width = int(rng.choice([1, 2, 4]))
    places = [*range(0, first - width, width), *range(-(-last // width) * width, len(blob) - width, width)]
    place = places[int(rng.integers(len(places)))]
    old = int.from_bytes(blob[place : place + width], "little")
    near = (old + 1, old - 1, old * 2, old + 4, old ^ (1 << int(rng.integers(8 * width))))
    new = int(rng.choice(near if rng.random() < 0.6 else _INTERESTING))
    blob[place : place + width] = (new % (1 << 8 * width)).to_bytes(width, "little")
    return blob


def _damage_the_module(blob: bytearray, rng: np.random.Generator, subjects: Sequence[Subject]) -> bytearray:
    """Bits and bytes of the module, in an envelope that is as it was."""
    first, last = _module_range(bytes(blob))
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        place = int(rng.integers(first, last))
        blob[place] = blob[place] ^ (1 << int(rng.integers(8))) if rng.random() < 0.6 else int(rng.integers(256))
    return blob


BYTEWISE: dict[str, Change] = {
    "a bit": _flip_a_bit, "bytes": _write_bytes, "a run of bytes": _write_a_run, "cut off": _cut_off,
    "left out": _leave_out, "doubled": _double, "spliced": _splice, "a number of the envelope": _change_a_number,
    "bits of the module": _damage_the_module,
}  # fmt: skip


def _module_range(blob: bytes) -> tuple[int, int]:
    module = _exported(blob).mlir_module_serialized
    first = blob.index(module)
    return first, first + len(module)


@cache
def _exported(blob: bytes) -> Any:
    from jax import export

    return export.deserialize(bytearray(blob))


@cache
def _text(blob: bytes) -> str:
    return _exported(blob).mlir_module()


_SWAPS = (
    "add subtract multiply divide maximum minimum power atan2 remainder", "tanh exponential log sqrt rsqrt logistic "
    "negate abs sine cosine floor ceil sign cbrt log_plus_one exponential_minus_one", "and or xor",
    "shift_left shift_right_logical shift_right_arithmetic", "LT LE GT GE EQ NE", "FLOAT TOTALORDER SIGNED UNSIGNED",
    "chlo.erf_inv chlo.erf chlo.square chlo.tan chlo.lgamma chlo.top_k", "DEFAULT HIGH HIGHEST",
)  # fmt: skip
_SWAP = {f"stablehlo.{word}" if word.islower() and "." not in word else word: group.split()
         for group in _SWAPS for word in group.split()}  # fmt: skip
_WORDS = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(_SWAP, key=len, reverse=True)))
_NUMBER = re.compile(r"(?<![\w%@#.])-?\d+(?:\.\d+(?:e[+-]?\d+)?)?(?![\w.]|\d)")
_VALUE = re.compile(r"%\w+(?:#\d+)?")
_ELEMENT = re.compile(r"(?<=[x<])(?:f32|i32|ui32|i1|bf16|i64|f64|ui8)(?=>)")


def _pick(pattern: re.Pattern[str], text: str, rng: np.random.Generator) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    return found[rng.integers(len(found))] if found else None


def _put(text: str, match: re.Match[str], new: str) -> str:
    return text[: match.start()] + new + text[match.end() :]


def _other_number(text: str, rng: np.random.Generator) -> str:
    match = _pick(_NUMBER, text, rng)
    if match is None:
        return text
    if "." in match[0]:
        value = float(match[0])
        new = repr(float(rng.choice([0.0, -value, value * 2, value + 1, 1e30, 1e-30])))
    else:
        value = int(match[0])
        new = str(int(rng.choice([value + 1, value - 1, value * 2, 0, 1, -1, 2**31 - 1, -(2**31)])))
    return _put(text, match, new)


def _other_operation(text: str, rng: np.random.Generator) -> str:
    match = _pick(_WORDS, text, rng)
    if match is None:
        return text
    new = str(rng.choice(_SWAP[match[0]]))
    return _put(text, match, f"stablehlo.{new}" if match[0].startswith("stablehlo.") else new)


def _other_value(text: str, rng: np.random.Generator) -> str:
    """An operand that is another value of about the same place."""
    match = _pick(_VALUE, text, rng)
    if match is None:
        return text
    near = text[max(0, match.start() - 2000) : match.start() + 200]
    other = _pick(_VALUE, near, rng)
    return text if other is None else _put(text, match, other[0])


def _other_type(text: str, rng: np.random.Generator) -> str:
    """One element type, in one place or in all."""
    match = _pick(_ELEMENT, text, rng)
    if match is None:
        return text
    new = str(rng.choice(["f32", "i32", "ui32", "i1", "bf16", "i64", "f64", "f16", "i4", "f8E4M3FN"]))
    return _put(text, match, new) if rng.random() < 0.5 else re.sub(rf"(?<=[x<]){match[0]}(?=>)", new, text)


def _other_size(text: str, rng: np.random.Generator) -> str:
    """One size of an array, wherever it stands."""
    match = _pick(re.compile(r"(?<=[<x])\d+(?=x)"), text, rng)
    if match is None:
        return text
    new = str(int(rng.choice([int(match[0]) + 1, int(match[0]) - 1, 0, 1, 2 * int(match[0]), 10**12])))
    return re.sub(rf"(?<=[<x]){match[0]}(?=x)", new, text)


def _other_lines(text: str, rng: np.random.Generator) -> str:
    """A line left out, doubled, or moved."""
    lines = text.splitlines()
    place, other = (int(rng.integers(len(lines))) for _ in range(2))
    line = lines.pop(place) if rng.random() < 0.7 else lines[place]
    if rng.random() < 0.7:
        lines.insert(other if rng.random() < 0.3 else max(0, place - int(rng.integers(3))), line)
    return "\n".join(lines)


TEXTUAL: dict[str, Callable[[str, np.random.Generator], str]] = {
    "another number": _other_number, "another operation": _other_operation, "another value": _other_value,
    "another type": _other_type, "another size": _other_size, "other lines": _other_lines,
}  # fmt: skip
TRIES = 12
"""Most changes of a text are no program any more; so often another is tried, and the last is sent as it is."""


def _rewritten(blob: bytes, change: Callable[[str, np.random.Generator], str], rng: np.random.Generator) -> bytes:
    """An artifact whose module is another text; a text that the parser does not take is sent all the same."""
    from jax.extend import mlir as artifacts
    from jax.interpreters import mlir

    text = _text(blob)
    for _ in range(TRIES):
        text = _text(blob)
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            text = change(text, rng)
        if text == _text(blob):
            continue
        try:
            with mlir.make_ir_context():
                module = artifacts.serialize_portable_artifact(mlir.ir.Module.parse(text), "1.10.0")
            return bytes(replace(_exported(blob), mlir_module_serialized=module).serialize())
        except Exception:  # what the parser makes of it
            continue
    return bytes(replace(_exported(blob), mlir_module_serialized=text.encode()).serialize())


def _redeclared(blob: bytes, rng: np.random.Generator) -> bytes:
    """An artifact that says something else of itself."""
    import jax

    found = _exported(blob)

    def avals(known: tuple[Any, ...]) -> tuple[Any, ...]:
        if not known:
            return known
        place = int(rng.integers(len(known)))
        aval = known[place]
        shape = tuple(int(size) + int(rng.integers(-1, 2)) for size in aval.shape)
        dtype = np.dtype(str(rng.choice(["float32", "float16", "int32", "uint32", "bool", "int8"])))
        other = aval.update(shape=shape) if rng.random() < 0.4 else aval.update(dtype=dtype)
        choice = rng.random()
        if choice < 0.3:
            return known[:place] + known[place + 1 :]
        return (*known[:place], other, *known[place + 1 :]) if choice < 0.7 else (*known, other)

    def tree(known: Any) -> Any:
        leaves = [0] * known.num_leaves
        flat: list[Any] = [leaves, (tuple(leaves), {}), {"a": leaves}, (leaves[:1], leaves[1:]), None, tuple(leaves)]
        return jax.tree.structure(flat[int(rng.integers(len(flat)))])

    kept = list(found.module_kept_var_idx)
    rng.shuffle(kept)
    changes: list[dict[str, Any]] = [
        {"in_avals": avals(found.in_avals)}, {"out_avals": avals(found.out_avals)}, {"in_tree": tree(found.in_tree)},
        {"out_tree": tree(found.out_tree)}, {"module_kept_var_idx": tuple(kept)},
        {"module_kept_var_idx": tuple(kept[: rng.integers(len(kept) + 1)])}, {"nr_devices": int(rng.integers(0, 9))},
        {"platforms": (str(rng.choice(["tpu", "cuda", "", "cpu "])),)}, {"platforms": ("cpu", "cuda")},
        {"calling_convention_version": int(rng.integers(0, 20))}, {"uses_global_constants": True},
        {"fun_name": str(rng.choice(["", "main", "\x1b[2J", "x" * 10_000]))},
    ]  # fmt: skip
    return bytes(replace(found, **changes[rng.integers(len(changes))]).serialize())


ENVELOPE = ("declared otherwise", "exchanged", "other leaves")
KINDS = (*BYTEWISE, *TEXTUAL, *ENVELOPE)


def make(subjects: Sequence[Subject], seed: int, number: int) -> Mutant:
    """Damage one of these programs; the same seed and number give the same mutant."""
    rng = np.random.default_rng([seed, number])
    while True:
        kind = KINDS[number % len(KINDS)]
        chosen = int(rng.choice(len(subjects), p=np.array(SHARES[: len(subjects)]) / sum(SHARES[: len(subjects)])))
        subject, artifact = subjects[chosen], ARTIFACTS[rng.integers(len(ARTIFACTS))]
        blob, leaves = subject.blobs[artifact], subject.param_leaves
        try:
            if kind in BYTEWISE:
                blob = bytes(BYTEWISE[kind](bytearray(blob), rng, subjects))
            elif kind in TEXTUAL:
                blob = _rewritten(blob, TEXTUAL[kind], rng)
            elif kind == "declared otherwise":
                blob = _redeclared(blob, rng)
            elif kind == "exchanged":
                other = subjects[int(rng.integers(len(subjects)))]
                blob = other.blobs[ARTIFACTS[rng.integers(len(ARTIFACTS))]]
            else:
                artifact, leaves = "", int(rng.choice([leaves - 1, leaves + 1, 0, -1, 2**31, leaves + 7]))
        except Exception:  # an envelope that cannot be written
            continue
        blobs = subject.blobs | ({artifact: blob} if artifact else {})
        if blobs != subject.blobs or leaves != subject.param_leaves:
            return Mutant(kind=kind, subject=chosen, artifact=artifact, blobs=blobs, param_leaves=leaves)


def trace_subjects(wanted: Sequence[tuple[str, str]] = SUBJECTS) -> list[Subject]:
    """Trace the known programs at the defaults of their tunables."""
    from nas.admit.gate import check
    from nas.admit.trace import trace

    found = []
    for reference, name in wanted:
        space = load(reference)
        source = space.baselines[name]
        traced = trace(space, source, defaults(check(source, space.scope).tunables))
        if isinstance(traced, Failure):
            raise ValueError(f"{reference}: the baseline {name} cannot be traced: {traced}")
        found.append(Subject(reference, name, *traced))
    return found


# ---- the process that checks, which may die of it ----


def serve() -> None:
    """Make and check the mutants whose numbers come in; a line when one is made, and one when it is checked."""
    file, seed = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", 1)
    os.dup2(2, 1)
    import msgpack

    from nas.admit.program import check_job

    subjects = [Subject(*each) for each in msgpack.unpackb(file.read_bytes())]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers.write("ready\n")
    for line in sys.stdin:
        number = int(line)
        mutant = make(subjects, seed, number)
        subject = subjects[mutant.subject]
        known = {"made": True, "subject": mutant.subject, "artifact": mutant.artifact}
        answers.write(json.dumps(known) + "\n")
        answer: dict[str, Any]
        try:
            answer = check_job(subject.space, mutant.blobs, mutant.param_leaves)
        except BaseException as error:
            answer = {"raised": repr(error)[:300]}
        if "program" in answer:
            facts, text, same = answer["program"], "", False
            if mutant.artifact:
                text = written(mutant.blobs[mutant.artifact])
                same = text == written(subject.blobs[mutant.artifact])
            answer["same_text"] = same
            answer["text"] = f"{mutant.subject} {mutant.artifact} {text}"
            packed = msgpack.packb([subject.space, mutant.blobs, facts]) or b""
            file.with_name(f"{number}.admitted").write_bytes(packed)
            answer["program"] = {key: facts[key] for key in ("fingerprint", "cost", "param_leaves", "traits")}
        answers.write(json.dumps(answer) + "\n")


def written(blob: bytes) -> str:
    """Hash of all that is read of an artifact: its module as text, without locations, and what its envelope says."""
    from jax import export
    from jax.extend import mlir as artifacts
    from jax.interpreters import mlir

    found = export.deserialize(bytearray(blob))
    with mlir.make_ir_context():
        module = artifacts.deserialize_portable_artifact(found.mlir_module_serialized)
        text = module.operation.get_asm(enable_debug_info=False)
    said = (found.in_tree, found.out_tree, found.in_avals, found.out_avals, found.module_kept_var_idx,
            found.uses_global_constants, found.calling_convention_version)  # fmt: skip
    return hashlib.sha256((text + repr(said)).encode()).hexdigest()[:32]


class Checker:
    """A process that checks, replaced when it dies, hangs or has done its share."""

    def __init__(self, file: Path, seed: int, limit_s: float) -> None:
        self._command = [sys.executable, "-c", "from benchmarks.fuzz import serve; serve()", str(file), str(seed)]
        self._limit_s, self._done = limit_s, 0
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, number: int) -> dict[str, Any]:
        """What became of a mutant: what its check answered, or how the process `ended`, and what was made."""
        process = self._started()
        assert process.stdin is not None
        self._done += 1
        deadline = time.monotonic() + self._limit_s
        answer: dict[str, Any] = {}
        try:
            process.stdin.write(f"{number}\n".encode())
            process.stdin.flush()
            for line in self._lines(process, 2, deadline):
                answer |= json.loads(line)
        except TimeoutError:
            answer["ended"] = "hang"
        except (BrokenPipeError, EOFError):
            status = process.wait()
            answer["ended"] = f"signal {-status}" if status < 0 else f"status {status}"
        if "ended" in answer or self._done >= MUTANTS_OF_A_PROCESS:
            self.close()
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            paths = os.pathsep.join(filter(None, ["", *sys.path]))
            environment = {**kept, "JAX_PLATFORMS": "cpu", "NPROC": "1", "PYTHONPATH": paths}
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
            self._done = 0
            next(self._lines(self._process, 1, math.inf))  # it has started, which is not the mutant's time
        return self._process

    @staticmethod
    def _lines(process: subprocess.Popen[bytes], count: int, deadline: float) -> Iterator[bytes]:
        assert process.stdout is not None
        held = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while count:
                left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
                if not selector.select(left):
                    raise TimeoutError
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    raise EOFError
                *lines, held = (held + part).split(b"\n")
                count -= len(lines)
                yield from lines


def outcome(answer: Mapping[str, Any]) -> str:
    """Name what became of a mutant; what must not be begins with WRONG."""
    if "ended" in answer:
        end = str(answer["ended"])
        if end.startswith("status"):
            return "WRONG: the process left by itself"
        return f"{'' if answer.get('made') else 'while it was made: '}{end}"
    if "raised" in answer:
        return "WRONG: the check raised"
    if "failure" in answer:
        failure = answer["failure"]
        plain = failure["stage"] == "program" and failure["message"].isprintable() and len(failure["message"]) <= 400
        return f"refused: {failure['rule']}" if plain else "WRONG: a failure of another kind"
    if "program" not in answer:
        return "WRONG: no answer"
    if answer.get("same_text"):
        return "admitted: as it was" if answer["same_facts"] else "WRONG: the same module, other facts"
    return "admitted: fingerprint and cost as they were" if answer["same_facts"] else "admitted: another program"


# ---- what is admitted is run ----


def by_hand(file: str, program: str, steps: int, data: str) -> dict[str, float]:
    """Entry of a job: the losses and the score that a program gives, without engine, interpreter and compiled step.

    The optimiser is Optax's, called directly; the artifacts are called as they are deserialized, with operations of
    `nas.kernels` filled in.
    """
    import jax
    import jax.numpy as jnp
    import msgpack
    import optax
    from jax import export
    from optax import contrib

    from nas.kernels import crossing
    from nas.train.job import read_split

    reference, _, facts = msgpack.unpackb(Path(file).read_bytes())
    space, leaves = load(reference), facts["param_leaves"]
    blobs = msgpack.unpackb(Path(program).read_bytes())
    call = {name: crossing.fill(export.deserialize(bytearray(blob)), "cpu").call for name, blob in blobs.items()}
    train, validation = read_split(data, "train"), read_split(data, "validation")
    recipe, task = space.recipe, space.task
    params, state = jax.jit(call["init"])(np.uint32(TRIAL["seed"]))
    assert len(params) == leaves
    adamw = contrib.schedule_free_adamw(TRIAL["lr"], warmup_steps=recipe.warmup, weight_decay=TRIAL["wd"])
    optimizer, losses = adamw.init(params), []
    forward, backward = jax.jit(call["forward"]), jax.jit(call["backward"])
    rows = rows_for(int(TRIAL["seed"]), 0, steps, len(train.inputs), recipe.microbatch)
    for step, row in enumerate(rows):
        key = np.uint32((TRIAL["seed"] * 0x9E3779B1 + step) % 2**32)
        output, auxiliary, state, residuals = forward(params, state, train.inputs[row], key)

        def objective(output: Any, auxiliary: Any, targets: Any = train.targets[row]) -> Any:
            loss = task.loss(output, targets).mean()
            return loss + jnp.minimum(auxiliary, recipe.max_auxiliary), loss

        pulled = jax.grad(objective, argnums=(0, 1), has_aux=True)(output, auxiliary)
        losses.append(float(pulled[1]))
        updates, optimizer = adamw.update(backward(residuals, *pulled[0]), optimizer, params)
        params = optax.apply_updates(params, updates)
    params = contrib.schedule_free_eval_params(optimizer, params)
    for step, row in enumerate(rows_for(0, 0, CALIBRATION, len(train.inputs), recipe.microbatch) if state else ()):
        state = forward(params, state, train.inputs[row], np.uint32(step))[2]
    output = jax.jit(call["eval"])(params, state, validation.inputs)
    loss, score = task.loss(output, validation.targets).mean(), task.score(output, validation.targets).mean()
    return {"train_loss": float(np.mean(losses)), "loss": float(loss), "score": float(score)}


def write_data(space: SearchSpace, folder: Path) -> None:
    """Random inputs and targets of the space's shapes: two batches to train on, one to score."""
    rng, contract = np.random.default_rng(0), space.contract
    *positions, classes = contract.output_shape
    folder.mkdir(parents=True)
    for name, count in (("train", 2 * space.recipe.batch), ("validation", space.recipe.eval_batch)):
        x = rng.normal(size=(count, *contract.input_shape))
        x = x if contract.input_dtype == "float32" else rng.integers(0, classes, x.shape)
        np.save(folder / f"{name}.inputs.npy", x.astype(contract.input_dtype))
        np.save(folder / f"{name}.targets.npy", rng.integers(0, classes, (count, *positions)).astype(np.int32))


def run_admitted(files: Sequence[Path], folder: Path) -> list[str]:
    """Train and score admitted mutants, and do the same by hand: what came of each."""
    import msgpack

    from nas.records import hash_blobs

    jobs, spaces = list[list[Job]](), {}
    for file in files:
        reference, blobs, facts = msgpack.unpackb(file.read_bytes())
        space, data = spaces.setdefault(reference, load(reference)), folder / "data" / reference
        if not data.exists():
            write_data(space, data)
        program = file.with_suffix(".program")
        program.write_bytes(msgpack.packb(blobs) or b"")
        how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, space.recipe.eval_batch, "cpu")
        trainer = {
            "space": reference, "program": str(program), "digest": hash_blobs(blobs),
            "param_leaves": facts["param_leaves"], "how": plan_to_plain(replace(how, chunk=STEPS)), "data": str(data),
            "cache": None, "start": 0, "stops": [STEPS], "trials": [TRIAL | {"id": 1, "load": [], "save": None}],
        }  # fmt: skip
        hand = {"file": str(file), "program": str(program), "steps": STEPS, "data": str(data)}
        entries = (("nas.train.job:train_job", trainer), ("benchmarks.fuzz:by_hand", hand))
        jobs.append([
            Job(id=f"{file.stem}.{index}", entry=entry, payload=payload, timeout_s=LIMIT_S, attempts=1,
                need=Need(memory_bytes=MEMORY_BYTES))
            for index, (entry, payload) in enumerate(entries)
        ])  # fmt: skip
    events: dict[str, Event] = {}
    modules = (*preload(next(iter(spaces.values()))), "nas.kernels.crossing") if spaces else ()
    with LocalExecutor(1, modules, sandbox="off") as executor:
        for job in (job for pair in jobs for job in pair):
            executor.submit(job)
        while len(events) < 2 * len(jobs):
            events |= {event.job_id: event for event in executor.poll(1.0)}
    return [agreement(*(events[job.id] for job in pair)) for pair in jobs]


def agreement(trained: Event, hand: Event) -> str:
    """Name what came of a mutant that was run; what must not be begins with WRONG."""
    if trained.kind == "lost":
        return f"WRONG: the trainer died ({trained.error[:80]})"
    if trained.kind in ("timeout", "memory"):
        return f"WRONG: the trainer's {trained.kind}"
    if trained.kind != "done":
        return "not compiled by either" if hand.kind != "done" else f"WRONG: the trainer raised ({trained.error[:120]})"
    result = trained.result["trials"][0]
    if hand.kind != "done":
        return f"WRONG: by hand it ended with {hand.kind} ({hand.error[:80]})"
    said = hand.result
    if "failure" in result:
        diverged = not all(math.isfinite(value) for value in said.values())
        return "not finite in both" if diverged else "WRONG: diverged in the trainer alone"
    point = result["points"][0][0]
    for key, tolerance in (("train_loss", LOSS_TOLERANCE), ("loss", LOSS_TOLERANCE), ("score", SCORE_TOLERANCE)):
        if not abs(point[key] - said[key]) <= tolerance * max(1.0, abs(said[key])):
            return f"WRONG: {key} is {point[key]:.6g}, by hand {said[key]:.6g}"
    return "the same losses and score"


# ---- all of it ----


def fuzz(
    subjects: Sequence[Subject], numbers: Sequence[int], seed: int, runs: int, folder: Path,
    limit_s: float = LIMIT_S, most_s: float = math.inf, tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Make, check and compare the mutants with these numbers, and run some of those that were admitted.

    Args:
      subjects: what is damaged.
      numbers: of the mutants.
      seed: of their making.
      runs: how many of those that were admitted and do not say the same are run, at most.
      folder: for files, empty.
      limit_s: time for one mutant.
      most_s: after this time no further mutant is made [s]; the figures say how many there were.
      tell: takes a line now and then.
    Returns:
      Counts by kind and outcome; what is wrong, with the number of the mutant.
    """
    import msgpack

    from nas.admit.program import check_job

    facts = [check_job(each.space, each.blobs, each.param_leaves)["program"] for each in subjects]
    originals = [{key: each[key] for key in ("fingerprint", "cost", "param_leaves", "traits")} for each in facts]
    file = folder / "subjects"
    file.write_bytes(msgpack.packb([list(subject) for subject in subjects]) or b"")
    checker, began = Checker(file, seed, limit_s), time.monotonic()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    wrong, waiting, ended = list[tuple[int, str]](), dict[str, tuple[int, str, str]](), list[tuple[int, str, str]]()
    longest_s, done = 0.0, 0
    try:
        for done, number in enumerate(numbers, 1):
            started = time.monotonic()
            if started - began > most_s:
                done -= 1
                break
            answer = checker.check(number)
            longest_s = max(longest_s, time.monotonic() - started)
            if "program" in answer:
                program = answer["program"]
                answer["same_facts"] = program == json.loads(json.dumps(originals[answer["subject"]]))
            named, kind = outcome(answer), KINDS[number % len(KINDS)]
            counts[kind][named] += 1
            if named.startswith("WRONG"):
                wrong.append((number, f"{named} {answer.get('raised', '')}".strip()))
            if named.startswith("admitted") and not answer["same_text"]:
                waiting.setdefault(answer["text"], (number, kind, named))
            elif "ended" in answer:
                ended.append((number, kind, named))
            if done % 500 == 0:
                tell(f"{done} mutants, {done / (time.monotonic() - began):.1f} a second, {len(waiting)} to run")
    finally:
        checker.close()
    checked_s = time.monotonic() - began
    chosen = _of_all_kinds(list(waiting.values()), runs)
    tell(f"{len(chosen)} of {len(waiting)} different ones are run")
    began = time.monotonic()
    came = run_admitted([folder / f"{number}.admitted" for number, _, _ in chosen], folder)
    wrong += [(number, said) for (number, _, _), said in zip(chosen, came, strict=True) if said.startswith("WRONG")]
    return {
        "mutants": done, "seconds": checked_s, "longest_s": longest_s,
        "counts": {kind: dict(sorted(count.items())) for kind, count in counts.items() if count},
        "ended": ended, "different": len(waiting), "runs": len(chosen), "runs_s": time.monotonic() - began,
        "run": dict(sorted(Counter(said.partition(" (")[0].partition(" is ")[0] for said in came).items())),
        "wrong": wrong,
    }  # fmt: skip


def _of_all_kinds(known: Sequence[tuple[int, str, str]], most: int) -> list[tuple[int, str, str]]:
    """Some of each kind and outcome, in turn."""
    groups: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for each in known:
        groups.setdefault(each[1:], []).append(each)
    chosen: list[tuple[int, str, str]] = []
    while len(chosen) < min(most, len(known)):
        for group in groups.values():
            if group and len(chosen) < most:
                chosen.append(group.pop(0))
    return chosen


def show(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    ends = sorted({name for count in figures["counts"].values() for name in count})
    groups = ["refused", "signal", "hang", "admitted", "other"]

    def group(name: str) -> str:
        return next((known for known in groups if name.startswith(known)), "other")

    rows = [[kind, *(sum(n for name, n in count.items() if group(name) == known) for known in groups)]
            for kind, count in figures["counts"].items()]  # fmt: skip
    total = Counter[str]()
    for count in figures["counts"].values():
        total.update(count)
    lines = [report.table(["changed", *groups], rows), ""]
    lines.append(report.table(["ended as", "mutants"], [[name, total[name]] for name in ends]))
    lines.append("")
    lines.append(report.table(["run as", "mutants"], [[name, count] for name, count in figures["run"].items()]))
    lines.append("")
    lines.append(
        f"{figures['mutants']} mutants in {figures['seconds']:.0f} s, the longest {figures['longest_s']:.1f} s; "
        f"{figures['runs']} of {figures['different']} different ones were run"
    )
    lines += [f"{number}: {said}" for number, said in figures["wrong"]]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Damage programs by the thousand.")
    add = made.add_argument
    add("--blobs", type=int, default=2000, metavar="N", help="how many mutants (2000)")
    add("--runs", type=int, default=100, metavar="N", help="how many of the admitted ones are trained (100)")
    add("--minutes", type=float, default=math.inf, metavar="M", help="make no more after so many minutes (no limit)")
    add("--seed", type=int, default=0, metavar="N", help="of the mutants (0)")
    add("--only", type=int, nargs="+", metavar="NUMBER", help="these mutants alone")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; its exit status is in the module's docstring."""
    parsed = parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    numbers = parsed.only or range(parsed.blobs)
    with tempfile.TemporaryDirectory() as folder:
        subjects = trace_subjects()
        tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        most_s = 60 * parsed.minutes
        figures = fuzz(subjects, numbers, parsed.seed, parsed.runs, Path(folder), most_s=most_s, tell=tell)
    print(show(figures))
    if parsed.json:
        settings = {"blobs": len(numbers), "runs": parsed.runs, "seed": parsed.seed, "limit_s": LIMIT_S,
                    "subjects": [" ".join(each) for each in SUBJECTS], "shares": list(SHARES)}  # fmt: skip
        report.write(parsed.json, "fuzz", settings, figures)
    return 1 if figures["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
