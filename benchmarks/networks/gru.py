"""A GRU of 6 units in each direction, all states flattened, about 5,100 parameters: the published GRU of MNIST-1D.

The published cell adds a bias to its recurrent product as well, 36 parameters more. Its recurrent weights are drawn
from a uniform distribution of the same order as this normal one.
"""

from nas.api import jnp, lax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        start = nnx.initializers.lecun_normal()
        self.ahead = nnx.GRUCell(spec.channels, 6, recurrent_kernel_init=start, rngs=rngs)
        self.back = nnx.GRUCell(spec.channels, 6, recurrent_kernel_init=start, rngs=rngs)
        self.head = nnx.Linear(spec.length * 12, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        points, zeros = x.swapaxes(0, 1), jnp.zeros((x.shape[0], 6))
        _, ahead = lax.scan(lambda state, point: self.ahead(state, point), zeros, points)
        _, back = lax.scan(lambda state, point: self.back(state, point), zeros, points, reverse=True)
        h = jnp.concatenate([ahead, back], axis=-1).swapaxes(0, 1)  # (B, T, 12)
        return self.head(h.reshape(h.shape[0], -1))
