"""What spaces over sequences share: a skeleton that scans as it runs unrolled, sound sources, a grammar that fits."""

import dataclasses
import functools
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nas.admit import gate, leaks, program, trace
from nas.propose import grammar as random_arm
from nas.records import Choice, Failure, Program, defaults
from nas.search_spaces import sequence
from nas.search_spaces.sequence.grammar import grammar
from nas.search_spaces.sequence.skeleton import LanguageModel
from nas.space import Contract, Ladder, Recipe, Scope, SearchSpace, Spec, Split, Task

SPEC = Spec(length=16, vocab=11, classes=11, width=16, depth=3, heads=2)
BASELINES = {(scope, name): source for scope in sequence.SCOPES for name, source in sequence.baselines(scope).items()}
GATED = '''"""A gate on the mean so far, with an auxiliary loss of one tenth."""
from nas.api import jax, jnp, nnx


class {scope}(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.gate = nnx.Linear(spec.width, spec.width, rngs=rngs)
        self.drop = nnx.Dropout({rate}, rngs=rngs)

    def __call__(self, x):
        held = jnp.cumsum(x, axis=1) / x.shape[1] * jax.nn.sigmoid(self.gate(x))
        return x + self.drop(held), 0.1
'''


def space(scope: Scope, spec: Spec = SPEC, **options: Any) -> SearchSpace:
    outputs = (spec.length + options.get("decoded", 0), spec.vocab)
    zeros = Split(np.zeros((8, spec.length), np.int32), np.zeros((8, *outputs[:1]), np.int32))
    return SearchSpace(
        name="tiny",
        version=1,
        scope=scope,
        spec=spec,
        task=Task(split=lambda name: zeros, loss=lambda o, t: o, score=lambda o, t: o, metric="loss"),
        contract=Contract(input_shape=(spec.length,), input_dtype="int32", output_shape=outputs, causal=True),
        recipe=Recipe(batch=4, eval_batch=8),
        ladder=Ladder(steps=(1,)),
        grammar=grammar(scope, depth=spec.depth),
        baselines=sequence.baselines(scope),
        skeleton=functools.partial(sequence.language_model, scope=scope, **options),
    )


def admitted(source: str, toy: SearchSpace) -> Program | Failure:
    """The whole way of a source: gate, trace, check, leaks."""
    gated = gate.check(source, toy.scope)
    if gated.failures:
        return gated.failures[0]
    traced = trace.trace(toy, source, defaults(gated.tunables))
    if isinstance(traced, Failure):
        return traced
    checked = program.check(*traced, toy.contract, toy.recipe)
    if isinstance(checked, Failure):
        return checked
    return leaks.check(toy, *traced, flops=checked.cost.flops) or checked


def model(scope: Scope = "Mixer", rate: float = 0.0, **options: Any) -> Any:
    unit = trace.execute(GATED.format(scope=scope, rate=rate), scope)
    run = {name: options.pop(name) for name in ("scan", "remat") if name in options}
    spec, rngs = dataclasses.replace(SPEC, **run), nnx.Rngs(jax.random.key(1))
    return LanguageModel(unit, spec, SimpleNamespace(), rngs=rngs, scope=scope, **options)


TOKENS = np.random.default_rng(0).integers(SPEC.vocab, size=(2, SPEC.length)).astype(np.int32)


@nnx.jit
def outcome(network: Any) -> Any:
    """Outputs, auxiliary loss, and the gradients of a sum of squares."""

    def total(network: Any) -> Any:
        outputs, auxiliary = network(TOKENS)
        return (outputs**2).sum() + auxiliary, (outputs, auxiliary)

    (_, outputs), gradients = nnx.value_and_grad(total, has_aux=True)(network)
    return *outputs, gradients


# ---- the skeleton ----


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str)
def test_scanned_and_rematerialised_layers_equal_unrolled_ones(options: dict[str, Any]) -> None:
    outputs, auxiliary, gradients = outcome(model())
    found, extra, others = outcome(model(**options))
    np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([auxiliary, extra], 0.3, rtol=1e-6)  # a tenth of each of three layers
    each = [jax.tree.leaves(gradients["layers"][index]) for index in range(SPEC.depth)]
    if options.get("scan"):
        stacked = jax.tree.leaves(others["layers"])
        apart = [[leaf[index] for leaf in stacked] for index in range(SPEC.depth)]
    else:
        apart = [jax.tree.leaves(others["layers"][index]) for index in range(SPEC.depth)]
    for one, other in zip(jax.tree.leaves(each), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(others["embedding"][...], gradients["embedding"][...], rtol=1e-3, atol=1e-3)


def test_layers_have_parameters_of_their_own() -> None:
    first, second = (np.asarray(model().layers[index].mlp.up.kernel[...]) for index in (0, 1))
    stacked = np.asarray(model(scan=True).layers.mlp.up.kernel[...])
    np.testing.assert_array_equal(stacked[:2], [first, second])
    assert np.abs(first - second).max() > 0.1


def test_a_stack_is_one_layer_however_it_is_run() -> None:
    assert len(model("Stack", scan=True).layers) == 1
    assert len(model("Block").layers) == SPEC.depth


@pytest.mark.parametrize("tied", [True, False])
def test_outputs_are_float32_logits_of_unit_size(tied: bool) -> None:
    network = model(tied=tied)
    outputs, auxiliary = nnx.jit(network)(TOKENS)
    assert outputs.shape == (2, SPEC.length, SPEC.vocab) and outputs.dtype == jnp.float32
    assert auxiliary.shape == () and 0.5 < float(outputs.std()) < 2.0
    assert (network.head is None) is tied


def test_decoded_outputs_follow_and_see_the_last_state_alone() -> None:
    network = nnx.jit(model("Stack", decoded=5))
    outputs = np.asarray(network(TOKENS)[0])
    assert outputs.shape == (2, SPEC.length + 5, SPEC.vocab)
    assert np.ptp(outputs[:, SPEC.length :], axis=1).min() > 1e-3  # each is asked for something else
    changed = TOKENS.copy()
    changed[:, -1] = (changed[:, -1] + 1) % SPEC.vocab
    moved = np.abs(np.asarray(network(changed)[0]) - outputs).max(axis=(0, 2))
    assert (moved[: SPEC.length - 1] == 0).all() and (moved[SPEC.length - 1 :] > 0).all()


def test_candidate_of_another_shape_is_told_so() -> None:
    source = GATED.format(scope="Block", rate=0.0).replace("x + self.drop(held)", "x[:, :3]")
    failure = trace.trace(space("Block"), source, {})
    assert isinstance(failure, Failure) and "return the input's shape" in failure.message


def test_layers_that_differ_in_form_cannot_be_scanned() -> None:
    from nas.search_spaces.sequence.skeleton import stacked

    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="differ in more than their numbers"):
        stacked([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, use_bias=False, rngs=rngs)])


def test_scanned_layers_cross_the_wall_with_dropout() -> None:
    toy = space("Mixer", dataclasses.replace(SPEC, scan=True, remat=True))
    checked = admitted(GATED.format(scope="Mixer", rate=0.1), toy)
    assert isinstance(checked, Program), checked
    assert "loop" in checked.traits


@pytest.mark.parametrize(("platform", "optimizer", "looped"), [("cpu", "adamw", False), ("tpu", "adamw", True),
    ("tpu", "muon", False)])  # fmt: skip
def test_layers_are_one_loop_where_that_compiles_sooner(platform: str, optimizer: str, looped: bool) -> None:
    toy = space("Mixer")
    toy = dataclasses.replace(toy, recipe=dataclasses.replace(toy.recipe, optimizer=optimizer))
    traced = trace.trace(toy, GATED.format(scope="Mixer", rate=0.0), {}, platform)
    assert not isinstance(traced, Failure), traced
    checked = program.check(*traced, toy.contract, toy.recipe, platform)
    assert isinstance(checked, Program), checked
    assert ("loop" in checked.traits) == looped


# ---- known architectures ----


def test_every_scope_has_its_baselines() -> None:
    assert {scope: list(sequence.baselines(scope)) for scope in sequence.SCOPES} == {
        "Mixer": [
            *("attention", "sliding_window", "selective_state_space", "gated_linear_attention"),
            *("gated_delta_net", "long_convolution", "recurrence"),
        ],
        "Block": ["transformer", "mamba", "recurrent", "delta"],
        "Stack": ["transformer", "sliding_window_hybrid", "griffin", "delta_hybrid", "recurrent", "pattern"],
    }


@pytest.mark.parametrize(("scope", "name"), BASELINES)
def test_baseline_passes_the_gate_and_cites_its_source(scope: Scope, name: str) -> None:
    gated = gate.check(BASELINES[scope, name], scope)
    assert gated.failures == ()
    source = gated.idea.partition("Source:")[2]
    assert "arXiv" in source and re.search(r"equations? \d", source)


def test_pattern_offers_every_layer_in_every_place() -> None:
    """So that Optuna plays the same game as evolution and a model do."""
    found = gate.check(BASELINES["Stack", "pattern"], "Stack").tunables
    written = BASELINES["Stack", "pattern"].partition("KINDS = {")[2].partition("}")[0]
    kinds = dict(re.findall(r'"(\w+)": layers\.(\w+)', written))
    assert set(kinds.values()) == {name for name in gate.API["layers"] if name[0].isupper()}
    assert len(found) == 4
    for name, place in found.items():
        assert isinstance(place, Choice) and set(place.options) == set(kinds), name


@pytest.mark.parametrize("name", ["gated_delta_net", "long_convolution"])
def test_mixer_is_admitted_and_does_not_leak(name: str) -> None:
    checked = admitted(BASELINES["Mixer", name], space("Mixer", dataclasses.replace(SPEC, depth=1)))
    assert isinstance(checked, Program), checked


@pytest.mark.slow
@pytest.mark.parametrize(("scope", "name"), BASELINES)
def test_every_baseline_is_admitted_and_does_not_leak(scope: Scope, name: str) -> None:
    checked = admitted(BASELINES[scope, name], space(scope, dataclasses.replace(SPEC, depth=2)))
    assert isinstance(checked, Program), checked


# ---- grammar ----


@pytest.mark.parametrize("scope", sequence.SCOPES)
def test_random_candidates_pass_the_gate(scope: Scope) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        source = random_arm.sample(space(scope), rng)
        assert gate.check(source, scope).failures == (), source


@pytest.mark.slow
@pytest.mark.parametrize("scope", sequence.SCOPES)
def test_random_candidates_are_admitted_and_do_not_leak(scope: Scope) -> None:
    rng, toy = np.random.default_rng(1), space(scope, dataclasses.replace(SPEC, width=32, heads=4, depth=1))
    for _ in range(30):
        source = random_arm.sample(toy, rng)
        checked = admitted(source, toy)
        assert isinstance(checked, Program), f"{checked}\n{source}"


@pytest.mark.parametrize("scope", sequence.SCOPES)
def test_every_primitive_can_be_drawn_and_names_differ(scope: Scope) -> None:
    made = grammar(scope)
    names = [primitive.name for primitive in made.body]
    assert len(set(names)) == len(names)
    rng = np.random.default_rng(2)
    drawn = " ".join(random_arm.sample(space(scope), rng).splitlines()[0] for _ in range(200))
    assert all(name in drawn for name in names)


def test_primitives_of_a_stack_keep_the_one_residual_that_they_bring() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        call = random_arm.sample(space("Stack"), rng).partition("def __call__")[2]
        assert "h = h + " not in call and "skip" not in call


def test_stack_has_about_two_primitives_for_each_unit_of_depth() -> None:
    assert grammar("Stack", depth=2).blocks == (3, 5) and grammar("Stack", depth=6).blocks == (11, 13)


def test_whole_models_have_no_grammar() -> None:
    with pytest.raises(ValueError, match="no grammar of scope 'Model'; it has Mixer, Block and Stack"):
        grammar("Model")
