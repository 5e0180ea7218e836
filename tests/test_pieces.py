"""Pieces: planted differences are found and put back alone, whatever the names; evolved candidates lead back home."""

import numpy as np
import pytest

from nas.admit import gate
from nas.propose import evolution
from nas.propose.align import distance
from nas.propose.pieces import fixed, pieces
from nas.propose.resize import factors, resized
from nas.propose.source import Draft, structure
from nas.records import defaults
from nas.search_spaces.mnist1d.space import SPACE

FRAME = '''"""Planted."""
from nas.api import jax, jnp, nnx

class Model(nnx.Module):

    def __init__(self, spec, hp, *, rngs):
        {init}

    def __call__(self, x):
        {call}
'''
FIRST = "self.first = nnx.Conv(spec.channels, spec.width, (5,), rngs=rngs)"
SECOND = "self.second = nnx.Conv(spec.width, spec.width, (5,), rngs=rngs)"
HEAD = "self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)"
CALL = ["h = jax.nn.relu(self.first(x))", "h = jax.nn.relu(self.second(h))", "return self.head(h.mean(axis=1))"]
NORM, NORMED = "self.norm = nnx.LayerNorm(spec.width, rngs=rngs)", "h = self.norm(h)"
GATE = "self.gate = nnx.Linear(spec.width, spec.width, rngs=rngs)"
GATED = ["g = jax.nn.sigmoid(self.gate(h))", "h = h * g"]


def source(init: list[str], call: list[str]) -> str:
    return FRAME.format(init="\n        ".join(init), call="\n        ".join(call))


BASE = source([FIRST, SECOND, HEAD], CALL)


def same(one: str, other: str) -> bool:
    """Whether two sources are the same but for docstring, layout and what nothing reads."""
    return structure(Draft(one, "Model").text()) == structure(Draft(other, "Model").text())


def only(winner: str, baseline: str = BASE) -> str:
    (found,) = pieces(winner, baseline, SPACE)
    assert found.source and not found.reason
    return found.source


def test_planted_differences_are_found_and_put_back_alone() -> None:
    first, head = FIRST.replace("(5,)", "(7,)"), CALL[2].replace("mean", "max")
    winner = source([first, NORM, SECOND, GATE, HEAD], [CALL[0], NORMED, CALL[1], *GATED, head])
    found = pieces(winner, BASE, SPACE)
    told = [(piece.before, piece.after) for piece in found]
    assert [words for words in told if words[0]] == [("5 in Conv", "7 in Conv"), ("mean", "max")]
    assert told[0] == ("", "h = LayerNorm(spec.width)(h)")
    assert told[1] == ("", "g = sigmoid(Linear(spec.width, spec.width)(h)); h = h * g")
    expected = [
        source([first, SECOND, GATE, HEAD], [CALL[0], CALL[1], *GATED, head]),
        source([first, NORM, SECOND, HEAD], [CALL[0], NORMED, CALL[1], head]),
        source([FIRST, NORM, SECOND, GATE, HEAD], [CALL[0], NORMED, CALL[1], *GATED, head]),
        source([first, NORM, SECOND, GATE, HEAD], [CALL[0], NORMED, CALL[1], *GATED, CALL[2]]),
    ]
    assert all(same(piece.source, other) for piece, other in zip(found, expected, strict=True))


def test_what_the_baseline_alone_has_comes_back_with_its_layers_where_it_was() -> None:
    normed = source([FIRST, NORM, SECOND, HEAD], [CALL[0], NORMED, *CALL[1:]])
    assert same(only(BASE, normed), normed)


def test_names_alone_make_no_piece() -> None:
    renamed = BASE.replace("first", "stem").replace("self.head", "self.out").replace("h =", "y =")
    assert pieces(renamed.replace("(h)", "(y)").replace("h.mean", "y.mean"), BASE, SPACE) == []


@pytest.mark.parametrize("name", SPACE.baselines)
def test_baseline_itself_has_no_pieces(name: str) -> None:
    plain = fixed(SPACE.baselines[name], {}, "Model")
    assert pieces(plain, plain, SPACE) == []
    assert distance(plain, plain, SPACE) == 0.0


def test_of_two_equal_layers_the_one_that_the_baseline_names_stays() -> None:
    again = SECOND.replace("self.second", "self.again")
    winner = source([FIRST, SECOND, again, HEAD], [*CALL[:2], CALL[1].replace("second", "again"), CALL[2]])
    assert same(only(winner), BASE)


def test_replaced_statement_is_put_back_in_place() -> None:
    wide = "self.mix = nnx.Linear(spec.width, spec.width, rngs=rngs)"
    winner = source([FIRST, wide, HEAD], [CALL[0], "h = h + jnp.tanh(self.mix(h)) * 2.0", CALL[2]])
    assert same(only(winner), BASE)


def test_which_variable_goes_on_is_a_piece() -> None:
    call = ["a = jax.nn.relu(self.first(x))", "b = jax.nn.relu(self.second(a))", "h = b", CALL[2]]
    baseline = source([FIRST, SECOND, HEAD], call)
    assert same(only(baseline.replace("h = b", "h = a"), baseline), baseline)


def test_number_inside_a_helper_is_a_piece() -> None:
    helper = "def squash(h):\n    return jnp.tanh(h / 2.0)\n\nclass Model"
    baseline = source([FIRST, HEAD], [CALL[0], "h = squash(h)", CALL[2]]).replace("class Model", helper)
    assert same(only(baseline.replace("2.0", "3.0"), baseline), baseline)


def test_method_of_the_baseline_comes_back_with_what_calls_it_alone() -> None:
    method = "    def squash(self, h):\n        return jnp.tanh(h)\n\n    def __call__"
    squashed = source([FIRST, SECOND, HEAD], [CALL[0], "h = self.squash(h)", *CALL[1:]])
    squashed = squashed.replace("    def __call__", method)
    gated = source([FIRST, SECOND, GATE, HEAD], [*CALL[:2], *GATED, CALL[2]])
    back, gone = pieces(gated, squashed, SPACE)
    assert "self.squash(h)" in back.source and "self.gate" in back.source and same(gone.source, BASE)


def test_equal_widths_change_as_one_piece() -> None:
    wider = [line.replace("spec.width", "2 * spec.width") for line in (FIRST, SECOND, HEAD)]
    found = pieces(source(wider, CALL), BASE, SPACE)
    assert [piece.after for piece in found] == ["2 * spec.width in Conv, Linear (4 times)"]
    assert same(found[0].source, BASE)


def test_values_of_tunables_are_numbers_like_others() -> None:
    tuned = BASE.replace("\n\nclass", '\n\nTUNABLES = {"kernel": choice(3, 9)}\n\nclass').replace(
        "(5,)", "(hp.kernel,)"
    )
    winner = fixed(tuned.replace("import jax", "import choice, jax"), {"kernel": 9}, "Model")
    assert not gate.check(winner, "Model").failures and "hp." not in winner
    (found,) = pieces(winner, BASE, SPACE)
    assert (found.before, found.after) == ("5 in Conv (2 times)", "9 in Conv (2 times)")


def test_what_fits_only_together_is_one_piece() -> None:
    up, down = (f"self.{n} = nnx.Linear({a}, {b}, rngs=rngs)" for n, a, b in (("up", 4, 9), ("down", 9, 4)))
    winner = source([FIRST, up, down, SECOND, HEAD], [CALL[0], "h = self.up(h)", "h = self.down(h)", *CALL[1:]])
    assert same(only(winner), BASE)


def test_linear_map_is_added_where_features_are_at_odds() -> None:
    stem, head = FIRST.replace("spec.width, (5,)", "9, (7,), strides=(2,)"), "self.head = nnx.Linear(18, 10, rngs=rngs)"
    both = "return self.head(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))"
    winner = source([stem, head], ["h = jnp.tanh(self.first(x) - 1.0) * 3.0 + jnp.sin(self.first(x))", both])
    found = pieces(winner, source([FIRST, HEAD], [CALL[0], CALL[2]]), SPACE)
    assert len(found) == 2 and all(piece.fitted and "self.fit = nnx.Linear(" in piece.source for piece in found)
    assert all(not gate.check(piece.source, "Model").failures for piece in found)


def test_refused_piece_is_joined_with_its_neighbour_and_the_last_says_why() -> None:
    winner = source([FIRST, NORM, SECOND, HEAD], [CALL[0], NORMED, "h = jnp.sin(h)", *CALL[1:]])
    one, other = pieces(winner, BASE, SPACE)
    (joined,) = pieces(winner, BASE, SPACE, {one.source: "trace/shape"})
    assert same(joined.source, BASE) and joined.after == f"{one.after}; {other.after}"
    found = pieces(winner, BASE, SPACE, {one.source: "trace/shape", joined.source: "trace/type"})
    assert [piece.reason for piece in found] == ["trace/shape", ""] and not found[0].source


def test_nearest_baseline_is_the_one_that_a_candidate_was_made_from() -> None:
    plain = {name: fixed(text, {}, "Model") for name, text in SPACE.baselines.items()}
    for seed, name in enumerate(("mlp", "cnn", "gru")):
        child = evolution.mutate(plain[name], SPACE, np.random.default_rng(seed)).source
        child = fixed(child, defaults(gate.check(child, "Model").tunables), "Model")
        assert min(plain, key=lambda other: distance(child, plain[other], SPACE)) == name


@pytest.mark.parametrize("seed", range(12))
def test_evolved_candidates_lead_back_to_the_baseline_piece_by_piece(seed: int) -> None:
    rng = np.random.default_rng(seed)
    name = list(SPACE.baselines)[seed % len(SPACE.baselines)]
    baseline, child = fixed(SPACE.baselines[name], {}, "Model"), SPACE.baselines[name]
    for _ in range(1 + seed % 4):
        child = evolution.mutate(child, SPACE, rng).source
    at = fixed(child, defaults(gate.check(child, "Model").tunables), "Model")
    found = pieces(at, baseline, SPACE)
    assert found == pieces(at, baseline, SPACE)
    for piece in found:
        assert piece.source or piece.reason
        assert not piece.source or not gate.check(piece.source, "Model").failures
    for _ in range(12):
        makeable = [piece for piece in pieces(at, baseline, SPACE) if piece.source and not piece.fitted]
        if not makeable:
            break
        at = makeable[0].source
    assert pieces(at, baseline, SPACE) == []
    assert seed % 4 or same(at, baseline)  # one mutation: names are the baseline's own


def test_sizes_differ_by_whole_features_and_fit_together() -> None:
    plain = fixed(SPACE.baselines["cnn"], {}, "Model")
    found = {factor: resized(plain, factor, SPACE) for factor in factors(plain, SPACE)}
    assert list(found) == sorted(found) and found[1.0] == plain
    widths = [f"3 * [{width}]" for width in range(3, 36)]
    expected = [plain.replace("3 * [2 * spec.width + 1]", width) for width in widths]
    assert [text if factor != 1.0 else expected[6] for factor, text in found.items()] == expected


def test_sizes_of_halves_that_must_stay_halves_do() -> None:
    split = "self.gate = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)"
    body = [CALL[0], "a, b = jnp.split(self.gate(h), 2, axis=-1)", "h = h + a * b", CALL[2]]
    plain = source([FIRST, split, HEAD], body)
    seen = set()
    for factor in factors(plain, SPACE):
        text = resized(plain, factor, SPACE).replace("spec.width", "4")
        line = next(line for line in text.splitlines() if "self.gate = " in line)
        one, other = line.partition("nnx.Linear(")[2].split(", ")[:2]
        first, _, second = other.partition(" * ")
        assert int(first) * int(second or 1) == 2 * int(one)
        seen.add(int(one))
    assert seen == set(range(1, 17))
