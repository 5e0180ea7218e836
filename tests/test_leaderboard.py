import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.cells import cell_len

from nas import leaderboard
from nas.judge.noise import seed_sigma
from nas.leaderboard import caption, main, summary, to_csv, to_json, to_markdown
from nas.records import Candidate, Choice, Failure, Point, Trial
from nas.standings import Records, board, rank, read, reference, samples
from nas.store import Entry, Score, Store, Task

STEPS = (250, 1000, 4000)
HOSTILE = "\x1b[31m[bold]=1+1[/bold]\u202e\x00 | `rm` <script>alert(1)</script> ![x](http://evil.example)\nsecond\u2028line\x9b2J"
CONFIG: dict[str, Any] = {
    "space": "mnist1d", "space_name": "mnist1d", "space_version": 1, "metric": "accuracy", "maximize": True,
    "decimals": 4, "ladder": {"steps": list(STEPS), "eta": 4, "draws": 3}, "budget": 24, "seed": 0, "lookahead": 16,
    "order": "slots", "workers": 2, "baseline_seeds": 3, "versions": {"jax": "0.10.2"}, "machine": {"cpus": 2},
    "name": "trial-run", "created": "2026-11-20T12:00:00Z",
}  # fmt: skip


def facts(params: int) -> dict[str, Any]:
    cost = {
        "params": params,
        "flops": 37 * params,
        "train_flops": 111 * params,
        "memory_bytes": 90 * params,
        "ops": 321,
    }
    return {
        "digest": f"d{params}",
        "fingerprint": f"{params:064x}",
        "param_leaves": 4,
        "cost": cost,
        "traits": [],
        "plan": {},
    }


class Writer:
    """Writes a run through the store, one task after another, as a search does."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.store = Store.create(folder, CONFIG | {"name": folder.name} | config)
        self.slot = self.trial = self.candidate = -1
        self.candidate = self.trial = 0

    def task(self, kind: str, candidate: int, **records: Any) -> int:
        self.slot += 1
        decision = {"tune": False} if kind == "first" else {}
        self.store.begin(Task(slot=self.slot, kind=kind, candidate=candidate, decision=decision), **records)
        return self.slot

    def finish(self, slot: int, scores: tuple[Score, ...] = (), **outcome: Any) -> None:
        self.store.finish(slot, outcome, {"cpu_s": 2.5, "wall_s": 3.0, "stages": {}}, scores)

    def propose(
        self, arm: str, operator: str = "", idea: str = "An idea.", parents: tuple[int, ...] = (), params: int = 2000,
        failure: Failure | None = None, source: str = '"""An idea."""\nx = 1\n',
    ) -> int:  # fmt: skip
        """A proposal and its admission."""
        self.candidate += 1
        tunables = {"kernel": Choice((3, 5))} if arm == "claude" else {}
        candidate = Candidate(
            id=self.candidate, source=source, idea=idea, arm=arm, operator=operator, parents=parents, tunables=tunables
        )
        entry = Entry(candidate=candidate, slot=self.slot + 1, failure=None, program=None)
        slot = self.task("admit", self.candidate, candidates=[entry])
        self.finish(slot)
        self.store.admit(self.candidate, failure, None if failure else facts(params + self.candidate))
        return self.candidate

    def draw(
        self, candidate: int, arm: str, scores: Mapping[int, float | Failure], lr: float = 0.02, seed: int = 0
    ) -> int:
        """A trial with what it measured by rung."""
        self.trial += 1
        recipe = {"lr": lr, "wd": 0.001}
        trial = Trial(id=self.trial, candidate=candidate, arm=arm, values={}, recipe=recipe, seed=seed or self.trial)
        slot = self.task("first", candidate, trials=[trial])
        self.finish(slot, tuple(score(self.trial, rung, slot, value) for rung, value in scores.items()))
        return self.trial


def score(trial: int, rung: int, slot: int, value: float | Failure) -> Score:
    if isinstance(value, Failure):
        return Score(trial=trial, rung=rung, slot=slot, point=None, failure=value)
    point = Point(step=STEPS[rung], train_loss=1.2 - value, loss=1.1 - value, score=value)
    return Score(trial=trial, rung=rung, slot=slot, point=point, failure=None, losses=(2.0, 1.5, 1.0))


DIVERGED = Failure(stage="train", rule="diverged", message="the loss is not finite after step 120; lower the scale")
SHAPE = Failure(
    stage="trace", rule="shape", line=2, message="output is (40, 10)\x1b[2J, expected (10,); pool over time"
)
IMPORT = Failure(stage="gate", rule="import", line=1, message="import of os is not allowed; remove it")


def write_run(folder: Path, **config: Any) -> Store:
    """A plausible run: baselines with seeds, four arms, three rungs, rejections, divergence, hostile text."""
    writer, rng = Writer(folder, **config), random.Random(7)
    for name, level in (("linear", 0.32), ("mlp", 0.68), ("cnn", 0.92), ("gru", 0.93)):
        ident = writer.propose("baseline", name, f"The baseline {name}.", params=1000)
        for lr in (0.001, 0.1):
            writer.draw(ident, "baseline", {0: level - 0.2}, lr=lr)
        for seed in (11, 12, 13):
            noise = [rng.gauss(0, 0.005) for _ in STEPS]
            writer.draw(ident, "baseline", {r: level - 0.05 * (2 - r) + noise[r] for r in range(3)}, lr=0.03, seed=seed)
    ideas = [
        "Gated dilated convolutions: the whole series in view for a third of the parameters.",
        HOSTILE,
        "",
        "Two 系列 in parallel.",
    ]
    for number in range(24):
        arm = ("random", "evolution", "evolution", "claude")[number % 4]
        parents = () if arm == "random" else (max(1, writer.candidate - 2),) if number % 3 else (4, writer.candidate)
        if number % 5 == 2:
            writer.propose(arm, "swap block", "Rejected.", parents, failure=(SHAPE, IMPORT)[number % 2])
        ident = writer.propose(arm, "insert conv", ideas[number % 4], parents, params=300 * 4 ** (number % 7))
        for draw in range(3):
            level = 0.75 + 0.15 * rng.random()
            climbed = {
                r: level + 0.04 * r
                for r in range((3 if number in (5, 9) else 2 if number % 4 == 1 else 1) if draw == 1 else 1)
            }
            writer.draw(ident, arm, climbed if number != 7 else {0: DIVERGED}, lr=10 ** rng.uniform(-3, -1))
    writer.draw(ident, "tune", {0: 0.9, 1: DIVERGED}, lr=0.015)
    return writer.store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trial-run"
    write_run(folder).close()
    return folder


def read_run(folder: Path) -> Records:
    with contextlib.closing(Store(folder)) as store:
        return read(store)


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return read_run(run)


def table(made: leaderboard.Board, width: int, top: int | None = 20) -> str:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        leaderboard.write_table(made, out, top)
    return out.getvalue()


def shown(run: Path, candidate: int) -> str:
    out = io.StringIO()
    leaderboard.write_candidate(read_run(run), candidate, out)
    return out.getvalue()


def change(records: Records, **fields: Any) -> Records:
    old = {name: getattr(records, name) for name in ("config", "tasks", "entries", "trials", "scores")}
    return Records(**old | fields)


# ---- rows


def test_baseline_is_the_mean_of_the_seeds_that_share_numbers(records: Records) -> None:
    (row,) = [row for row in rank(records) if row.name == "gru"]
    seeds = [t.id for t in records.trials if t.candidate == row.candidate and t.recipe["lr"] == 0.03]
    values = [s.point.score for s in records.scores if s.trial in seeds and s.rung == 2 and s.point]
    against = reference(records, 2)
    assert len(values) == row.seeds == 3 and row.score == pytest.approx(fmean(values))
    assert against is not None and row.error == pytest.approx(against.noise.sigma / math.sqrt(3))
    assert against.noise.degrees == 8 and against.name == "gru"


def test_rows_are_ordered_by_rung_then_score_and_name_each_candidate_once(records: Records) -> None:
    rows = rank(records)
    assert [(row.rung, row.score) for row in rows] == sorted(((row.rung, row.score) for row in rows), reverse=True)
    scored = {t.candidate for t in records.trials for s in records.scores if s.trial == t.id and s.point}
    assert sorted(row.candidate for row in rows) == sorted(scored)
    assert [row.rank for row in rows] == list(range(1, len(rows) + 1))


def test_candidate_stands_by_its_best_trial_at_its_highest_rung(records: Records) -> None:
    for row in rank(records):
        if row.arm != "baseline":
            mine = {t.id for t in records.trials if t.candidate == row.candidate}
            points = [(s.rung, s.point.score) for s in records.scores if s.trial in mine and s.point]
            assert (row.rung, row.score) == max(points)


def test_lower_is_better_turns_order_and_delta(records: Records) -> None:
    rows = rank(change(records, config={**records.config, "maximize": False}))
    assert [(-row.rung, row.score) for row in rows] == sorted((-row.rung, row.score) for row in rows)
    best = next(row for row in rows if row.name == "linear")
    assert best.delta == 0 and math.copysign(1, best.delta) == 1
    assert all(row.delta is None or (row.delta > 0) == (row.score < best.score) for row in rows if row.rung == 2)


def test_delta_is_in_sigmas_of_the_baselines_at_the_same_rung(records: Records) -> None:
    row = next(row for row in rank(records) if row.rung == 1)
    baselines = [e.candidate.id for e in records.entries if e.candidate.arm == "baseline"]
    groups = [
        [s.point.score for t in records.trials for s in records.scores
         if t.candidate == b and s.trial == t.id and s.rung == 1 and s.point]
        for b in baselines
    ]  # fmt: skip
    noise = seed_sigma(groups)
    assert noise is not None
    assert row.delta == pytest.approx((row.score - max(map(fmean, groups))) / noise.sigma)


def test_delta_is_missing_where_no_baseline_has_several_seeds(records: Records) -> None:
    kept = [s for s in records.scores if s.rung < 2 or s.trial not in (4, 5, 9, 10, 14, 15, 19, 20)]
    found = board(change(records, scores=kept))
    assert all((row.delta is None) == (row.rung == 2) for row in found.rows)
    assert "nothing to compare it with" in summary(found) and "unconfirmed" in summary(found)
    assert "–" in table(found, 80)


def test_baseline_with_one_seed_is_no_reference(records: Records) -> None:
    kept = [s for s in records.scores if s.rung < 2 or s.trial not in (19, 20)]
    found = reference(change(records, scores=kept), 2)
    assert found is not None and found.name == "cnn" and found.noise.degrees == 6


def test_scores_that_are_not_numbers_have_no_row(records: Records) -> None:
    broken = [score(s.trial, s.rung, s.slot, math.nan) for s in records.scores]
    assert rank(change(records, scores=broken)) == ()


# ---- caption


def test_summary_compares_and_does_not_claim(records: Records) -> None:
    found = board(records)
    best = next(row for row in found.rows if row.arm != "baseline")
    text = summary(found)
    assert f"best candidate {best.candidate}: {best.score:.4f}" in text and "ahead of the best baseline gru" in text
    assert f"({best.delta:.1f}σ of a seed)" in text
    assert text.endswith(f"one seed, chosen as the best of {sum(r.arm != 'baseline' for r in found.rows)}: unconfirmed")


def test_summary_says_who_is_behind_where_lower_is_better(records: Records) -> None:
    found = board(change(records, config={**records.config, "maximize": False}))
    best, against = next(row for row in found.rows if row.arm != "baseline"), found.references[2]
    assert best.score > against.score
    assert f"is {best.score - against.score:.4f} (" in summary(found) and "σ of a seed) behind the best" in summary(
        found
    )


def test_caption_counts_rejections_failures_and_arms(records: Records) -> None:
    text = "\n".join(caption(board(records)))
    assert "rejected 5: trace/shape 3, gate/import 2" in text
    assert "failed trials 4: train/diverged 4" in text
    assert "tune 1 draws" in text and "random 7 (1 rejected), 18 draws" in text
    assert re.search(r"evolution [+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", text)
    assert "search score, unconfirmed" in text


def test_spent_counts_admitted_candidates_without_baselines(records: Records) -> None:
    assert board(records).spent == 24


def test_draws_of_the_tune_arm_are_compared_as_its_own(records: Records) -> None:
    arms = [sample.arm for sample in samples(records)]
    assert arms.count("tune") == 1 and "baseline" not in arms and len(arms) == 24 * 3 + 1


def test_draws_that_the_machine_lost_are_not_held_against_an_arm(records: Records) -> None:
    lost = Failure(stage="machine", rule="lost", message="its process died", blame="machine")
    scores = [score(s.trial, 0, s.slot, lost if number % 2 else 0.5) for number, s in enumerate(records.scores)]
    found = samples(change(records, scores=scores))
    assert found and all(sample.score == 0.5 for sample in found)


# ---- formats


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_table_fits_the_terminal(records: Records, width: int) -> None:
    lines = table(board(records), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert any("evolution" in line and "●●●" in line for line in lines)


def test_table_of_80_columns_has_whole_headings_and_names(records: Records) -> None:
    lines = table(board(records), 80).splitlines()
    header = next(line for line in lines if "idea or name" in line)
    assert header.split() == ["#", "id", "idea", "or", "name", "arm", "rung", "score", "n", "Δσ", "params"]
    assert "params  FLOPs  front      lr" in table(board(records), 140)


def test_top_keeps_the_baselines_and_says_what_is_missing(records: Records) -> None:
    text = table(board(records), 80, top=1)
    assert sum(" baseline " in line and "●●●" in line for line in text.splitlines()) == 4
    assert "22 more candidates are not shown" in text
    assert "not shown;" not in table(board(records), 80, top=None)
    assert len(json.loads(to_json(board(records), 2))["rows"]) == 6


def test_front_is_marked_and_its_area_said(records: Records) -> None:
    made = board(records)
    plain = json.loads(to_json(made))
    rows = {row["candidate"]: row for row in plain["rows"]}
    sizes = {c: row["params"] for c, row in rows.items() if row["rung"] == 2}
    for candidate, size in sizes.items():
        better = [c for c in sizes if sizes[c] <= size and rows[c]["search_score"] > rows[candidate]["search_score"]]
        assert ("params" in rows[candidate]["front"]) == (not better)
    (top,) = [one for one in plain["fronts"] if (one["steps"], one["measure"]) == (STEPS[2], "params")]
    assert top["hypervolume"] == top["growth"][-1][2] > top["hypervolume_of_baselines"] > 0
    assert f"hypervolume {top['hypervolume']:.4f}, of the baselines alone" in "\n".join(caption(made))


def test_area_of_a_front_counts_the_search_in_its_order(records: Records) -> None:
    for one in board(records).front:
        areas = [one.baselines, *(area for _, _, area in one.growth)]
        assert areas == sorted(set(areas)) and [n for n, _, _ in one.growth] == sorted({n for n, _, _ in one.growth})
        assert one.results >= len(one.growth)


def test_rungs_are_compared_without_baselines_and_machine_failures(records: Records) -> None:
    pairs = {(one.lower, one.upper): one for one in board(records).proxy}
    owners = {trial.id: trial for trial in records.trials if trial.arm != "baseline"}
    both = {s.trial for s in records.scores if s.rung == 1 and s.point} & owners.keys()
    assert pairs[0, 1].trials == len(both) and pairs[0, 1].candidates == len({owners[t].candidate for t in both})
    assert pairs[0, 1].failed == 1, "the draw of the tune arm diverged at the second rung"
    machine = Failure(stage="machine", rule="lost", message="lost", blame="machine")
    lost = [dataclasses.replace(s, failure=machine) if s.failure else s for s in records.scores]
    assert board(change(records, scores=lost)).proxy[0].failed == 0


def test_caption_says_how_far_each_rung_can_be_trusted(records: Records) -> None:
    text = "\n".join(caption(board(records)))
    assert "250 → 1,000 steps: τ " in text and "250 → 4,000 steps: τ ?" in text
    assert "whether 1,000 steps can be pruned on is not known: too few candidates" in text
    assert "no two trials of the search have scores at two rungs" in "\n".join(
        caption(board(change(records, scores=[])))
    )


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json", "show"])
def test_hostile_text_does_nothing(run: Path, form: str) -> None:
    made = board(read_run(run))
    text = {"table": table(made, 120), "markdown": to_markdown(made), "csv": to_csv(made), "json": to_json(made),
            "show": shown(run, 11) + shown(run, 7)}[form]  # fmt: skip
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
    assert "[bold]=1+1" in text.replace("\\", "")
    if form == "markdown":
        assert "<script" not in text and "http://" not in text and not re.search(r"(?<!\\)[`\[]", text)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {16}


@pytest.mark.parametrize("idea", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\x00=1"])
def test_csv_holds_no_formula(records: Records, idea: str) -> None:
    entries = [Entry(candidate=Candidate(id=e.candidate.id, source="", idea=idea, arm=e.candidate.arm, operator=idea),
                     slot=e.slot, failure=None, program=None) for e in records.entries]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(board(change(records, entries=entries))))))
    assert len(rows) == 27 and all(row["name"][0] == "'" for row in rows)


def test_csv_has_fixed_digits_and_all_rows(records: Records) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(board(records)))))
    assert len(rows) == 27 and all(re.fullmatch(r"\d\.\d{4}", row["search_score"]) for row in rows)
    assert rows[0]["parents"] == "4 15" and all(row["delta_sigmas"] for row in rows)


def test_csv_says_how_candidates_were_locked_in_every_row(records: Records) -> None:
    def said(of: Records) -> set[str]:
        rows = list(csv.DictReader(io.StringIO(to_csv(board(of)))))
        assert len(rows) == 27
        return {row["sandbox"] for row in rows}

    assert said(records) == {""}  # of an earlier version
    strict = {**records.config, "sandbox": "strict"}
    assert said(change(records, config=strict)) == {"strict"}
    content = {"mode": "auto", "missing": "files (ENOSYS)"}
    first = {"slot": 0, "id": "1", "kind": "sandbox", "author": "", "time": "", "content": content}
    begun = change(records, config={**strict, "sandbox": "auto"}, messages=[first])
    assert said(begun) == {"auto without files (ENOSYS)"}


def test_equal_runs_print_the_same_bytes(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "trial-run", created="2027-01-01T00:00:00Z", machine={"cpus": 64}).close()
    first, second = board(read_run(run)), board(read_run(tmp_path / "trial-run"))
    for form in (to_markdown, to_csv, to_json):
        assert form(first) == form(second)


def test_long_name_keeps_its_end_where_a_child_says_what_it_changed(records: Records) -> None:
    ours = next(row.candidate for row in board(records).rows if row.arm != "baseline")
    idea = "Random: convolve and pool, separable convolution, residual squeeze and excite; then kernel 5 to 3."
    entries = [
        dataclasses.replace(e, candidate=dataclasses.replace(e.candidate, idea=idea)) if e.candidate.id == ours else e
        for e in records.entries
    ]
    line = next(line for line in table(board(change(records, entries=entries)), 80).splitlines() if "Random:" in line)
    assert "…" in line and "kernel 5 to 3." in line and cell_len(line.rstrip()) <= 80


def test_size_is_that_of_the_trial_that_has_the_score(records: Records) -> None:
    """Tunables may change the program, so a candidate has as many sizes as it has trials."""
    before = next(row for row in board(records).rows if row.arm != "baseline")
    own = {"programs": {str(before.trial): {"program": {"cost": {"params": 77_777, "flops": 88_888}}}}}
    first, *others = records.tasks
    made = board(change(records, tasks=[dataclasses.replace(first, outcome={**(first.outcome or {}), **own}), *others]))
    row = next(row for row in made.rows if row.candidate == before.candidate)
    assert (row.params, row.flops) == (77_777, 88_888) != (before.params, before.flops)
    (front,) = [one for one in made.front if (one.rung, one.measure) == (row.rung, "params")]
    assert front.sizes[row.candidate] == 77_777
    assert all(size == 77_777 for candidate, size, _ in front.points if candidate == row.candidate)


def test_no_color_is_honoured(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m" in table(board(records), 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36m" not in table(board(records), 80)


# ---- one candidate


def test_show_prints_idea_program_trials_source_and_lineage(run: Path) -> None:
    text = shown(run, 16)
    assert "candidate 16 evolution · insert conv · 0.9529 at 4,000 steps" in text
    assert "4,816 parameters" in text and "   2  x = 1" in text and "lr=0.0535" in text
    made_from = text[text.index("made from") :]
    assert "4 baseline · gru" in made_from and "15 random · insert conv" in made_from
    curve = re.findall(r"(250|1,000|4,000) +\d\.\d{4} +\d\.\d{4} +\d\.\d{4}", text)
    assert curve == ["250", "250", "1,000", "4,000", "250"]


def test_show_goes_back_to_the_roots_and_on_to_the_children(run: Path) -> None:
    text = shown(run, 12)
    assert text.index("  11 evolution") < text.index("    8 evolution") < text.index("      4 baseline · gru")
    assert text.count(", see above") == 1
    assert "made from it\n  12 evolution" in shown(run, 11)


def test_show_of_a_rejected_candidate_marks_the_line_and_gives_the_remedy(run: Path) -> None:
    text = shown(run, 7)
    assert "rejected: trace/shape line 2: output is (40, 10), expected (10,); pool over time" in text
    assert ">   2  x = 1" in text and "no trials" in text


def test_show_numbers_lines_as_python_does_and_keeps_their_spaces(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.propose("random", source='"""A\x0cB."""\r\nif x:\n\ty  =  1\x1b[2J # \u202ehidden\n')
    text = shown_and_closed(writer, tmp_path / "run")
    assert text.endswith('source\n    1  """A B."""\n    2  if x:\n    3      y  =  1 # hidden\n')


def test_show_gives_the_failure_of_a_trial(run: Path) -> None:
    records = read_run(run)
    candidate = next(t.candidate for t in records.trials for s in records.scores if s.trial == t.id and s.failure)
    assert "failed before 250 steps: train/diverged: the loss is not finite" in " ".join(shown(run, candidate).split())


def test_show_gives_the_failure_of_drawn_values_that_do_not_trace(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    ident = writer.propose("claude")
    writer.trial = 1
    trial = Trial(id=1, candidate=ident, arm="tune", values={"kernel": 9}, recipe={"lr": 0.1, "wd": 0.1}, seed=1)
    slot = writer.task("first", ident, trials=[trial])
    failure = {"stage": "trace", "rule": "shape", "message": "too wide", "line": None, "blame": "candidate"}
    writer.finish(slot, programs={"1": {"failure": failure}})
    assert "trial 1 gave no program: trace/shape: too wide" in shown_and_closed(writer, tmp_path / "run")
    assert board(read_run(tmp_path / "run")).failed == {"trace/shape": 1}


def shown_and_closed(writer: Writer, folder: Path) -> str:
    writer.store.close()
    return shown(folder, 1)


# ---- states and the command line


def empty(writer: Writer) -> None:
    pass


def only_failures(writer: Writer) -> None:
    writer.propose("random", failure=SHAPE)
    writer.propose("baseline", "gru", failure=IMPORT)
    writer.draw(writer.propose("random"), "random", {0: DIVERGED})


def running(writer: Writer) -> None:
    ident = writer.propose("random")
    trial = Trial(id=1, candidate=ident, arm="random", values={}, recipe={"lr": 0.1, "wd": 0.1}, seed=1)
    writer.task("first", ident, trials=[trial])


def one_trial(writer: Writer) -> None:
    writer.draw(writer.propose("random"), "random", {0: 0.5})


STATES = {
    empty: ("no candidate has a score yet", "rejected none"),
    only_failures: ("no candidate has a score yet", "rejected 2: gate/import 1, trace/shape 1"),
    running: ("no candidate has a score yet", "not finished: 1 tasks run or were cut off"),
    one_trial: ("best candidate 1: 0.5000 at 250 steps", "not shown (too few candidates)"),
}


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_every_state_of_a_run_gives_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: Any, form: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    writer = Writer(tmp_path / "run")
    state(writer)
    assert main(["--results", str(tmp_path), "--format", form]) == 0  # the writer still holds the run
    writer.store.close()
    out, err = capsys.readouterr()
    assert not err
    if form == "csv":
        assert out.startswith("rank,candidate,name")
    else:
        assert all(text in out for text in STATES[state])


def lose_the_database(folder: Path) -> None:
    (folder / "run.db").unlink()


def overwrite_the_database(folder: Path) -> None:
    (folder / "run.db").write_bytes(b"this is no database, whatever it is called" * 100)


def empty_the_database(folder: Path) -> None:
    (folder / "run.db").write_bytes(b"")


def tear_the_configuration(folder: Path) -> None:
    (folder / "run.json").write_text('{"space_name": "mni')


def forget_the_configuration(folder: Path) -> None:
    (folder / "run.json").write_text("{}")


def replace_the_configuration(folder: Path) -> None:
    (folder / "run.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage",
    [lose_the_database, overwrite_the_database, empty_the_database, tear_the_configuration, forget_the_configuration,
     replace_the_configuration],
)  # fmt: skip
def test_unreadable_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any) -> None:
    Writer(tmp_path / "run").store.close()
    damage(tmp_path / "run")
    assert_one_line(["--results", str(tmp_path)], capsys, "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "the latest there: trial-run"),
        (["--show", "999"], "ids go from 1 to 33"),
        (["--show", "0"], "ids go from 1 to 33"),
        (["--show", "gru"], "'gru'"),
        (["--show", "1", "--format", "csv"], "leave out --format"),
        (["--records", "--format", "json"], "--records prints text only, not json; leave out --format"),
        (["--confirm", "0"], "nas.leaderboard: --confirm 0: give 1 or more"),
        (["--confirm", "1", "--workers", "0"], "nas.leaderboard: --workers 0: give 1 or more"),
        (["--format", "html"], "'markdown'"),
        (["--top", "0"], "give one from 1, or 'all'"),
        (["--top", "-1"], "give one from 1, or 'all'"),
        (["--top", "many"], "'many'"),
        (["--what\x1b[2J"], "--what"),
        (["trial-run", "another"], "another"),
    ],
)
def test_usage_error_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert_one_line([*arguments, "--results", str(run.parent)], capsys, said)


def assert_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str], said: str) -> None:
    try:
        status: Any = main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2 and not out
    assert err.startswith("nas.leaderboard: ") and err.count("\n") == 1 and said in err and "\x1b" not in err


def test_no_run_at_all_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_one_line(["--results", str(tmp_path)], capsys, "python -m nas.search")


def test_run_is_found_by_name_by_folder_and_as_the_latest(run: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "middle")):
        Writer(tmp_path / name).store.close()
        for file in ("run.json", "run.db"):
            os.utime(tmp_path / name / file, (1000 + (5, 20, 10)[number], 1000 + (5, 20, 10)[number]))
    assert leaderboard.find_run(None, tmp_path) == tmp_path / "new"
    os.utime(tmp_path / "old" / "run.db", (2000, 2000))
    assert leaderboard.find_run(None, tmp_path) == tmp_path / "old"
    assert leaderboard.find_run("middle", tmp_path) == tmp_path / "middle"
    assert leaderboard.find_run(str(run), tmp_path) == run


def test_module_is_light_and_survives_a_closed_pipe(run: Path) -> None:
    code = (
        "import sys; from nas.leaderboard import main; status = main(sys.argv[1:]);"
        "heavy = {'jax', 'flax', 'optax', 'optuna', 'scipy'} & set(sys.modules); sys.exit(f'{status} {heavy}')"
    )
    command = [sys.executable, "-c", code, "--results", str(run.parent), "--format", "csv"]
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": ""}  # the pipe is noticed at the flush
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writer)
    assert ended.stderr == "0 set()\n"


def test_database_that_is_gone_is_said_to_be_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Writer(tmp_path / "run").store.close()
    lose_the_database(tmp_path / "run")
    assert_one_line(["--results", str(tmp_path)], capsys, "has no run.db")


def test_space_that_is_gone_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", space="/nowhere/space.py").close()
    assert_one_line(["--results", str(tmp_path), "--confirm", "1"], capsys, "there is no file /nowhere/space.py")


def test_folder_that_may_not_be_entered_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", locked)  # permissions bind everybody but root, who may run this
    assert_one_line([str(tmp_path), "--results", str(tmp_path)], capsys, "run.json' cannot be read (Permission denied)")


def test_confirmation_that_was_stopped_prints_the_table_and_ends_as_interrupted(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.confirm.confirm_run", lambda *_: False)
    assert main([str(run), "--confirm", "1"]) == 130
    assert "trial-run" in capsys.readouterr().out

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.confirm.confirm_run", interrupted)
    assert main([str(run), "--confirm", "1"]) == 130
    assert capsys.readouterr().err == "nas.leaderboard: interrupted; nothing that was stored is lost\n"
