"""Every operation of `nas.kernels`: values against NumPy in float64, derivatives against the float64 reference.

An operation is tested by being listed. Its oracle is in `kernel_oracles.py`, its cases are its own; those of up to
`SMALL` numbers are computed here. Arrays are rounded to the dtype under test before anything else, so that an error is
the operation's own. What is allowed, relative to the largest number of an array, is `C` roundings of the dtype, or of
the sums' dtype times the root of how many terms are summed, whichever is more: sums of 16-bit numbers are float32.
"""

import dataclasses
import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kernel_oracles
import numpy as np
import pytest

from nas import kernels
from nas.kernels.crossing import platform as platform_here
from nas.kernels.op import SMALL, Case, Op, accumulation, is_floating

C = 2
SEVERAL_CHUNKS = ("long", "one_decay_long")
"""Cases of more than one chunk on every platform, whose products in 16 bit are compared too."""
PRESENT = [name for name in kernels.NAMES if importlib.util.find_spec(f"nas.kernels.{name}")]
OPS: dict[str, Op] = {name: kernels.load(name) for name in PRESENT}


def small(op: Op) -> dict[str, Case]:
    def numbers(case: Case) -> int:
        return sum(int(np.prod(array.shape)) for array in case.arrays)

    return {name: case for name, case in op.cases.items() if numbers(case) <= SMALL}


def listed(often: int, *, chunks: bool = False) -> list[Any]:
    """Small cases by operation; all but the first `often` of each are left to the slow tests.

    The first of each also in bfloat16, with `chunks` those of several chunks too.
    """
    return [
        pytest.param(
            op, name, dtype, id=f"{op.name}-{name}-{dtype}", marks=[pytest.mark.slow] if place >= often else []
        )
        for op in OPS.values()
        for place, name in enumerate(small(op))
        for dtype in ("float32", "bfloat16")
        if dtype == "float32" or place == 0 or (chunks and name in SEVERAL_CHUNKS)
    ]


def fast() -> Iterator[Any]:
    """Versions for devices that need not be here, each once, at what they serve; interpreting one takes seconds.

    What a version serves is asked for the dtype under test, and not for the case's own: the reference takes the place
    of one that refuses, and would be compared with itself.
    """
    for op in OPS.values():
        seen: list[Any] = []
        for platform in sorted({*op.fast, *op.fast_vjp} - {"cpu"}):
            version = op.fast.get(platform), op.fast_vjp.get(platform)
            if version in seen:
                continue
            seen.append(version)
            served = {dtype: _served(op, platform, dtype) for dtype in ("float32", "bfloat16")}
            assert served["bfloat16"], f"{op.name}: the version for {platform} serves no small case in bfloat16"
            for dtype, names in served.items():
                for name in names:
                    often = name == names[0] or (dtype == "bfloat16" and name in SEVERAL_CHUNKS)
                    marks = [] if often else [pytest.mark.slow]
                    told = f"{op.name}-{platform}-{name}-{dtype}"
                    yield pytest.param(op, platform, name, dtype, id=told, marks=marks)


def _served(op: Op, platform: str, dtype: str) -> list[str]:
    """Small cases that the version for a platform supports in this dtype."""

    def avals(case: Case) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(v.shape, dtype if is_floating(v) else v.dtype) for v in case.arrays]

    return [
        name for name, case in small(op).items() if not op.supports(platform, avals(case), op.settings(case.settings))
    ]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one program, compiled cheaply: what is computed counts here, and not how quickly."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def drawn(op: Op, name: str, dtype: str, seed: int = 0) -> list[np.ndarray]:
    """Arrays of a case; floating ones are rounded to the dtype and kept as float64."""
    case = op.cases[name]
    arrays = op.draw(case, np.random.default_rng([seed, len(name)]))
    pairs = zip(arrays, case.arrays, strict=True)
    assert all(array.shape == aval.shape for array, aval in zip(arrays, case.arrays, strict=True))
    return [
        np.asarray(np.asarray(a, dtype=jnp.dtype(dtype)), np.float64) if is_floating(aval) else a.astype(aval.dtype)
        for a, aval in pairs
    ]


def given(op: Op, name: str, arrays: Sequence[np.ndarray], dtype: str) -> list[jax.Array]:
    avals = op.cases[name].arrays
    return [jnp.asarray(a, dtype if is_floating(v) else v.dtype) for a, v in zip(arrays, avals, strict=True)]


def compare(what: str, got: Any, expected: Any, terms: float, dtype: str) -> None:
    """Both are one array or several; the first number that is off is told with where it is."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    assert len(got) == len(expected), f"{what}: {len(got)} arrays instead of {len(expected)}"
    for place, (one, other) in enumerate(zip(got, expected, strict=True)):
        found, wanted = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert found.shape == wanted.shape, f"{what}: array {place} is {found.shape} instead of {wanted.shape}"
        of_sums = float(jnp.finfo(accumulation(dtype)).eps) * max(1.0, terms) ** 0.5
        allowed = C * max(float(jnp.finfo(dtype).eps), of_sums) * max(1e-3, float(np.abs(wanted).max()))
        wrong = ~(np.abs(found - wanted) <= allowed)  # NaN is wrong
        if wrong.any():
            where = tuple(int(index) for index in np.argwhere(wrong)[0])
            message = f"{what}: array {place} is off in {wrong.sum()} of {wrong.size} places, first at {where}: "
            difference = np.abs(found - wanted).max()
            message += f"got {found[where]:.8g}, expected {wanted[where]:.8g}, allowed {allowed:.3g}"
            raise AssertionError(f"{message}; the largest difference is {difference:.3g}")


def terms(op: Op, name: str) -> int:
    return op.summed(*(array.shape for array in op.cases[name].arrays))


def cotangents(function: Callable[..., Any], arrays: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
    """Of the floating arrays, for these cotangents of the outputs."""
    floating = [index for index, array in enumerate(arrays) if is_floating(array)]

    def of_floating(*values: Any) -> Any:
        filled = dict(zip(floating, values, strict=True))
        return jax.tree.leaves(function(*(filled.get(index, array) for index, array in enumerate(arrays))))

    outputs, backward = jax.vjp(of_floating, *(arrays[index] for index in floating))
    return list(backward([jnp.asarray(w, leaf.dtype) for w, leaf in zip(weights, outputs, strict=True)]))


def weights_for(op: Op, name: str, dtype: str, seed: int = 1) -> list[np.ndarray]:
    """Cotangents of the outputs, rounded to the dtype and kept as float64."""
    function = functools.partial(op.reference, **op.cases[name].settings)
    outputs = jax.tree.leaves(jax.eval_shape(function, *op.cases[name].arrays))
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=leaf.shape).astype(jnp.dtype(dtype)), np.float64) for leaf in outputs]


@functools.cache
def exact_cotangents(op: Op, name: str, dtype: str) -> list[Any]:
    """Of the reference in float64, at the arrays and for the cotangents that this dtype can hold."""
    arrays, weights = drawn(op, name, dtype), weights_for(op, name, dtype)
    function = functools.partial(op.reference, **op.cases[name].settings)
    with jax.enable_x64(True):
        values = [jnp.asarray(array) for array in arrays]
        return [np.asarray(leaf) for leaf in compiled(lambda values: cotangents(function, values, weights))(values)]


def check_derivative(op: Op, name: str, dtype: str, function: Callable[..., Any], what: str) -> None:
    arrays, weights = drawn(op, name, dtype), weights_for(op, name, dtype)
    expected = exact_cotangents(op, name, dtype)
    values = given(op, name, arrays, dtype)
    got = compiled(lambda values: cotangents(function, values, weights))(values)
    largest = max(array.size for array in arrays)
    floating = [array for array in values if is_floating(array)]
    for place, (one, other, array) in enumerate(zip(got, expected, floating, strict=True)):
        assert one.dtype == array.dtype, f"{op.name}, {name}: cotangent {place} is {one.dtype}, not {array.dtype}"
        summed = terms(op, name) * largest / array.size
        compare(f"{op.name}, {name}, {dtype}: {what} in floating array {place}", one, other, summed, dtype)


def test_every_listed_operation_has_a_file_and_an_oracle() -> None:
    assert sorted(kernels.NAMES) == sorted(PRESENT)
    assert sorted(kernels.NAMES) == sorted(kernel_oracles.ORACLES)
    assert {path.stem for path in Path(kernels.__file__).parent.glob("*.py")} == {
        *kernels.NAMES,
        "__init__",
        "crossing",
        "op",
    }


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_operation_is_complete(op: Op) -> None:
    assert OPS[op.name] is op
    assert len(small(op)) >= 2
    parameters = inspect.signature(op.reference).parameters.values()
    assert len(op.batched) == sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
    for case in op.cases.values():
        op.check(case.arrays, op.settings(case.settings))
        assert len(case.arrays) == len(op.batched)


@pytest.mark.parametrize(("op", "name", "dtype"), listed(often=10, chunks=True))
def test_values_equal_the_oracle(op: Op, name: str, dtype: str) -> None:
    arrays, settings = drawn(op, name, dtype), op.cases[name].settings
    expected = kernel_oracles.ORACLES[op.name](*arrays, **op.settings(settings))
    functions = {"composite": op, "here": op.direct("cpu"), "reference": op.direct("")}

    def each(*values: Any) -> dict[str, Any]:
        return {what: function(*values, **settings) for what, function in functions.items()}

    for what, got in compiled(each)(*given(op, name, arrays, dtype)).items():
        compare(f"{op.name}, {name}, {dtype}: value ({what})", got, expected, terms(op, name), dtype)


@pytest.mark.parametrize(("op", "name", "dtype"), listed(often=2))
def test_float64_derivative_equals_finite_differences(op: Op, name: str, dtype: str) -> None:
    """At the very arrays at which the derivatives of that dtype are compared with it."""
    arrays, weights = drawn(op, name, dtype), weights_for(op, name, dtype)
    gradients = exact_cotangents(op, name, dtype)
    rng, step = np.random.default_rng(2), 1e-5
    with jax.enable_x64(True):
        function = compiled(functools.partial(op.reference, **op.cases[name].settings))

        def weighted(changed: Sequence[np.ndarray]) -> float:
            outputs = jax.tree.leaves(function(*map(jnp.asarray, changed)))
            return sum(float((np.asarray(leaf) * w).sum()) for leaf, w in zip(outputs, weights, strict=True))

        floating = [index for index, array in enumerate(arrays) if array.dtype == np.float64]
        for index, gradient in zip(floating, gradients, strict=True):
            direction = rng.normal(size=arrays[index].shape)
            ahead, back = (
                [*arrays[:index], arrays[index] + s * direction, *arrays[index + 1 :]] for s in (step, -step)
            )
            slope = (weighted(ahead) - weighted(back)) / (2 * step)
            size = np.linalg.norm(gradient) * np.linalg.norm(direction)
            difference = abs(slope - (gradient * direction).sum())
            assert difference <= 1e-7 * size, f"{op.name}, {name}: array {index} differs by {difference} of {size}"


@pytest.mark.parametrize(("op", "name", "dtype"), listed(often=2))
def test_derivatives_equal_the_float64_reference(op: Op, name: str, dtype: str) -> None:
    settings = op.cases[name].settings
    check_derivative(op, name, dtype, functools.partial(op, **settings), "derivative (composite)")
    if "cpu" in op.fast or "cpu" in op.fast_vjp:
        check_derivative(op, name, dtype, functools.partial(op.direct("cpu"), **settings), "derivative (here)")


@pytest.mark.parametrize("mapped", ["data", "first", "all"])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_vmap_equals_one_after_the_other(op: Op, mapped: str) -> None:
    """Values and derivatives, with the data mapped, one array of it, or parameters as well."""
    name = next(iter(small(op)))
    settings, copies = op.cases[name].settings, 3
    sets = [given(op, name, drawn(op, name, "float32", seed), "float32") for seed in range(copies)]
    chosen = {
        "data": list(op.batched),
        "first": [index == op.batched.index(True) for index in range(len(op.batched))],
        "all": [True] * len(op.batched),
    }[mapped]
    sets = [[one if m else first for one, first, m in zip(s, sets[0], chosen, strict=True)] for s in sets]
    stacked = [jnp.stack([s[i] for s in sets]) if m else sets[0][i] for i, m in enumerate(chosen)]
    weights = weights_for(op, name, "float32")

    def both(function: Callable[..., Any], *arrays: Any) -> Any:
        return function(*arrays, **settings), cotangents(functools.partial(function, **settings), arrays, weights)

    axes = tuple(0 if m else None for m in chosen)
    got = compiled(jax.vmap(functools.partial(both, op), in_axes=axes))(*stacked)
    each = compiled(functools.partial(both, op.reference))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[each(*arrays) for arrays in sets])
    compare(f"{op.name}, {name}: vmap of {mapped}", got, expected, terms(op, name) * sets[0][0].size, "float32")


@pytest.mark.parametrize(("op", "platform", "name", "dtype"), list(fast()))
def test_fast_version_equals_the_reference(op: Op, platform: str, name: str, dtype: str) -> None:
    """Where its device is not here it runs in Pallas' interpreter, which its parameter `interpret` asks for."""

    def interpreted(versions: Any) -> dict[str, Any]:
        found = versions.get(platform)
        if found is None:
            return {}
        takes = "interpret" in inspect.signature(found).parameters and platform != platform_here()
        return {platform: functools.partial(found, interpret=True) if takes else found}

    changed = dataclasses.replace(op, fast=interpreted(op.fast), fast_vjp=interpreted(op.fast_vjp))
    arrays, settings = drawn(op, name, dtype), op.cases[name].settings
    function = functools.partial(changed.direct(platform), **settings)
    expected = kernel_oracles.ORACLES[op.name](*arrays, **op.settings(settings))
    got = compiled(function)(*given(op, name, arrays, dtype))
    compare(f"{op.name}, {name}, {dtype}: value for {platform}", got, expected, terms(op, name), dtype)
    check_derivative(op, name, dtype, function, f"derivative for {platform}")


def test_mismatch_is_told_with_its_place() -> None:
    wanted = np.zeros((2, 3))
    found = wanted.copy()
    found[1, 2] = 0.5
    with pytest.raises(AssertionError, match=r"x: array 0 is off in 1 of 6 places, first at \(1, 2\): got 0.5, exp"):
        compare("x", found, wanted, 1, "float32")
