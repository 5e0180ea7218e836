"""A program in double precision computes what its text says, with sixteen digits instead of seven."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from nas.admit.wide import wide, widened

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 12)).astype(np.float32)


def loop(x: Any) -> Any:
    def body(carry: Any, row: Any) -> Any:
        return jax.lax.cond(row.sum() > 0, lambda c: c * 0.5 + row, lambda c: jnp.tanh(c - row), carry), carry.max()

    return jax.lax.scan(body, jnp.zeros(12, x.dtype), x)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Fourier convolution": lambda x: jnp.fft.irfft(jnp.fft.rfft(x, 24) * jnp.fft.rfft(x[::-1], 24), 24)[:, :12],
    "complex constants": lambda x: (jnp.fft.fft(x) * np.array([1 + 2j, 0.25 - 1j] * 6, np.complex64)).imag,
    "a loop and a branch": loop,
    "special functions": lambda x: (jax.scipy.special.erf(x), jnp.sinh(x), jnp.log1p(jnp.exp(x))),
    "sums, maxima, sorts": lambda x: (jnp.cumsum(x, 1), x.max(axis=0), jnp.sort(x), jax.lax.top_k(x, 3)),
    "windows and convolutions": lambda x: (
        jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3), (1, 2), "SAME"),
        jax.lax.conv_general_dilated(x[:, None], x[:, None, :3], (1,), "SAME"),
    ),
    "a scatter and a gather": lambda x: x.at[jnp.array([2, 0])].add(x[:2])[:, jnp.array([5, 5, 1])],
    "half floats": lambda x: (x.astype(jnp.bfloat16) * 3).astype(x.dtype) @ x.T,
    "whole numbers": lambda x: (jnp.argmax(x, axis=1), (x > 0.5).sum(), jnp.floor(x).astype(jnp.int32)),
}


def in_double(function: Callable[[Any], Any], *arguments: np.ndarray) -> list[np.ndarray]:
    """What a function gives that was exported in single precision and then widened."""
    program = widened(export.export(jax.jit(function))(*arguments))
    with jax.enable_x64(True):
        return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(program.call)(*map(wide, arguments)))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_program_has_the_digits_of_the_same_function_in_double_precision(name: str) -> None:
    function = FUNCTIONS[name]
    with jax.enable_x64(True):
        expected = jax.tree.leaves(jax.jit(function)(X.astype(np.float64)))
    for one, other in zip(in_double(function, X), expected, strict=True):
        if np.issubdtype(other.dtype, np.floating):
            assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_constants_keep_the_digits_that_are_written() -> None:
    (found,) = in_double(jax.lax.erf_inv, X / 8)  # polynomials with seven digits
    with jax.enable_x64(True):
        np.testing.assert_allclose(found, jax.lax.erf_inv(X.astype(np.float64) / 8), rtol=1e-6)


def test_random_numbers_are_those_of_single_precision() -> None:
    def draw(seed: Any) -> Any:
        return jax.random.uniform(jax.random.key(seed), (64,)), jax.random.bits(jax.random.key(seed), (4,))

    seed = np.asarray(3, np.uint32)
    for one, other in zip(in_double(draw, seed), jax.jit(draw)(seed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bits_of_a_number_are_those_of_single_precision() -> None:
    def exponent(x: Any) -> Any:
        return jax.lax.bitcast_convert_type(x, jnp.uint32) >> 23

    (found,) = in_double(exponent, X)
    np.testing.assert_array_equal(found, X.view(np.uint32) >> 23)


def test_what_can_not_be_widened_is_refused() -> None:
    def outside(x: Any) -> Any:
        return jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    checks = [export.DisabledSafetyCheck.custom_call("nowhere")]
    program = export.export(jax.jit(outside), disabled_checks=checks)(X)
    with pytest.raises(ValueError, match="nowhere"):
        widened(program)
