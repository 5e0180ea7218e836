"""Evolution: children of whatever passes the gate pass it too, differ, mostly fit together, and are repeatable."""

import collections
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_gate import FOREIGN, GATED
from test_grammar import toy

from nas.admit import gate
from nas.propose import evolution, grammar, numbers
from nas.propose.source import Draft, structure
from nas.propose.widths import analyse
from nas.records import defaults
from nas.space import SearchSpace

MIXED = '''"""Attention with helpers of its own, and a router whose balance is an auxiliary loss."""
from nas.api import choice, jax, jnp as np, nnx

TUNABLES = {"ratio": choice(2, 4), "base": choice(1000.0, 10000.0)}
SCALE = 0.5


def rotate(x, base=10000.0):
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1)


class Attention(nnx.Module):
    def __init__(self, width, base, *, rngs):
        self.base = base
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        q, k, v = np.split(self.qkv(x), 3, axis=-1)
        weight = jax.nn.softmax(np.einsum("btd,bsd->bts", rotate(q, self.base), rotate(k, self.base)) * SCALE)
        return np.einsum("bts,bsd->btd", weight, v)


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        width = spec.width
        self.embed = nnx.Linear(spec.channels, width, rngs=rngs)
        layers = []
        for _ in range(spec.depth):
            layers.append(nnx.List([nnx.RMSNorm(width, rngs=rngs), Attention(width, hp.base, rngs=rngs),
                                    nnx.Linear(width, hp.ratio * width, rngs=rngs),
                                    nnx.Linear(hp.ratio * width, width, rngs=rngs)]))
        self.layers = nnx.List(layers)
        self.router = nnx.Linear(width, 4, rngs=rngs)
        self.head = nnx.Sequential(nnx.Linear(width, 32, rngs=rngs), jax.nn.relu, nnx.Linear(32, 10, rngs=rngs))

    def __call__(self, x):
        h = self.embed(x)
        for norm, attention, up, down in self.layers:
            h = h + attention(norm(h))
            h = h + down(jax.nn.gelu(up(h)))
        gates = jax.nn.softmax(self.router(h))
        h = h * gates.max(axis=-1, keepdims=True)
        return self.head(self.pooled(h)), (gates.mean((0, 1)) ** 2).sum()

    def pooled(self, h):
        return 0.5 * h.mean(axis=1) + 0.5 * h.max(axis=1)
'''

PERCEPTRON = '''"""A perceptron on the flattened series."""
from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.a = nnx.Linear(spec.length * spec.channels, 100, rngs=rngs)
        self.b = nnx.Linear(100, 100, rngs=rngs)
        self.c = nnx.Linear(100, spec.classes, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(self.a(x))
        x = jax.nn.relu(self.b(x))
        return self.c(x)
'''

PRINT_CHILDREN = """
import numpy as np
from test_evolution import GATED, MIXED, children
from test_grammar import toy
print("".join(child.source for child in children([GATED, MIXED], toy("Model"), 16)))
"""


def children(parents: list[str], space: SearchSpace, count: int, *, deep: bool = True) -> list[evolution.Child]:
    """Children, each fourth of two parents; if `deep`, of children too."""
    made: list[evolution.Child] = []
    pool = list(parents)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        source, other = (pool[int(rng.integers(len(pool)))] for _ in range(2))
        try:
            child = (
                evolution.cross(source, other, space, rng) if seed % 4 == 0 else evolution.mutate(source, space, rng)
            )
        except evolution.NoChild:
            continue
        assert structure(child.source) != structure(source)
        made.append(child)
        pool += [child.source] * deep
    return made


def samples(space: SearchSpace, count: int = 6) -> list[str]:
    return [grammar.sample(space, np.random.default_rng(seed)) for seed in range(count)]


MODEL, MIXER = toy("Model"), toy("Mixer")
FIRST: dict[str, tuple[SearchSpace, list[str]]] = {
    "grammar": (MODEL, samples(MODEL)),
    "written": (MODEL, [GATED, MIXED, PERCEPTRON]),
    "mixers": (MIXER, [FOREIGN, *samples(MIXER, 2)]),
}


@pytest.mark.parametrize("origin", FIRST)
def test_children_pass_the_gate_and_tell_their_story(origin: str) -> None:
    space, parents = FIRST[origin]
    made = children(parents, space, 36)
    assert len(made) >= 30
    for child in made:
        gated = gate.check(child.source, space.scope)
        assert gated.failures == (), child.source
        assert gated.idea.rstrip(".").endswith(child.operator)
        assert gated.idea.count("; then ") <= 3 and len(gated.idea) < 500


def test_mutate_uses_every_operator() -> None:
    made = children([*samples(MODEL, 3), GATED, PERCEPTRON], MODEL, 200, deep=False)
    used = collections.Counter(child.operator.split()[0] for child in made)
    expected = "insert swap delete repeat reorder residual constant range tunable fix function cross".split()
    assert sorted(used) == sorted(expected), used
    told = {child.operator for child in made}
    assert any(operator.startswith("swap head for") for operator in told)
    assert any(operator.startswith("swap stem for") for operator in told)
    assert {"repeat", "repeat with shared weights"} <= told


def test_same_generator_gives_the_same_children_under_any_hash_seed() -> None:
    printed = []
    for seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        program = [sys.executable, "-c", PRINT_CHILDREN]
        printed.append(subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1] and printed[0].count("class Model") >= 12


def test_children_mostly_trace() -> None:
    import jax
    from flax import nnx

    def traces(source: str) -> bool:
        namespace: dict = {"__name__": "candidate"}
        exec(compile(source, "<child>", "exec"), namespace)
        values = collections.namedtuple("hp", gated.tunables)(**defaults(gated.tunables)) if gated.tunables else None

        def run(x: jax.Array) -> jax.Array:
            given = namespace["Model"](MODEL.spec, values, rngs=nnx.Rngs(0))(x)
            return given[0] if isinstance(given, tuple) else given

        try:
            return jax.eval_shape(run, jax.ShapeDtypeStruct((2, 40, 1), "float32")).shape == (2, 10)
        except (TypeError, ValueError, ZeroDivisionError, AttributeError, NameError, IndexError):
            return False

    made = children([*samples(MODEL, 3), GATED, MIXED, PERCEPTRON], MODEL, 30, deep=False)
    traced = 0
    for child in made:
        gated = gate.check(child.source, "Model")
        traced += traces(child.source)
    assert traced >= 0.8 * len(made) and len(made) >= 24


def test_cross_brings_helpers_layers_and_tunables() -> None:
    brought = [evolution.cross(GATED, MIXED, MODEL, np.random.default_rng(seed)).source for seed in range(20)]
    deep = [source for source in brought if "class Attention" in source]
    assert deep and all("def rotate" in s and "SCALE = 0.5" in s and "hp.base" in s for s in deep)
    assert all("self.blocks = nnx.List" in source or "self.blocks" not in source for source in brought)


def test_cross_renames_what_clashes() -> None:
    other = GATED.replace("jax.nn.sigmoid", "jax.nn.tanh")
    made = [evolution.cross(GATED, other, MODEL, np.random.default_rng(seed)) for seed in range(20)]
    both = [child.source for child in made if "tanh" in child.source and "sigmoid" in child.source]
    assert any("self.blocks_2" in source and "hp.kernel_2" in source for source in both)
    assert all(
        set(gate.check(source, "Model").tunables) <= {"kernel", "growth", "kernel_2", "growth_2"} for source in both
    )


def test_cross_keeps_the_variables_of_the_receiver_apart() -> None:
    source = GATED.replace("        for conv", "        value = h\n        for conv").replace(
        "value, gate", "part, gate"
    )
    source = source.replace("h + value * jax", "h + part * jax").replace(
        "self.head(h.mean", "self.head((h + value).mean"
    )
    assert gate.check(source, "Model").failures == ()
    for seed in range(30):
        child = evolution.cross(source, GATED, MODEL, np.random.default_rng(seed)).source
        if "value_2, gate_2" in child:
            break
        assert "value, gate" not in child, child  # it would overwrite what is added at the end
    else:
        raise AssertionError("no crossing brought the donor's loop")


def test_children_that_cannot_fit_are_not_offered() -> None:
    for seed in range(60):
        child = evolution.mutate(PERCEPTRON, MODEL, np.random.default_rng(seed)).source
        assert analyse(Draft(child, "Model"), MODEL).clashes == 0, child


def test_repeat_copies_parameters() -> None:
    made = children([PERCEPTRON], MODEL, 80, deep=False)
    assert any(c.operator == "repeat" and "self.b_2 = nnx.Linear(100, 100" in c.source for c in made)


def test_insert_of_a_primitive_that_is_there_already_takes_new_attributes() -> None:
    space = toy("Block")
    mlp = tuple(primitive for primitive in space.grammar.body if primitive.name == "mlp")
    space = replace(space, grammar=replace(space.grammar, body=mlp, blocks=(1, 1)))
    source = grammar.sample(space, np.random.default_rng(0)).replace("mlp_1_", "mlp_")
    inserted = [c.source for c in children([source], space, 40, deep=False) if c.operator == "insert mlp"]
    assert inserted
    for child in inserted:
        stores = [line.split(" = ")[0].strip() for line in child.splitlines() if "nnx.Linear(" in line]
        assert len(stores) == len(set(stores)) == 4


def test_mutate_of_what_cannot_change_raises_no_child() -> None:
    nothing = toy("Block")
    source = '"""Nothing."""\nfrom nas.api import nnx\n\nclass Block(nnx.Module):\n'
    source += (
        "    def __init__(self, spec, hp, *, rngs):\n        pass\n\n    def __call__(self, x):\n        return x\n"
    )
    assert gate.check(source, "Block").failures == ()
    with pytest.raises(evolution.NoChild, match="another parent"):
        evolution.cross(source, source, nothing, np.random.default_rng(0))


@pytest.mark.parametrize("scope", ["Model", "Mixer"])
def test_analyse_finds_no_fault_in_sound_sources(scope: str) -> None:
    space, sources = (MODEL, [GATED, MIXED, PERCEPTRON]) if scope == "Model" else (MIXER, [FOREIGN])
    for source in [*sources, *samples(space, 40)]:
        assert analyse(Draft(source, scope), space).clashes == 0, source


FAULTS = {
    "wrong width": ("self.head = nnx.Linear(spec.width,", "self.head = nnx.Linear(spec.width + 1,"),
    "wrong classes": ("spec.width, spec.classes", "spec.width, spec.classes + 1"),
    "not pooled": ("self.head(h.mean(axis=1))", "self.head(h)"),
    "missing name": ("h = self.embed(x)", "g = self.embed(x)"),
    "missing layer": ("self.embed =", "self.embedding ="),
    "broadcast": ("h = h + value", "h = x.repeat(5) if False else conv(h) + value"),
    "spec outside": ("h.mean(axis=1)", "h.mean(axis=1) * spec.width"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_analyse_finds_what_cannot_fit(fault: str) -> None:
    old, new = FAULTS[fault]
    assert old in GATED
    assert analyse(Draft(GATED.replace(old, new), "Model"), MODEL).clashes > 0


def test_constants_leave_axes_alone() -> None:
    for seed in range(60):
        draft = Draft(GATED, "Model")
        numbers.change_constant(draft, np.random.default_rng(seed))
        text = draft.text()
        assert "axis=1)" in text and "axis=-1)" in text


def test_constant_that_is_a_width_changes_everywhere() -> None:
    texts = []
    for seed in range(40):
        draft = Draft(PERCEPTRON, "Model")
        numbers.change_constant(draft, np.random.default_rng(seed))
        texts.append(draft.text())
    assert any("100" not in text and text.count("200") == 4 for text in texts)


def test_tunables_change_the_default_program() -> None:
    for seed in range(40):
        for change in (numbers.make_tunable, numbers.fix_tunable, numbers.change_range):
            draft = Draft(GATED, "Model")
            if change(draft, np.random.default_rng(seed)) is None:
                continue
            gated = gate.check(draft.text("x"), "Model")
            assert gated.failures == ()
            before, after = gate.check(GATED, "Model").tunables, gated.tunables
            assert defaults(before) != defaults(after)


def test_choose_parent_prefers_good_and_unvisited() -> None:
    rng = np.random.default_rng(0)
    scores, visits = np.array([0.1, 0.5, 0.9, np.nan]), np.zeros(4)
    drawn = np.bincount([evolution.choose_parent(scores, visits, True, rng) for _ in range(2000)], minlength=4)
    assert drawn[0] < drawn[1] < drawn[2] and drawn[3] == 0
    drawn = np.bincount([evolution.choose_parent(scores, visits, False, rng) for _ in range(2000)], minlength=4)
    assert drawn[0] > drawn[1] > drawn[2] and drawn[3] == 0
    visits[2] = 50
    drawn = np.bincount([evolution.choose_parent(scores, visits, True, rng) for _ in range(2000)], minlength=4)
    assert drawn[2] < drawn[0]


def test_choose_parent_does_not_depend_on_the_scale() -> None:
    scores, visits = np.random.default_rng(1).normal(size=20), np.arange(20) % 3
    for scale in (1e-9, 1e9):
        one = [evolution.choose_parent(scores, visits, True, np.random.default_rng(s)) for s in range(50)]
        two = [
            evolution.choose_parent(scale * scores + 7 * scale, visits, True, np.random.default_rng(s))
            for s in range(50)
        ]
        assert one == two


@pytest.mark.parametrize(
    ("scores", "possible"),
    [([0.3], {0}), ([0.5, 0.5, 0.5], {0, 1, 2}), ([0.5, 0.5, 0.5, 0.9], {0, 1, 2, 3}), ([np.nan, 1.0, -np.inf], {1})],
)
def test_choose_parent_of_few_or_equal(scores: list[float], possible: set[int]) -> None:
    rng = np.random.default_rng(0)
    drawn = {evolution.choose_parent(np.array(scores), np.zeros(len(scores)), True, rng) for _ in range(300)}
    assert drawn == possible


def test_choose_parent_of_none_says_so() -> None:
    with pytest.raises(ValueError, match="finite"):
        evolution.choose_parent(np.array([np.nan]), np.zeros(1), True, np.random.default_rng(0))
    with pytest.raises(ValueError, match="one number for each"):
        evolution.choose_parent(np.zeros(2), np.zeros(1), True, np.random.default_rng(0))
