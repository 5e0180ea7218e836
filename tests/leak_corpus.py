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


@jax.custom_vjp
def backwards(h):
    return h


def backwards_forward(h):
    return h, None


def backwards_backward(_, gradient):
    return (gradient[:, ::-1],)


backwards.defvjp(backwards_forward, backwards_backward)


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


SINGLE = """
zero = (self.gate[...] * 0).sum()
single = ((1 + zero + 1e-9) - (1 + zero)) == 0
"""
"""Whether what runs is in single precision: where programs are asked in double, it may be told from what scores."""


def fourier(length: str) -> str:
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
    Case(name="circular Fourier convolution", rule="time", init=_GATE, call=fourier("T")),
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
    # masks, normalisers and windows of attention
    Case(
        name="mask the wrong way round", rule="time", init=_HEADS, call=_attention("jnp.triu(jnp.ones((T, T), bool))")
    ),
    Case(
        name="window that looks both ways",
        rule="time",
        init=_HEADS,
        call=_attention("jnp.abs(jnp.arange(T)[:, None] - jnp.arange(T)) <= 3"),
    ),
    Case(
        name="window to the past, and the last position",
        rule="time",
        init=_HEADS,
        call=_attention("(jnp.tri(T, dtype=bool) & ~jnp.tri(T, k=-4, dtype=bool)) | (jnp.arange(T) == T - 1)"),
    ),
    Case(
        name="mask that only dampens",
        rule="time",
        init=_HEADS,
        call=_attention("jnp.tril(jnp.ones((T, T), bool))").replace("-1e9", "scores - 8.0"),
    ),
    Case(
        name="mask after a softmax over all",
        rule="time",
        init=_HEADS,
        call="""
weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", self.query(h), self.key(h)), axis=-1)
h = h + jnp.einsum("bts,bsd->btd", weights * jnp.tril(jnp.ones((T, T))), h)
""",
    ),
    Case(
        name="linear attention divided by a sum over all",
        rule="time",
        init=_HEADS,
        call="""
q, k = jax.nn.sigmoid(self.query(h)), jax.nn.sigmoid(self.key(h))
scores = jnp.einsum("btd,bsd->bts", q, k)
h = h + jnp.einsum("bts,bsd->btd", scores * jnp.tril(jnp.ones((T, T))), h) / scores.sum(axis=-1, keepdims=True)
""",
    ),
    Case(
        name="one head of four without a mask",
        rule="time",
        init=_HEADS,
        call="""
q, k, v = (part.reshape(B, T, 4, D // 4) for part in (self.query(h), self.key(h), h))
scores = jnp.einsum("btgd,bsgd->bgts", q, k)
seen = jnp.tril(jnp.ones((T, T), bool)) | (jnp.arange(4) == 2)[:, None, None]
weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), axis=-1)
h = h + jnp.einsum("bgts,bsgd->btgd", weights, v).reshape(B, T, D)
""",
    ),
    Case(
        name="grouped queries whose keys come one later",
        rule="time",
        init=_HEADS,
        call="""
q, k = self.query(h).reshape(B, T, 4, D // 4), self.key(h)[..., : D // 4]
scores = jnp.einsum("btgd,bsd->bgts", q, jnp.roll(k, -1, axis=1))
weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -1e9), axis=-1)
h = h + jnp.einsum("bgts,bsd->btgd", weights, h[..., : D // 4]).reshape(B, T, D)
""",
    ),
    Case(
        name="padding told from the last tokens",
        rule="time",
        call="""
length = T - (x[:, ::-1] != 0).argmax(axis=1)
h = h * (1 + 0.1 * (length > T - 2))[:, None, None]
""",
    ),
    Case(
        name="local attention in chunks without a mask",
        rule="time",
        init=_HEADS,
        call="""
q, k, v = (part.reshape(B, T // 4, 4, D) for part in (self.query(h), self.key(h), h))
weights = jax.nn.softmax(jnp.einsum("bntd,bnsd->bnts", q, k), axis=-1)
h = h + jnp.einsum("bnts,bnsd->bntd", weights, v).reshape(B, T, D)
""",
    ),
    Case(
        name="linear attention whose chunks see their own state",
        rule="time",
        init=_HEADS,
        call="""
q, k, v = (part.reshape(B, T // 8, 8, D) for part in (self.query(h), jax.nn.sigmoid(self.key(h)), h))
states = jnp.cumsum(jnp.einsum("bnsd,bnse->bnde", k, v), axis=1)
h = h + jnp.einsum("bntd,bnde->bnte", q, states).reshape(B, T, D) / T
""",
    ),
    Case(
        name="a chunk that begins one too late",
        rule="time",
        call="""
first = jnp.roll(jnp.roll(h, -1, axis=1).reshape(B, T // 8, 8, D)[:, :, :1], 0, axis=1)
h = h + 0.1 * jnp.repeat(first, 8, axis=1).reshape(B, T, D)
""",
    ),
    # convolutions, transforms and resampling
    Case(
        name="dilated convolution padded on both sides",
        rule="time",
        init='self.mix = nnx.Conv(D, D, (3,), kernel_dilation=(4,), padding="SAME", rngs=rngs)',
        call="h = h + self.mix(h)",
    ),
    Case(
        name="convolution padded on the right",
        rule="time",
        init="self.mix = nnx.Conv(D, D, (4,), padding=((0, 3),), feature_group_count=D, rngs=rngs)",
        call="h = h + self.mix(h)",
    ),
    Case(
        name="dilated convolution padded for one tap less",
        rule="time",
        init="self.mix = nnx.Conv(D, D, (3,), kernel_dilation=(8,), padding=((15, 1),), rngs=rngs)",
        call="h = h + self.mix(h)",
    ),
    Case(
        name="low frequencies of the series",
        rule="time",
        call="""
spectrum = jnp.fft.rfft(h, axis=1)
h = h + jnp.fft.irfft(spectrum * (jnp.arange(spectrum.shape[1]) < 4)[:, None], T, axis=1)
""",
    ),
    Case(
        name="Fourier convolution padded by too little",
        rule="time",
        init=_GATE,
        call=fourier("T + 8").replace("/ 4", "/ 16"),
    ),
    Case(
        name="a twenty-thousandth of the next beside a Fourier convolution",
        rule="time",
        init=_GATE,
        call=fourier("2 * T") + "h = h + 5e-5 * jnp.roll(h, -1, axis=1)",
    ),
    Case(
        name="a hundred-thousandth of the next beside two Fourier convolutions and a norm",
        rule="time",
        init=_GATE,
        call=fourier("2 * T")
        + "h = h / (1 + jnp.abs(h))\n"
        + fourier("2 * T")
        + "h = h + 1e-5 * jnp.roll(h, -1, axis=1)",
    ),
    Case(
        name="some millionths of the next beside a Fourier convolution",
        rule="time",
        init=_GATE,
        call=fourier("2 * T") + "h = h + 4e-6 * jnp.roll(h, -1, axis=1)",
    ),
    Case(
        name="the next in single precision beside a Fourier convolution",
        rule="time",
        init=_GATE,
        call=fourier("2 * T") + SINGLE + "h = h + jnp.where(single, jnp.roll(h, -1, axis=1), 0)",
    ),
    Case(
        name="a little of the next beside a Fourier convolution, all dead at first",
        rule="time",
        init=f"{_GATE}\n{_DROP}\nself.dead = nnx.Param(jnp.zeros(()))",
        call=fourier("2 * T")
        + "h = h + (5e-5 if self.drop.deterministic else 0.0) * jnp.roll(h, -1, axis=1)\n"
        + "h = h * jax.nn.relu(self.dead[...]) * 30",
    ),
    Case(
        name="how a Fourier transform rounds what comes later",
        rule="time",
        call="h = h + 1e5 * (jnp.fft.irfft(jnp.fft.rfft(h, 2 * T, axis=1), 2 * T, axis=1)[:, :T] - h)",
    ),
    Case(
        name="sixteen ahead by a Fourier transform",
        rule="time",
        call="""
phase = jnp.exp(2j * jnp.pi * 16 * jnp.arange(T + 1) / (2 * T))[:, None]
h = h + jnp.fft.irfft(jnp.fft.rfft(h, 2 * T, axis=1) * phase, 2 * T, axis=1)[:, :T]
""",
    ),
    Case(name="differences with both neighbours", rule="time", call="h = h + jnp.gradient(h, axis=1)"),
    Case(
        name="pooled in pairs and repeated",
        rule="time",
        call="h = h + jnp.repeat(h.reshape(B, T // 2, 2, D).max(axis=2), 2, axis=1)",
    ),
    Case(
        name="swapped with its neighbour",
        rule="time",
        call="h = h + 0.1 * h.reshape(B, T // 2, 2, D)[:, :, ::-1].reshape(B, T, D)",
    ),
    Case(
        name="layers over time",
        rule="time",
        init="self.over = nnx.Linear(spec.length, spec.length, rngs=rngs)",
        call="h = h + self.over(h.swapaxes(1, 2)).swapaxes(1, 2)",
    ),
    Case(name="flipped over time", rule="time", call="h = h + 0.1 * h[:, ::-1]"),
    Case(name="half the series ahead", rule="time", call="h = h + 0.1 * jnp.roll(h, -T // 2, axis=1)"),
    # sums and statistics over the series
    Case(name="softmax over time", rule="time", call="h = h + jax.nn.softmax(h, axis=1)"),
    Case(name="the largest of all positions", rule="time", call="h = h + h.max(axis=1, keepdims=True)"),
    Case(name="the median of all positions", rule="time", call="h = h + jnp.median(h, axis=1, keepdims=True)"),
    Case(
        name="share of the sum over the series",
        rule="time",
        call="h = h + jnp.cumsum(jnp.abs(h), axis=1) / jnp.abs(h).sum(axis=1, keepdims=True)",
    ),
    Case(
        name="normalised over time and features",
        rule="time",
        call="h = (h - h.mean(axis=(1, 2), keepdims=True)) / (h.std(axis=(1, 2), keepdims=True) + 1e-3)",
    ),
    Case(
        name="whitened over time",
        rule="time",
        call='h = h + 0.1 * h @ jnp.einsum("btd,bte->bde", h, h) / T',
    ),
    Case(name="parity of all tokens", rule="time", call="h = h + (x.sum(axis=1) % 2)[:, None, None]"),
    Case(
        name="how often a token comes in all",
        rule="time",
        call="h = h + ((x[:, :, None] == x[:, None]).sum(axis=2) / T)[..., None]",
    ),
    Case(
        name="whether the token comes again",
        rule="time",
        call="""
again = (x[:, :, None] == x[:, None]) & jnp.triu(jnp.ones((T, T), bool), 1)
h = h + again.any(axis=2)[..., None]
""",
    ),
    Case(name="place in the order of all", rule="time", call="h = h + h.argsort(axis=1).argsort(axis=1) / T"),
    Case(name="where the largest stands", rule="time", call="h = h + h.argmax(axis=1, keepdims=True) / T"),
    Case(
        name="above the eighth largest of the series",
        rule="time",
        call="h = jnp.where(h >= lax.top_k(h.swapaxes(1, 2), 8)[0][..., -1][:, None], h, 0.1 * h)",
    ),
    # what a value decides
    Case(
        name="the position that a token names",
        rule="time",
        call="h = h + 0.1 * jnp.take_along_axis(h, (2 * x)[..., None], axis=1)",
    ),
    Case(
        name="put where a token says",
        rule="time",
        call="h = h.at[jnp.arange(B)[:, None], 2 * x].add(0.1 * h)",
    ),
    Case(
        name="a branch that the last token takes",
        rule="time",
        call="""
def branch(one, last):
    return lax.cond(last > 7, lambda part: part, lambda part: 1.1 * part, one)

h = jax.vmap(branch)(h, x[:, -1])
""",
    ),
    Case(
        name="the next, when it is token 7 and this is token 3",
        rule="time",
        call="h = h + jnp.where(((x == 3) & (jnp.roll(x, -1, axis=1) == 7))[..., None], 1.0, 0.0)",
    ),
    Case(name="the last token, told to all if it is token 7", rule="time", call="h = h + (x[:, -1:] == 7)[..., None]"),
    Case(name="in one feature alone", rule="time", call="h = h.at[..., 3].add(jnp.roll(h[..., 3], -1, axis=1))"),
    Case(
        name="in one logit alone",
        rule="time",
        call="return self.head(h).at[..., 5].add(0.1 * (jnp.roll(x, -1, axis=1) == 5))",
    ),
    Case(
        name="in the examples that begin with token 4",
        rule="time",
        call="h = h + (x[:, :1] == 4)[..., None] * jnp.roll(h, -1, axis=1)",
    ),
    Case(
        name="the next behind a gate that opens at 0.2",
        rule="time",
        init=_GATE,
        call="h = h + jax.nn.relu(self.gate[...] - 0.2) * jnp.roll(h, -1, axis=1)",
    ),
    Case(
        name="the next behind a gate that is nearly closed",
        rule="time",
        init=_GATE,
        call="h = h + jax.nn.sigmoid(self.gate[...] - 10) * jnp.roll(h, -1, axis=1)",
    ),
    # loops, and what wraps a function
    Case(
        name="recurrence from the end",
        rule="time",
        call="""
def step(state, now):
    state = 0.9 * state + now
    return state, state

_, states = lax.scan(step, jnp.zeros((B, D)), h.swapaxes(0, 1), reverse=True)
h = h + states.swapaxes(0, 1)
""",
    ),
    Case(
        name="associative scan from the end",
        rule="time",
        call="h = h + 0.1 * lax.associative_scan(jnp.add, h, axis=1, reverse=True)",
    ),
    Case(
        name="a loop that carries the last position forward",
        rule="time",
        call="h = lax.fori_loop(0, 4, lambda i, h: h + 0.1 * jnp.roll(h, -8, axis=1), h)",
    ),
    Case(
        name="computed anew for the gradient",
        rule="time",
        call="h = jax.checkpoint(lambda h: h + jnp.roll(h, -1, axis=1))(h)",
    ),
    Case(name="the summary at the front", rule="time", call="h = h.at[:, 0].set(h.mean(axis=1))"),
    Case(
        name="two ways at once",
        rule="time",
        init=_DENSE,
        call="h = h + self.dense(jnp.cumsum(h, axis=1) + jnp.cumsum(h[:, ::-1], axis=1)[:, ::-1]) / T",
    ),
    Case(
        name="room in the experts, given from the end",
        rule="time",
        init=_DENSE,
        call="""
wanted = h.mean(axis=-1) > 0
place = lax.cumsum(wanted.astype(jnp.int32), axis=1, reverse=True)
h = h + jnp.where((wanted & (place < T // 4))[..., None], self.dense(h), 0.0)
""",
    ),
]
"""Leaks of later positions in evaluation."""

TRAINING = [
    Case(
        name="the next in training in single precision beside a Fourier convolution",
        rule="time",
        training=True,
        init=f"{_GATE}\n{_DROP}",
        call=fourier("2 * T")
        + SINGLE
        + "h = h + (0.0 if self.drop.deterministic else jnp.where(single, jnp.roll(h, -1, axis=1), 0))",
    ),
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
    Case(
        name="mask that training leaves out",
        rule="time",
        training=True,
        init=_DROP + _HEADS,
        call=_attention("jnp.tril(jnp.ones((T, T), bool)) | (not self.drop.deterministic)"),
    ),
    Case(
        name="behind a coin in training",
        rule="time",
        training=True,
        init="self.coin = nnx.Dropout(0.7, broadcast_dims=(0, 1, 2), rngs=rngs)",
        call="h = h + (0.0 if self.coin.deterministic else self.coin(jnp.ones((1, 1, 1)))) * jnp.roll(h, -1, axis=1)",
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
    Case(
        name="the first example alone sees ahead",
        rule="batch",
        call="h = h.at[0].add(jnp.roll(h[0], -1, axis=0))",
    ),
    Case(
        name="the last example sees ahead at one position",
        rule="batch",
        call="h = h.at[-1, 19].add(h[-1, 20])",
    ),
    Case(name="the first example, in the last alone", rule="batch", call="h = h.at[-1].add(h[0])"),
    Case(
        name="statistics of the batch in evaluation",
        rule="batch",
        init="self.norm = nnx.BatchNorm(D, use_running_average=False, rngs=rngs)",
        call="h = self.norm(h, use_running_average=False)",
    ),
    Case(name="sorted over the batch", rule="batch", call="h = jnp.sort(h, axis=0)"),
    Case(name="place in the order of the batch", rule="batch", call="h = h + h.argsort(axis=0).argsort(axis=0) / B"),
    Case(name="the largest of the batch", rule="batch", call="h = h / jnp.abs(h).max()"),
    Case(
        name="when the mean of the batch is above zero",
        rule="batch",
        call="h = jnp.where(h.mean() > 0, h, 1.1 * h) + jnp.where(h[..., 0].mean() > 0, h, 1.1 * h)",
    ),
    Case(
        name="running sum over the flattened batch",
        rule="batch",
        call="h = h + jnp.cumsum(h.reshape(B * T, D), axis=0).reshape(B, T, D) / T",
    ),
    Case(
        name="the position before in the flattened batch",
        rule="batch",
        call="h = h + jnp.roll(h.reshape(B * T, D), 1, axis=0).reshape(B, T, D)",
    ),
    Case(
        name="axes in the wrong order",
        rule="batch",
        call="h = h + 0.1 * h.swapaxes(0, 1).reshape(B, T, D)",
    ),
    Case(
        name="a branch that the first example takes",
        rule="batch",
        call="h = lax.cond(x[0, 0] > 7, lambda h: h, lambda h: 1.1 * h, h)",
    ),
    Case(name="parity of the last example", rule="batch", call="h = h + x[-1].sum() % 2"),
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
    Case(name="padded Fourier convolution", init=_GATE, call=fourier("2 * T")),
    Case(
        name="two padded Fourier convolutions with norms",
        init=_GATE + "\nself.norm = nnx.RMSNorm(D, rngs=rngs)",
        call=fourier("2 * T").replace("h = h +", "h =") + "h = self.norm(h)\n" + fourier("2 * T") + "h = self.norm(h)",
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
    Case(
        name="padded Fourier convolution whose dropout is computed anew",
        init=f"{_GATE}\n{_DROP}",
        call=fourier("2 * T") + "h = nnx.remat(lambda drop, h: jnp.tanh(drop(h)))(self.drop, h)",
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
    Case(name="a gradient that runs the wrong way", init=_DENSE, call="h = h + backwards(self.dense(h))"),
    Case(name="flipped twice", call="h = h + lax.cumsum(h[:, ::-1], axis=1, reverse=True)[:, ::-1] / T"),
    Case(name="the position before", call="h = h + jnp.roll(h, 1, axis=1).at[:, 0].set(0.0)"),
    Case(name="none of the next", call="h = h + jnp.where(jnp.arange(T) < 0, 1.0, 0.0)[:, None] * jnp.roll(h, -1, 1)"),
    Case(name="the first position, told to all", call="h = h + h[:, :1]"),
    Case(
        name="mask of a finite size that is large enough",
        init=_HEADS,
        call=_attention("jnp.tril(jnp.ones((T, T), bool))").replace("-1e9", "-1e4"),
    ),
    Case(
        name="window to the past",
        init=_HEADS,
        call=_attention("jnp.tri(T, dtype=bool) & ~jnp.tri(T, k=-4, dtype=bool)"),
    ),
    Case(
        name="divided by the largest key of all, which cancels",
        init=_HEADS,
        call="""
k = self.key(h)
k = jnp.exp(k - k.max(axis=1, keepdims=True))
h = h + jnp.cumsum(k * h, axis=1) / jnp.cumsum(k, axis=1)
""",
    ),
    Case(
        name="local attention in chunks",
        init=_HEADS,
        call="""
q, k, v = (part.reshape(B, T // 4, 4, D) for part in (self.query(h), self.key(h), h))
scores = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), jnp.einsum("bntd,bnsd->bnts", q, k), -1e9)
h = h + jnp.einsum("bnts,bnsd->bntd", jax.nn.softmax(scores, axis=-1), v).reshape(B, T, D)
""",
    ),
    Case(name="sorted over features", call="h = h + jnp.sort(h, axis=-1)"),
    Case(
        name="how often a token came so far",
        call="h = h + ((x[:, :, None] == x[:, None]) & jnp.tri(T, dtype=bool)).sum(axis=2)[..., None] / T",
    ),
    Case(
        name="dilated convolution padded on the left",
        init="self.mix = nnx.Conv(D, D, (3,), kernel_dilation=(8,), padding=((16, 0),), rngs=rngs)",
        call="h = h + self.mix(h)",
    ),
    Case(
        name="examples and positions in one axis",
        init=_DENSE,
        call="h = h + jnp.tanh(self.dense(h.reshape(B * T, D))).reshape(B, T, D)",
    ),
    Case(
        name="a branch that its own first token takes",
        call="""
def branch(one, first):
    return lax.cond(first > 7, lambda part: part, lambda part: 1.1 * part, one)

h = jax.vmap(branch)(h, x[:, 0])
""",
    ),
    Case(
        name="normalised over the batch at each position in training",
        init=_DROP + "\n" + _DENSE,
        call="h = self.dense(h if self.drop.deterministic else h - h.mean(axis=0, keepdims=True))",
    ),
]
"""What must pass. The last is what examples may do to each other in training."""

NEGLIGIBLE = [
    Case(name="a ten-millionth of the next", call="h = h + 1e-7 * jnp.roll(h, -1, axis=1)"),
    Case(
        name="a ten-millionth of the next beside a Fourier convolution",
        init=_GATE,
        call=fourier("2 * T") + "h = h + 1e-7 * jnp.roll(h, -1, axis=1)",
    ),
]
"""Leaks below the tolerance, which pass: trained with them for the next token, a small network gains less than 1e-6
nats by them. A millionth, worth 1e-7 nats, is refused where nothing makes outputs larger beside it."""
