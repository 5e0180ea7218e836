"""The fingerprint: equal for every spelling of a network, different for every other network."""

from functools import cache

import jax
import numpy as np
import pytest

from nas.admit.program import check
from nas.admit.sketch import NEAR, similarity
from nas.admit.trace import trace
from nas.records import Failure, Program
from nas.space import Contract, Grammar, Ladder, Recipe, SearchSpace, Spec, Split, Task

SPACE = SearchSpace(
    name="series",
    version=1,
    scope="Model",
    spec=Spec(length=6, channels=2, classes=3, width=4, depth=2, heads=2),
    task=Task(
        split=lambda name: Split(np.zeros((8, 6, 2)), np.zeros(8)),
        loss=lambda outputs, targets: outputs.sum(-1),
        score=lambda outputs, targets: outputs.sum(-1),
        metric="accuracy",
    ),
    contract=Contract(input_shape=(6, 2), output_shape=(3,)),
    recipe=Recipe(batch=5, eval_batch=7),
    ladder=Ladder(steps=(10,)),
    grammar=Grammar(stem=(), body=(), head=()),
    baselines={},
)
IMPORTS = "from nas.api import choice, integer, jax, jnp, lax, nnx\n"

DENSE = """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.first = nnx.Linear(12, 8, rngs=rngs)
        self.second = nnx.Linear(8, 8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        h = x.reshape(x.shape[0], -1)
        h = nnx.relu(self.first(h))
        h = nnx.relu(self.second(h))
        return self.last(h)
"""
GATED = """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed = nnx.Linear(2, 4, rngs=rngs)
        self.blocks = nnx.List(nnx.Conv(4, 8, (3,), kernel_dilation=(2**i,), rngs=rngs) for i in range(2))
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for block in self.blocks:
            value, gate = jnp.split(block(h), 2, axis=-1)
            h = h + value * jax.nn.sigmoid(gate)
        h = self.drop(self.norm(h))
        return self.head(h.mean(axis=1))
"""
RECURRENT = """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed = nnx.Linear(2, 4, rngs=rngs)
        self.mix = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        def step(carry, now):
            fast, slow = carry
            fast = jnp.tanh(now + self.mix(fast))
            slow = 0.9 * slow + fast
            return (fast, slow), None

        zero = jnp.zeros((x.shape[0], 4))
        (fast, slow), _ = lax.scan(step, (zero, zero), self.embed(x).swapaxes(0, 1))
        return self.head(fast + slow)
"""
ATTENTION = """
class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.inner = nnx.Linear(4, 12, use_bias=False, rngs=rngs)
        self.outer = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, h):
        query, key, value = jnp.split(self.inner(self.norm(h)), 3, axis=-1)
        weights = jax.nn.softmax(query @ key.swapaxes(1, 2) / 4**0.5, axis=-1)
        return h + self.drop(self.outer(weights @ value))


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed = nnx.Linear(2, 4, rngs=rngs)
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (6, 4)))
        self.blocks = nnx.List([Block(rngs=rngs), Block(rngs=rngs)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x) + self.positions[...]
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(axis=1))
"""


def edit(source: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


@cache
def program(source: str) -> Program:
    traced = trace(SPACE, IMPORTS + source, {})
    assert not isinstance(traced, Failure), traced
    checked = check(*traced, SPACE.contract, SPACE.recipe)
    assert isinstance(checked, Program), checked
    return checked


REMAT = edit(ATTENTION, ("h = block(h)", "h = nnx.remat(lambda block, h: block(h))(block, h)"))
SPARSE = edit(
    DENSE,
    ("self.last = ", "self.where = nnx.Variable(jax.random.randint(rngs.params(), (8,), 0, 5))\n        self.last = "),
    ("self.last(h)", "self.last(h[:, self.where[...]])"),
)
MASKS = edit(
    DENSE,
    ("self.last = ", "self.keys = rngs\n        self.last = "),
    (
        "h = nnx.relu(self.second(h))",
        """one = jax.random.bernoulli(self.keys.dropout(), 0.8, h.shape)
        two = jax.random.bernoulli(self.keys.dropout(), 0.8, h.shape)
        h = one * nnx.relu(self.second(two * h))""",
    ),
)
FENCED = edit(
    MASKS,
    (
        "h = one * nnx.relu(self.second(two * h))",
        "for mask in (one, two, one, two):\n            h = mask * self.second(h)",
    ),
)
PRODUCT = """
@jax.custom_vjp
def product(a, b):
    return a * b

product.defvjp(lambda a, b: (a * b, (a, b)), lambda kept, d: (d * kept[1], d * kept[0]))
""" + edit(
    DENSE,
    ("self.last = ", "self.a, self.b = nnx.Param(jnp.ones(8)), nnx.Param(jnp.ones(8))\n        self.last = "),
    ("self.last(h)", "self.last(jnp.sin(h * lax.stop_gradient(self.a[...])) * product(self.a[...], self.b[...]))"),
)
EQUAL = {
    "comments and layout": (
        DENSE,
        '"""An idea."""\n'
        + edit(DENSE, ("h = nnx.relu(self.first(h))", "h = (  # why\n            nnx.relu(self.first(h)))")),
    ),
    "variables renamed": (
        GATED,
        edit(GATED, ("value", "left"), ("gate", "aside"), ("block(h)", "one(h)"), ("for block", "for one")),
    ),
    "attributes renamed": (DENSE, edit(DENSE, (".first", ".zeta"), (".last", ".alpha"))),
    "attributes of state and dropout renamed": (
        GATED,
        edit(
            GATED, ("self.norm", "self.a"), ("self.drop", "self.z"), ("self.embed", "self.y"), ("self.head", "self.b")
        ),
    ),
    "inner class and attributes renamed": (
        ATTENTION,
        edit(
            ATTENTION,
            ("Block", "Layer"),
            ("self.inner", "self.zz"),
            ("self.norm", "self.u"),
            ("self.positions", "self.a"),
        ),
    ),
    "layers made in another order": (
        DENSE,
        edit(
            DENSE,
            ("        self.first = nnx.Linear(12, 8, rngs=rngs)\n", ""),
            ("        self.last =", "        self.first = nnx.Linear(12, 8, rngs=rngs)\n        self.last ="),
        ),
    ),
    "dropout and head made in another order": (
        GATED,
        edit(
            GATED,
            ("        self.drop = nnx.Dropout(0.1, rngs=rngs)\n", ""),
            ("        self.embed =", "        self.drop = nnx.Dropout(0.1, rngs=rngs)\n        self.embed ="),
        ),
    ),
    "list for attributes": (
        DENSE,
        edit(
            DENSE,
            ("self.first = nnx.Linear(12, 8, rngs=rngs)", "self.layers = nnx.List([nnx.Linear(12, 8, rngs=rngs)])"),
            ("self.second = nnx.Linear(8, 8, rngs=rngs)", "self.layers.append(nnx.Linear(8, 8, rngs=rngs))"),
            ("self.first(h)", "self.layers[0](h)"),
            ("self.second(h)", "self.layers[1](h)"),
        ),
    ),
    "loop unrolled, helper function": (
        GATED,
        edit(
            GATED,
            ("        for block in self.blocks:\n", "        def through(block, h):\n"),
            (
                "            h = h + value * jax.nn.sigmoid(gate)\n",
                "            return jax.nn.sigmoid(gate) * value + h\n\n"
                "        h = through(self.blocks[0], h)\n        h = through(self.blocks[1], h)\n",
            ),
        ),
    ),
    "dead code": (DENSE, edit(DENSE, ("h = x.reshape", "unused = jnp.sin(x) * 3\n        h = x.reshape"))),
    "expression written twice": (
        GATED,
        edit(GATED, ("h = self.embed(x)", "h = self.embed(x) * (x.mean() + 1) / (1 + x.mean())")),
        edit(GATED, ("h = self.embed(x)", "m = x.mean()\n        h = self.embed(x) * (m + 1) / (m + 1)")),
    ),
    "spelling of a mean": (GATED, edit(GATED, ("h.mean(axis=1)", "jnp.mean(h, axis=-2)"))),
    "slots of a loop in another order": (
        RECURRENT,
        edit(
            RECURRENT,
            ("fast, slow = carry", "slow, fast = carry"),
            ("return (fast, slow), None", "return (slow, fast), None"),
            ("(fast, slow), _ =", "(slow, fast), _ ="),
        ),
    ),
    "loop that carries what nobody reads": (
        RECURRENT,
        edit(
            RECURRENT,
            ("fast, slow = carry", "fast, slow, idle = carry"),
            ("return (fast, slow), None", "return (fast, slow, idle + fast), None"),
            ("(fast, slow), _ =", "(fast, slow, _), _ ="),
            ("(zero, zero)", "(zero, zero, zero)"),
        ),
    ),
    "rematerialized block renamed": (REMAT, edit(REMAT, ("self.inner", "self.zz"), ("self.norm", "self.u"))),
    "two layers of one shape exchanged": (
        ATTENTION,
        edit(ATTENTION, ("for block in self.blocks", "for block in (self.blocks[1], self.blocks[0])")),
    ),
}
DIFFERENT = {
    "width": (DENSE, edit(DENSE, ("12, 8", "12, 9"), ("8, 8", "9, 9"), ("8, 3", "9, 3"))),
    "activation": (DENSE, edit(DENSE, ("nnx.relu(self.second", "nnx.gelu(self.second"))),
    "depth": (
        DENSE,
        edit(DENSE, ("h = nnx.relu(self.second(h))", "h = nnx.relu(self.second(nnx.relu(self.second(h))))")),
    ),
    "initializer": (DENSE, edit(DENSE, ("(8, 3,", "(8, 3, kernel_init=nnx.initializers.zeros,"))),
    "scale of an initializer": (ATTENTION, edit(ATTENTION, ("0.02", "0.03"))),
    "stop_gradient": (DENSE, edit(DENSE, ("self.last(h)", "self.last(lax.stop_gradient(h)) + 0 * h.sum()"))),
    "unused parameter": (
        DENSE,
        edit(DENSE, ("        self.last", "        self.idle = nnx.Linear(3, 3, rngs=rngs)\n        self.last")),
    ),
    "tied layers": (
        ATTENTION,
        edit(ATTENTION, ("for block in self.blocks", "for block in (self.blocks[0], self.blocks[0])")),
    ),
    "one mask for two": (
        MASKS,
        edit(MASKS, ("two = jax.random.bernoulli(self.keys.dropout(), 0.8, h.shape)", "two = one")),
    ),
    "order of two masks": (FENCED, edit(FENCED, ("(one, two, one, two)", "(one, two, two, one)"))),
    "gradients exchanged": (PRODUCT, edit(PRODUCT, ("(d * kept[1], d * kept[0])", "(d * kept[0], d * kept[1])"))),
    "dropout rate": (GATED, edit(GATED, ("0.1", "0.2"))),
    "dropout removed": (GATED, edit(GATED, ("self.drop(self.norm(h))", "self.norm(h)"))),
    "momentum of batch statistics": (GATED, edit(GATED, ("BatchNorm(4,", "BatchNorm(4, momentum=0.9,"))),
    "epsilon": (GATED, edit(GATED, ("BatchNorm(4,", "BatchNorm(4, epsilon=1e-3,"))),
    "start of batch statistics": (
        GATED,
        edit(GATED, ("BatchNorm(4,", "BatchNorm(4, scale_init=nnx.initializers.zeros,")),
    ),
    "dilation": (GATED, edit(GATED, ("2**i", "1"))),
    "halves exchanged": (GATED, edit(GATED, ("value * jax.nn.sigmoid(gate)", "gate * jax.nn.sigmoid(value)"))),
    "residual removed": (GATED, edit(GATED, ("h = h + value", "h = value"))),
    "mean for maximum": (GATED, edit(GATED, ("h.mean(axis=1)", "h.max(axis=1)"))),
    "softmax scale": (ATTENTION, edit(ATTENTION, ("4**0.5", "4**0.6"))),
    "decay inside a loop": (RECURRENT, edit(RECURRENT, ("0.9 *", "0.8 *"))),
    "direction of a loop": (RECURRENT, edit(RECURRENT, ("swapaxes(0, 1))", "swapaxes(0, 1), reverse=True)"))),
    "roles of a loop's slots": (RECURRENT, edit(RECURRENT, ("self.head(fast + slow)", "self.head(fast + fast)"))),
    "start of a loop": (RECURRENT, edit(RECURRENT, ("(zero, zero)", "(zero, zero + 1)"))),
    "rematerialized": (ATTENTION, REMAT),
    "range of random integers": (SPARSE, edit(SPARSE, ("0, 5", "0, 6"))),
}


@pytest.mark.parametrize("name", EQUAL)
def test_fingerprint_of_another_spelling_is_equal(name: str) -> None:
    *_, one, other = EQUAL[name]
    assert one != other
    assert program(one).fingerprint == program(other).fingerprint


@pytest.mark.parametrize("name", DIFFERENT)
def test_fingerprint_of_another_program_is_different(name: str) -> None:
    one, other = DIFFERENT[name]
    assert program(one).fingerprint != program(other).fingerprint


def test_fingerprint_with_another_generator_ignores_the_order_of_layers() -> None:
    one, other = EQUAL["layers made in another order"]
    with jax.default_prng_impl("rbg"):
        prints = [program(f"{source}\n# rbg").fingerprint for source in (one, other, DIFFERENT["initializer"][1])]
    assert prints[0] == prints[1] != prints[2]


def test_sketch_sees_structure_and_not_sizes() -> None:
    wider = program(GATED.replace("(3,)", "(5,)").replace("0.1", "0.2"))
    other = program(GATED.replace("jax.nn.sigmoid(gate)", "jnp.tanh(gate)"))
    base = program(GATED)
    assert wider.fingerprint != base.fingerprint
    assert similarity(base.sketch, wider.sketch) >= NEAR
    assert similarity(base.sketch, other.sketch) < NEAR
    assert similarity(base.sketch, program(DENSE).sketch) < 0.5
