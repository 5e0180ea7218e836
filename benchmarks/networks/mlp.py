"""Two hidden layers of 100, the second residual, 15,210 parameters: the published MLP of MNIST-1D."""

from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.first = nnx.Linear(spec.length * spec.channels, 100, rngs=rngs)
        self.second = nnx.Linear(100, 100, rngs=rngs)
        self.head = nnx.Linear(100, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        h = jax.nn.relu(self.first(x.reshape(x.shape[0], -1)))
        h = h + jax.nn.relu(self.second(h))
        return self.head(h)
