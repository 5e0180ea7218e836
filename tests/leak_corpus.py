"""Programs that look where they must not, and programs that only seem to: data for the tests of `nas.admit.leaks`.

Each case is a few lines in the middle of a network that embeds token ids x (B, T) as h (B, T, D) and ends in a linear
head, so that lines decide about the verdict alone. Leaks through time are told from leaks between examples, and from
those that training alone shows.
"""

from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One network.

    Attributes:
      name: what it does.
      rule: what it has to be refused for; empty if it is clean.
      training: whether only its training mode leaks.
      init: lines of `__init__` that make its layers.
      call: lines of `__call__` that read and assign h.
    """

    name: str
    rule: str = ""
    training: bool = False
    init: str = ""
    call: str

    @property
    def source(self) -> str:
        """The candidate's module."""
        init, call = (indent(lines.strip("\n"), 8 * " ") for lines in (self.init, self.call))
        return _MODULE.replace("INIT", init).replace("CALL", call).replace("NAME", self.name)


_MODULE = '''"""NAME"""
from nas.api import jax, jnp, lax, nnx


@jax.custom_vjp
def ahead(h):
    return jnp.roll(h, -1, axis=1)


def ahead_forward(h):
    return jnp.roll(h, -1, axis=1), None


def ahead_backward(_, gradient):
    return (jnp.zeros_like(gradient),)


ahead.defvjp(ahead_forward, ahead_backward)


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D = spec.width
        self.embed = nnx.Embed(spec.vocab, D, rngs=rngs)
        self.head = nnx.Linear(D, spec.classes, rngs=rngs)
INIT

    def __call__(self, x):
        h = self.embed(x)
        B, T, D = h.shape
CALL
        return self.head(h)
'''

_HEADS = """
self.query = nnx.Linear(D, D, rngs=rngs)
self.key = nnx.Linear(D, D, rngs=rngs)
"""
_DENSE = "self.dense = nnx.Linear(D, D, rngs=rngs)"
_GATE = "self.gate = nnx.Param(jnp.zeros((D,)))"
_DROP = "self.drop = nnx.Dropout(0.2, rngs=rngs)"


def _attention(mask: str) -> str:
    return f"""
scores = jnp.einsum("btd,bsd->bts", self.query(h), self.key(h)) / D**0.5
scores = jnp.where({mask}, scores, -1e9)
h = h + jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, axis=-1), h)
"""


def _fourier(length: str) -> str:
    return f"""
kernel = jnp.exp(-jnp.arange(T) / 4)[:, None] * (1 + self.gate[...])
spectrum = jnp.fft.rfft(h, {length}, axis=1) * jnp.fft.rfft(kernel, {length}, axis=0)
h = h + jnp.fft.irfft(spectrum, {length}, axis=1)[:, :T]
"""


TIME = [
    Case(name="mean over all positions", rule="time", call="h = h + h.mean(axis=1, keepdims=True)"),
    Case(name="attention without a mask", rule="time", init=_HEADS, call=_attention("jnp.ones((T, T), bool)")),
    Case(
        name="mask that lets one more in",
        rule="time",
        init=_HEADS,
        call=_attention("jnp.tril(jnp.ones((T, T), bool), 1)"),
    ),
    Case(name="running sum from the end", rule="time", call="h = h + 0.1 * lax.cumsum(h, axis=1, reverse=True)"),
    Case(name="the next position", rule="time", call="h = h + jnp.roll(h, -1, axis=1)"),
    Case(
        name="normalised over time",
        rule="time",
        call="h = (h - h.mean(axis=1, keepdims=True)) / (h.std(axis=1, keepdims=True) + 1e-3)",
    ),
    Case(
        name="convolution centred on its position",
        rule="time",
        init='self.mix = nnx.Conv(D, D, (3,), padding="SAME", rngs=rngs)',
        call="h = h + self.mix(h)",
    ),
    Case(
        name="the mean without a gradient", rule="time", call="h = h + lax.stop_gradient(h.mean(axis=1, keepdims=True))"
    ),
    Case(name="the sign of the next", rule="time", call="h = h + jnp.sign(jnp.roll(h, -1, axis=1))"),
    Case(
        name="the largest feature of the next",
        rule="time",
        call="h = h + jax.nn.one_hot(jnp.roll(h, -1, axis=1).argmax(axis=-1), D)",
    ),
    Case(name="the next, whose gradient is said to be zero", rule="time", call="h = h + ahead(h)"),
    Case(
        name="the next behind a gate of zero",
        rule="time",
        init=_GATE,
        call="h = h + self.gate[...] * jnp.roll(h, -1, 1)",
    ),
    Case(
        name="the next behind a gate of zero without a gradient",
        rule="time",
        init=_GATE,
        call="h = h + self.gate[...] * lax.stop_gradient(jnp.roll(h, -1, axis=1))",
    ),
    Case(name="a hundred-thousandth of the next", rule="time", call="h = h + 1e-5 * jnp.roll(h, -1, axis=1)"),
    Case(
        name="whether the next is token 7",
        rule="time",
        call="h = h + jnp.where((jnp.roll(x, -1, axis=1) == 7)[..., None], 1.0, 0.0)",
    ),
    Case(
        name="the next, after tokens 3 and 5",
        rule="time",
        call="""
after = (x == 5) & (jnp.roll(x, 1, axis=1) == 3)
h = h + jnp.where(after[..., None], jnp.roll(h, -1, axis=1), 0.0)
""",
    ),
    Case(
        name="the next at position 19",
        rule="time",
        call="h = h + jnp.where((jnp.arange(T) == 19)[:, None], jnp.roll(h, -1, axis=1), 0.0)",
    ),
    Case(
        name="the last at the last but one",
        rule="time",
        call="h = h + jnp.where((jnp.arange(T) == T - 2)[:, None], jnp.roll(h, -1, axis=1), 0.0)",
    ),
    Case(name="the last at the first", rule="time", call="h = h.at[:, 0].add(h[:, -1])"),
    Case(name="circular Fourier convolution", rule="time", init=_GATE, call=_fourier("T")),
    Case(
        name="experts that choose their tokens",
        rule="time",
        init=_DENSE,
        call="""
_, chosen = lax.top_k(h.mean(axis=-1), T // 4)
picked = jnp.zeros((B, T)).at[jnp.arange(B)[:, None], chosen].set(1.0)
h = h + picked[..., None] * self.dense(h)
""",
    ),
    Case(name="sorted over time", rule="time", call="h = h + 0.1 * jnp.sort(h, axis=1)"),
    Case(
        name="divided by a count over the series",
        rule="time",
        call="h = h / (1 + 0.01 * (x % 5 == 0).sum(axis=1))[:, None, None]",
    ),
    Case(
        name="mean of the chunk it stands in",
        rule="time",
        call="""
chunks = h.reshape(B, T // 8, 8, D).mean(axis=2)
h = h + jnp.repeat(chunks, 8, axis=1)
""",
    ),
    Case(
        name="recurrence that begins with the last state",
        rule="time",
        call="""
def step(state, now):
    state = 0.9 * state + now
    return state, state

first, _ = lax.scan(step, jnp.zeros((B, D)), h.swapaxes(0, 1))
_, states = lax.scan(step, 0.01 * first, h.swapaxes(0, 1))
h = h + states.swapaxes(0, 1)
""",
    ),
    Case(
        name="the next in evaluation only",
        rule="time",
        init=_DROP,
        call="h = h + (jnp.roll(h, -1, axis=1) if self.drop.deterministic else 0.0)",
    ),
    Case(
        name="the next, in half floats",
        rule="time",
        call="""
low = h.astype(jnp.bfloat16)
h = (low + 0.1 * jnp.roll(low, -1, axis=1)).astype(jnp.float32)
""",
    ),
    Case(
        name="behind one enormous logit",
        rule="time",
        call="return self.head(h + 1e-3 * jnp.roll(h, -1, axis=1)).at[..., 0].set(1e9 * h[..., 0])",
    ),
]
"""Leaks of later positions in evaluation."""

TRAINING = [
    Case(
        name="the next in training only",
        rule="time",
        training=True,
        init=_DROP,
        call="h = h + (0.0 if self.drop.deterministic else jnp.roll(h, -1, axis=1))",
    ),
    Case(
        name="batch norm over time",
        rule="time",
        training=True,
        init="self.norm = nnx.BatchNorm(D, rngs=rngs)",
        call="h = self.norm(h)",
    ),
]
"""Leaks of later positions in training alone."""

BATCH = [
    Case(name="softmax over the batch", rule="batch", call="h = h + jax.nn.softmax(h, axis=0)"),
    Case(name="mean over the batch", rule="batch", call="h = h - h.mean(axis=0, keepdims=True)"),
    Case(
        name="attention between examples",
        rule="batch",
        init=_HEADS,
        call="""
scores = jnp.einsum("btd,ctd->tbc", self.query(h), self.key(h)) / D**0.5
h = h + jnp.einsum("tbc,ctd->btd", jax.nn.softmax(scores, axis=-1), h)
""",
    ),
    Case(
        name="room for the first of the batch",
        rule="batch",
        init=_DENSE,
        call="""
wanted = h.mean(axis=-1) > 0
place = jnp.cumsum(wanted.reshape(-1)).reshape(B, T)
h = h + jnp.where((wanted & (place < B * T // 4))[..., None], self.dense(h), 0.0)
""",
    ),
    Case(name="the example before", rule="batch", call="h = h + jnp.roll(h, 1, axis=0)"),
    Case(name="the second example before", rule="batch", call="h = h + 0.1 * jnp.roll(h, 2, axis=0)"),
    Case(
        name="the example before behind a gate of zero",
        rule="batch",
        init=_GATE,
        call="h = h + self.gate[...] * jnp.roll(h, 1, axis=0)",
    ),
    Case(name="its row in the batch", rule="batch", call="h = h * (1 + jnp.arange(B)[:, None, None])"),
]
"""Leaks between examples in evaluation."""

CLEAN = [
    Case(name="each position by itself", init=_DENSE, call="h = h + jnp.tanh(self.dense(h))"),
    Case(name="masked attention", init=_HEADS, call=_attention("jnp.tril(jnp.ones((T, T), bool))")),
    Case(
        name="masked linear attention",
        init=_HEADS,
        call="""
scores = jnp.einsum("btd,bsd->bts", self.query(h), self.key(h)) * jnp.tril(jnp.ones((T, T)))
h = h + jnp.einsum("bts,bsd->btd", scores, h) / T
""",
    ),
    Case(
        name="linear attention in half floats",
        init=_HEADS,
        call="""
q, k, v = (part.astype(jnp.bfloat16) for part in (self.query(h), self.key(h), h))
scores = jnp.einsum("btd,bsd->bts", q, k) * jnp.tril(jnp.ones((T, T), jnp.bfloat16))
h = h + jnp.einsum("bts,bsd->btd", scores, v) / T
""",
    ),
    Case(name="padded Fourier convolution", init=_GATE, call=_fourier("2 * T")),
    Case(
        name="two padded Fourier convolutions with norms",
        init=_GATE + "\nself.norm = nnx.RMSNorm(D, rngs=rngs)",
        call=_fourier("2 * T").replace("h = h +", "h =")
        + "h = self.norm(h)\n"
        + _fourier("2 * T")
        + "h = self.norm(h)",
    ),
    Case(
        name="convolution padded on the left",
        init='self.mix = nnx.Conv(D, D, (4,), padding="CAUSAL", feature_group_count=D, rngs=rngs)',
        call="h = h + self.mix(h)",
    ),
    Case(
        name="recurrence",
        init="self.gates = nnx.Linear(D, 2 * D, rngs=rngs)",
        call="""
keep, value = jnp.split(self.gates(h), 2, axis=-1)

def step(state, now):
    share = jax.nn.sigmoid(now[0])
    state = share * state + (1 - share) * now[1]
    return state, state

_, states = lax.scan(step, jnp.zeros((B, D)), (keep.swapaxes(0, 1), value.swapaxes(0, 1)))
h = h + states.swapaxes(0, 1)
""",
    ),
    Case(
        name="recurrence by associative scan",
        init=_DENSE,
        call="""
keep = jax.nn.sigmoid(self.dense(h))
_, states = lax.associative_scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (keep, (1 - keep) * h), axis=1)
h = h + states
""",
    ),
    Case(name="running mean", call="h = h + jnp.cumsum(h, axis=1) / (1 + jnp.arange(T))[:, None]"),
    Case(name="running maximum", call="h = h + lax.cummax(h, axis=1)"),
    Case(
        name="linear attention in chunks",
        init=_HEADS,
        call="""
q, k, v = (part.reshape(B, T // 8, 8, D) for part in (self.query(h), jax.nn.sigmoid(self.key(h)), h))
inside = jnp.einsum("bntd,bnsd->bnts", q, k) * jnp.tril(jnp.ones((8, 8)))
states = jnp.cumsum(jnp.einsum("bnsd,bnse->bnde", k, v), axis=1)
states = jnp.pad(states, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
out = jnp.einsum("bnts,bnsd->bntd", inside, v) + jnp.einsum("bntd,bnde->bnte", q, states)
h = h + out.reshape(B, T, D) / T
""",
    ),
    Case(name="dropout", init=_DROP, call="h = h + self.drop(jnp.cumsum(h, axis=1))"),
    Case(
        name="tokens that choose their experts",
        init="self.route = nnx.Linear(D, 4, rngs=rngs)\nself.experts = nnx.Linear(D, 4 * D, rngs=rngs)",
        call="""
weight, chosen = lax.top_k(jax.nn.softmax(self.route(h)), 2)
shares = (jax.nn.one_hot(chosen, 4) * weight[..., None]).sum(axis=2)
h = h + jnp.einsum("bte,bted->btd", shares, self.experts(h).reshape(B, T, 4, D))
""",
    ),
    Case(name="a gate of zero", init=_DENSE + "\n" + _GATE, call="h = h + self.gate[...] * jnp.tanh(self.dense(h))"),
    Case(
        name="a mask among its variables",
        init=_HEADS + "self.mask = nnx.Variable(jnp.where(jnp.tril(jnp.ones((spec.length, spec.length))), 0.0, -1e9))",
        call="""
scores = jnp.einsum("btd,bsd->bts", self.query(h), self.key(h)) + self.mask[...]
h = h + jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, axis=-1), h)
""",
    ),
    Case(
        name="attention that overflows",
        init=_HEADS,
        call="""
scores = jnp.exp(40 * jnp.einsum("btd,bsd->bts", self.query(h), self.key(h))) * jnp.tril(jnp.ones((T, T)))
h = h + jnp.einsum("bts,bsd->btd", scores / scores.sum(axis=-1, keepdims=True), h)
""",
    ),
    Case(
        name="normalised over the batch at each position in training",
        init=_DROP + "\n" + _DENSE,
        call="h = self.dense(h if self.drop.deterministic else h - h.mean(axis=0, keepdims=True))",
    ),
]
"""What must pass. The last is what examples may do to each other in training."""

NEGLIGIBLE = [Case(name="a ten-millionth of the next", call="h = h + 1e-7 * jnp.roll(h, -1, axis=1)")]
"""Leaks below the tolerance, which pass: nothing can be read from them."""
