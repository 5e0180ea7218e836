"""Random: positioned, shift, mean."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.positioned_0 = nnx.Conv(spec.channels + 1, 3 * spec.width // 2, (3,), strides=(1,), rngs=rngs)
        self.mean_2 = nnx.Linear(3 * spec.width // 2, spec.classes, rngs=rngs)

    def __call__(self, x):
        place = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, x.shape[1])[None, :, None], x.shape)
        h = jax.nn.silu(self.positioned_0(jnp.concatenate([x, place], axis=-1)))
        h = h + jnp.roll(h, 1, axis=1)
        return self.mean_2(h.mean(axis=1))
