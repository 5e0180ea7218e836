"""Refuse programs whose outputs depend on what they must not see: later inputs, other examples, or nothing at all.

In go the artifacts that `program.py` has checked; out comes the candidate's `Failure`, or none. The programs are run on
made-up inputs, then some inputs are changed, and the outputs that must not notice are compared. Parameters are those of
the initialiser with noise on them, so that a gate which starts at zero hides nothing. `leak_job` runs in a disposable
process without data, labels or candidate Python. The trainer asks the same of trained parameters and real inputs, by
`unseen` and `starts`.

What is found is there, but for rounding. What is not found here: a dependence so rare that no made-up input triggers it
(about `PAIRS` pairs of an example and a cut in time are tried; of a large program, which is run a few times only, not
even every cut), one that only opens at parameters or in a state that training would have to reach, and one below the
tolerance.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nas.records import Failure, hash_blobs, to_plain
from nas.space import SearchSpace, load

Evaluate = Callable[[np.ndarray], np.ndarray]
"""Inputs (B, ...) to outputs (B, ...), for one fixed B."""

TOLERANCE = 2e-6
"""How far an output may move for what it must not see, in units of its spread over the batch. Nearly every program
computes the outputs in question by the same operations on the same numbers, and they do not move at all."""
FOURIER_TOLERANCE = 1e-4
"""The same for programs with a Fourier transform in single precision, which rounds each result by the size of all its
inputs: 3e-7 for one padded convolution, 1e-5 for twelve one after another with T = 512. So they are asked in double
precision as well (`wide.py`), within `TOLERANCE`; in single too, since a program can tell in which it runs."""
SHIFT_TOLERANCE = {"single": 1e-3, "half": 0.2}
"""The same for an example in another row, where sums may run in another order, by the coarsest float inside."""
SHIFT_SHARE = 0.05
"""Rows that may move beyond it: rounding can turn a choice (top-k, argmax) between two that are nearly equal."""
SHIFTS = 5
"""Orders of the batch after which a row that moved in each is one that the program treats in its own way: a turned
choice goes with the example to another row."""
REPEATS = 4
"""On an accelerator, which may add in any order: movements of a repeated evaluation that still count as rounding."""
PRECISION = 0.01
"""How far outputs in double precision may be from those in single, in units of the largest, in all but `SHIFT_SHARE` of
the rows: a program that is another one there says nothing of itself."""
CONSTANT = 5e-7
"""Spread of the outputs over examples up to which they are all the same, in units of the largest output."""

PAIRS = 2000
"""Pairs of an example and a cut that are tried in one mode, where that is cheap."""
REPEATED_FLOPS = 2e10
"""Work on trying cuts again with other inputs and parameters."""
EVERY_FLOPS = 2e11
"""Work on trying cuts once: beyond, some cuts are drawn at random. Some 4 s of one core."""
LARGE_FLOPS = 5e8
"""Work of one call from which some optimisation pays: 37 calls of a selective scan took 4 s with it, 11 s without."""
MOST_SWEEPS = 64
"""How often cuts are tried at most."""
NOISES = (0.1, 1.0)
"""Noise on the parameters, in turn, in units of their root mean square or of `SMALLEST`, if that is more."""
SMALLEST = 0.5
FEW_IDS = 4
"""Different token ids in every other made-up example."""
LEAST_HALVINGS, MOST_HALVINGS = 2, 6
"""How often one half of a batch is changed to see whether the other moves, after the first time. Every other batch has
few ids in all: in one that holds every id, its largest value is always the same."""
COMPARED_BYTES = 64 << 20
"""Outputs that are compared of one batch: all of a vocabulary of 50,000 would fill the memory of the process."""
FLOPS_PER_OUTPUT = 100
"""What comparing an output costs."""

_TIME = (
    "Mask attention to j <= i, pad convolutions on the left, and take running sums instead of means, norms, sorts or "
    "circular transforms over T."
)
_TRAINING = "Training is causal too, so nnx.BatchNorm is not allowed: take nnx.RMSNorm or nnx.LayerNorm over features."
_DOUBLE = "Programs with a Fourier transform are asked in double precision: write it with jnp.fft and plain operations."
_BATCH = "Compute means, norms, softmaxes, ranks and capacities within an example, never over axis 0."


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What a program depends on and must not, or the other way round.

    Attributes:
      rule: `time`, `batch`, `nondeterministic`, `constant` or `precision`.
      moved: how far an output moved, in units of its spread over the batch; for `precision` of the largest output.
      row: the example whose output moved.
      output: the first position of the output that moved; None where it is not a matter of time.
      input: a later position of the input that moved it.
    """

    rule: Literal["time", "batch", "nondeterministic", "constant", "precision"]
    moved: float = 0.0
    row: int = 0
    output: int | None = None
    input: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an output may move that must not: in the `same` row, and of an example that is `shifted` to another."""

    same: float = TOLERANCE
    shifted: float = SHIFT_TOLERANCE["single"]


def leak_job(
    space: str, blobs: Mapping[str, bytes], param_leaves: int, platform: str = "cpu", flops: int = 0
) -> dict[str, Any]:
    """Entry of the disposable job: `{"failure": {...}}`, or `{"failure": None}`, as plain data."""
    found = check(load(space), blobs, param_leaves, platform, flops)
    return {"failure": None if found is None else to_plain(found)}


def check(
    space: SearchSpace, blobs: Mapping[str, bytes], param_leaves: int, platform: str = "cpu", flops: int = 0
) -> Failure | None:
    """Run a checked program on made-up inputs and say whether it depends on what it must not see.

    In every space, an example is evaluated by itself. In a causal space, the output at position t depends on inputs up
    to t only, in evaluation and in training. What examples do to each other in training is free, as long as it tells
    nothing of later positions, as BatchNorm over time does.

    Args:
      space: its contract says whether it is causal, its spec how many token ids there are.
      blobs: the program's artifacts.
      param_leaves: how many of init's outputs are parameters.
      platform: what the artifacts are lowered for; they are run on the CPU all the same.
      flops: of one inference on one example; limits how often a costly program is run.
    Returns:
      A failure of stage `leak` with the rule of a `Leak`, or None.
    """
    from jax import export

    from nas.kernels.crossing import fill
    from nas.train.interpret import run_once

    def artifact(name: str) -> Any:
        exported = export.deserialize(bytearray(blobs[name]))
        return fill(replace(exported, platforms=("cpu",)), "cpu")

    leaves = run_once(artifact("init"), [np.asarray(0, np.uint32)])
    params, state = tuple(leaves[:param_leaves]), tuple(leaves[param_leaves:])
    work = flops + FLOPS_PER_OUTPUT * math.prod(space.contract.output_shape)
    draws = _Draws(params, space.spec.vocab)
    rng = np.random.default_rng(int(hash_blobs(blobs)[:16], 16))
    for name in ("eval", "forward") if space.contract.causal else ("eval",):
        exported = artifact(name)
        precisions = (False, True) if rounds_far(exported) else (False,)
        for double in precisions:
            try:
                mode = _Mode(exported, params, state, work, double=double)
            except (ValueError, RuntimeError) as error:
                if not double:
                    raise
                message = f"{' '.join(str(error).split())[:200]}. {_DOUBLE}"
                return Failure(stage="leak", rule="double", message=message)
            if name == "eval":
                leak = _evaluation(mode, draws, work * len(precisions), rng, causal=space.contract.causal)
            else:
                leak = _training(mode, draws, work * len(precisions), rng)
            if leak is not None:
                return failure(leak, "in training" if name == "forward" else "")
    return None


def _evaluation(
    mode: "_Mode", draws: "_Draws", work: float, rng: np.random.Generator, *, causal: bool
) -> Leak | None:  # fmt: skip
    within = mode.tolerance
    sweeps, cuts = _effort(mode.shape, work, rng) if causal else (1, None)
    leak = find(*draws.drawn(mode, 0), causal=causal, cuts=cuts, tolerance=within)
    if leak is not None and leak.rule == "constant":  # at other parameters it may not be
        leak = find(*draws.drawn(mode, 1), causal=causal, cuts=cuts, tolerance=within)
    halvings = int(REPEATED_FLOPS / (3 * mode.shape[0] * work))
    for number in range(min(max(halvings, LEAST_HALVINGS), MOST_HALVINGS)):
        leak = leak or _by_halves(*draws.drawn(mode, number, poor=number % 2 == 0), within)
    for number in range(1, sweeps):
        leak = leak or later(*draws.drawn(mode, number), cuts=cuts, tolerance=within.same)
    return leak


def _training(mode: "_Mode", draws: "_Draws", work: float, rng: np.random.Generator) -> Leak | None:
    sweeps, cuts = _effort(mode.shape, work, rng)
    leak = None
    for number in range(sweeps):
        leak = leak or later(*draws.drawn(mode, number), cuts=cuts, tolerance=mode.tolerance.same, mixing=True)
    return leak


def find(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: np.ndarray | None = None, *, causal: bool,
    cuts: np.ndarray | None = None, tolerance: Tolerance | None = None,
) -> Leak | None:  # fmt: skip
    """What a function of a batch depends on and must not, or None.

    Args:
      evaluate: called four to eight times; for a causal function, len(cuts) / B times more.
      inputs: (B, ...), and (B, T, ...) if causal.
      others: what inputs are changed to: the same shape, different numbers everywhere.
      outputs: `evaluate(inputs)`, if it is known.
      causal: whether the output at (b, t) may depend on inputs at (b, 0 … t) only. Outputs beyond T may on all of b.
      cuts: see `later`.
      tolerance: for rounding.
    """
    allowed = tolerance or Tolerance()
    outputs = evaluate(inputs) if outputs is None else outputs
    if not np.array_equal(evaluate(inputs), outputs, equal_nan=True):
        return Leak(rule="nondeterministic")
    return (
        _constant(outputs)
        or _mixed(evaluate, inputs, others, outputs, allowed)
        or (later(evaluate, inputs, others, outputs, cuts=cuts, tolerance=allowed.same) if causal else None)
    )


def later(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: np.ndarray | None = None, *,
    cuts: np.ndarray | None = None, tolerance: float = TOLERANCE, mixing: bool = False,
) -> Leak | None:  # fmt: skip
    """Whether outputs before a cut in time move when inputs from there on change.

    Rows are cut at different positions, so that len(cuts) / B calls suffice.

    Args:
      evaluate: (B, T, ...) to (B, T, ...).
      inputs: (B, T, ...).
      others: what inputs are changed to.
      outputs: `evaluate(inputs)`, if it is known.
      cuts: the positions to cut at; None is all of them, 1 … T-1.
      tolerance: largest movement that counts as rounding.
      mixing: whether examples may depend on each other. What moves is then tried again with all rows cut alike.
    """
    rows, length = inputs.shape[:2]
    cuts = np.arange(1, length) if cuts is None else cuts
    if outputs is None and len(cuts):
        outputs = evaluate(inputs)
    for first in range(0, len(cuts), rows):
        chosen = cuts[(first + np.arange(rows)) % len(cuts)]
        leak = _after(evaluate, inputs, others, outputs, chosen, tolerance)
        if leak is not None and mixing:
            alike = (_after(evaluate, inputs, others, outputs, np.full(rows, cut), tolerance) for cut in cuts)
            return next((leak for leak in alike if leak is not None), None)
        if leak is not None:
            return leak
    return None


def starts(rows: int, length: int, calls: int, rng: np.random.Generator, *, causal: bool) -> np.ndarray:
    """From where on each row of a batch is changed, for `unseen`: (calls, rows), between 0 and `length`.

    A row in two stays whole. The others are cut at positions that are spread evenly over all calls; where nothing is
    causal they are changed from 0 on.

    Args:
      rows: in a batch.
      length: positions of an input.
      calls: how often a batch can be evaluated.
      rng: draws which rows stay, and where exactly they are cut.
      causal: whether time is asked about.
    """
    half = max(rows // 2, int(causal))
    found = np.full((calls, rows), length)
    positions = np.zeros(calls * half, int)
    if causal and len(positions):
        positions = np.floor((np.arange(len(positions)) + rng.random()) * length / len(positions)).astype(int)
    for call, own in enumerate(rng.permutation(positions).reshape(calls, half)):
        found[call, rng.permutation(rows)[:half]] = own
    return found


def unseen(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: np.ndarray, start: np.ndarray, *,
    causal: bool, tolerance: Callable[[], Tolerance] = Tolerance, exact: bool = True,
) -> Leak | None:  # fmt: skip
    """Whether anything moves that must not when each row changes from a position of its own on.

    What is whole must not move at all, and in a causal function nothing before a row's start. That takes one
    evaluation, and more only if a bit differs.

    Args:
      evaluate: (B, T, ...) to (B, ...).
      inputs: (B, T, ...).
      others: what inputs are changed to.
      outputs: `evaluate(inputs)`, from before.
      start: (B,) where each row's change begins; T leaves it whole.
      causal: whether the output at (b, t) may depend on inputs at (b, 0 … t) only.
      tolerance: for rounding; asked for only if a bit differs.
      exact: whether equal inputs have to give equal bits, as they do on a CPU.
    """
    length, whole = inputs.shape[1], start == inputs.shape[1]
    found = evaluate(np.where(_placed(np.arange(length) >= start[:, None], inputs), others, inputs))
    allowed = functools.cache(tolerance)
    noise = 0.0
    if not np.array_equal(found[whole], outputs[whole], equal_nan=True):
        again = evaluate(inputs)
        if not np.array_equal(again, outputs, equal_nan=True):
            noise = REPEATS * float(_movement(again, outputs, axes=2).max())
            if exact or noise > allowed().shifted:
                return Leak(rule="nondeterministic")
        movement = _by_row(_movement(found, outputs, axes=2)) * whole
        if movement.max() > max(allowed().same, noise):
            return Leak(rule="batch", moved=float(movement.max()), row=int(movement.argmax()))
    if not causal:
        return None
    before = np.arange(outputs.shape[1]) < np.where(whole, 0, start)[:, None]
    if np.array_equal(found[before], outputs[before], equal_nan=True):
        return None
    return _after(evaluate, inputs, others, outputs, start, max(allowed().same, noise), found)


def _after(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: Any, cuts: np.ndarray, tolerance: float,
    found: np.ndarray | None = None,
) -> Leak | None:  # fmt: skip
    """Change row b from position cuts[b] on; the first output before its row's cut that moves, and what moves it.

    The outputs are `found`, if that is known.
    """
    length = inputs.shape[1]

    def moved(start: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:  # (B, T), of outputs before the cut
        if found is None:
            change = _placed(np.arange(length) >= start[:, None], inputs)
            found = evaluate(np.where(change, others, inputs))
        before = np.arange(outputs.shape[1]) < np.minimum(cuts, length)[:, None]
        if np.array_equal(found[before], outputs[before], equal_nan=True):
            return np.zeros((len(inputs), length), np.float32)
        movement = _movement(found, outputs)[:, :length]
        movement = movement.reshape(*movement.shape[:2], -1).max(axis=2)
        return np.where(before[:, :length], movement, 0)

    movement = moved(cuts, found)
    position = int((movement > tolerance).any(axis=0).argmax())
    row = int(movement[:, position].argmax())
    if movement[row, position] <= tolerance:
        return None
    near, far = int(cuts.min()), length  # changed from `near` on it moves, from `far` on it does not
    while far - near > 1:
        middle = (near + far) // 2
        if moved(np.maximum(cuts, middle))[row, position] > tolerance:
            near = middle
        else:
            far = middle
    seen = max(near, int(cuts[row]))
    return Leak(rule="time", moved=float(movement[row, position]), row=row, output=position, input=seen)


def _mixed(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: np.ndarray, allowed: Tolerance
) -> Leak | None:
    """Whether an example's outputs move when others change, or when it stands in another row."""
    rows = len(inputs)
    if rows < 2:
        return None
    if (leak := _by_halves(evaluate, inputs, others, outputs, allowed)) is not None:
        return leak
    rng = np.random.default_rng(rows)
    always = np.full(rows, True)  # rows that moved in every order
    for number in range(SHIFTS):
        cycle, order = rng.permutation(rows), np.empty(rows, int)
        order[cycle] = np.roll(cycle, 1)  # no row stays
        movement = _by_row(_movement(evaluate(inputs[order]), outputs[order], axes=2))
        moves = movement > allowed.shifted
        always &= moves
        if moves.mean() > SHIFT_SHARE or (always.any() and number == SHIFTS - 1):
            return Leak(rule="batch", moved=float(movement.max()), row=int(order[movement.argmax()]))
        if not always.any():
            break
    return None


def _by_halves(
    evaluate: Evaluate, inputs: np.ndarray, others: np.ndarray, outputs: np.ndarray, allowed: Tolerance
) -> Leak | None:
    """Whether the outputs for one half of a batch move when the other half changes."""
    half = np.random.default_rng(len(inputs)).permutation(len(inputs)) % 2 == 0
    for kept in (half, ~half):
        changed = evaluate(np.where(_placed(kept, inputs), inputs, others))
        movement = _by_row(_movement(changed, outputs, axes=2)) * kept
        if movement.max() > allowed.same:
            return Leak(rule="batch", moved=float(movement.max()), row=int(movement.argmax()))
    return None


def other_program(single: np.ndarray, double: np.ndarray) -> Leak | None:
    """Whether a program is another one in double precision, see `PRECISION`; what all logits share is left out."""
    one, other = (_without_mean(array) if array.ndim >= 3 else array for array in (single, double))
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
        apart = np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other), one != other)
    share = _by_row(apart) / max(float(largest), 1e-30)
    return Leak(rule="precision", moved=float(share.max())) if (share > PRECISION).mean() > SHIFT_SHARE else None


def _constant(outputs: np.ndarray) -> Leak | None:
    if len(outputs) < 2 or not np.isfinite(outputs).all():
        return None
    same = np.ptp(outputs, axis=0).max() <= CONSTANT * np.abs(outputs).max()
    return Leak(rule="constant") if same else None


def _movement(found: np.ndarray, expected: np.ndarray, *, axes: int = 3) -> np.ndarray:
    """How far outputs moved: |found - expected| / their spread over the batch, elementwise.

    What spreads less than is usual is measured by what is usual. The largest output would be the wrong measure: one
    enormous logit that no target asks for would hide the others. Where outputs of a position are compared with each
    other, as logits are, so is what is left of them without their mean: what is added to all of them, however large,
    says nothing and would hide what does. An infinity that comes or goes moves without bound; where there is no number,
    nothing moved.
    """
    movement = _relative(found, expected)
    if found.ndim >= axes:  # in time, the last axis of (B, T) is no set of logits
        movement = np.maximum(movement, _relative(_without_mean(found), _without_mean(expected)))
    infinite = (np.isinf(found) | np.isinf(expected)) & ~np.isnan(found) & ~np.isnan(expected)
    return np.where(infinite & (found != expected), np.float32(np.finfo(np.float32).max), movement)


def _without_mean(outputs: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinities have no mean
        wide = outputs.astype(np.float64)
        return wide - wide.mean(axis=-1, keepdims=True)


def _relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    finite = np.isfinite(found) & np.isfinite(expected)
    kind = np.result_type(np.float32, expected.dtype)  # outputs in double precision are compared in it
    before, after = (np.where(finite, array, 0).astype(kind) for array in (expected, found))
    spread = np.ptp(before, axis=0) if len(before) > 1 else np.abs(before[0])
    # Where examples begin alike, a Fourier transform spreads outputs by rounding, which measures nothing.
    varied = spread[spread > CONSTANT * np.abs(before).max(axis=0)]
    usual = float(np.median(varied)) if varied.size else 1.0
    with np.errstate(over="ignore"):
        return np.abs(after - before) / np.maximum(spread, usual)


def _by_row(movement: np.ndarray) -> np.ndarray:
    return movement.reshape(len(movement), -1).max(axis=1)


def _placed(mask: np.ndarray, array: np.ndarray) -> np.ndarray:
    """A mask over the first axes of an array, so that it broadcasts against it."""
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


def failure(leak: Leak, when: str = "") -> Failure:
    """A leak as what is told of a candidate.

    Args:
      leak: what was found.
      when: where it shows, if not at admission in evaluation: `in training`, or with which parameters.
    """
    size = f"by {leak.moved:.0e} of its spread"
    messages = {
        "time": f"the output at position {leak.output} depends on the input at position {leak.input} ({size})",
        "batch": f"the outputs for an example depend on the other examples of its batch ({size})",
        "nondeterministic": "the same inputs give different outputs in evaluation",
        "constant": "the outputs are the same for all inputs",
        "precision": f"the outputs in double precision are others (by {leak.moved:.0e} of the largest)",
    }
    remedies = {
        "time": f"{_TRAINING} {_TIME}" if when == "in training" else _TIME,
        "batch": _BATCH,
        "nondeterministic": "Compute with x, parameters and constants alone.",
        "precision": "Keep what is computed within what single precision holds, and apart from how it rounds.",
        "constant": "Let x reach the outputs: no factor of zero, and no activation that is always saturated.",
    }
    mode = f"{when}, " if when else ""
    return Failure(stage="leak", rule=leak.rule, message=f"{mode}{messages[leak.rule]}. {remedies[leak.rule]}")


def thinning(size: int) -> int:
    """Every so many-th feature is compared of outputs of this size [bytes]."""
    return max(1, -(-size // COMPARED_BYTES))


def rounds_far(exported: Any) -> bool:
    """Whether outputs before a change move by rounding, so that a program has to be asked in double precision."""
    return "stablehlo.fft" in str(exported.mlir_module())


def tolerance_of(exported: Any, *, double: bool = False) -> Tolerance:
    """What rounding asks for, with the operations and floats that an exported function holds.

    Args:
      exported: before it was widened, if it was.
      double: whether it is computed in double precision.
    """
    text = str(exported.mlir_module())
    return Tolerance(
        same=TOLERANCE if double or not rounds_far(exported) else FOURIER_TOLERANCE,
        shifted=SHIFT_TOLERANCE["half" if "bf16>" in text or "xf16>" in text else "single"],
    )


def compiled(
    exported: Any, arguments: tuple[Any, ...], level: int = 0, *, double: bool = False, every: int = 1
) -> Callable[..., np.ndarray]:
    """An exported function as one of arrays in memory, that gives its first output alone.

    Args:
      exported: a program for this machine's CPU.
      arguments: arrays like those that it will be called with.
      level: of the compiler's optimisation.
      double: whether it is computed in double precision.
      every: see `thinning`.
    """
    import jax

    from nas.admit.wide import wide, widened

    program = widened(exported) if double else exported
    cast: Callable[[Any], Any] = functools.partial(jax.tree.map, lambda leaf: wide(np.asarray(leaf)))
    cast = cast if double else lambda leaves: leaves

    def first(*arguments: Any) -> Any:
        return jax.tree.leaves(program.call(*arguments))[0][..., ::every]

    options = {
        "xla_backend_optimization_level": level,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    with jax.enable_x64(double):
        executable = jax.jit(first).lower(*cast(arguments)).compile(compiler_options=options)

    def call(*arguments: Any) -> np.ndarray:
        with jax.enable_x64(double):
            return np.asarray(executable(*cast(arguments)))

    return call


class _Mode:
    """One artifact as a function of parameters and inputs, compiled as cheaply as its work on an example allows.

    Attributes:
      shape: of its inputs.
      dtype: of its inputs.
      tolerance: what rounding asks for, with the operations and floats that it holds.
    """

    def __init__(
        self, exported: Any, params: tuple[np.ndarray, ...], state: tuple[np.ndarray, ...], work: float, *,
        double: bool = False,
    ) -> None:  # fmt: skip
        training = len(exported.in_avals) > len(params) + len(state) + 1
        x = exported.in_avals[len(params) + len(state)]
        self.shape, self.dtype = tuple(x.shape), np.dtype(x.dtype)
        self._training, self._state = training, state
        self.tolerance = tolerance_of(exported, double=double)
        every = thinning(math.prod(exported.out_avals[0].shape) * exported.out_avals[0].dtype.itemsize)
        arguments = (params, state, np.zeros(self.shape, self.dtype), *self._seeds(0))
        level = int(self.shape[0] * work > LARGE_FLOPS)
        self._compiled = compiled(exported, arguments, level, double=double, every=every)

    def __call__(self, params: tuple[np.ndarray, ...], seed: int, inputs: np.ndarray) -> np.ndarray:
        return self._compiled(params, self._state, inputs, *self._seeds(seed))

    def _seeds(self, seed: int) -> tuple[np.uint32, ...]:
        """What dropout is drawn from, in training alone."""
        return (np.uint32(seed),) if self._training else ()


class _Draws:
    """What is made up: parameters and inputs, by the number of a sweep."""

    def __init__(self, params: tuple[np.ndarray, ...], vocab: int) -> None:
        self._params, self._vocab = params, vocab

    def drawn(
        self, mode: _Mode, number: int, *, poor: bool = False
    ) -> tuple[Evaluate, np.ndarray, np.ndarray, np.ndarray]:
        """A mode at parameters with noise, inputs, others that differ from them everywhere, and the inputs' outputs.

        There is as much noise as leaves the outputs finite. In a `poor` batch there are few ids in all, if it has ids.
        """
        rng = np.random.default_rng([2, number])
        inputs = self._inputs(mode, rng)
        if poor and np.issubdtype(mode.dtype, np.integer):
            inputs = rng.choice(np.unique(inputs[-1])[:FEW_IDS], mode.shape).astype(mode.dtype)
        if np.issubdtype(mode.dtype, np.floating):
            others = self._inputs(mode, rng)
        else:
            count = self._ids(mode)
            others = ((inputs + rng.integers(1, count, size=mode.shape)) % count).astype(mode.dtype)
        # Much noise in many layers makes much of how a Fourier transform rounds: there it is left out.
        noise = NOISES[0] if mode.tolerance.same > TOLERANCE else NOISES[number % len(NOISES)]
        for share in (noise, noise / 10, 0.0):
            rng = np.random.default_rng([3, number])
            evaluate = functools.partial(mode, tuple(_shaken(leaf, share, rng) for leaf in self._params), number)
            outputs = evaluate(inputs)
            if np.isfinite(outputs).all():
                break
        return evaluate, inputs, others, outputs

    def _inputs(self, mode: _Mode, rng: np.random.Generator) -> np.ndarray:
        """Normal numbers, or ids; every other example has few ids, which then come again, and in runs."""
        if np.issubdtype(mode.dtype, np.floating):
            return rng.standard_normal(mode.shape, np.float32).astype(mode.dtype)
        any_ids = rng.integers(self._ids(mode), size=mode.shape)
        few = rng.integers(self._ids(mode), size=(mode.shape[0], FEW_IDS))
        picks = rng.integers(FEW_IDS, size=(mode.shape[0], math.prod(mode.shape[1:])))
        few_ids = np.take_along_axis(few, picks, axis=1).reshape(mode.shape)
        return np.where(_placed(np.arange(mode.shape[0]) % 2 == 0, any_ids), any_ids, few_ids).astype(mode.dtype)

    def _ids(self, mode: _Mode) -> int:
        """How many ids there are; whole numbers that are no ids, such as pixels, are taken from what all types hold."""
        return 2 if mode.dtype == np.bool_ else max(2, self._vocab or 128)


def _shaken(leaf: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    wide = np.asarray(leaf, np.float32)
    size = max(float(np.sqrt(np.mean(wide**2))) if wide.size else 0.0, SMALLEST)
    return (wide + share * size * rng.standard_normal(wide.shape, np.float32)).astype(leaf.dtype)


def _effort(shape: tuple[int, ...], work: float, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """How often cuts in time are tried, and which, if inputs have this shape and an example takes so many FLOPs."""
    rows, cuts = shape[0], np.arange(1, shape[1])
    calls, call = -(-len(cuts) // rows), rows * work
    if calls * call > EVERY_FLOPS:
        affordable = max(1, int(EVERY_FLOPS / call))
        return 1, np.sort(rng.choice(cuts, affordable * rows, replace=False))
    wanted = min(PAIRS // max(rows, len(cuts)) + 1, MOST_SWEEPS)
    return max(1, min(wanted, int(REPEATED_FLOPS / ((calls + 1) * call)))), cuts
