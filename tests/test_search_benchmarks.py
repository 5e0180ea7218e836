"""The benchmarks of whole searches: what they decide by, on cases with a known answer; and that they run."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fingerprint, kill, searches, waiting
from benchmarks.equality import Runner, compare
from benchmarks.process import measure
from benchmarks.respelling import OTHERS, TECHNIQUES, respell
from benchmarks.waiting import Replayed, simulate
from nas.admit.gate import check
from nas.propose import grammar
from nas.propose.source import structure
from nas.records import Program
from nas.space import load
from nas.store import Store

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
HELPERS = '''"""Helpers, tunables, a loop, and statements that depend on each other."""
from nas.api import choice, jax, jnp, nnx, real

TUNABLES = {"rate": real(0.1, 0.3), "wide": choice(2, 3)}


def gated(value, gate):
    return value * jax.nn.sigmoid(gate)


class Part(nnx.Module):
    def __init__(self, width, *, rngs):
        self.inner = nnx.Linear(width, width, rngs=rngs)
        self.outer = nnx.Linear(width, width, rngs=rngs)

    def through(self, h):
        return gated(self.inner(h), self.outer(h))

    def __call__(self, h):
        return h + self.through(h)


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        width = spec.channels
        width = hp.wide * width
        self.embed = nnx.Linear(spec.channels, width, rngs=rngs)
        parts = []
        for _ in range(2):
            parts.append(Part(width=width, rngs=rngs))
        self.parts = nnx.List(parts)
        self.drop = nnx.Dropout(hp.rate, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.head = nnx.Linear(2 * width, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for part in self.parts:
            h = part(h)
        h = self.norm(self.drop(h))
        return self.head(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))
'''


@cache
def program(source: str) -> Program:
    admitted = fingerprint.admit(load(RINGS), source, fingerprint.Seconds(), limits=False)
    assert isinstance(admitted, Program), admitted
    return admitted


@pytest.mark.parametrize("technique", [*TECHNIQUES, *OTHERS, "all"])
def test_respelling_passes_the_gate_and_changes_the_text(technique: str) -> None:
    rng = np.random.default_rng(0)
    sources = [HELPERS, *load(RINGS).baselines.values(), *(grammar.sample(load(RINGS), rng) for _ in range(10))]
    chosen = TECHNIQUES if technique == "all" else [technique]
    written = [respell(source, "Model", rng, chosen) for source in sources]
    assert not any(check(text, "Model").failures for text in written)
    changed = [structure(text) != structure(source) for text, source in zip(written, sources, strict=True)]
    assert any(changed) != (technique == "layout"), "layout changes no more than the layout"


def test_respelling_keeps_dependent_statements_in_order_and_renames_what_it_may() -> None:
    for seed in range(5):
        text = respell(HELPERS, "Model", np.random.default_rng(seed))
        assert program(text).fingerprint == program(HELPERS).fingerprint
        assert not {"gated", "Part", "embed", "parts", "inner", "through", "rate", "wide"} & set(_words(text))


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isidentifier() else " " for letter in text).split()


def test_numbers_find_a_respelling_equal_whatever_order_its_leaves_have() -> None:
    other = respell(HELPERS, "Model", np.random.default_rng(3))
    assert compare(Runner(program(HELPERS)), Runner(program(other))).verdict == "equal"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return h + self.through(h)", "return h - self.through(h)"),
        ("real(0.1, 0.3)", "real(0.1, 0.9)"),
        ("BatchNorm(width, rngs", "BatchNorm(width, momentum=0.5, rngs"),
        ("spec.classes, rngs", "spec.classes, kernel_init=nnx.initializers.normal(1.0), rngs"),
        ("for part in self.parts", "for part in (self.parts[0], self.parts[0])"),
    ],
)
def test_numbers_find_a_changed_program_different(old: str, new: str) -> None:
    assert old in HELPERS
    found = compare(Runner(program(HELPERS)), Runner(program(HELPERS.replace(old, new))))
    assert found.verdict == "different", found.reason


def test_pairs_are_counted_by_what_the_numbers_say() -> None:
    def pair(kind: str, equal: bool, numbers: str) -> fingerprint.Pair:
        return fingerprint.Pair(kind=kind, candidate=0, what="", equal=equal, numbers=numbers, reason="", source="")

    pairs = [
        *(pair("spelling", True, "equal") for _ in range(3)),
        *(pair("spelling", False, numbers) for numbers in ("equal", "different")),
        *(pair("mutant", True, numbers) for numbers in ("equal", "different", "undecided")),
        pair("mutant", False, "equal"),
    ]
    figures = fingerprint.counted(pairs, [], fingerprint.Seconds())
    assert figures["missed_share"] == 1 / 4
    assert figures["counts"] == {
        "wrongly_equal": 1, "undecided": 1, "missed": 1, "at_fault": 1, "same_by_numbers": 1,
    }  # fmt: skip


def tasks(*seconds: float, needs: dict[int, set[int]] | None = None) -> list[Replayed]:
    wanted = needs or {}
    return [
        Replayed(batches=[[length]], needs=frozenset(wanted.get(index, ()))) for index, length in enumerate(seconds)
    ]


@pytest.mark.parametrize("arrival", [False, True])
def test_one_worker_never_idles(arrival: bool) -> None:
    found = simulate(tasks(3.0, 1.0, 2.0, 5.0), 1, 1, arrival=arrival)
    assert found.wall_s == pytest.approx(11.0) and found.idle == pytest.approx(0.0)


def test_slots_wait_for_a_long_task_and_arrival_does_not() -> None:
    long_first = tasks(10.0, 1.0, 1.0, 1.0)
    assert simulate(long_first, 2, 1).wall_s == pytest.approx(11.0)  # slot 2 waits for slot 0
    assert simulate(long_first, 2, 2).wall_s == pytest.approx(11.0)  # slot 3 does
    assert simulate(long_first, 2, 3).wall_s == pytest.approx(10.0)
    assert simulate(long_first, 2, 1, arrival=True).wall_s == pytest.approx(10.0)


def test_a_task_is_not_decided_before_what_it_needs_is_known() -> None:
    chain = tasks(4.0, 1.0, 1.0, needs={1: {0}})
    assert simulate(chain, 2, 8).wall_s == pytest.approx(5.0)
    assert simulate(chain, 2, 8, arrival=True).wall_s == pytest.approx(5.0)


def test_batches_of_a_task_follow_each_other_and_jobs_of_one_run_side_by_side() -> None:
    task = Replayed(batches=[[1.0], [2.0, 2.0]], needs=frozenset())
    assert simulate([task], 2, 4).wall_s == pytest.approx(3.0)
    assert simulate([task], 1, 4).wall_s == pytest.approx(5.0)


def test_luck_is_the_expected_maximum_of_equal_trials() -> None:
    drawn = np.random.default_rng(0).normal(size=(20_000, 20)).max(axis=1).mean()
    assert searches.expected_maximum(20) == pytest.approx(drawn, abs=0.03)
    assert searches.expected_maximum(1) == 0.0


def test_moments_of_kills_are_drawn_in_order_and_repeat() -> None:
    drawn = kill.moments(100, 3.0, 10, seed=4)
    assert drawn == kill.moments(100, 3.0, 10, seed=4) != kill.moments(100, 3.0, 10, seed=5)
    assert drawn == sorted(drawn) and len(drawn) == 10
    assert all(0 <= moment.tasks < 100 and 0 <= moment.delay_s <= 3 for moment in drawn)


def test_processes_are_told_apart_and_not_taken_for_later_ones() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd="/")
    try:
        found = kill.processes(os.getpid())
        (mine,) = [one for one in found["tracer"] if one.pid == child.pid]  # in the root folder, as what is sealed is
        assert [one.pid for one in found["coordinator"]] == [os.getpid()] and mine.alive()
        assert not mine._replace(began=mine.began - 1).alive()
    finally:
        child.kill()
        child.communicate()
    assert not mine.alive()


def test_stores_that_differ_are_found_to_differ(tmp_path: Path) -> None:
    config = {"budget": 3, "metric": "accuracy"}
    for name, budget in (("one", 3), ("same", 3), ("other", 4)):
        Store.create(tmp_path / name, config | {"budget": budget}).close()
    assert kill.differences(tmp_path / "one", tmp_path / "same") == []
    ((one, other),) = kill.differences(tmp_path / "one", tmp_path / "other")
    assert '"budget": 3' in one and '"budget": 4' in other


def test_seconds_and_memory_of_a_command_and_its_children_are_measured(tmp_path: Path) -> None:
    work = "import time\nheld = b'x' * 200_000_000\nend = time.process_time() + 0.8\nwhile time.process_time() < end: 0"
    parent = f"import subprocess, sys\nprint('said')\nsys.exit(subprocess.call([sys.executable, '-c', {work!r}]) + 3)"
    found = measure([sys.executable, "-c", parent], tmp_path / "out", tmp_path / "err")
    assert found.status == 3 and (tmp_path / "out").read_text() == "said\n"
    assert found.cpu_s >= 0.8 and found.wall_s >= 0.5
    assert 200_000_000 <= found.proportional_bytes <= found.resident_bytes


@pytest.mark.parametrize("module", [searches, waiting])
def test_a_run_that_is_not_there_is_one_line_and_status_two(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main(["--runs", str(tmp_path / "nothing")]) == 2  # type: ignore[attr-defined]
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_searches_are_made_measured_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    options = ["--seeds", "0", "1", "--budget", "14", "--space", RINGS, "--results", str(tmp_path), "--json", str(file)]
    assert searches.main(options) == 0
    figures = json.loads(file.read_text())["figures"]
    assert [run["spent"] for run in figures["runs"]] == [14, 14]
    for run in figures["runs"]:
        assert run["gap"]["baseline"] in ("linear", "mlp") and run["gap"]["low"] < run["gap"]["high"]
        share = searches.overhead(run["cpu"])
        assert share is not None and 0 < share < 1
        assert sum(run["cpu"].values()) == pytest.approx(run["sessions"][0]["cpu_s"], rel=0.05)
    assert figures["headroom"]["candidates"] == 28
    assert searches.main(options) == 0
    assert capsys.readouterr().err.count("finished before") == 2


@pytest.mark.slow
def test_a_search_with_a_model_is_killed_twice_and_replayed_and_ends_equal(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--kills", "2", "--budget", "20", "--model", "--space", RINGS, "--folder", str(tmp_path / "runs")]
    assert kill.main([*options, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    assert figures["different_lines"] == 0 and figures["doubled"] == 0 and figures["kills"]
    assert figures["replay_different_lines"] == figures["answered_twice"] == 0 and figures["asked"]


@pytest.mark.slow
def test_any_process_of_a_search_is_killed_and_the_store_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--kills", "8", "--anyone", "--budget", "4", "--space", RINGS, "--folder", str(tmp_path / "runs")]
    assert kill.main([*options, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    assert len(figures["kills"]) == sum(kind["times"] for kind in figures["kinds"].values()) == 8
    assert sum(kind["times"] > 0 for kind in figures["kinds"].values()) >= 2
    assert not any(figures[key] for key in ("different_lines", "doubled", "left", "without_outcome", "never_gone"))


@pytest.mark.slow
def test_waiting_is_measured_and_replayed(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--budget", "5", "--space", RINGS, "--results", str(tmp_path), "--workers", "1", "4"]
    assert waiting.main([*options, "--json", str(file)]) == 0
    runs = json.loads(file.read_text())["figures"]["runs"]
    assert [run["order"] for run in runs] == ["slots", "arrival"]
    for run in runs:
        assert all(replay["idle"] < 0.01 for replay in run["replays"] if replay["workers"] == 1)


@pytest.mark.slow
def test_fingerprints_of_a_few_evolved_candidates(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert fingerprint.main(["--candidates", "4", "--space", RINGS, "--workers", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    assert figures["pairs"]["spelling"] == 4 and figures["counts"]["wrongly_equal"] == 0
