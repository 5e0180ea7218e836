"""Random: positioned, mix_positions, rms_norm, halve_by_max, attention_pool."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.positioned_0 = nnx.Conv(spec.channels + 1, 3 * spec.width // 2, (5,), strides=(4,), rngs=rngs)
        self.mix_positions_1_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 2)))
        self.mix_positions_1_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 2)))
        self.rms_norm_2 = nnx.RMSNorm(3 * spec.width // 2, rngs=rngs)
        self.attention_pool_4_score = nnx.Linear(3 * spec.width // 2, 3 * spec.width // 2, rngs=rngs)
        self.attention_pool_4 = nnx.Linear(3 * spec.width // 2, spec.classes, rngs=rngs)

    def __call__(self, x):
        place = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, x.shape[1])[None, :, None], x.shape)
        h = jax.nn.tanh(self.positioned_0(jnp.concatenate([x, place], axis=-1)))
        gathered = jnp.einsum("btd,tr->brd", h, self.mix_positions_1_read[: h.shape[1]])
        h = h + jnp.einsum("brd,tr->btd", jax.nn.relu(gathered), self.mix_positions_1_write[: h.shape[1]])
        h = self.rms_norm_2(h)
        h = jnp.maximum(h[:, :-1:2], h[:, 1::2])
        return self.attention_pool_4((h * jax.nn.softmax(self.attention_pool_4_score(h), axis=1)).sum(axis=1))
