"""The transformers that byte_lm's baseline is timed against are that baseline; how fast any is, is not tested."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import language_model
from nas.admit.trace import execute, functions
from nas.search_spaces.byte_lm.space import SPACE
from nas.space import Split

SMALL = replace(SPACE, spec=replace(SPACE.spec, length=6, vocab=11, width=12, heads=2))


@pytest.fixture(scope="module")
def baseline() -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Parameters of the baseline at a small size, all different, tokens, and its logits of these."""
    candidate = functions(SMALL, execute(SMALL.baselines[language_model.BASELINE], SMALL.scope), SimpleNamespace())
    shapes, state = jax.eval_shape(candidate.init, np.uint32(0))
    assert not state
    rng = np.random.default_rng(0)
    params = [rng.normal(size=leaf.shape).astype(np.float32) / SMALL.spec.width**0.5 for leaf in shapes]
    tokens = rng.integers(SMALL.spec.vocab, size=(3, SMALL.spec.length), dtype=np.int32)
    logits = jax.jit(candidate.apply, static_argnums=4)(tuple(params), state, tokens, np.uint32(0), True)[0]
    return params, tokens, np.asarray(logits)


def test_transformer_by_hand_gives_the_logits_of_the_baseline(baseline: Any) -> None:
    params, tokens, logits = baseline
    by_hand = jax.jit(lambda params: language_model.outputs(params, tokens, SMALL.spec))(params)
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(by_hand, logits, rtol=1e-4, atol=1e-4)


def test_transformer_in_torch_has_the_loss_of_the_baseline_and_learns(baseline: Any) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    params, tokens, logits = baseline
    targets = (tokens + 1) % SMALL.spec.vocab
    torch = language_model.Torch(SMALL.spec, params, Split(tokens, targets))
    rows = np.arange(3, dtype=np.int32)
    expected = float(np.mean(SMALL.task.loss(logits, targets)))
    assert torch.loss(rows) == pytest.approx(expected, rel=1e-4)
    torch.run(np.tile(rows, (20, 1)))
    assert torch.loss(rows) < 0.7 * expected


def test_sides_take_turns_on_the_same_examples() -> None:
    class Told:
        def __init__(self, name: str, chunk: int) -> None:
            self.name, self.chunk = name, chunk

        def run(self, rows: np.ndarray) -> float:
            seen.append((self.name, rows.tolist()))
            return sum(range(20_000))

    seen: list[tuple[str, list[list[int]]]] = []
    sides: dict[str, language_model.Side] = {"one": Told("one", 5), "other": Told("other", 1)}
    draw = lambda start, stop: np.arange(start, stop)[:, None]  # noqa: E731
    found = language_model.compare(sides, draw, 3, 1e-6)
    turns = seen[3:]  # both once to warm up, and the first once more for how long a turn is
    assert [name for name, _ in turns] == ["other", "one", "one", "other", "other", "one"]
    assert [rows for _, rows in turns[::2]] == [rows for _, rows in turns[1::2]]
    assert [rows[0] for _, rows in turns[::2]] == [[0], [5], [10]]
    assert found["steps_a_turn"] == 5 and "cpu_ratio" in found["other"] and "cpu_ratio" not in found["one"]


@pytest.mark.slow
def test_benchmark_runs_as_a_person_runs_it(tmp_path: Path) -> None:
    file, root = tmp_path / "figures.json", Path(language_model.__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.language_model", "--repeats", "2", "--seconds", "0.1"]
    ended = subprocess.run([*command, "--json", str(file)], cwd=root, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "by hand" in ended.stdout
    figures = json.loads(file.read_text("utf-8"))["figures"]
    assert figures["engine"]["cpu_ms"]["median"] > 0 and figures["by hand"]["cpu_ratio"]["median"] > 0
