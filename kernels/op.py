"""An operation that crosses the wall by name, so that whoever runs a program puts in what is fastest on its device.

In goes a plain reference with what is known to be faster for some devices, out comes an `Op`: called like a function,
it traces to a composite `nas.<name>`, and its derivative to a composite `nas.<name>.vjp`. Each carries the reference
as its decomposition, which any compiler can run; `crossing.py` is the other side, where the decomposition is not
believed. Which implementation runs is not decided here: what is traced is the same for every device.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

VERSION = 1
"""Version of every composite; a program that names another one was written for other operations."""
SMALL = 20_000
"""Numbers in all arrays of a case up to which tests compute it; each operation has at least two such cases."""

Setting = int | float | bool | str | None
"""A number that an operation takes beside its arrays: known when it is traced, and part of its name at the wall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Real shapes and settings, on which an operation is tested and timed.

    Attributes:
      arrays: shape and dtype of each array.
      settings: those that are not the defaults.
    """

    arrays: tuple[jax.ShapeDtypeStruct, ...]
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """One operation: what it computes, what is faster, and what it is tested on.

    Settings are the keyword-only parameters of `reference`, whose annotations say what each may be. State and sums are
    kept in `accumulation(dtype)`, results have the dtype of the arrays.

    Attributes:
      name: as in `nas.kernels`; crosses as the composites `nas.<name>` and `nas.<name>.vjp`.
      reference: (*arrays, **settings) to an array or a tuple of arrays, in plain jnp; its FLOPs are what is counted.
      check: (arrays' shapes and dtypes, settings) to None, or ValueError in one line. Called when a candidate calls the
        operation, and on the other side for what a composite claims.
      batched: which arrays have the leading axis B, as all outputs then have; `vmap` folds its axis into it.
      cases: shapes and settings by name; those of up to `SMALL` numbers are what tests compute.
      draw: (case, random generator) to arrays of the case's shapes, as float64 or whole numbers, with values as in use.
      summed: the arrays' shapes to how many terms one number of the result is a sum of, at most: what it rounds by.
      fast: faster functions of the reference's signature, by platform: `cpu`, `cuda` or `tpu`. One that is a Pallas
        kernel also has the keyword `interpret`, False unless a test runs it on another device; so in `fast_vjp`.
      fast_vjp: (arrays, outputs, cotangents, **settings) to the cotangents of the floating arrays, by platform.
        Without one, it is that of `fast`, and else of the reference.
      supports: (platform, arrays' shapes and dtypes, settings) to "", or why `fast` cannot: then the reference runs.
    """

    name: str
    reference: Callable[..., Any]
    check: Callable[[Sequence[Any], Mapping[str, Any]], None]
    batched: tuple[bool, ...]
    cases: Mapping[str, Case]
    draw: Callable[[Case, np.random.Generator], tuple[np.ndarray, ...]]
    summed: Callable[..., int]
    fast: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    fast_vjp: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    supports: Callable[[str, Sequence[Any], Mapping[str, Any]], str] = lambda platform, avals, settings: ""

    def __call__(self, *arrays: Any, **settings: Any) -> Any:
        """Apply the operation; arrays by position or by name, settings by name.

        Raises:
          TypeError: an array is missing, or an argument is not known.
          ValueError: shapes do not fit, or a setting is out of range.
        """
        try:
            bound = inspect.signature(self.reference).bind(*arrays, **settings)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}; it is {self.name}{signature(self.reference)}") from None
        values = [jnp.asarray(value) for value in bound.args]
        complete = self.settings(bound.kwargs)
        self.check([jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values], complete)
        return _crossing(self, tuple(complete.items()))(*values)

    def function(self, platform: str, avals: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any]:
        """What runs on a platform for these shapes: the fast version where there is one, else the reference."""
        fast = self.fast.get(platform, self.reference) if self._serves(platform, avals, settings) else self.reference
        return functools.partial(fast, **settings)

    def derivative(self, platform: str, avals: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any]:
        """The same for the derivative: (*arrays, *outputs, *cotangents) to the cotangents of the floating arrays."""
        count = len(avals)
        fast = self.fast_vjp.get(platform) if self._serves(platform, avals, settings) else None
        if fast is None:
            return pullback(self.function(platform, avals, settings), count)

        def derivative(*values: Any) -> tuple[Any, ...]:
            middle = count + (len(values) - count) // 2
            return tuple(fast(values[:count], values[count:middle], values[middle:], **settings))

        return derivative

    def _serves(self, platform: str, avals: Sequence[Any], settings: Mapping[str, Any]) -> bool:
        """Whether there is anything faster than the reference; `supports` is only asked where it may matter."""
        listed = platform in self.fast or platform in self.fast_vjp
        return listed and not self.supports(platform, avals, settings)

    def direct(self, platform: str) -> Callable[..., Any]:
        """The operation for code that never crosses: its implementation for a platform, differentiable, by no name.

        Without it a trusted caller would get the composite, whose decomposition is the reference.
        """

        def call(*arrays: Any, **settings: Any) -> Any:
            complete = self.settings(settings)
            avals = [jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value)) for value in arrays]
            self.check(avals, complete)
            function = self.function(platform, avals, complete)
            return _differentiable(function, self.derivative(platform, avals, complete))(*arrays)

        return call

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """All settings: those given, in the types that the reference declares, and the defaults of the others.

        Raises:
          ValueError: one has another type, or is not known.
        """
        declared = {
            name: parameter
            for name, parameter in inspect.signature(self.reference, eval_str=True).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        if unknown := sorted(set(given) - set(declared)):
            raise ValueError(f"{self.name}: there is no setting {unknown[0]!r}; there are {sorted(declared) or 'none'}")
        complete: dict[str, Setting] = {name: parameter.default for name, parameter in declared.items()}
        for name, value in given.items():
            kinds = typing.get_args(declared[name].annotation) or (declared[name].annotation,)
            if type(value) is int and float in kinds and int not in kinds:
                value = float(value)
            # What is left out crosses as nothing at all, so None can only be a default.
            if type(value) not in kinds and not (value is None and complete[name] is None):
                allowed = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"{self.name}: {name} is {value!r} ({type(value).__name__}); it must be {allowed}")
            complete[name] = value
        return complete


def accumulation(*dtypes: Any) -> Any:
    """The dtype in which sums and states over arrays of these dtypes are kept: float32, or float64 if one is."""
    return functools.reduce(jnp.promote_types, dtypes, jnp.float32)


def is_floating(array: Any) -> bool:
    """Whether an array has a derivative: it holds real numbers and not whole ones."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def pullback(function: Callable[..., Any], count: int) -> Callable[..., tuple[Any, ...]]:
    """The derivative of a function as one of flat arrays: (*arrays, *outputs, *cotangents) to floating cotangents.

    Args:
      function: of `count` arrays, to an array or a tuple of arrays; the outputs given are not used.
      count: how many arrays it takes.
    """

    def derivative(*values: Any) -> tuple[Any, ...]:
        middle = count + (len(values) - count) // 2
        return value_and_pullback(function, values[:count], values[middle:])[1]

    return derivative


def value_and_pullback(
    function: Callable[..., Any], arrays: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """What a function gives, and the cotangents of its floating arrays for those of its outputs."""
    places = [index for index, array in enumerate(arrays) if is_floating(array)]

    def of_floating(*floating: Any) -> Any:
        filled = dict(zip(places, floating, strict=True))
        return function(*(filled.get(index, array) for index, array in enumerate(arrays)))

    outputs, backward = jax.vjp(of_floating, *(arrays[index] for index in places))
    return outputs, backward(jax.tree.unflatten(jax.tree.structure(outputs), cotangents))


@functools.lru_cache(maxsize=1024)
def _crossing(op: Op, settings: tuple[tuple[str, Setting], ...]) -> Callable[..., Any]:
    """The operation at these settings, as a function of arrays that can be differentiated and mapped."""
    count = len(op.batched)
    plain = functools.partial(op.reference, **dict(settings))
    plain_vjp = pullback(plain, count)
    crossed = {name: value for name, value in settings if value is not None}
    forward = _mapped(_composite(plain, f"nas.{op.name}", crossed), plain, op.batched)
    backward = _mapped(_composite(plain_vjp, f"nas.{op.name}.vjp", crossed), plain_vjp, op.batched, all_arrays=True)

    @jax.custom_vjp
    def derivative(*values: Any) -> tuple[Any, ...]:
        return backward(*values)

    # The derivative of the derivative is rare (a loss that a candidate trains on inside itself): plain, by no name.
    derivative.defvjp(
        lambda *values: (derivative(*values), values),
        lambda values, cotangents: jax.vjp(plain_vjp, *values)[1](cotangents),
    )

    return _differentiable(forward, derivative)


def _differentiable(function: Callable[..., Any], derivative: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a derivative: (*arrays, *outputs, *cotangents) to the cotangents of the floating arrays."""

    @jax.custom_vjp
    def apply(*arrays: Any) -> Any:
        return function(*arrays)

    def ahead(*arrays: Any) -> tuple[Any, Any]:
        outputs = apply(*arrays)  # and not `function`: this may itself be differentiated
        return outputs, (arrays, outputs)

    def back(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
        arrays, outputs = residuals
        found = iter(derivative(*arrays, *jax.tree.leaves(outputs), *jax.tree.leaves(cotangents)))
        return tuple(next(found) if is_floating(array) else None for array in arrays)

    apply.defvjp(ahead, back)
    return apply


def _composite(function: Callable[..., Any], name: str, crossed: Mapping[str, Setting]) -> Callable[..., Any]:
    """The function under a name; what has the value None crosses as an attribute that is not there."""
    named = jax.lax.composite(lambda *arrays, **_: function(*arrays), name=name, version=VERSION)
    return lambda *arrays: named(*arrays, **crossed)


def _mapped(
    named: Callable[..., Any], plain: Callable[..., Any], batched: tuple[bool, ...], *, all_arrays: bool = False
) -> Callable[..., Any]:
    """A composite has no rule for vmap: fold the new axis into B if only arrays with B are mapped, else be plain.

    Args:
      named: the function as a composite.
      plain: the same without a name.
      batched: which of the first arguments have the axis B; all further ones, outputs and cotangents, have it too.
      all_arrays: whether the results belong to the arrays. Then all of these must have B, since the cotangent of one
        without it is a sum over B, and each example of the new axis needs its own.
    """
    function = jax.custom_batching.custom_vmap(named)

    @function.def_vmap
    def rule(size: int, mapped: Sequence[bool], *values: Any) -> tuple[Any, Any]:
        folds = batched + (True,) * (len(values) - len(batched))
        both = list(zip(mapped, folds, strict=True))
        if (all_arrays and not all(batched)) or (True, False) in both:
            outputs = jax.vmap(plain, in_axes=tuple(0 if m else None for m in mapped))(*values)
        else:
            whole = [
                _fold(value if m else jnp.broadcast_to(value, (size, *value.shape))) if f else value
                for value, (m, f) in zip(values, both, strict=True)
            ]
            outputs = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), function(*whole))
        return outputs, jax.tree.map(lambda _: True, outputs)

    return function


def _fold(value: Any) -> Any:
    return value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])


def signature(reference: Callable[..., Any]) -> str:
    """The parameters of an operation as they are written in a call, without types: `(x, scale, *, epsilon=1e-06)`."""
    parts = []
    for parameter in inspect.signature(reference).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default}"
        parts.append(parameter.name + default)
    return f"({', '.join(parts)})"
