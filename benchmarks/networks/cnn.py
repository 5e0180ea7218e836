"""Three convolutions of 25 features and stride 2, flattened, 5,210 parameters: the published CNN of MNIST-1D."""

from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        near = [(1, 1)]
        self.first = nnx.Conv(spec.channels, 25, (5,), strides=(2,), padding=near, rngs=rngs)
        self.second = nnx.Conv(25, 25, (3,), strides=(2,), padding=near, rngs=rngs)
        self.third = nnx.Conv(25, 25, (3,), strides=(2,), padding=near, rngs=rngs)
        self.head = nnx.Linear(5 * 25, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        h = x
        for layer in (self.first, self.second, self.third):
            h = jax.nn.relu(layer(h))  # (B, 19, 25), (B, 10, 25), (B, 5, 25)
        return self.head(h.reshape(h.shape[0], -1))
