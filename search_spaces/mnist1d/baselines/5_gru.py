"""Gated recurrent unit, read from left to right; its last state decides."""

from nas.api import jnp, lax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.features = spec.width + 1
        initializer = nnx.initializers.lecun_normal()
        self.cell = nnx.GRUCell(spec.channels, self.features, recurrent_kernel_init=initializer, rngs=rngs)
        self.head = nnx.Linear(self.features, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        start = jnp.zeros((x.shape[0], self.features))
        last, _ = lax.scan(lambda state, point: self.cell(state, point), start, x.swapaxes(0, 1))
        return self.head(last)
