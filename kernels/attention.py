"""Causal attention: o_t = sum_s p_ts v_s with p_t = softmax over s of q_t.k_s / sqrt(K), t - window < s <= t.

Heads may share keys and values in groups: head h reads group h // (H / G). With `softcap` c each product x becomes
c * tanh(x / c) before the softmax.

On CPU blocks of queries each take only the keys that they can see, so that what the mask would throw away is mostly
not computed: a step at T = 256 took .7 of the reference's, with a window of 64 .3; at T = 64 there is one block, and
what remains, .9, is the order of the axes. On CUDA cuDNN's kernel does it for 16-bit arrays without softcap, on
TPU the splash attention that comes with JAX; neither has been measured here, and neither holds (T, T) numbers. The
derivative is that of each version; cuDNN and splash compute the forward pass again for it, since what they keep for it
is no output of the operation.

Source: Vaswani et al., arXiv 1706.03762, equation 1; groups: Ainslie et al., arXiv 2305.13245, section 2.2; window:
Beltagy et al., arXiv 2004.05150, section 3.1, causal as in Jiang et al., arXiv 2310.06825, section 2; softcap: Gemma 2,
arXiv 2408.00118, section 2. Blocks of queries and keys with a running softmax, as in the libraries' kernels: Milakov
and Gimelshein, arXiv 1805.02867, algorithm 3; Dao et al., arXiv 2205.14135, algorithm 1; Dao, arXiv 2307.08691,
section 3.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.kernels.op import Case, Op, accumulation

BLOCK = 64
"""Queries in a block on CPU; more if there would be more than `MOST_BLOCKS`, since each is compiled by itself."""
MOST_BLOCKS = 8
TILE = 128
"""Queries and keys in a block of the TPU kernel."""


def reference(
    q: jax.Array, k: jax.Array, v: jax.Array, *, window: int | None = None, softcap: float | None = None
) -> jax.Array:
    """Attend to what came before, oneself included.

    Args:
      q: queries, (B, T, H, K).
      k: keys, (B, T, G, K); G divides H.
      v: values, (B, T, G, V).
      window: how many positions up to its own a query sees, at least 1; all if None.
      softcap: bound of the products before the softmax, positive; none if None.
    Returns:
      (B, T, H, V) in v's dtype.
    """
    wide = accumulation(q.dtype, k.dtype, v.dtype)
    copies = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
    scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=wide)
    steps = jnp.arange(q.shape[1])
    seen = _seen(steps[:, None], steps[None, :], window)
    weights = jax.nn.softmax(_masked(scores * q.shape[-1] ** -0.5, seen, softcap))
    return jnp.einsum("bhts,bshv->bthv", weights.astype(v.dtype), v, preferred_element_type=wide).astype(v.dtype)


def check(avals: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Refuse shapes that do not fit, and settings out of range."""
    q, k, v = avals
    shapes = f"q is {q.shape}, k {k.shape} and v {v.shape}"
    if any(len(aval.shape) != 4 or 0 in aval.shape for aval in avals):
        raise ValueError(f"attention: {shapes}; they must be (B, T, H, K), (B, T, G, K) and (B, T, G, V)")
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention: {shapes}; they must be (B, T, H, K), (B, T, G, K) and (B, T, G, V)")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"attention: {k.shape[2]} heads of keys do not divide {q.shape[2]} heads of queries")
    for name, aval in zip("qkv", avals, strict=True):
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            raise ValueError(f"attention: {name} has dtype {aval.dtype}; it must be floating, such as float32")
    if settings["window"] is not None and settings["window"] < 1:
        raise ValueError(f"attention: window is {settings['window']}; it must be at least 1, or left out")
    if settings["softcap"] is not None and not 0 < settings["softcap"] < 1e6:
        raise ValueError(f"attention: softcap is {settings['softcap']}; it must be above 0 and below 1e6, or left out")


def supports(platform: str, avals: Sequence[Any], settings: Mapping[str, Any]) -> str:
    """Why the version for a platform cannot, or nothing."""
    q, k, v = avals
    if platform == "cpu":
        return ""
    if not q.dtype == k.dtype == v.dtype:
        return "q, k and v differ in dtype"
    if platform == "tpu":
        return f"T is no multiple of {TILE}" if q.shape[1] % TILE else ""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return "cuDNN takes 16-bit arrays only"
    if settings["softcap"] is not None:
        return "cuDNN has no softcap"
    if q.shape[3] % 8 or q.shape[3] > 128 or v.shape[3] != q.shape[3]:
        return "cuDNN wants K = V, a multiple of 8 up to 128"
    return ""


def draw(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Queries, keys and values of unit size."""
    return tuple(rng.normal(size=array.shape) for array in case.arrays)


def _seen(queries: Any, keys: Any, window: int | None) -> Any:
    """Which keys each query sees, by their positions (Q, 1) and (1, S): (Q, S), in NumPy if they are."""
    seen = keys <= queries
    return seen if window is None else seen & (queries - keys < window)


def _masked(scores: jax.Array, seen: Any, softcap: float | None) -> jax.Array:
    """Scores, capped, and without what a query must not see."""
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    return jnp.where(seen, scores, -jnp.inf)


def _cpu(q: jax.Array, k: jax.Array, v: jax.Array, *, window: int | None, softcap: float | None) -> jax.Array:
    """Block by block of queries, each with the keys from the first that it sees to its own last."""
    (B, T, H, K), G = q.shape, k.shape[2]
    wide = accumulation(q.dtype, k.dtype, v.dtype)
    queries = (q * K**-0.5).astype(q.dtype).reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4)  # (B, G, H / G, T, K)
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)  # (B, G, T, .)
    size, outputs = max(BLOCK, -(-T // MOST_BLOCKS)), []
    for first in range(0, T, size):
        end, start = min(T, first + size), 0 if window is None else max(0, first - window + 1)
        rows = queries[:, :, :, first:end].reshape(B, G, -1, K)
        scores = jnp.einsum("bgik,bgjk->bgij", rows, keys[:, :, start:end], preferred_element_type=wide)
        # A constant, so that the forward pass and its repetition in the derivative stay alike and are computed once:
        # one that is computed is moved out of the loop over steps, twice, and then no two masks are known to be equal.
        seen = _seen(np.arange(first, end)[:, None], np.arange(start, end)[None, :], window)
        weights = jax.nn.softmax(_masked(scores, np.tile(seen, (H // G, 1)), softcap)).astype(v.dtype)
        output = jnp.einsum("bgij,bgjv->bgiv", weights, values[:, :, start:end], preferred_element_type=wide)
        outputs.append(output.reshape(B, G, H // G, end - first, -1))
    return jnp.concatenate(outputs, 3).transpose(0, 3, 1, 2, 4).reshape(B, T, H, -1).astype(v.dtype)


def _cuda(
    q: jax.Array, k: jax.Array, v: jax.Array, *, window: int | None, softcap: float | None, interpret: bool = False
) -> jax.Array:
    """The kernel of cuDNN; interpreted, the same call by XLA, so that at least what we ask for is checked."""
    del softcap
    sees = None if window is None else (window - 1, 0)
    how = "xla" if interpret else "cudnn"
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=sees, implementation=how)


def _tpu(
    q: jax.Array, k: jax.Array, v: jax.Array, *, window: int | None, softcap: float | None, interpret: bool = False
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    T, heads = q.shape[1], q.shape[2]
    mask = splash.CausalMask((T, T)) if window is None else splash.LocalMask((T, T), (window - 1, 0), 0)
    kernel = splash.make_splash_mha(
        mask=splash.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    scaled = (q * q.shape[-1] ** -0.5).astype(q.dtype)
    by_head: Any = jax.vmap(kernel)  # its type says that it may give residuals too
    return by_head(*(x.swapaxes(1, 2) for x in (scaled, k, v))).swapaxes(1, 2)


def _case(
    B: int, T: int, H: int, G: int, K: int, V: int, *, dtype: str = "float32", **settings: int | float | None
) -> Case:
    shapes = (B, T, H, K), (B, T, G, K), (B, T, G, V)
    return Case(arrays=tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), settings=settings)


OP = Op(
    name="attention",
    reference=reference,
    check=check,
    batched=(True, True, True),
    cases={
        "odd": _case(2, 7, 4, 2, 3, 5),
        "one_seen": _case(2, 5, 2, 2, 4, 4, window=1),
        "all_seen": _case(2, 6, 3, 1, 4, 4, window=50, softcap=2.0),
        "tile": _case(1, 128, 2, 1, 8, 8, dtype="bfloat16", window=30),  # what every version takes
        "recall": _case(32, 64, 4, 4, 16, 16),
        "byte_lm": _case(16, 256, 4, 4, 32, 32),
        "byte_lm_window": _case(16, 256, 4, 4, 32, 32, window=64),
        "byte_lm_groups": _case(16, 256, 4, 2, 32, 32),
        "gpu": _case(32, 1024, 8, 8, 64, 64, dtype="bfloat16"),
        "gpu_window": _case(32, 1024, 8, 2, 64, 64, dtype="bfloat16", window=256),
    },
    draw=draw,
    summed=lambda q, k, v: q[1] + q[3],
    fast={"cpu": _cpu, "cuda": _cuda, "tpu": _tpu},
    supports=supports,
)
