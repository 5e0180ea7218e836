"""Baselines of the variant `mnist1d:block`: one block (B, T, D) -> (B, T, D), which a skeleton stacks."""

BASELINES = {
    "mlp": '''"""Pre-norm MLP on each position: no position hears of another but through the skeleton's mean."""

from nas.api import jax, nnx


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.up = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)
        self.down = nnx.Linear(2 * spec.width, spec.width, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))
''',
    "convolution": '''"""Pre-norm residual convolution over five positions."""

from nas.api import jax, nnx


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.convolution = nnx.Conv(spec.width, spec.width, (5,), rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        return x + jax.nn.relu(self.convolution(self.norm(x)))
''',
    "separable": '''"""Pre-norm residual block of a convolution within each feature, then one across features."""

from nas.api import jax, jnp, nnx


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.taps = nnx.Param(0.3 * jax.random.normal(rngs.params(), (9, spec.width)))
        self.point = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)
        self.down = nnx.Linear(2 * spec.width, spec.width, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        padded = jnp.pad(self.norm(x), ((0, 0), (4, 4), (0, 0)))
        h = sum(self.taps[i] * padded[:, i : i + x.shape[1]] for i in range(9))
        return x + self.down(jax.nn.gelu(self.point(h)))
''',
}
