"""What a candidate may import: `from nas.api import choice, integer, jax, jnp, lax, layers, nnx, real`.

A candidate is one module: a docstring that states the idea, optionally `TUNABLES = {...}` of `choice`, `integer` and
`real` with literal arguments, and one class of the scope that the space asks for. The page to write it from is
`docs/candidate.md`. This module is loaded in the tracer only; the coordinator and the trainer never import it.
"""

import jax as jax
import jax.numpy as jnp
from flax import nnx as nnx
from jax import lax as lax

from nas import layers as layers
from nas.records import Choice, Integer, Real, Value

__all__ = ["choice", "integer", "jax", "jnp", "lax", "layers", "nnx", "real"]


def choice(*options: Value) -> Choice:
    """A tunable that takes one of a few values; the first is the default."""
    return Choice(options)


def integer(low: int, high: int, *, log: bool = False) -> Integer:
    """A whole tunable in [low, high], sampled evenly, or evenly in its logarithm."""
    return Integer(low, high, log)


def real(low: float, high: float, *, log: bool = False) -> Real:
    """A tunable in [low, high], sampled evenly, or evenly in its logarithm."""
    return Real(low, high, log)
