"""Short causal convolution of each channel by itself: y_t = sum_i weights_i * x_{t-i}, with x = 0 before the start.

There is no faster version: the reference adds shifted copies, which XLA fuses. With its gradients on 2 CPU cores, at
4 weights and arrays of 200,000 to 500,000 numbers, a grouped `lax` convolution took 33 to 43 times as long, copies
that are stacked and contracted 5 to 7 times, `jnp.roll` 1.3 to 1.4, a derivative written by hand 1.27 to 1.44 times,
one flat pass over the array 1.20 to 1.24. On CUDA and TPU nothing else was measured.

Source: the depthwise convolutions of Poli et al., "Hyena Hierarchy", arXiv 2302.10866, section 3, and of Gu and Dao,
"Mamba", arXiv 2312.00752, section 3.4; the order of the weights (the first is that of now) is ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.op import Case, Op, accumulation


def reference(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Convolve each channel along time.

    Args:
      x: (B, T, D).
      weights: (K, D); the first is what an input has on the output of its own time, the last on that K - 1 later.
    Returns:
      (B, T, D) in x's dtype.
    """
    taps, length = weights.shape[0], x.shape[1]
    wide = accumulation(x.dtype, weights.dtype)
    padded = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0))).astype(wide)  # (B, K - 1 + T, D)
    total = padded[:, taps - 1 :] * weights[0].astype(wide)
    for delay in range(1, taps):
        total += padded[:, taps - 1 - delay :][:, :length] * weights[delay].astype(wide)
    return total.astype(x.dtype)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit, and kernels that are not short."""
    x, weights = avals
    if len(x.shape) != 3 or len(weights.shape) != 2 or weights.shape[1] != x.shape[2]:
        raise ValueError(
            f"short_convolution: x is {x.shape} and weights {weights.shape}; they must be (B, T, D), (K, D)"
        )
    if not 1 <= weights.shape[0] <= LONGEST:
        raise ValueError(f"short_convolution: {weights.shape[0]} weights for a channel; 1 to {LONGEST} are allowed")
    for name, aval in (("x", x), ("weights", weights)):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"short_convolution: {name} has dtype {aval.dtype}; it must be floating, such as float32")


LONGEST = 32
"""Weights of a channel up to which adding shifted copies is sensible; beyond, a Fourier transform is."""


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Activations of about unit size, and weights that keep it."""
    x, weights = case.arrays
    return rng.normal(size=x.shape), rng.normal(size=weights.shape) / weights.shape[0] ** 0.5


def _case(batch: int, length: int, width: int, taps: int, dtype: str = "float32") -> Case:
    return Case(
        arrays=(jax.ShapeDtypeStruct((batch, length, width), dtype), jax.ShapeDtypeStruct((taps, width), dtype))
    )


OP = Op(
    name="short_convolution",
    reference=reference,
    check=check,
    batched=(True, False),
    cases={
        "odd": _case(2, 7, 5, 3),
        "short input": _case(1, 3, 8, 4),
        "one": _case(2, 6, 4, 1),
        "layer": _case(16, 128, 96, 4),
        "gpu": _case(32, 1024, 768, 4, dtype="bfloat16"),
    },
    draw=draw,
    summed=lambda x, weights: weights[0],
)
