"""Random: embed, mix_positions, segments."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed_0 = nnx.Linear(spec.channels, 2 * spec.width, rngs=rngs)
        self.mix_positions_1_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))
        self.mix_positions_1_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))
        self.segments_2 = nnx.Linear(5 * (2 * spec.width), spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.embed_0(x)
        gathered = jnp.einsum("btd,tr->brd", h, self.mix_positions_1_read[: h.shape[1]])
        h = h + jnp.einsum("brd,tr->btd", jax.nn.silu(gathered), self.mix_positions_1_write[: h.shape[1]])
        h = jnp.pad(h, ((0, 0), (0, -h.shape[1] % 5), (0, 0)))
        h = h.reshape(h.shape[0], 5, -1, h.shape[2])
        return self.segments_2(h.mean(axis=2).reshape(h.shape[0], -1))
