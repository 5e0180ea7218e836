"""Random: patches, squeeze_excite, halve_by_max, fourier, mean_and_max."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.patches_0 = nnx.Linear(5 * spec.channels, spec.width, rngs=rngs)
        self.squeeze_excite_1 = nnx.Linear(spec.width, spec.width, rngs=rngs)
        self.mean_and_max_4 = nnx.Linear(2 * spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(self.patches_0(x.reshape(x.shape[0], -1, 5 * x.shape[2])))
        h = h * jax.nn.sigmoid(self.squeeze_excite_1(h.mean(axis=1, keepdims=True)))
        h = jnp.maximum(h[:, :-1:2], h[:, 1::2])
        h = h + jnp.fft.fft(h, axis=1).real / h.shape[1] ** 0.5
        return self.mean_and_max_4(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))
