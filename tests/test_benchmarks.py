"""The benchmarks run and say what they measured; how fast anything is, is not tested."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jax.errors import JaxRuntimeError

from benchmarks import accelerator, behind_wall, published, report, unlimited
from nas.admit import Flow
from nas.admit.gate import check
from nas.estimate import trainings
from nas.execute import Event, Job
from nas.search_spaces.byte_lm.space import flops
from nas.search_spaces.mnist1d.space import SPACE
from nas.space import load, read_sources

ROOT = Path(behind_wall.__file__).parents[1]


def run(program: str, folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """A benchmark as a person runs it: what it prints, and its JSON."""
    file = folder / "figures.json"
    command = [sys.executable, "-m", f"benchmarks.{program}", "--json", str(file), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, json.loads(file.read_text("utf-8"))


def test_frozen_candidates_pass_the_gate() -> None:
    sources = read_sources(behind_wall.CANDIDATES)
    assert len(sources) == len(set(sources.values())) == 24
    assert not [name for name, source in sources.items() if check(source, SPACE.scope).failures]


def test_networks_pass_the_gate() -> None:
    assert not [name for name, source in unlimited.NETWORKS.items() if check(source, "Model").failures]


def test_published_test_examples_are_none_of_the_training_examples() -> None:
    plain, shuffled = (published.published_test(shuffled=value) for value in (False, True))
    train = SPACE.task.split("train")
    assert plain.inputs.shape == (1000, 40, 1)
    assert not {row.tobytes() for row in train.inputs} & {row.tobytes() for row in plain.inputs}
    assert (plain.targets == shuffled.targets).all() and not (plain.inputs == shuffled.inputs).all()


def test_flows_side_by_side_each_get_their_own_events_in_order() -> None:
    class Backwards:
        """Ends the jobs that were submitted last first, one a poll."""

        def __init__(self) -> None:
            self.jobs: list[Job] = []

        def submit(self, job: Job) -> None:
            self.jobs.append(job)

        def poll(self, timeout_s: float = 0.0) -> list[Event]:
            return [Event(job_id=self.jobs.pop().id, kind="done")]

    def flow(name: str, waves: int) -> Flow[list[str]]:
        got = []
        for wave in range(waves):
            events = yield [Job(id=f"{name}.{wave}.{part}", entry="", payload={}) for part in range(2)]
            got += [event.job_id for event in events]
        return got

    heard: list[Event] = []
    made = behind_wall.drive_all(Backwards(), [flow("a", 2), flow("b", 1), flow("c", 0)], heard.append)  # type: ignore
    assert made == [["a.0.0", "a.0.1", "a.1.0", "a.1.1"], ["b.0.0", "b.0.1"], []]
    assert len(heard) == 6


def test_table_puts_columns_under_each_other() -> None:
    lines = report.table(["name", "s"], [["long name", 1.234], ["b", None]]).splitlines()
    assert lines == ["name          s", "---------  ----", "long name  1.23", "b"]


def test_difference_from_the_table_is_explained_by_parts_that_add_up() -> None:
    fixed = {"network": "mlp", "shuffled": False, "table": 68.0, "logged": 65.0}
    ours = fixed | {"recipe": "ours", "published_test": 62.0, "difference": -6.0}
    control = fixed | {"recipe": "authors'", "published_test": 66.5, "difference": -1.5}
    numbers = [float(part) for part in re.findall(r"[+-]\d+\.\d", published._explanation(ours, control))]
    assert numbers == [-6.0, -4.5, 1.5, -3.0]


def test_step_prints_a_ratio(tmp_path: Path) -> None:
    printed, made = run("step", tmp_path, "--networks", "mlp", "--repeats", "2", "--seconds", "0.01")
    assert "mlp" in printed and made["figures"]["mlp"]["cpu_ratio"]["median"] > 0
    assert made["machine"] and made["versions"]["jax"]


def test_published_trains_on_both_recipes(tmp_path: Path) -> None:
    options = ["--networks", "linear", "--tasks", "plain", "--seeds", "1", "--steps", "300", "--rates", "0.03", "0.1"]
    printed, made = run("published", tmp_path, *options)
    assert "linear (ours)" in printed and "linear (authors')" in printed
    assert all(row["fresh_test"] > 20 for row in made["figures"]["rows"])
    assert len(made["figures"]["runs"]) == 3


@pytest.mark.slow
def test_throughput_accounts_for_all_cpu_seconds(tmp_path: Path) -> None:
    sizes = ["--candidates", "2", "--steps", "20", "--examples", "2000", "--rounds", "1"]
    printed, made = run("throughput", tmp_path, *sizes)
    assert "three draws" in printed
    for side in ("one draw", "three draws"):
        found = made["figures"][side]
        assert not found["failures"]
        stages = found["stages_cpu_s_per_candidate"]
        assert sum(stages.values()) == pytest.approx(found["cpu_s_per_candidate"][0])
        assert min(stages.values()) >= 0
    assert made["figures"]["three draws"]["trials"] == 6


def test_program_size_prints_how_the_check_grows(tmp_path: Path) -> None:
    text, found = run("program_size", tmp_path, "--layers", "1", "4")
    first, second = found["figures"]["rows"]
    assert second["kib"] > first["kib"] and first["growth"] is None and second["growth"] is not None
    assert text.splitlines()[0].split() == ["layers", "kib", "trace_s", "check_s", "growth"]


def test_search_on_a_gpu_fits_into_its_time() -> None:
    """On paper: with the formula for FLOPs, at an eighth of what a current GPU reaches in half precision."""
    script = (ROOT / "benchmarks" / "gpu.sh").read_text("utf-8")
    limits = {name: int(seconds) for seconds, name in re.findall(r"(?m)^ *run (\d+) (\w+) ", script)}
    assert sum(limits.values()) <= 600
    trials = re.search(r"TRIALS:-(\d+)", script)
    found, gpu = load(str(ROOT / "benchmarks" / "gpu_space.py")), load("byte_lm?size=gpu")
    same = ("spec", "recipe", "contract", "scope", "version")
    assert all(getattr(found, name) == getattr(gpu, name) for name in same) and found.name != gpu.name
    assert list(found.baselines) == ["attention"] and "--space benchmarks/gpu_space.py" in script and trials
    counts, before = trainings(found.ladder, int(trials[1])), (0, *found.ladder.steps)
    of_trials = sum(n * (b - a) for n, a, b in zip(counts, before, found.ladder.steps, strict=False))
    steps = of_trials + found.ladder.steps[0] + found.baseline_seeds * found.ladder.steps[-1]
    assert counts[0] >= 10 and 3 * flops(found.spec) * found.recipe.batch * steps < 1e14 * limits["search"] / 4


SMALLEST = ["--space", "mnist1d", "--baseline", "linear"]


def seeds_that_fail(monkeypatch: pytest.MonkeyPatch, fails: dict[int, BaseException]) -> None:
    """Of `benchmarks.accelerator` only the seeds at once are left, and of those what measures them."""

    def fastest(function: Any, arguments: Any, repeats: int) -> float:
        count = len(arguments[2])
        if count in fails:
            raise fails[count]
        return 0.25 * (count + 1)

    step = {"step_s": 1.0, "share": 0.5, "ready_s": 1.0, "compile_s": 1.0}
    monkeypatch.setattr(accelerator, "ceiling", lambda dtype: {"flops_per_s": 1.0})
    monkeypatch.setattr(accelerator, "step", lambda *_: step)
    monkeypatch.setattr(accelerator, "_fastest", fastest)


def test_seeds_that_do_not_fit_are_recorded_beside_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.json"
    seeds_that_fail(monkeypatch, {2: JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 1 GiB")})
    assert accelerator.main([*SMALLEST, "--seeds", "1", "2", "3", "--json", str(file)]) == 0
    seeds = json.loads(file.read_text("utf-8"))["figures"]["seeds"]
    assert seeds["2"] == {"error": "RESOURCE_EXHAUSTED: Out of memory allocating 1 GiB"}
    assert (seeds["1"]["per_seed"], seeds["3"]["per_seed"]) == (1.0, pytest.approx(2 / 3))
    assert "2 seeds at once" in (printed := capsys.readouterr().out) and "RESOURCE_EXHAUSTED" in printed


def test_figures_so_far_are_kept_when_a_later_part_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "made.json"
    seeds_that_fail(monkeypatch, {3: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        accelerator.main([*SMALLEST, "--seeds", "2", "3", "--json", str(file)])
    figures = json.loads(file.read_text("utf-8"))["figures"]
    assert set(figures) == {"device", "ceiling", "step", "seeds"}
    assert figures["seeds"] == {"2": {"step_s": 0.75, "per_seed": None}}  # of one seed nothing is known


def test_memory_compares_what_is_counted_with_what_is_taken(tmp_path: Path) -> None:
    _, found = run("memory", tmp_path, "--space", "mnist1d", "--only", "linear")
    (row,) = found["figures"]["rows"]
    assert row["taken"] > 0 and row["counted"] > 0 and row["ratio"] > 0
