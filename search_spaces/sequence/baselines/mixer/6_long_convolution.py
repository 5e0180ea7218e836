"""Hyena of order 2: a convolution as long as the series between two gates, its filter a function of the distance.

The filter is a small network with sines of a few frequencies of the distance, times a decay that differs by feature.

Source: Poli et al., Hyena, arXiv 2302.10866, definition 3.1 and equation 7.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import short_convolution


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, hidden = spec.width, spec.width // 8
        self.into = nnx.Linear(D, 3 * D, use_bias=False, rngs=rngs)
        self.taps = nnx.Param(0.6 * jax.random.normal(rngs.params(), (3, 3 * D)))
        self.first = nnx.Linear(9, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.third = nnx.Linear(hidden, D, use_bias=False, rngs=rngs)
        self.decay = nnx.Param(jnp.linspace(0.0, 4.0, D))
        self.skip = nnx.Param(jnp.ones(D))
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def filter(self, T):
        place = jnp.linspace(0.0, 1.0, T)[:, None]
        waves = 2 * jnp.pi * place * jnp.arange(1, 5)
        h = jnp.concatenate([place, jnp.cos(waves), jnp.sin(waves)], axis=-1)
        h = self.third(jnp.sin(4 * self.second(jnp.sin(4 * self.first(h)))))
        return h * jnp.exp(-jnp.exp(self.decay[...]) * place)  # (T, D)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        before, after, value = jnp.split(short_convolution(self.into(x), self.taps[...]), 3, axis=-1)
        value = (before * value).astype(jnp.float32)
        # Twice as long, so that the end does not come round to the beginning.
        spectrum = jnp.fft.rfft(value, 2 * T, axis=1) * jnp.fft.rfft(self.filter(T).astype(jnp.float32), 2 * T, axis=0)
        mixed = jnp.fft.irfft(spectrum, 2 * T, axis=1)[:, :T] + self.skip[...] * value
        return self.out(after * mixed.astype(x.dtype))
