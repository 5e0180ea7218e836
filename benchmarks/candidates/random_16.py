"""Random: differences, residual residual_convolution, mean_and_max."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.differences_0 = nnx.Conv(2 * spec.channels, 2 * spec.width, (7,), strides=(4,), rngs=rngs)
        self.residual_convolution_1 = nnx.Conv(2 * spec.width, 2 * spec.width, (3,), kernel_dilation=(1,), rngs=rngs)
        self.mean_and_max_2 = nnx.Linear(2 * (2 * spec.width), spec.classes, rngs=rngs)

    def __call__(self, x):
        change = x - jnp.roll(x, 1, axis=1)
        h = jax.nn.gelu(self.differences_0(jnp.concatenate([x, change], axis=-1)))
        h = h + h + jax.nn.gelu(self.residual_convolution_1(h))
        return self.mean_and_max_2(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))
