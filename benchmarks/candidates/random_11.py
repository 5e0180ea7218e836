"""Random: patches, separable_convolution, mean."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.patches_0 = nnx.Linear(2 * spec.channels, 3 * spec.width // 2, rngs=rngs)
        self.separable_convolution_1_taps = nnx.Param(0.3 * jax.random.normal(rngs.params(), (5, 3 * spec.width // 2)))
        self.separable_convolution_1_point = nnx.Linear(3 * spec.width // 2, 3 * spec.width // 2, rngs=rngs)
        self.mean_2 = nnx.Linear(3 * spec.width // 2, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.gelu(self.patches_0(x.reshape(x.shape[0], -1, 2 * x.shape[2])))
        padded = jnp.pad(h, ((0, 0), (5 // 2, 5 // 2), (0, 0)))
        near = sum(self.separable_convolution_1_taps[i] * padded[:, i : i + h.shape[1]] for i in range(5))
        h = h + jax.nn.gelu(self.separable_convolution_1_point(near))  # type: ignore
        return self.mean_2(h.mean(axis=1))
