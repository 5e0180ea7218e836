"""A GRU of 50 units, read from left to right; its last state decides."""

from nas.api import jnp, lax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.cell = nnx.GRUCell(spec.channels, 50, recurrent_kernel_init=nnx.initializers.lecun_normal(), rngs=rngs)
        self.head = nnx.Linear(50, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        start = jnp.zeros((x.shape[0], 50))
        last, _ = lax.scan(lambda state, point: self.cell(state, point), start, x.swapaxes(0, 1))
        return self.head(last)
