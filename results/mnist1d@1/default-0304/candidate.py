"""Random: convolve_and_pool, separable_convolution, residual squeeze_excite, activation, max; then residual; then function relu to silu; then function relu to silu."""
from nas.api import jax, jnp, nnx

class Model(nnx.Module):

    def __init__(self, spec, hp, *, rngs):
        self.convolve_and_pool_0 = nnx.Conv(spec.channels, 2 * spec.width, (3,), rngs=rngs)
        self.separable_convolution_1_taps = nnx.Param(0.3 * jax.random.normal(rngs.params(), (8, 2 * spec.width)))
        self.separable_convolution_1_point = nnx.Linear(2 * spec.width, 2 * spec.width, rngs=rngs)
        self.max_4 = nnx.Linear(2 * spec.width, spec.classes, rngs=rngs)
        self.mix_positions_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))
        self.mix_positions_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, 4)))

    def __call__(self, x):
        skip = x
        gathered = jnp.einsum('btd,tr->brd', x, self.mix_positions_read[:x.shape[1]])
        x = x + jnp.einsum('brd,tr->btd', jax.nn.gelu(gathered), self.mix_positions_write[:x.shape[1]])
        x = skip + x
        h = jax.nn.silu(self.convolve_and_pool_0(x))
        h = h.reshape(h.shape[0], -1, 2, h.shape[2]).max(axis=2)
        padded = jnp.pad(h, ((0, 0), (9 // 2, 9 // 2), (0, 0)))
        near = sum((self.separable_convolution_1_taps[i] * padded[:, i:i + h.shape[1]] for i in range(9)))
        h = h + jax.nn.silu(self.separable_convolution_1_point(near))
        h = jnp.maximum(h[:, :-1:2], h[:, 1::2])
        return self.max_4(h.max(axis=1))
