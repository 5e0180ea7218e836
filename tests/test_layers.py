"""The primitives of a stack: of one size, causal, each example by itself, and what they claim to compute."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nas import layers
from nas.admit import gate
from nas.admit.leaks import find
from nas.space import Spec

SPEC = Spec(length=24, vocab=7, classes=7, width=32, depth=2, heads=4)
NAMES = sorted(name for name in gate.API["layers"] if name[0].isupper())


def make(name: str, spec: Spec = SPEC) -> Any:
    """A layer whose parameters are plain noise, so that nothing is hidden by how they start, and nothing compiled."""
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> jax.Array:
        size = 1.0 if leaf.ndim < 2 else leaf.shape[-2] ** -0.5
        return jnp.asarray((leaf.ndim < 2) + size * rng.normal(size=leaf.shape), leaf.dtype)

    layer = nnx.eval_shape(lambda: getattr(layers, name)(spec, rngs=nnx.Rngs(jax.random.key(0))))
    definition, state = nnx.split(layer)
    return nnx.merge(definition, jax.tree.map(drawn, state))


def series(seed: int = 2, batch: int = 4) -> jax.Array:
    shape = (batch, SPEC.length, SPEC.width)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_everything_that_the_gate_lets_pass_is_there() -> None:
    classes = {name for name, value in vars(layers).items() if isinstance(value, type) and value is not layers.Layer}
    assert set(NAMES) == {name for name in classes if issubclass(getattr(layers, name), layers.Layer)}
    assert gate.API["layers"] - set(NAMES) == {"rotary"}


@pytest.mark.parametrize("name", NAMES)
def test_layer_is_causal_and_sees_one_example(name: str) -> None:
    evaluate = nnx.jit(make(name))
    assert find(lambda x: np.asarray(evaluate(x)), np.asarray(series()), np.asarray(series(3)), causal=True) is None


@pytest.mark.parametrize("name", NAMES)
def test_layer_has_the_parameters_of_its_kind(name: str) -> None:
    spec = Spec(length=24, vocab=7, classes=7, width=96, depth=2, heads=6)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(make(name, spec), nnx.Param)))
    expected = (8 if "MLP" in name else 4) * spec.width**2
    assert abs(count / expected - 1) < 0.07


@pytest.mark.parametrize("name", NAMES)
def test_layer_keeps_dtype_and_value_in_half_precision(name: str) -> None:
    layer, x = make(name), series()
    definition, state = nnx.split(layer)
    half = nnx.merge(definition, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    out = nnx.jit(half)(x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    error = jnp.abs(out.astype(jnp.float32) - nnx.jit(layer)(x))
    assert float(jnp.median(error)) < 0.05  # a routed layer may choose another expert here and there


@pytest.mark.parametrize("name", ["Attention", "RoutedMLP"])
def test_rematerialised_layer_has_equal_values_and_gradients(name: str) -> None:
    plain, anew, x = make(name), make(name, dataclasses.replace(SPEC, remat=True)), series()

    def total(layer: Any) -> jax.Array:
        return (layer(x) ** 2).sum()

    (first, gradients), (second, others) = (nnx.jit(nnx.value_and_grad(total))(layer) for layer in (plain, anew))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    query, key = (np.random.default_rng(seed).normal(size=(1, 1, 2, 8)).astype(np.float32) for seed in (0, 1))
    turned = [np.asarray(jax.jit(layers.rotary)(np.broadcast_to(one, (1, 12, 2, 8)))) for one in (query, key)]
    products = np.einsum("bthk,bshk->bhts", *turned)
    for distance in range(-4, 5):
        along = np.diagonal(products, offset=distance, axis1=2, axis2=3)
        np.testing.assert_allclose(along, np.broadcast_to(along[..., :1], along.shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned[0][0, 5], axis=-1), np.linalg.norm(query[0, 0], axis=-1), 1e-5)


def test_rotary_names_the_shape_that_it_cannot_turn() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3, 5\); the last axis must be even"):
        layers.rotary(jnp.zeros((1, 2, 3, 5)))


def test_sliding_window_sees_its_window_and_no_further() -> None:
    layer, x = make("SlidingWindow"), series(batch=1)
    assert layer.window == 16
    evaluate = nnx.jit(layer)
    changed = np.asarray(evaluate(x.at[0, 3].add(1.0)) - evaluate(x))
    assert (np.abs(changed[0]).max(axis=-1) > 1e-6).nonzero()[0].tolist() == list(range(3, 19))


def test_routed_mlp_is_the_weighted_sum_of_the_two_best_experts() -> None:
    layer, x = make("RoutedMLP"), series(batch=2)
    normed = np.asarray(layer.norm(x))
    logits, into, down = normed @ layer.router.kernel[...], np.asarray(layer.into[...]), np.asarray(layer.down[...])
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = np.asarray(x).copy()
    for b, t in np.ndindex(*shares.shape[:2]):
        best = np.argsort(shares[b, t])[-layers.CHOSEN :]
        for expert in best:
            inner, up = normed[b, t] @ into[0, expert], normed[b, t] @ into[1, expert]
            share = shares[b, t, expert] / shares[b, t, best].sum()
            expected[b, t] += share * (inner / (1 + np.exp(-inner)) * up) @ down[expert]
    np.testing.assert_allclose(nnx.jit(layer)(x), expected, rtol=1e-4, atol=1e-5)


def test_routed_mlp_trains_its_router_towards_balance() -> None:
    """With no other loss, the router's gradient is that of alpha E sum_i f_i P_i, f taken as given."""
    layer, x = make("RoutedMLP"), series()
    normed = layer.norm(x).reshape(-1, SPEC.width)

    def balance(kernel: jax.Array, share: np.ndarray) -> jax.Array:
        return layers.BALANCE * layers.EXPERTS * (share * jax.nn.softmax(normed @ kernel, axis=-1).mean(axis=0)).sum()

    kernel = layer.router.kernel[...]
    best = np.argsort(np.asarray(normed @ kernel), axis=-1)[:, -layers.CHOSEN :]
    share = np.bincount(best.ravel(), minlength=layers.EXPERTS) / best.size
    found = nnx.jit(nnx.grad(lambda layer: 0.0 * layer(x).sum()))(layer)["router"]["kernel"][...]
    assert float(jnp.abs(found).max()) > 1e-6
    np.testing.assert_allclose(found, jax.grad(balance)(kernel, share), rtol=1e-3, atol=1e-8)
