"""Softmax cross-entropy of a linear head: loss_n = log(sum over v of exp(z_nv)) - z_n,target, z_n = hidden_n @ head.

With tens of thousands of symbols the logits z are the largest array of a language model by far. The fast version never
holds them all: it goes over blocks of tokens, keeps each block's losses and forgets its logits, and the derivative
computes them again, dz_nv = g_n (softmax(z_n)_v - [v = target]). At most `LOGITS` numbers of them exist at a time,
for one more matrix product. On CPU that is also faster (table in docs/kernels.md); where all logits fit into one block
the reference runs. Not measured on CUDA and TPU.

For the side that trains alone: labels are not for candidates. Nothing calls it yet but tests and benchmarks: programs
return logits, so that what scores them needs no trust in the head (docs/kernels.md).

Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009, section 4.
Our change: blocks of tokens with all symbols, in plain jnp, where theirs are of both, in a kernel; no gradient is
skipped for being small.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.op import Case, Op, accumulation, pullback

LOGITS = {"cpu": 2**22, "cuda": 2**26, "tpu": 2**26}
"""Logits held at a time, by platform: on CPU what stays near the caches; a GPU needs large products, and many blocks
would read and write the sum of the head's cotangent many times."""


def reference(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    """Take the loss of each token.

    Args:
      hidden: (N, D).
      head: (D, V).
      targets: (N), whole numbers below V; negative where there is nothing to predict.
    Returns:
      Loss [nats] of each token, (N) in float32; 0 where the target is negative.
    """
    return _losses(_logits(hidden, head), targets)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit."""
    hidden, head, targets = avals
    shapes = f"hidden is {hidden.shape}, head {head.shape} and targets {targets.shape}"
    fits = len(hidden.shape) == len(head.shape) == 2 and hidden.shape[1] == head.shape[0]
    if not fits or targets.shape != hidden.shape[:1] or 0 in (*hidden.shape, *head.shape):
        raise ValueError(f"cross_entropy: {shapes}; they must be (N, D), (D, V) and (N,)")
    for name, aval in (("hidden", hidden), ("head", head)):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"cross_entropy: {name} has dtype {aval.dtype}; it must be floating, such as float32")
    if not jnp.issubdtype(targets.dtype, jnp.signedinteger):
        raise ValueError(f"cross_entropy: targets have dtype {targets.dtype}; they must be whole, such as int32")


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Logits of about unit size, and targets of which one in ten is left out."""
    hidden, head, targets = case.arrays
    symbols = rng.integers(0, head.shape[1], targets.shape)
    symbols = np.where(rng.uniform(size=targets.shape) < 0.1, -1, symbols)
    return rng.normal(size=hidden.shape), rng.normal(size=head.shape) / hidden.shape[1] ** 0.5, symbols


def _logits(hidden: jax.Array, head: jax.Array) -> jax.Array:
    return jnp.matmul(hidden, head, preferred_element_type=accumulation(hidden.dtype, head.dtype))


def _losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    found = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[:, None], axis=1)[:, 0]
    return jnp.where(targets < 0, 0.0, jax.nn.logsumexp(logits, axis=1) - found)


def _blocks(array: jax.Array, size: int, filling: int = 0) -> jax.Array:
    """(N, ...) as (blocks, size, ...), the last filled up."""
    pad = [(0, -array.shape[0] % size), *[(0, 0)] * (array.ndim - 1)]
    return jnp.pad(array, pad, constant_values=filling).reshape(-1, size, *array.shape[1:])


def _size(tokens: int, symbols: int, logits: int) -> int:
    """Tokens in a block: as many as there is place for, in blocks as equal as can be."""
    blocks = -(-tokens // max(1, logits // symbols))
    return -(-tokens // blocks)


def _in_blocks(logits: int, hidden: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
    size = _size(len(hidden), head.shape[1], logits)
    if size == len(hidden):
        return reference(hidden, head, targets)
    blocks = _blocks(hidden, size), _blocks(targets, size, -1)
    losses = jax.lax.map(lambda block: _losses(_logits(block[0], head), block[1]), blocks)
    return losses.reshape(-1)[: len(hidden)]


def _vjp_in_blocks(logits: int, arrays: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    (hidden, head, targets), (g,) = arrays, cotangents
    size, wide = _size(len(hidden), head.shape[1], logits), accumulation(hidden.dtype, head.dtype)
    if size == len(hidden):
        return pullback(reference, 3)(*arrays, *outputs, *cotangents)

    def step(total: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        hidden, targets, g = block
        chosen = targets[:, None] == jnp.arange(head.shape[1])[None, :]
        share = jax.nn.softmax(_logits(hidden, head), axis=1) - chosen
        dz = (jnp.where(targets < 0, 0.0, g)[:, None] * share).astype(hidden.dtype)
        total += jnp.matmul(hidden.T, dz, preferred_element_type=wide)
        return total, jnp.matmul(dz, head.T, preferred_element_type=wide).astype(hidden.dtype)

    blocks = _blocks(hidden, size), _blocks(targets, size, -1), _blocks(g.astype(wide), size)
    total, dhidden = jax.lax.scan(step, jnp.zeros(head.shape, wide), blocks)
    return dhidden.reshape(-1, hidden.shape[1])[: len(hidden)], total.astype(head.dtype)


def _case(N: int, D: int, V: int, *, dtype: str = "float32") -> Case:
    shapes = jax.ShapeDtypeStruct((N, D), dtype), jax.ShapeDtypeStruct((D, V), dtype)
    return Case(arrays=(*shapes, jax.ShapeDtypeStruct((N,), "int32")))


OP = Op(
    name="cross_entropy",
    reference=reference,
    check=check,
    batched=(True, False, True),
    cases={
        "odd": _case(7, 5, 11),
        "one_token": _case(1, 3, 4),
        "recall": _case(2048, 64, 64),
        "byte_lm": _case(4096, 128, 256),
        "byte_lm_words": _case(2048, 128, 50304),
        "gpu": _case(32768, 512, 256, dtype="bfloat16"),
        "gpu_words": _case(32768, 512, 50304, dtype="bfloat16"),
    },
    draw=draw,
    summed=lambda hidden, head, targets: sum(head),
    fast={platform: functools.partial(_in_blocks, logits) for platform, logits in LOGITS.items()},
    fast_vjp={platform: functools.partial(_vjp_in_blocks, logits) for platform, logits in LOGITS.items()},
)
