"""The gated delta rule: S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T and o_t = S_t^T q_t, from S = 0.

a_t = exp(log_decay_t). What the decayed state holds under the key k_t is moved towards v_t by the share beta_t; the
plain delta rule has log_decay = 0. Keys should have length 1 and beta lie between 0 and 1, or the state may grow.

**In chunks**: with u_i = beta_i (v_i - a_i S_{i-1}^T k_i) a step is S_i = a_i S_{i-1} + k_i u_i^T, as in linear
attention with u in the place of v. Within a chunk that begins with S, D_ij = exp(sum over j < s <= i of log_decay_s),
d_i = D from the chunk's start, and L_ij = beta_i D_ij k_i.k_j for j < i,

    (I + L) u = beta (v - d k S),   o = d q S + (D q k^T, j <= i) u,   S' = d_C S + (D_Ci k_i)^T u,

so that with X = (I + L)^-1, found for all chunks at once, only products of small matrices wait for the chunk before.
X is put together from the inverses of its diagonal blocks, of length 1, 2, 4 and so on: [[A, 0], [-D B A, D]] is the
inverse of [[A^-1, 0], [B, D^-1]], for all blocks in one product of whole matrices. A series in powers of L would take
as few products, but for alike keys its terms grow as binomials and cancel. No exponent is ever positive.

On CPU a step in chunks of 16 took .9 (T = 64) and .25 (T = 256) of the reference's, whose derivative keeps all T
states; forwards chunks pay from `LONG` steps on. On CUDA and TPU chunks are of 64 steps; not measured there.

Source: Schlag et al., arXiv 2102.11174, section 4.2 (delta rule); Yang et al., "Parallelizing Linear Transformers with
the Delta Rule", arXiv 2406.06484, section 3 (WY form, chunks); Yang et al., "Gated Delta Networks", arXiv 2412.06464,
equation 10 and section 3.3 (gates, UT transform). Our change: how X is found.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.gated_linear_attention import (
    EXACT,
    LONG,
    by_chunk,
    by_step,
    decays_between,
    empty_state,
    from_chunks,
    product,
    through_chunks,
)
from nas.kernels.op import Case, Op, accumulation, pullback

CHUNK_CPU = 16
CHUNK = 64
"""Steps in a chunk on CUDA and TPU; both are powers of 2."""


def reference(q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, log_decay: jax.Array) -> jax.Array:
    """Run the recurrence from the first step to the last.

    Args:
      q: queries, (B, T, H, K).
      k: keys of length 1, (B, T, H, K).
      v: values, (B, T, H, V).
      beta: share of what is stored that is replaced, between 0 and 1; (B, T, H).
      log_decay: logarithm of what is kept of the state, at most 0; (B, T, H).
    Returns:
      (B, T, H, V) in v's dtype.
    """

    def step(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v, beta, decay = now
        state *= jnp.exp(decay)[..., None, None]
        held = jnp.einsum("bhk,bhkv->bhv", k, state, precision=EXACT)
        state += k[..., :, None] * (beta[..., None] * (v - held))[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", q, state, precision=EXACT)

    arrays = by_step(q, k, v, beta, log_decay)
    return jax.lax.scan(step, empty_state(k, v, arrays[0].dtype), arrays)[1].swapaxes(0, 1).astype(v.dtype)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit."""
    q, k, v, beta, log_decay = avals
    fits = q.shape == k.shape and len(v.shape) == 4 and v.shape[:3] == q.shape[:3] and 0 not in (*q.shape, *v.shape)
    if not fits or not beta.shape == log_decay.shape == q.shape[:3]:
        raise ValueError(
            f"delta_rule: q is {q.shape}, k {k.shape}, v {v.shape}, beta {beta.shape} and log_decay {log_decay.shape}; "
            "they must be (B, T, H, K) twice, (B, T, H, V), and (B, T, H) twice"
        )
    for name, aval in zip(("q", "k", "v", "beta", "log_decay"), avals, strict=True):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"delta_rule: {name} has dtype {aval.dtype}; it must be floating, such as float32")


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Unit queries and keys, shares between 0 and 1, and decays from none to exp(-20) a step, most of them weak."""
    q, k, v, beta, log_decay = case.arrays
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (rng.normal(size=q.shape), rng.normal(size=k.shape))]
    decays = -20 * rng.uniform(0, 1, log_decay.shape) ** 8
    return *unit, rng.normal(size=v.shape), rng.uniform(0, 1, beta.shape), decays


def _in_chunks(size: int, q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, log_decay: jax.Array) -> jax.Array:
    """All that does not depend on the state for all chunks at once, then a scan over the chunks."""
    size, like, narrow = min(size, 1 << (q.shape[1] - 1).bit_length()), q, v.dtype
    wide = accumulation(q.dtype, k.dtype, v.dtype, beta.dtype, log_decay.dtype)
    empty = empty_state(k, v, wide)
    q, k, v, beta, log_decay = (by_chunk(array, size, wide) for array in (q, k, v, beta, log_decay))
    between = decays_between(log_decay)
    since = jnp.exp(jnp.cumsum(log_decay, axis=-1))[..., None]  # (..., C, 1)
    alike = _below(product("...ik,...jk->...ij", k, k, narrow) * between)
    inverse = _inverse(alike * beta[..., :, None]) * beta[..., None, :]
    new = product("...ij,...jv->...iv", inverse, v, narrow)
    replaced = product("...ij,...jk->...ik", inverse, k * since, narrow)
    scores = product("...ik,...jk->...ij", q, k, narrow) * between

    def step(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, new, replaced, scores, kept = now
        u = new - product("...ck,...kv->...cv", replaced, state, narrow)
        output = product("...ck,...kv->...cv", q, state, narrow) + product("...ij,...jv->...iv", scores, u, narrow)
        return kept * state + product("...ck,...cv->...kv", k, u, narrow), output

    chunks = (q * since, k * between[..., -1, :, None], new, replaced, scores, since[..., -1:, :])
    return from_chunks(through_chunks(step, empty, *chunks), like).astype(narrow)


@jax.custom_vjp
def _inverse(lower: jax.Array) -> jax.Array:
    """(I + lower)^-1 of strictly lower triangular matrices (..., C, C), C a power of 2."""
    steps = np.arange(lower.shape[-1])
    i, j = steps[:, None], steps[None, :]
    found, half = jnp.asarray(np.eye(len(steps)), lower.dtype), 1
    while half < len(steps):
        corners = (i // (2 * half) == j // (2 * half)) & (i // half > j // half)
        below = jnp.matmul(jnp.where(corners, lower, 0.0), found, precision=EXACT)
        found = found - jnp.matmul(found, below, precision=EXACT)
        half *= 2
    return found


def _inverse_back(inverse: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    transposed = inverse.mT
    product = jnp.matmul(jnp.matmul(transposed, cotangent, precision=EXACT), transposed, precision=EXACT)
    return (-_below(product),)


def _below(matrices: jax.Array) -> jax.Array:
    """What lies below the diagonal of square matrices."""
    return jnp.where(np.tri(matrices.shape[-1], k=-1, dtype=bool), matrices, 0.0)


_inverse.defvjp(lambda lower: 2 * (_inverse(lower),), _inverse_back)


def _accelerator(q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, log_decay: jax.Array) -> jax.Array:
    return _in_chunks(CHUNK, q, k, v, beta, log_decay)


def _cpu(q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, log_decay: jax.Array) -> jax.Array:
    function = functools.partial(_in_chunks, CHUNK_CPU) if q.shape[1] >= LONG else reference
    return function(q, k, v, beta, log_decay)


def _vjp_cpu(arrays: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    return pullback(functools.partial(_in_chunks, CHUNK_CPU), 5)(*arrays, *outputs, *cotangents)


def _case(B: int, T: int, H: int, K: int, V: int, *, dtype: str = "float32") -> Case:
    shapes = (B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H), (B, T, H)
    return Case(arrays=tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))


OP = Op(
    name="delta_rule",
    reference=reference,
    check=check,
    batched=(True, True, True, True, True),
    cases={
        "odd": _case(2, 21, 3, 4, 5),
        "long": _case(1, 130, 2, 8, 4),
        "recall": _case(32, 64, 4, 16, 16),
        "byte_lm": _case(16, 256, 4, 32, 32),
        "gpu": _case(32, 1024, 8, 64, 64, dtype="bfloat16"),
    },
    draw=draw,
    summed=lambda q, k, v, beta, log_decay: q[1] * q[3],
    fast={"cpu": _cpu, "cuda": _accelerator, "tpu": _accelerator},
    fast_vjp={"cpu": _vjp_cpu},
)
