"""Random: convolve, shift, residual pointwise, attention_pool."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.convolve_0 = nnx.Conv(spec.channels, 3 * spec.width // 2, (5,), strides=(2,), rngs=rngs)
        self.pointwise_2 = nnx.Linear(3 * spec.width // 2, 3 * spec.width // 2, rngs=rngs)
        self.attention_pool_3_score = nnx.Linear(3 * spec.width // 2, 3 * spec.width // 2, rngs=rngs)
        self.attention_pool_3 = nnx.Linear(3 * spec.width // 2, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.silu(self.convolve_0(x))
        h = h + jnp.roll(h, 1, axis=1)
        h = h + jax.nn.tanh(self.pointwise_2(h))
        return self.attention_pool_3((h * jax.nn.softmax(self.attention_pool_3_score(h), axis=1)).sum(axis=1))
