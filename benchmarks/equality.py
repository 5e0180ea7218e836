"""Do two programs compute the same? Found out by running them, without a look at how they are written.

In go two checked programs, out comes `equal`, `different` or `undecided`, with the reason. Parameters may stand in
another order, and random keys may reach the layers in another order; both count as the same program. So:

1. As many parameters, and as many leaves of state, of each shape and type; else different.
2. `eval` with equal values in all leaves of one shape, on random examples: the outputs cannot depend on the order of
   leaves, so unequal outputs are different programs.
3. Leaves are matched one by one: a leaf of the first program gets values of its own, and that leaf of the second is its
   partner which, with the same values, gives the same outputs. No partner: different. Several: the one that starts
   from the most alike values is taken, and a difference that is found later is `undecided`, since the match may be to
   blame.
4. At the matched values, all of them random: `eval` at three scales of the input, then `forward` and `backward` with
   one seed for both and random cotangents: outputs, auxiliary loss, new state and gradients. If they differ and depend
   on the seed (dropout), their means and variances over many seeds are compared.
5. `init`: equal for one seed, leaf by leaf, or else equal in distribution over many seeds (Kolmogorov-Smirnov).

What is called equal is equal in float32 at some random points: a difference below a ten-thousandth, or that shows only
at other values, is not seen, nor one of up to a factor of two in the variance that dropout makes, nor two leaves that
are initialised dependently, nor rematerialisation, which changes memory and time only. What is called different has
shown a difference.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from nas.records import Program

TOLERANCE = 1e-4
"""Largest difference that passes for rounding, relative to the largest number compared."""
DROPOUT_SEEDS = 128
INIT_SEEDS = 256
INIT_NUMBERS = 50_000
"""Numbers of one leaf, over all seeds, that are compared at most, or eight seeds if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of comparing two programs, and what showed it."""

    verdict: Literal["equal", "different", "undecided"]
    reason: str


class Runner:
    """A program that can be run; each artifact is compiled when it is first needed.

    Args:
      program: a checked program.
    """

    def __init__(self, program: Program) -> None:
        from jax import export

        self.artifacts = {name: export.deserialize(bytearray(blob)) for name, blob in program.blobs.items()}
        self.count = program.param_leaves
        self.kinds = [(tuple(a.shape), str(a.dtype)) for a in self.artifacts["init"].out_avals]

    @cached_property
    def init(self) -> Callable[[int], list[np.ndarray]]:
        """From a seed to all leaves."""
        call = self._compiled("init")
        return lambda seed: _flat(call(np.uint32(seed)))

    @cached_property
    def first(self) -> list[np.ndarray]:
        """All leaves as `init` makes them from one seed."""
        return self.init(1)

    @cached_property
    def eval(self) -> Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]:
        """From leaves and x to outputs."""
        call = self._compiled("eval")
        return lambda leaves, x: np.asarray(call(*self._split(leaves), x))

    def train(self, leaves: Sequence[np.ndarray], x: np.ndarray, seed: int, cotangent: np.ndarray) -> list[np.ndarray]:
        """Outputs, auxiliary loss, then the gradient of each parameter and the new value of each leaf of state."""
        output, auxiliary, after, residuals = self._forward(*self._split(leaves), x, np.uint32(seed))
        gradients = self._backward(residuals, cotangent, np.float32(0.7))
        return [np.asarray(output), np.asarray(auxiliary), *_flat(gradients), *_flat(after)]

    def examples(self, artifact: str, rng: np.random.Generator) -> np.ndarray:
        """Random inputs for an artifact that takes x."""
        aval = self._arguments(artifact)[2]
        if np.issubdtype(aval.dtype, np.floating):
            return rng.normal(size=aval.shape).astype(aval.dtype)
        return rng.integers(0, 8, aval.shape).astype(aval.dtype)

    def cotangents(self, rng: np.random.Generator) -> np.ndarray:
        """Random derivatives of a loss with respect to the outputs of `forward`."""
        aval = self.artifacts["forward"].out_avals[0]
        return rng.normal(size=aval.shape).astype(aval.dtype)

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        return self._compiled("forward")

    @cached_property
    def _backward(self) -> Callable[..., Any]:
        return self._compiled("backward")

    def _split(self, leaves: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        return tuple(leaves[: self.count]), tuple(leaves[self.count :])

    def _arguments(self, name: str) -> Any:
        import jax

        artifact = self.artifacts[name]
        arguments, _ = jax.tree.unflatten(artifact.in_tree, artifact.in_avals)
        return arguments

    def _compiled(self, name: str) -> Callable[..., Any]:
        import jax

        lowered = jax.jit(self.artifacts[name].call).lower(*self._arguments(name))
        # Without optimisation the CPU backend may round a maximum otherwise than its copy in the gradient's mask: NaN.
        level = 1 if name in ("forward", "backward") else 0
        options: dict[str, Any] = {"xla_backend_optimization_level": level}
        return lowered.compile(compiler_options=options)


def compare(one: Runner, other: Runner, seed: int = 0) -> Comparison:
    """Find out whether two programs are the same. See the module's docstring.

    Args:
      one: a program.
      other: another one of the same space.
      seed: of all random values.
    """
    rng = np.random.default_rng(seed)
    for name, part in (("parameters", slice(one.count)), ("state", slice(one.count, None))):
        theirs = slice(other.count) if name == "parameters" else slice(other.count, None)
        if Counter(one.kinds[part]) != Counter(other.kinds[theirs]):
            return Comparison(verdict="different", reason=f"shapes of the {name}")
    x = one.examples("eval", rng)
    matched = _match(one, other, x, rng)
    if isinstance(matched, Comparison):
        return matched
    found = _difference(one, other, matched, x, rng)
    if found is None:
        return Comparison(verdict="equal", reason="eval, forward, backward and init agree")
    return Comparison(verdict="undecided" if matched.ambiguous else "different", reason=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matched:
    """Which leaf of the other program is each leaf of the one, with values for both; whether there was a choice."""

    partners: Sequence[int]
    ours: Sequence[np.ndarray]
    theirs: Sequence[np.ndarray]
    ambiguous: bool


def _match(one: Runner, other: Runner, x: np.ndarray, rng: np.random.Generator) -> _Matched | Comparison:
    alike: dict[Any, np.ndarray] = {}
    roles = [(kind, index < one.count) for index, kind in enumerate(one.kinds)]
    roles_there = [(kind, index < other.count) for index, kind in enumerate(other.kinds)]
    for role in roles:
        alike.setdefault(role, _values(*role, rng))
    ours, theirs = [alike[role] for role in roles], [alike[role] for role in roles_there]
    if not _close(one.eval(ours, x), other.eval(theirs, x)):
        return Comparison(verdict="different", reason="eval, whatever the order of the leaves")
    partners: list[int] = []
    ambiguous = False
    for index, role in enumerate(roles):
        ours[index] = _values(*role, rng)
        wanted = one.eval(ours, x)
        free = [j for j, there in enumerate(roles_there) if there == role and j not in partners]
        fitting = [j for j in free if _close(wanted, other.eval(_with(theirs, j, ours[index]), x))]
        if not fitting:
            verdict = "undecided" if ambiguous else "different"
            return Comparison(verdict=verdict, reason=f"eval: leaf {index} of shape {role[0][0]} has no counterpart")
        ambiguous |= len(fitting) > 1
        partner = fitting[0] if len(fitting) == 1 else _most_alike(one.first[index], other.first, fitting)
        partners.append(partner)
        theirs[partner] = ours[index]
    return _Matched(partners=partners, ours=ours, theirs=theirs, ambiguous=ambiguous)


def _most_alike(leaf: np.ndarray, others: Sequence[np.ndarray], among: Sequence[int]) -> int:
    """The one whose first values are most like these in mean and spread; leaves that nothing uses differ in no more."""

    def distance(index: int) -> float:
        other = others[index]
        return abs(float(leaf.mean()) - float(other.mean())) + abs(float(leaf.std()) - float(other.std()))

    return min(among, key=distance)


def _with(leaves: Sequence[np.ndarray], index: int, value: np.ndarray) -> list[np.ndarray]:
    return [*leaves[:index], value, *leaves[index + 1 :]]


def _values(kind: tuple[tuple[int, ...], str], is_param: bool, rng: np.random.Generator) -> np.ndarray:
    """Random values for a leaf: state is positive, as a variance must be, and whole numbers are small."""
    shape, dtype = kind
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        return rng.integers(0, 4, shape).astype(dtype)
    return (rng.normal(0.0, 0.4, shape) if is_param else rng.uniform(0.5, 1.5, shape)).astype(dtype)


def _difference(one: Runner, other: Runner, matched: _Matched, x: np.ndarray, rng: np.random.Generator) -> str | None:
    """In what two programs differ whose leaves have been matched; None if nothing was found."""
    for scale in (1.0, 1e-2, 10.0):
        scaled = (x * scale).astype(x.dtype)
        if not _close(one.eval(matched.ours, scaled), other.eval(matched.theirs, scaled)):
            return f"eval at scale {scale:g} of the input"
    found = _training_difference(one, other, matched, rng)
    return found or _init_difference(one, other, matched.partners)


def _training_difference(one: Runner, other: Runner, matched: _Matched, rng: np.random.Generator) -> str | None:
    x, cotangent = one.examples("forward", rng), one.cotangents(rng)
    order = [0, 1, *(2 + partner for partner in matched.partners)]

    def both(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        theirs = other.train(matched.theirs, x, seed, cotangent)
        return one.train(matched.ours, x, seed, cotangent), [theirs[place] for place in order]

    ours, theirs = both(1)
    names = ["output", "auxiliary", *_leaf_names(one)]
    largest = max(float(np.max(np.abs(g), initial=0.0)) for g in ours[2 : 2 + one.count])
    unequal = [n for n, a, b in zip(names, ours, theirs, strict=True) if not _close(a, b, least=largest)]
    if not unequal:
        return None
    again = both(2)
    if not any(_unlike(a, b) for a, b in zip(ours, again[0], strict=True)):
        return f"training: {unequal[0]}"
    return _spread_difference(both)


def _leaf_names(runner: Runner) -> Iterator[str]:
    for index, (shape, _) in enumerate(runner.kinds):
        yield f"{'gradient' if index < runner.count else 'new state'} of leaf {index} {shape}"


def _spread_difference(both: Callable[[int], tuple[list[np.ndarray], list[np.ndarray]]]) -> str | None:
    """Whether what depends on a seed has another mean or another variance."""
    drawn = [both(seed) for seed in range(DROPOUT_SEEDS)]
    z, shares = [], []
    for place in range(len(drawn[0][0])):
        a, b = (np.stack([pair[side][place] for pair in drawn]).astype(np.float64) for side in (0, 1))
        size = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
        if not np.isfinite(size):
            return "training: numbers that are not finite"
        varies = (a.std(axis=0) > 1e-5 * size) | (b.std(axis=0) > 1e-5 * size)
        if not np.all(np.abs(a.mean(axis=0) - b.mean(axis=0))[~varies] <= TOLERANCE * size):
            return "training: what does not depend on the seed"
        variance = a.var(axis=0)[varies] + b.var(axis=0)[varies]
        z.append((a.mean(axis=0) - b.mean(axis=0))[varies] / np.sqrt(variance / DROPOUT_SEEDS))
        shares.append(a.var(axis=0)[varies] / variance)  # a half if they vary alike
    if np.mean(np.concatenate(z) ** 2) > 10:
        return "training: means over seeds"
    return None if 1 / 3 < np.mean(np.concatenate(shares)) < 2 / 3 else "training: variances over seeds"


def _init_difference(one: Runner, other: Runner, partners: Sequence[int]) -> str | None:
    """Whether some leaf starts from another distribution."""
    open_leaves = [i for i, partner in enumerate(partners) if not _close(one.first[i], other.first[partner])]
    if not open_leaves:
        return None
    drawn: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {i: ([], []) for i in open_leaves}
    for seed in range(INIT_SEEDS):
        ours, theirs = one.init(seed), other.init(10_000 + seed)
        for index, (a, b) in drawn.items():
            if seed < max(8, INIT_NUMBERS // max(1, ours[index].size)):
                a.append(np.ravel(ours[index]))
                b.append(np.ravel(theirs[partners[index]]))
    for index, (a, b) in drawn.items():
        if not _same_distribution(np.concatenate(a), np.concatenate(b)):
            return f"init of leaf {index} of shape {one.kinds[index][0]}"
    return None


def _same_distribution(a: np.ndarray, b: np.ndarray) -> bool:
    """Two-sample Kolmogorov-Smirnov test, at an error of one in a million."""
    both = np.sort(np.concatenate([a, b]))
    cdf = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (a, b)]
    critical = math.sqrt(-math.log(1e-6 / 2) / 2) * math.sqrt((len(a) + len(b)) / (len(a) * len(b)))
    return float(np.max(np.abs(cdf[0] - cdf[1]))) < critical


def _close(a: np.ndarray, b: np.ndarray, *, least: float = 0.0) -> bool:
    """Equal but for rounding, relative to the largest number in them, or to a thousandth of `least` if that is more."""
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    good = np.isfinite(a)
    if not good.any():
        return True
    size = max(float(np.max(np.abs(a[good].astype(np.float64)))), 1e-3 * least, 1e-20)
    return float(np.max(np.abs(a[good].astype(np.float64) - b[good]))) <= TOLERANCE * size


def _unlike(a: np.ndarray, b: np.ndarray) -> bool:
    return not np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _flat(tree: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
