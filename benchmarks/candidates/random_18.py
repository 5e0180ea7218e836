"""Random: positioned, batch_norm, pointwise, mean."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.positioned_0 = nnx.Conv(spec.channels + 1, 3 * spec.width // 2, (7,), strides=(4,), rngs=rngs)
        self.batch_norm_1 = nnx.BatchNorm(3 * spec.width // 2, momentum=0.9, rngs=rngs)
        self.pointwise_2 = nnx.Linear(3 * spec.width // 2, 3 * spec.width // 2, rngs=rngs)
        self.mean_3 = nnx.Linear(3 * spec.width // 2, spec.classes, rngs=rngs)

    def __call__(self, x):
        place = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, x.shape[1])[None, :, None], x.shape)
        h = jax.nn.tanh(self.positioned_0(jnp.concatenate([x, place], axis=-1)))
        h = self.batch_norm_1(h)
        h = jax.nn.gelu(self.pointwise_2(h))
        return self.mean_3(h.mean(axis=1))
