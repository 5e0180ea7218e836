"""The named primitives of a `Stack`: `from nas.api import layers`, `self.first = layers.Attention(spec, rngs=rngs)`.

Each is a pre-norm residual sublayer, x -> x + f(norm(x)), (B, T, D) to (B, T, D), causal, and of a size that follows
from `spec` alone: a mixer of positions has about 4 D^2 parameters, an MLP 8 D^2, so that what a pattern of them wins
is the pattern's. `rotary`, which they use, is offered too. Loaded in the tracer only.

Axes: B batch, T time, D width, H heads, K features of a head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nas import kernels
from nas.space import Spec

TAPS = 4
"""Positions that a short convolution sees."""
EXPERTS = 4
CHOSEN = 2
BALANCE = 0.01
"""Weight of the loss that balances experts: alpha of arXiv 2101.03961."""


def rotary(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Turn pairs of features of x (B, T, H, K), K even, by an angle that grows with the position.

    Pair i is features i and i + K/2, turned by t * base^(-2i/K). The product of a query and a key so turned depends
    on their distance alone.

    Raises:
      ValueError: K is odd.
    Source: Su et al., RoFormer, arXiv 2104.09864, equation 34.
    """
    if x.shape[-1] % 2:
        raise ValueError(
            f"rotary was given shape {x.shape}; the last axis must be even: choose another number of heads"
        )
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None, None] * base ** (-jnp.arange(half) / half)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * jnp.cos(angle) - second * jnp.sin(angle), first * jnp.sin(angle) + second * jnp.cos(angle))
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Layer(nnx.Module):
    """x + f(norm(x)), where `inner` is f; computed anew for the gradients where `spec` says so."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.heads = spec.heads
        self.remat = spec.remat

    def __call__(self, x: jax.Array) -> jax.Array:
        inner: Callable[..., jax.Array] = type(self).inner
        return x + (nnx.remat(inner) if self.remat else inner)(self, self.norm(x)).astype(x.dtype)

    def inner(self, x: jax.Array) -> jax.Array:
        """The sublayer without norm and residual."""
        raise NotImplementedError

    def split_heads(self, x: jax.Array) -> jax.Array:
        """(B, T, H * K) to (B, T, H, K)."""
        return x.reshape(*x.shape[:2], self.heads, -1)


def _linear(spec: Spec, out: int, rngs: nnx.Rngs, into: int | None = None) -> nnx.Linear:
    return nnx.Linear(into or spec.width, out, use_bias=False, rngs=rngs)


def _taps(spec: Spec, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(TAPS**-0.5 * jax.random.normal(rngs.params(), (TAPS, spec.width)))


def _merged(x: jax.Array) -> jax.Array:
    """(B, T, H, K) to (B, T, H * K)."""
    return x.reshape(*x.shape[:2], -1)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors along the last axis, at length 1."""
    return x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


class Attention(Layer):
    """Causal attention with rotary positions; two heads share a key and a value where the heads are even.

    What sharing saves goes to the width of the heads, so that it has 4 D^2 parameters either way.

    Source: Vaswani et al., arXiv 1706.03762, equation 1; shared keys: Ainslie et al., arXiv 2305.13245.
    """

    window: int | None = None

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        self.groups = spec.heads // 2 if spec.heads % 2 == 0 else spec.heads
        size = spec.width // spec.heads  # of a head
        size = 2 * (4 * size * spec.heads // (2 * spec.heads + 2 * self.groups) // 2)
        self.query = _linear(spec, spec.heads * size, rngs)
        self.key = _linear(spec, self.groups * size, rngs)
        self.value = _linear(spec, self.groups * size, rngs)
        self.out = _linear(spec, spec.width, rngs, spec.heads * size)

    def inner(self, x: jax.Array) -> jax.Array:
        query = rotary(self.split_heads(self.query(x)))
        key, value = (part(x).reshape(*x.shape[:2], self.groups, -1) for part in (self.key, self.value))
        return self.out(_merged(kernels.attention(query, rotary(key), value, window=self.window)))


class SlidingWindow(Attention):
    """The same attention to an eighth of the positions at most, and 16 at least: the last ones.

    Source: Beltagy et al., arXiv 2004.05150, section 3.1.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        self.window = max(16, spec.length // 8)


class Recurrence(Layer):
    """A gated linear recurrence of D numbers behind a short convolution, and a gate on what comes out.

    a_t = exp(-8 softplus(decay) r_t), h_t = a_t h_(t-1) + sqrt(1 - a_t^2) (i_t x_t), with gates r, i = sigmoid(W x).

    Source: De et al., Griffin, arXiv 2402.19427, equations 1 to 4 and section 2.4; our change: two blocks in the gates'
    matrices.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        D, blocks = spec.width, 2 if spec.width % 2 == 0 else 1
        self.value, self.gate = _linear(spec, D, rngs), _linear(spec, D, rngs)
        self.taps = _taps(spec, rngs)
        start = (blocks / D) ** 0.5 * jax.random.normal(rngs.params(), (2, blocks, D // blocks, D // blocks))
        self.gates = nnx.Param(start)
        slow = jax.random.uniform(rngs.params(), (D,), minval=0.9, maxval=0.999)  # a at r = 1
        self.decay = nnx.Param(jnp.log(jnp.expm1(-jnp.log(slow) / 8)))
        self.out = _linear(spec, D, rngs)

    def inner(self, x: jax.Array) -> jax.Array:
        value = kernels.short_convolution(self.value(x), self.taps[...])
        parts = value.reshape(*x.shape[:2], self.gates.shape[1], -1)
        read, take = jax.nn.sigmoid(jnp.einsum("btnd,gnde->gbtne", parts, self.gates[...])).reshape(2, *x.shape)
        log_a = -8 * jax.nn.softplus(self.decay[...].astype(jnp.float32)) * read.astype(jnp.float32)
        inflow = jnp.sqrt(-jnp.expm1(2 * log_a) + 1e-6) * (take * value)
        state = kernels.linear_recurrence(jnp.exp(log_a), inflow)
        return self.out(state.astype(x.dtype) * jax.nn.gelu(self.gate(x)))


class GatedLinearAttention(Layer):
    """Linear attention whose state decays by a gate for each feature of the key; keys are half as wide as values.

    Source: Yang et al., arXiv 2312.06635, equation 3 and section 4.4; our change: a rank of D / 16 in the gate.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        D = spec.width
        self.query, self.key = _linear(spec, D // 2, rngs), _linear(spec, D // 2, rngs)
        self.value, self.gate = _linear(spec, D, rngs), _linear(spec, D, rngs)
        self.low = _linear(spec, max(1, D // 16), rngs)
        self.decay = nnx.Linear(max(1, D // 16), D // 2, rngs=rngs)
        self.head_norm = nnx.RMSNorm(D // spec.heads, rngs=rngs)
        self.out = _linear(spec, D, rngs)

    def inner(self, x: jax.Array) -> jax.Array:
        query, key, value = (self.split_heads(part(x)) for part in (self.query, self.key, self.value))
        log_decay = self.split_heads(jax.nn.log_sigmoid(self.decay(self.low(x)).astype(jnp.float32)) / 16)
        mixed = kernels.gated_linear_attention(query * query.shape[-1] ** -0.5, key, value, log_decay)
        return self.out(_merged(self.head_norm(mixed)) * jax.nn.silu(self.gate(x)))


class DeltaRule(Layer):
    """Linear attention that replaces what a key held before, with a decay: the gated delta rule.

    Source: Yang et al., arXiv 2412.06464, equation 10 and figure 1; our change: keys half as wide as values.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        D = spec.width
        self.mixed = _linear(spec, 2 * D, rngs)  # query, key and value
        self.taps = nnx.Param(TAPS**-0.5 * jax.random.normal(rngs.params(), (TAPS, 2 * D)))
        self.gate = _linear(spec, D, rngs)
        self.strength, self.decay = nnx.Linear(D, spec.heads, rngs=rngs), nnx.Linear(D, spec.heads, rngs=rngs)
        self.rate = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, spec.heads)))
        self.head_norm = nnx.RMSNorm(D // spec.heads, rngs=rngs)
        self.out = _linear(spec, D, rngs)

    def inner(self, x: jax.Array) -> jax.Array:
        D = x.shape[-1]
        mixed = jax.nn.silu(kernels.short_convolution(self.mixed(x), self.taps[...]))
        query, key, value = (self.split_heads(part) for part in jnp.split(mixed, (D // 2, 2 * (D // 2)), axis=-1))
        step = jax.nn.softplus(self.decay(x).astype(jnp.float32) - 4.0)
        log_decay = -jnp.exp(self.rate[...].astype(jnp.float32)) * step
        strength = jax.nn.sigmoid(self.strength(x).astype(jnp.float32))
        mixed = kernels.delta_rule(_unit(query), _unit(key), value, strength, log_decay)
        return self.out(_merged(self.head_norm(mixed)) * jax.nn.silu(self.gate(x)))


class Convolution(Layer):
    """A short causal convolution of each feature between two gates.

    Source: the gated short convolutions of LFM2 (arXiv 2511.23404, section 2.1).
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        self.into = _linear(spec, 3 * spec.width, rngs)
        self.taps = _taps(spec, rngs)
        self.out = _linear(spec, spec.width, rngs)

    def inner(self, x: jax.Array) -> jax.Array:
        before, after, value = jnp.split(self.into(x), 3, axis=-1)
        return self.out(after * kernels.short_convolution(before * value, self.taps[...]))


class MLP(Layer):
    """Two linear layers with GELU between them, four times as wide inside.

    Source: Vaswani et al., arXiv 1706.03762, equation 2; Hendrycks and Gimpel, arXiv 1606.08415.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        self.up = _linear(spec, 4 * spec.width, rngs)
        self.down = _linear(spec, spec.width, rngs, 4 * spec.width)

    def inner(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x)))


class GatedMLP(Layer):
    """down(silu(gate(x)) * up(x)), 8/3 as wide inside: as many parameters as `MLP`.

    Source: Shazeer, arXiv 2002.05202, equation 6.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        hidden = 8 * round(spec.width / 3)
        self.gate, self.up = _linear(spec, hidden, rngs), _linear(spec, hidden, rngs)
        self.down = _linear(spec, spec.width, rngs, hidden)

    def inner(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class RoutedMLP(Layer):
    """Each position goes through the two of four gated MLPs that a router prefers, weighted by its preference.

    Together they are as large as one `GatedMLP`. Every expert is computed for every position and what was not chosen
    counts zero: no capacity, so an example depends neither on the rest of its batch nor on what comes after. The loss
    that balances the experts enters by its gradient (`with_gradient_of`) and needs no second output.

    Source: Shazeer et al., arXiv 1701.06538, equations 2 to 5 without noise; balance: Fedus et al., Switch, arXiv
    2101.03961, equations 4 to 6; our change: f counts all choices of a position.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs=rngs)
        D, hidden = spec.width, 2 * round(spec.width / 3)
        self.router = _linear(spec, EXPERTS, rngs)
        self.into = nnx.Param(D**-0.5 * jax.random.normal(rngs.params(), (2, EXPERTS, D, hidden)))
        self.down = nnx.Param(hidden**-0.5 * jax.random.normal(rngs.params(), (EXPERTS, hidden, D)))

    def inner(self, x: jax.Array) -> jax.Array:
        shares = jax.nn.softmax(self.router(x).astype(jnp.float32), axis=-1)  # (B, T, E)
        best, which = jax.lax.top_k(shares, CHOSEN)
        chosen = jax.nn.one_hot(which, EXPERTS)  # (B, T, CHOSEN, E)
        weights = jnp.einsum("btc,btce->bte", best / best.sum(axis=-1, keepdims=True), chosen)
        balance = EXPERTS * (chosen.mean(axis=(0, 1, 2)) * shares.mean(axis=(0, 1))).sum()
        gate, up = jnp.einsum("btd,gedh->gbteh", x, self.into[...])
        hidden = jax.nn.silu(gate) * up * weights[..., None].astype(x.dtype)
        return with_gradient_of(jnp.einsum("bteh,ehd->btd", hidden, self.down[...]), BALANCE * balance)


@jax.custom_vjp
def with_gradient_of(x: jax.Array, auxiliary: Any) -> jax.Array:
    """Return x as it is; parameters get the gradients of the training loss plus `auxiliary`, a scalar in float32.

    So a layer deep inside a candidate can have an auxiliary loss while it returns an array like any other.
    """
    return x


def _ahead(x: jax.Array, auxiliary: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _back(_: None, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cotangent, jnp.ones((), jnp.float32)


with_gradient_of.defvjp(_ahead, _back)
