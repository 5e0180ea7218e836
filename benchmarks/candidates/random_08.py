"""Random: convolve, residual gated_convolution, mean_and_max."""

from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.convolve_0 = nnx.Conv(spec.channels, spec.width, (9,), strides=(2,), rngs=rngs)
        self.gated_convolution_1 = nnx.Conv(spec.width, spec.width, (5,), kernel_dilation=(4,), rngs=rngs)
        self.gated_convolution_1_gate = nnx.Linear(spec.width, spec.width, rngs=rngs)
        self.mean_and_max_2 = nnx.Linear(2 * spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.tanh(self.convolve_0(x))
        h = h + h + self.gated_convolution_1(h) * jax.nn.sigmoid(self.gated_convolution_1_gate(h))
        return self.mean_and_max_2(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))
