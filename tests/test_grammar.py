"""The random arm: what it draws passes the gate, has the scope's form, and depends on the generator alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.admit import gate
from nas.propose import grammar
from nas.records import Choice, Real
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, Scope, SearchSpace, Spec, Split, Task

BODY = (
    Primitive(
        name="conv",
        init="self.{name} = nnx.Conv({width}, {width}, ({kernel},), kernel_dilation=({dilation},), rngs=rngs)",
        call="h = {act}(self.{name}(h))",
        choices={"kernel": Choice((3, 5, 7)), "dilation": (1, 2, 4), "act": ("jax.nn.relu", "jax.nn.gelu")},
    ),
    Primitive(
        name="gated conv",
        init="self.{name} = nnx.Conv({width}, 2 * {width}, (3,), rngs=rngs)",
        call="value, gate = jnp.split(self.{name}(h), 2, axis=-1)\nh = value * jax.nn.sigmoid(gate)",
    ),
    Primitive(
        name="widen",
        init="self.{name} = nnx.Linear({width}, {ratio} * {width}, rngs=rngs)",
        call="h = jax.nn.relu(self.{name}(h))",
        out="{ratio} * {width}",
        choices={"ratio": Choice((2, 3))},
    ),
    Primitive(
        name="mlp",
        init="self.{name}_up = nnx.Linear({width}, 2 * {width}, rngs=rngs)\n"
        "self.{name}_down = nnx.Linear(2 * {width}, {width}, rngs=rngs)",
        call="h = self.{name}_down(jax.nn.gelu(self.{name}_up(h)))",
    ),
    Primitive(
        name="attention",
        init="self.{name} = nnx.MultiHeadAttention(spec.heads, {width}, decode=False, rngs=rngs)",
        call="h = self.{name}(h)",
    ),
    Primitive(name="norm", init="self.{name} = nnx.LayerNorm({width}, rngs=rngs)", call="h = self.{name}(h)"),
    Primitive(
        name="scale",
        init="self.{name} = nnx.Dropout({rate}, rngs=rngs)",
        call="h = self.{name}(h) * {strength} / {width}",
        choices={"rate": (0.1, 0.2), "strength": Real(0.5, 2.0, log=True)},
    ),
    Primitive(name="pool", call="h = nnx.max_pool(h, (2,), strides=(2,))"),
    Primitive(
        name="rnn",
        init="self.{name} = nnx.RNN(nnx.GRUCell({width}, {width}, rngs=rngs), rngs=rngs)",
        call="h = self.{name}(h)",
    ),
)


def _unused(*_: object) -> Split:
    raise AssertionError("proposers never look at data")


def toy(scope: Scope) -> SearchSpace:
    """Ten classes of series of 40 numbers, as whole models or as what stands inside a skeleton."""
    stem = Primitive(name="linear", init="self.{name} = nnx.Linear({width}, spec.width, rngs=rngs)", out="spec.width",
                     call="h = self.{name}(x)")  # fmt: skip
    head = Primitive(name="mean", init="self.{name} = nnx.Linear({width}, spec.classes, rngs=rngs)",
                     call="return self.{name}(h.mean(axis=1))", out="spec.classes")  # fmt: skip
    last = Primitive(name="last", init=head.init, call="h = h[:, -1]\nreturn self.{name}(h)", out=head.out)
    inside = scope != "Model"
    return SearchSpace(
        name="toy",
        version=1,
        scope=scope,
        spec=Spec(length=40, channels=1, classes=10, width=16, depth=2, heads=2),
        task=Task(split=_unused, loss=_unused, score=_unused, metric="accuracy"),
        contract=Contract(input_shape=(40, 1), output_shape=(10,)),
        recipe=Recipe(batch=8, eval_batch=8),
        ladder=Ladder(steps=(10, 40)),
        grammar=Grammar(
            stem=(Primitive(name="identity", call="h = x"),) if inside else (stem,),
            body=tuple(p for p in BODY if not inside or p.name != "pool"),
            head=(Primitive(name="out", call="return h"),) if inside else (head, last),
            blocks=(1, 4),
        ),
        baselines={},
    )


SCOPES: tuple[Scope, ...] = ("Model", "Block", "Mixer", "Stack")
PRINT_SAMPLES = """
import numpy as np
from test_grammar import toy
from nas.propose.grammar import sample
print("".join(sample(toy("Model"), np.random.default_rng(seed)) for seed in range(20)))
"""


@pytest.mark.parametrize("scope", SCOPES)
def test_sample_passes_the_gate(scope: Scope) -> None:
    space = toy(scope)
    for seed in range(60):
        source = grammar.sample(space, np.random.default_rng(seed))
        gated = gate.check(source, scope)
        assert gated.failures == (), source
        assert gated.idea.startswith("Random:")


def test_sample_uses_every_primitive_and_residuals() -> None:
    space = toy("Model")
    ideas = [gate.check(grammar.sample(space, np.random.default_rng(seed)), "Model").idea for seed in range(100)]
    for primitive in (*space.grammar.stem, *space.grammar.body, *space.grammar.head):
        assert any(primitive.name in idea for idea in ideas), primitive.name
    assert any("residual conv" in idea for idea in ideas) and any(" conv" in idea for idea in ideas)
    assert not any("residual pool" in idea or "residual widen" in idea for idea in ideas)


def test_sample_declares_tunables_once_and_reads_them() -> None:
    space = toy("Model")
    seen: set[str] = set()
    for seed in range(100):
        source = grammar.sample(space, np.random.default_rng(seed))
        tunables = gate.check(source, "Model").tunables
        assert all(f"hp.{name}" in source for name in tunables)
        seen.update(tunables)
    assert {"kernel", "kernel_2", "ratio", "strength"} <= seen


def test_sample_of_a_block_ends_at_the_width_it_began_with() -> None:
    space = toy("Block")
    sources = [grammar.sample(space, np.random.default_rng(seed)) for seed in range(60)]
    assert any("self.fit = nnx.Linear(" in source for source in sources)
    assert all(source.rstrip().endswith("return h") for source in sources)


def test_sample_same_generator_gives_the_same_text_under_any_hash_seed() -> None:
    printed = []
    for seed in ("0", "1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        program = [sys.executable, "-c", PRINT_SAMPLES]
        printed.append(subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(set(printed)) == 1 and "class Model" in printed[0]


def test_render_keeps_what_only_init_knows_as_attributes() -> None:
    scale = next(p for p in BODY if p.name == "scale")
    piece = grammar.render(scale, name="s", width="2 * spec.width", taken=(), rng=np.random.default_rng(0))
    init, call = ("\n".join(map(grammar.ast.unparse, body)) for body in (piece.init, piece.call))
    assert "self.s_width = 2 * spec.width" in init and "self.s_strength = hp.strength" in init
    assert call == "h = self.s(h) * self.s_strength / self.s_width"


def test_with_residual_adds_what_went_in() -> None:
    one = grammar.with_residual(grammar.statements("h = f(h)"), "h", "skip")
    two = grammar.with_residual(grammar.statements("a = f(h)\nh = a"), "h", "skip")
    assert [grammar.ast.unparse(s) for s in one] == ["h = h + f(h)"]
    assert [grammar.ast.unparse(s) for s in two] == ["skip = h", "a = f(h)", "h = a", "h = skip + h"]
