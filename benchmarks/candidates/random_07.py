"""Random: convolve, mix_positions, strided_convolution, residual layer_norm, attention_pool."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.convolve_0 = nnx.Conv(spec.channels, 2 * spec.width, (7,), strides=(4,), rngs=rngs)
        self.mix_positions_1_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))
        self.mix_positions_1_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))
        self.strided_convolution_2 = nnx.Conv(2 * spec.width, 2 * spec.width, (5,), strides=(2,), rngs=rngs)
        self.layer_norm_3 = nnx.LayerNorm(2 * spec.width, rngs=rngs)
        self.attention_pool_4_score = nnx.Linear(2 * spec.width, 2 * spec.width, rngs=rngs)
        self.attention_pool_4 = nnx.Linear(2 * spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(self.convolve_0(x))
        gathered = jnp.einsum("btd,tr->brd", h, self.mix_positions_1_read[: h.shape[1]])
        h = h + jnp.einsum("brd,tr->btd", jax.nn.tanh(gathered), self.mix_positions_1_write[: h.shape[1]])
        h = jax.nn.gelu(self.strided_convolution_2(h))
        h = h + self.layer_norm_3(h)
        return self.attention_pool_4((h * jax.nn.softmax(self.attention_pool_4_score(h), axis=1)).sum(axis=1))
