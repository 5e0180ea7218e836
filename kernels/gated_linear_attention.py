"""Gated linear attention: S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T and o_t = S_t^T q_t, from S = 0.

A decay for every key channel (GLA), or one for each head (as in Mamba-2): then log_decay's last axis is 1.

**In chunks** (CUDA, TPU; on CPU one decay a head and at least `LONG` steps). Within a chunk o_i = sum over j <= i of
v_j sum over k of q_ik k_jk exp(b_ik - b_jk), b the sums of log_decay so far; what came before the chunk enters through
its state. Factors exp(b_i) and exp(-b_j) would be two matrices to multiply, but the second overflows for strong decays.
Instead a chunk is halved again and again: for queries of a right half and keys of its left half the middle m lies
between them, and exp(b_i - b_m) and exp(b_m - b_j) are both at most 1. All is matrix products, and nothing overflows;
nor are large sums subtracted from each other, since each factor's sum begins at its middle. For one decay a head
exp(b_i - b_j) is a matrix of its own, again with every sum taken by itself.

**On CPU** the reference's scan is the fastest forwards. Its derivative is not what differentiating gives, which keeps
all T states, but a second scan forwards and one backwards that keep none: with dS_t the cotangent of S_t,
dq_t = S_t do_t, dk_t = dS_t v_t, dv_t = dS_t^T k_t, and, since decays scale both, the cotangent of log_decay_t is the
sum over s >= t of q_s dq_s - k_s dk_s. A step took .45 (T = 64) and .28 (T = 256) of that with the derivative of the
reference; chunks with one decay a head .14 at T = 256. Not measured on CUDA and TPU.

Source: Yang et al., "Gated Linear Attention Transformers", arXiv 2312.06635, sections 4.1 (recurrence), 4.2 (chunks),
4.3 and appendix C (two levels of chunks for stability, the cotangent of log_decay); one decay a head: Dao and Gu,
"Transformers are SSMs", arXiv 2405.21060, equation 1 and section 6. Our change: halving down to single steps instead
of two levels.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.op import Case, Op, accumulation, pullback

LONG = 128
"""Steps from which chunks with one decay a head beat two plain scans on CPU."""
CHUNK_CPU = 32
CHUNK = 64
"""Steps in a chunk on CUDA and TPU, a power of 2."""
EXACT = jax.lax.Precision.HIGHEST


def reference(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array) -> jax.Array:
    """Run the recurrence from the first step to the last.

    Args:
      q: queries, (B, T, H, K).
      k: keys, (B, T, H, K).
      v: values, (B, T, H, V).
      log_decay: logarithm of what is kept of the state, at most 0; (B, T, H, K), or (B, T, H, 1) for all K alike.
    Returns:
      (B, T, H, V) in v's dtype.
    """

    def step(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v, decay = now
        state = _next(state, k, v, decay)
        return state, jnp.einsum("bhk,bhkv->bhv", q, state, precision=EXACT)

    arrays = by_step(q, k, v, log_decay)
    return jax.lax.scan(step, empty_state(k, v, arrays[0].dtype), arrays)[1].swapaxes(0, 1).astype(v.dtype)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit."""
    q, k, v, log_decay = avals
    wanted = "they must be (B, T, H, K) twice, (B, T, H, V), and (B, T, H, K) or (B, T, H, 1)"
    shapes = f"q is {q.shape}, k {k.shape}, v {v.shape} and log_decay {log_decay.shape}"
    if any(len(aval.shape) != 4 or 0 in aval.shape or aval.shape[:3] != q.shape[:3] for aval in avals):
        raise ValueError(f"gated_linear_attention: {shapes}; {wanted}")
    if q.shape != k.shape or log_decay.shape[3] not in (1, k.shape[3]):
        raise ValueError(f"gated_linear_attention: {shapes}; {wanted}")
    for name, aval in zip(("q", "k", "v", "log_decay"), avals, strict=True):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"gated_linear_attention: {name} has dtype {aval.dtype}; it must be floating")


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Queries of unit size, unit keys, and decays from none to exp(-20) a step, most of them weak."""
    q, k, v, log_decay = (rng.normal(size=array.shape) for array in case.arrays)
    return q, k / np.linalg.norm(k, axis=-1, keepdims=True), v, -20 * rng.uniform(0, 1, log_decay.shape) ** 8


def empty_state(k: jax.Array, v: jax.Array, dtype: Any) -> jax.Array:
    """Zeros (B, H, K, V)."""
    return jnp.zeros((k.shape[0], *k.shape[2:], v.shape[3]), dtype)


def by_step(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays (B, T, ...) as (T, B, ...), in the dtype of the state."""
    wide = accumulation(*(array.dtype for array in arrays))
    return tuple(array.swapaxes(0, 1).astype(wide) for array in arrays)


def by_chunk(array: jax.Array, size: int, dtype: Any) -> jax.Array:
    """(B, T, H, ...) as (N * B * H, size, ...), N chunks, the last filled up with zeros: these change nothing.

    One leading axis and not three: inverting the chunks of the delta rule then compiles for a TPU in 7 s and not in 57.
    """
    array = jnp.pad(array, [(0, 0), (0, -array.shape[1] % size), *[(0, 0)] * (array.ndim - 2)])
    array = array.reshape(array.shape[0], -1, size, *array.shape[2:]).astype(dtype)
    return jnp.moveaxis(array, (1, 3), (0, 2)).reshape(-1, size, *array.shape[4:])


def from_chunks(array: jax.Array, like: jax.Array) -> jax.Array:
    """(N * B * H, size, V) as (B, T, H, V), with B, T and H of another array."""
    B, T, H = like.shape[:3]
    array = array.reshape(-1, B, H, *array.shape[1:])
    return jnp.moveaxis(array, (0, 2), (1, 3)).reshape(B, -1, H, array.shape[-1])[:, :T]


def through_chunks(step: Any, empty: jax.Array, *arrays: jax.Array) -> jax.Array:
    """Scan over the chunks, with a state (B, H, K, V) that `step` has as (B * H, K, V); what the steps give."""
    state = empty.reshape(-1, *empty.shape[2:])
    arrays = tuple(array.reshape(-1, len(state), *array.shape[1:]) for array in arrays)
    found = jax.lax.scan(step, state, arrays)[1]
    return found.reshape(-1, *found.shape[2:])


def product(subscripts: str, one: jax.Array, other: jax.Array, dtype: Any) -> jax.Array:
    """A matrix product of two wide arrays, which may be rounded to `dtype` for it; the sums stay wide."""
    wide = one.dtype
    one, other = one.astype(dtype), other.astype(dtype)
    return jnp.einsum(subscripts, one, other, precision=EXACT, preferred_element_type=wide)


def decays_between(log_decay: jax.Array) -> jax.Array:
    """(..., C) to (..., C, C): exp of the sum over j < s <= i of log_decay_s at [i, j], 0 for i < j.

    Each column is summed by itself: subtracting two sums from the start would lose what a strong decay before both
    leaves of the digits. The masks are constants; see `attention._cpu` for what computed ones cost.
    """
    steps = np.arange(log_decay.shape[-1])
    after = steps[:, None] > steps[None, :]
    sums = jnp.cumsum(jnp.where(after, log_decay[..., :, None], 0.0), axis=-2)
    return jnp.where(steps[:, None] >= steps[None, :], jnp.exp(sums), 0.0)


def _next(state: jax.Array, k: jax.Array, v: jax.Array, decay: jax.Array) -> jax.Array:
    return jnp.exp(decay)[..., None] * state + k[..., :, None] * v[..., None, :]


def _in_chunks(size: int, q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array) -> jax.Array:
    """All chunks at once, but for the scan that carries the state from chunk to chunk."""
    size, narrow, one_decay = min(size, 1 << (q.shape[1] - 1).bit_length()), v.dtype, log_decay.shape[3] == 1
    wide = accumulation(q.dtype, k.dtype, v.dtype, log_decay.dtype)
    like, empty = q, empty_state(k, v, wide)
    q, k, v, log_decay = (by_chunk(array, size, wide) for array in (q, k, v, log_decay))
    # Minus infinity forgets all, as anything from -104 on does in float32; times 0, in sums, it would be no number.
    log_decay = jnp.maximum(log_decay, -1e4)
    if one_decay:
        between = decays_between(log_decay[..., 0])
        scores = product("...ik,...jk->...ij", q, k, narrow) * between
        output = product("...ij,...jv->...iv", scores, v, narrow)
        since, until = jnp.exp(jnp.cumsum(log_decay, axis=-2)), between[..., -1, :, None]
    else:
        output, since, until = _halved(q, k, v, log_decay, narrow)
    added = product("...ck,...cv->...kv", k * until, v, narrow)

    def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, added = now
        return kept[..., None] * state + added, state

    before = through_chunks(step, empty, since[..., -1, :], added)
    output += product("...ck,...kv->...cv", q * since, before, narrow)
    return from_chunks(output, like).astype(narrow)


def _halved(
    q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array, narrow: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The chunk's own share of the output, and the decays from its start and to its end, arrays (..., C, K).

    Every halving takes whole matrices and masks what it is not about: small pieces by themselves would be a third of
    the products, but of shapes that a TPU's compiler needs minutes for.
    """
    steps = np.arange(q.shape[-2])
    i, j = steps[:, None], steps[None, :]
    scores = jnp.where(i == j, (q * k).sum(-1, keepdims=True), 0.0)
    half = 1
    while half < len(steps):
        middle = i // (2 * half) * 2 * half + half  # of the pair of halves that i is in
        decays = _decays(((i >= middle) & (middle <= j) & (j <= i)) | ((i < j) & (j < middle)), log_decay)
        across = (i >= middle) & (j < middle) & (i // (2 * half) == j // (2 * half))
        scores = jnp.where(across, product("...ik,...jk->...ij", q * decays, k * decays, narrow), scores)
        half *= 2
    return product("...ij,...jv->...iv", scores, v, narrow), _decays(j <= i, log_decay), _decays(j > i, log_decay)


def _decays(summed: np.ndarray, log_decay: jax.Array) -> jax.Array:
    """Take exp of sums of log_decay (..., C, K) over the steps that each row of a mask (C, C) takes."""
    return jnp.exp(jnp.einsum("ij,...jk->...ik", summed.astype(log_decay.dtype), log_decay, precision=EXACT))


def _accelerator(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array) -> jax.Array:
    return _in_chunks(CHUNK, q, k, v, log_decay)


def _pays(log_decay: jax.Array) -> bool:
    """Whether chunks are faster on CPU."""
    return log_decay.shape[1] >= LONG and log_decay.shape[3] == 1


def _cpu(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array) -> jax.Array:
    return _in_chunks(CHUNK_CPU, q, k, v, log_decay) if _pays(log_decay) else reference(q, k, v, log_decay)


def _vjp_cpu(arrays: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    if _pays(arrays[3]):
        return pullback(functools.partial(_in_chunks, CHUNK_CPU), 4)(*arrays, *outputs, *cotangents)
    steps = by_step(*arrays, *cotangents)
    empty = empty_state(arrays[1], arrays[2], steps[0].dtype)

    def ahead(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        _, k, v, decay, do = now
        state = _next(state, k, v, decay)
        return state, jnp.einsum("bhkv,bhv->bhk", state, do, precision=EXACT)

    def back(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        q, k, v, decay, do = now
        state += q[..., :, None] * do[..., None, :]
        dk = jnp.einsum("bhkv,bhv->bhk", state, v, precision=EXACT)
        dv = jnp.einsum("bhkv,bhk->bhv", state, k, precision=EXACT)
        return jnp.exp(decay)[..., None] * state, (dk, dv)

    dq = jax.lax.scan(ahead, empty, steps)[1]
    dk, dv = jax.lax.scan(back, empty, steps, reverse=True)[1]
    later = jax.lax.cumsum(steps[0] * dq - steps[1] * dk, axis=0, reverse=True)
    if arrays[3].shape[3] == 1:
        later = later.sum(-1, keepdims=True)
    found = zip((dq, dk, dv, later), arrays, strict=True)
    return tuple(cotangent.swapaxes(0, 1).astype(array.dtype) for cotangent, array in found)


def _case(B: int, T: int, H: int, K: int, V: int, *, decays: int | None = None, dtype: str = "float32") -> Case:
    shapes = (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H, decays or K)
    return Case(arrays=tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))


OP = Op(
    name="gated_linear_attention",
    reference=reference,
    check=check,
    batched=(True, True, True, True),
    cases={
        "odd": _case(2, 70, 3, 4, 5),
        "one_decay": _case(2, 11, 3, 4, 5, decays=1),
        "one_decay_long": _case(1, 130, 2, 4, 8, decays=1),
        "recall": _case(32, 64, 4, 16, 16),
        "recall_one_decay": _case(32, 64, 4, 16, 16, decays=1),
        "byte_lm": _case(16, 256, 4, 32, 32),
        "byte_lm_one_decay": _case(16, 256, 4, 32, 32, decays=1),
        "gpu": _case(32, 1024, 8, 64, 64, dtype="bfloat16"),
        "gpu_one_decay": _case(32, 1024, 8, 64, 64, decays=1, dtype="bfloat16"),
    },
    draw=draw,
    summed=lambda q, k, v, log_decay: q[1] * q[3],
    fast={"cpu": _cpu, "cuda": _accelerator, "tpu": _accelerator},
    fast_vjp={"cpu": _vjp_cpu},
)
