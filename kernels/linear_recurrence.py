"""Linear recurrence of each channel by itself: h_t = a_t * h_{t-1} + b_t, with nothing before the first step.

The core of gated linear recurrent units and of diagonal state spaces: they differ in how a and b come from the input.
Its derivative is the same recurrence from the end, with a moved by one step: with g_t the cotangent of h_t,
dh_t = g_t + a_{t+1} * dh_{t+1}, db_t = dh_t, da_t = dh_t * h_{t-1}.

On CPU the plain scan is the fastest forwards (an associative scan took 1.2 to 1.7 times as long), and with a scan for
the derivative that uses the outputs a step takes .85 of the time. For CUDA and TPU there is a Pallas kernel (lowered by
Triton and by Mosaic): one program for a block of channels of one example, which walks through time with the state in
registers, and reads several steps ahead since reading does not wait for the state. Compiled for a TPU and lowered for
CUDA; not measured on either.

Source: De et al., "Griffin", arXiv 2402.19427, equation 4 and section 4.2 (RG-LRU and its kernel); Gu and Dao, "Mamba",
arXiv 2312.00752, equation 2a, for a diagonal state.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.op import Case, Op, accumulation

ROWS = 16
"""Steps that the kernel reads at once: a tile of 16-bit numbers on a TPU has as many rows."""
LONGEST = 4096
"""Steps up to which the arrays of one program fit into a TPU's fast memory, twice, as its pipeline needs."""


def reference(a: jax.Array, b: jax.Array) -> jax.Array:
    """Run the recurrence from the first step to the last.

    Args:
      a: (B, T, D), what is kept of the state; stable for |a| <= 1.
      b: (B, T, D), what is added.
    Returns:
      The state after each step, (B, T, D), in b's dtype.
    """
    return _scan(a, b)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit."""
    a, b = avals
    if len(a.shape) != 3 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(f"linear_recurrence: a is {a.shape} and b {b.shape}; both must be (B, T, D)")
    for name, aval in (("a", a), ("b", b)):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"linear_recurrence: {name} has dtype {aval.dtype}; it must be floating, such as float32")


def supports(platform: str, avals: Sequence[Any], settings: Mapping[str, Any]) -> str:
    """Why the kernel for a platform cannot, or nothing."""
    if platform == "tpu" and avals[0].shape[1] > LONGEST:
        return f"more than {LONGEST} steps do not fit into the fast memory"
    return ""


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Gates between 0 and 1, most of them near 1 as trained ones are, and inputs scaled by what is not kept."""
    a, b = case.arrays
    gates = rng.uniform(0, 1, a.shape) ** (1 / 4)
    return gates, np.sqrt(1 - gates**2) * rng.normal(size=b.shape)


def _scan(a: jax.Array, b: jax.Array, *, reverse: bool = False) -> jax.Array:
    wide = accumulation(a.dtype, b.dtype)

    def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        state = now[0].astype(wide) * state + now[1].astype(wide)
        return state, state.astype(b.dtype)

    steps = a.swapaxes(0, 1), b.swapaxes(0, 1)  # (T, B, D)
    return jax.lax.scan(step, jnp.zeros(b[:, 0].shape, wide), steps, reverse=reverse)[1].swapaxes(0, 1)


def _kernel(a: Any, b: Any, h: Any, *, wide: Any, reverse: bool, by_row: bool) -> None:
    """One example's block of channels, (T, width), `ROWS` steps at a time.

    Triton takes no row out of a tile in registers, so there rows are read one by one; a TPU reads whole tiles.
    """
    from jax.experimental import pallas as pl

    length, width = b.shape
    order = range(ROWS)[::-1] if reverse else range(ROWS)

    def tile(index: Any, state: jax.Array) -> jax.Array:
        first = (length // ROWS - 1 - index if reverse else index) * ROWS
        if by_row:
            read = {row: (a[first + row, :].astype(wide), b[first + row, :].astype(wide)) for row in order}
        else:
            first = pl.multiple_of(first, ROWS)
            tiles = [ref[pl.ds(first, ROWS), :].astype(wide) for ref in (a, b)]
            read = {row: tuple(each[row : row + 1] for each in tiles) for row in order}
        states = {}
        for row in order:
            state = states[row] = read[row][0] * state + read[row][1]
        if by_row:
            for row in order:
                h[first + row, :] = states[row].astype(h.dtype)
        else:
            h[pl.ds(first, ROWS), :] = jnp.concatenate([states[row] for row in range(ROWS)]).astype(h.dtype)
        return state

    jax.lax.fori_loop(0, length // ROWS, tile, jnp.zeros((width,) if by_row else (1, width), wide))


def _pallas(platform: str, a: jax.Array, b: jax.Array, *, reverse: bool = False, interpret: bool = False) -> jax.Array:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu, triton

    (examples, length, channels), on_cuda = b.shape, platform == "cuda"
    width = min(64, pl.next_power_of_2(channels)) if on_cuda else 128
    lacking = -length % ROWS
    pad = ((0, 0), (lacking, 0) if reverse else (0, lacking), (0, -channels % width))
    arrays = jnp.pad(a, pad), jnp.pad(b, pad)
    block = pl.BlockSpec((None, length + lacking, width), lambda example, part: (example, 0, part))
    how = (
        triton.CompilerParams(num_warps=max(1, width // 32), num_stages=1)
        if on_cuda
        else tpu.CompilerParams(dimension_semantics=("parallel", "parallel"))
    )
    kernel = functools.partial(_kernel, wide=accumulation(a.dtype, b.dtype), reverse=reverse, by_row=on_cuda)
    h = pl.pallas_call(
        kernel,
        grid=(examples, arrays[1].shape[2] // width),
        in_specs=[block, block],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(arrays[1].shape, b.dtype),
        compiler_params=None if interpret else how,
        interpret=interpret,
        name="linear_recurrence",
    )(*arrays)
    return h[:, lacking if reverse else 0 :, :channels][:, :length]


def _cuda(a: jax.Array, b: jax.Array, *, interpret: bool = False) -> jax.Array:
    return _pallas("cuda", a, b, interpret=interpret)


def _tpu(a: jax.Array, b: jax.Array, *, interpret: bool = False) -> jax.Array:
    return _pallas("tpu", a, b, interpret=interpret)


def _derivative(recurrence: Callable[..., jax.Array], arrays: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    """The cotangents of a and b by a recurrence from the end."""
    (a, b), (h,), (g,) = arrays, outputs, cotangents
    wide = accumulation(a.dtype, b.dtype)
    following = jnp.pad(a[:, 1:], ((0, 0), (0, 1), (0, 0)))
    before = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))
    dh = recurrence(following, g.astype(wide), reverse=True)
    return (dh * before).astype(a.dtype), dh.astype(b.dtype)


def _vjp_cpu(arrays: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    return _derivative(_scan, arrays, outputs, cotangents)


def _vjp_cuda(arrays: Any, outputs: Any, cotangents: Any, *, interpret: bool = False) -> tuple[Any, ...]:
    recurrence = functools.partial(_pallas, "cuda", interpret=interpret)
    return _derivative(recurrence, arrays, outputs, cotangents)


def _vjp_tpu(arrays: Any, outputs: Any, cotangents: Any, *, interpret: bool = False) -> tuple[Any, ...]:
    recurrence = functools.partial(_pallas, "tpu", interpret=interpret)
    return _derivative(recurrence, arrays, outputs, cotangents)


def _case(*shape: int, dtype: str = "float32") -> Case:
    return Case(arrays=(jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape, dtype)))


OP = Op(
    name="linear_recurrence",
    reference=reference,
    check=check,
    batched=(True, True),
    cases={
        "odd": _case(2, 37, 130),
        "one_step": _case(3, 1, 4),
        "recall": _case(32, 64, 64),
        "byte_lm": _case(16, 256, 128),
        "gpu": _case(32, 1024, 512, dtype="bfloat16"),
    },
    draw=draw,
    summed=lambda a, b: a[1],
    fast={"cuda": _cuda, "tpu": _tpu},
    fast_vjp={"cpu": _vjp_cpu, "cuda": _vjp_cuda, "tpu": _vjp_tpu},
    supports=supports,
)
