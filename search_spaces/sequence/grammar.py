"""What the random arm samples and evolution inserts in spaces over sequences: primitives as source text, by scope.

Every primitive is causal and treats each example by itself: output t of what it makes of h (B, T, D) depends on h up to
t only. The ops are those of `nas.kernels`. A `Mixer` mixes positions and may change the width on the way; a `Block` has
MLPs and a residual around all of it; a `Stack` is a pattern of the primitives of `nas.layers`, whose sizes are fixed.
"""

from nas.space import Grammar, Primitive, Scope

_ACTIVATIONS = ("silu", "gelu", "relu", "tanh")
_WIDTHS = ("spec.width", "spec.width // 2", "2 * spec.width")
_HEADS = ("spec.heads", "(spec.heads // 2)", "(2 * spec.heads)")


def _linear(part: str, into: str = "{width}", out: str = "{width}") -> str:
    return f"self.{{name}}_{part} = nnx.Linear({into}, {out}, use_bias=False, rngs=rngs)\n"


def _heads(value: str, heads: str = "{heads}") -> str:
    """Source of (B, T, D) with D split into heads."""
    return f"{value}.reshape(*h.shape[:2], {heads}, -1)"


# ---- ways in and out ----

INPUT = Primitive(name="input", call="h = x")

STEMS = (
    INPUT,
    Primitive(
        name="project",
        init=_linear("in", "spec.width", "{features}"),
        call="h = jax.nn.{activation}(self.{name}_in(x))",
        out="({features})",
        choices={"features": _WIDTHS, "activation": (*_ACTIVATIONS, "identity")},
    ),
    Primitive(
        name="convolve",
        init=(
            _linear("in", "spec.width", "{features}")
            + "self.{name}_taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), ({taps}, {features})))"
        ),
        call="h = jax.nn.silu(short_convolution(self.{name}_in(x), self.{name}_taps[...]))",
        out="({features})",
        choices={"features": _WIDTHS, "taps": (2, 3, 4, 8)},
    ),
    Primitive(
        name="shift",
        init="self.{name}_share = nnx.Param(jnp.linspace(0.0, 1.0, spec.width))",
        call=("before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]\nh = x + self.{name}_share[...] * (before - x)"),
    ),
)

_LINEAR_HEAD = Primitive(name="linear", init=_linear("out", out="spec.width"), call="return self.{name}_out(h)")
_GATED_HEAD = Primitive(
    name="gated",
    init=_linear("out", out="spec.width") + _linear("gate", "spec.width"),
    call="return self.{name}_out(h * jax.nn.{activation}(self.{name}_gate(x)))",
    choices={"activation": ("silu", "gelu", "sigmoid")},
)
_NORMED_HEAD = Primitive(
    name="normed",
    init="self.{name}_norm = nnx.RMSNorm({width}, rngs=rngs)\n" + _linear("out", out="spec.width"),
    call="return self.{name}_out(self.{name}_norm(h))",
)

MIXER_HEADS = (_LINEAR_HEAD, _GATED_HEAD, _NORMED_HEAD)
BLOCK_HEADS = (
    Primitive(name="residual", init=_linear("out", out="spec.width"), call="return x + self.{name}_out(h)"),
    Primitive(
        name="gated_residual",
        init=_linear("out", out="spec.width") + _linear("gate", "spec.width"),
        call="return x + self.{name}_out(h * jax.nn.silu(self.{name}_gate(x)))",
    ),
    Primitive(
        name="mlp_after",
        init=(
            _linear("out", out="spec.width")
            + "self.{name}_norm = nnx.RMSNorm(spec.width, rngs=rngs)\n"
            + _linear("up", "spec.width", "{ratio} * spec.width")
            + _linear("down", "{ratio} * spec.width", "spec.width")
        ),
        call=(
            "h = x + self.{name}_out(h)\n"
            "return h + self.{name}_down(jax.nn.{activation}(self.{name}_up(self.{name}_norm(h))))"
        ),
        choices={"ratio": (2, 3, 4), "activation": _ACTIVATIONS},
    ),
)

# ---- mixing positions ----

ATTENTION = Primitive(
    name="attention",
    init=_linear("query") + _linear("key") + _linear("value") + _linear("out"),
    call=(
        f"query = {{turn}}({_heads('self.{name}_query(h)')})\n"
        f"key = {{turn}}({_heads('self.{name}_key(h)')})\n"
        f"value = {_heads('self.{name}_value(h)')}\n"
        "near = attention(query, key, value, window={window}, softcap={softcap})\n"
        "h = self.{name}_out(near.reshape(h.shape))"
    ),
    choices={
        "heads": _HEADS,
        "turn": ("layers.rotary", "layers.rotary", ""),
        "window": ("None", "None", "8", "16", "32", "spec.length // 2"),
        "softcap": ("None", "None", "20.0"),
    },
)

SHARED_ATTENTION = Primitive(
    name="shared_attention",
    init=_linear("query") + _linear("both", out="2 * ({width} // {heads})") + _linear("out"),
    call=(
        f"query = layers.rotary({_heads('self.{name}_query(h)')})\n"
        f"key, value = jnp.split({_heads('self.{name}_both(h)', '1')}, 2, axis=-1)\n"
        "near = attention(query, layers.rotary(key), value, window={window})\n"
        "h = self.{name}_out(near.reshape(h.shape))"
    ),
    choices={"heads": _HEADS, "window": ("None", "16", "32")},
)


def _linear_attention(name: str, decays: str) -> Primitive:
    """Linear attention whose state decays by so many numbers: one for each feature of a key, or one for each head."""
    return Primitive(
        name=name,
        init=(
            _linear("query", out="{width} // 2")
            + _linear("key", out="{width} // 2")
            + _linear("value")
            + f"self.{{name}}_decay = nnx.Linear({{width}}, {decays}, rngs=rngs)\n"
            + _linear("out")
        ),
        call=(
            f"query = {_heads('self.{name}_query(h)')}\n"
            f"key = {_heads('self.{name}_key(h)')}\n"
            f"value = {_heads('self.{name}_value(h)')}\n"
            f"decay = jax.nn.log_sigmoid({_heads('self.{name}_decay(h)')}) / {{slowness}}\n"
            "state = gated_linear_attention(query * query.shape[-1] ** -0.5, key, value, decay)\n"
            "h = self.{name}_out(state.reshape(h.shape))"
        ),
        choices={"heads": _HEADS, "slowness": (4, 16)},
    )


GATED_LINEAR_ATTENTION = _linear_attention("gated_linear_attention", "{width} // 2")
DECAYING_LINEAR_ATTENTION = _linear_attention("decaying_linear_attention", "{heads}")

DELTA_RULE = Primitive(
    name="delta_rule",
    init=(
        _linear("query", out="{width} // 2")
        + _linear("key", out="{width} // 2")
        + _linear("value")
        + "self.{name}_gates = nnx.Linear({width}, 2 * {heads}, rngs=rngs)\n"
        + _linear("out")
    ),
    call=(
        f"query = {_heads('self.{name}_query(h)')}\n"
        f"key = {_heads('self.{name}_key(h)')}\n"
        f"value = {_heads('self.{name}_value(h)')}\n"
        "query = query / jnp.sqrt((query * query).sum(axis=-1, keepdims=True) + 1e-6)\n"
        "key = key / jnp.sqrt((key * key).sum(axis=-1, keepdims=True) + 1e-6)\n"
        "strength, decay = jnp.split(self.{name}_gates(h), 2, axis=-1)\n"
        "state = delta_rule(query, key, value, jax.nn.sigmoid(strength), {decay})\n"
        "h = self.{name}_out(state.reshape(h.shape))"
    ),
    choices={"heads": _HEADS, "decay": ("jax.nn.log_sigmoid(decay + 4.0)", "0.0 * decay")},
)

RECURRENCE = Primitive(
    name="recurrence",
    init="self.{name}_gates = nnx.Linear({width}, 2 * {width}, rngs=rngs)",
    call=(
        "keep, take = jnp.split(jax.nn.sigmoid(self.{name}_gates(h)), 2, axis=-1)\n"
        "keep = keep ** {slowness}\n"
        "h = linear_recurrence(keep, {inflow} * take * h)"
    ),
    choices={"slowness": (0.125, 0.5, 1), "inflow": ("jnp.sqrt(1.0 - keep * keep + 1e-6)", "(1.0 - keep)")},
)

FIXED_RECURRENCE = Primitive(
    name="moving_averages",
    init="self.{name}_pace = nnx.Param(jnp.linspace({slowest}, 6.0, {width}))",
    call=(
        "keep = jnp.broadcast_to(jax.nn.sigmoid(self.{name}_pace[...]), h.shape)\n"
        "h = linear_recurrence(keep, (1.0 - keep) * h)"
    ),
    choices={"slowest": (-2.0, 0.0)},
)

SHORT_CONVOLUTION = Primitive(
    name="short_convolution",
    init="self.{name}_taps = nnx.Param({taps} ** -0.5 * jax.random.normal(rngs.params(), ({taps}, {width})))",
    call="h = jax.nn.{activation}(short_convolution(h, self.{name}_taps[...]))",
    choices={"taps": (2, 3, 4, 8), "activation": (*_ACTIVATIONS, "identity")},
)

LONG_CONVOLUTION = Primitive(
    name="long_convolution",
    init=(
        "self.{name}_first = nnx.Linear(5, 8, rngs=rngs)\n"
        "self.{name}_second = nnx.Linear(8, {width}, use_bias=False, rngs=rngs)\n"
        "self.{name}_decay = nnx.Param(jnp.linspace(0.0, {fastest}, {width}))"
    ),
    call=(
        "place = jnp.linspace(0.0, 1.0, h.shape[1])[:, None]\n"
        "waves = 2 * jnp.pi * place * jnp.arange(1, 3)\n"
        "seen = jnp.concatenate([place, jnp.cos(waves), jnp.sin(waves)], axis=-1)\n"
        "taps = self.{name}_second(jnp.sin(4.0 * self.{name}_first(seen)))\n"
        "taps = taps * jnp.exp(-jnp.exp(self.{name}_decay[...]) * place)\n"
        # Twice as long, so that the end does not come round to the beginning.
        "spectrum = jnp.fft.rfft(h.astype(jnp.float32), 2 * h.shape[1], axis=1)\n"
        "spectrum = spectrum * jnp.fft.rfft(taps.astype(jnp.float32), 2 * h.shape[1], axis=0)\n"
        "h = h + jnp.fft.irfft(spectrum, 2 * h.shape[1], axis=1)[:, : h.shape[1]].astype(h.dtype)"
    ),
    choices={"fastest": (2.0, 4.0)},
)

TOKEN_SHIFT = Primitive(
    name="token_shift",
    init="self.{name}_share = nnx.Param(jnp.linspace(0.0, 1.0, {width}))",
    call=(
        "before = jnp.pad(h, ((0, 0), ({steps}, 0), (0, 0)))[:, : h.shape[1]]\n"
        "h = h + self.{name}_share[...] * (before - h)"
    ),
    choices={"steps": (1, 1, 2, 4)},
)

LOW_RANK_MIX = Primitive(
    name="low_rank_mix",
    init=(
        "self.{name}_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, {rank})))\n"
        "self.{name}_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, {rank})))"
    ),
    call=(
        "held = jnp.cumsum(h[:, :, None] * self.{name}_read[: h.shape[1], :, None], axis=1)\n"
        "h = h + (held * self.{name}_write[: h.shape[1], :, None]).sum(axis=2)"
    ),
    choices={"rank": (2, 4)},
)

MEAN_SO_FAR = Primitive(
    name="mean_so_far",
    call="h = h + {sign} * jnp.cumsum(h, axis=1) / (1.0 + jnp.arange(h.shape[1])[:, None]).astype(h.dtype)",
    choices={"sign": (1, -1)},
)

# ---- each position by itself ----

GATE = Primitive(
    name="gate",
    init=_linear("gate"),
    call="h = h * jax.nn.{activation}(self.{name}_gate(h))",
    choices={"activation": ("sigmoid", "silu", "tanh")},
)
POINTWISE = Primitive(
    name="pointwise",
    init=_linear("out", out="{features}"),
    call="h = jax.nn.{activation}(self.{name}_out(h))",
    out="({features})",
    choices={"features": _WIDTHS, "activation": (*_ACTIVATIONS, "identity")},
)
MLP = Primitive(
    name="mlp",
    init=_linear("up", out="{ratio} * {width}") + _linear("down", "{ratio} * {width}", "{width}"),
    call="h = h + self.{name}_down(jax.nn.{activation}(self.{name}_up(h)))",
    choices={"ratio": (1, 2, 4), "activation": _ACTIVATIONS},
)
GATED_MLP = Primitive(
    name="gated_mlp",
    init=(
        _linear("gate", out="{ratio} * {width}")
        + _linear("up", out="{ratio} * {width}")
        + _linear("down", "{ratio} * {width}", "{width}")
    ),
    call="h = h + self.{name}_down(jax.nn.{activation}(self.{name}_gate(h)) * self.{name}_up(h))",
    choices={"ratio": (1, 2), "activation": ("silu", "gelu", "sigmoid")},
)
RMS_NORM = Primitive(name="rms_norm", init="self.{name} = nnx.RMSNorm({width}, rngs=rngs)", call="h = self.{name}(h)")
LAYER_NORM = Primitive(
    name="layer_norm", init="self.{name} = nnx.LayerNorm({width}, rngs=rngs)", call="h = self.{name}(h)"
)
SCALE = Primitive(
    name="scale", init="self.{name}_by = nnx.Param(jnp.ones({width}))", call="h = h * self.{name}_by[...]"
)

MIXERS = (
    *(ATTENTION, SHARED_ATTENTION, GATED_LINEAR_ATTENTION, DECAYING_LINEAR_ATTENTION, DELTA_RULE, RECURRENCE),
    *(FIXED_RECURRENCE, SHORT_CONVOLUTION, LONG_CONVOLUTION, TOKEN_SHIFT, LOW_RANK_MIX, MEAN_SO_FAR),
)
"""Primitives that carry something from one position to another."""
CHANNELS = (GATE, POINTWISE, RMS_NORM, LAYER_NORM, SCALE)
"""Primitives that see one position, other than MLPs."""

STACK = tuple(
    Primitive(
        name=name, init=f"self.{{name}} = layers.{kind}(spec, rngs=rngs)", call="h = self.{name}(h)", residual=True
    )
    for name, kind in {
        "attention": "Attention",
        "sliding_window": "SlidingWindow",
        "recurrence": "Recurrence",
        "linear_attention": "GatedLinearAttention",
        "delta_rule": "DeltaRule",
        "convolution": "Convolution",
        "mlp": "MLP",
        "gated_mlp": "GatedMLP",
        "routed_mlp": "RoutedMLP",
    }.items()
)


def grammar(scope: Scope, *, depth: int = 2) -> Grammar:
    """The grammar of a scope; `depth` is the stack's, which has twice as many primitives as that, or one less or more.

    Raises:
      ValueError: there is none for `Model`.
    """
    if scope == "Mixer":
        return Grammar(stem=STEMS, body=(*MIXERS, *CHANNELS), head=MIXER_HEADS, blocks=(1, 3))
    if scope == "Block":
        normed = Primitive(
            name="normed", init="self.{name} = nnx.RMSNorm(spec.width, rngs=rngs)", call="h = self.{name}(x)"
        )
        return Grammar(stem=(normed,), body=(*MIXERS, *CHANNELS, MLP, GATED_MLP), head=BLOCK_HEADS, blocks=(1, 4))
    if scope == "Stack":
        plain = Primitive(name="plain", call="return h")
        return Grammar(stem=(INPUT,), body=STACK, head=(plain,), blocks=(2 * depth - 1, 2 * depth + 1))
    raise ValueError(f"sequence has no grammar of scope {scope!r}; it has Mixer, Block and Stack. Name one of them.")
