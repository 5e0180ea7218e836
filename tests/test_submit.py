"""The board across runs: what an entry holds, that its folder alone shows what was changed, and one run's history."""

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.across import check, to_markdown
from nas.improvements import improvements, write_improvements
from nas.judge.belief import BASELINE_SEEDS, SEEDS
from nas.records import Candidate, Failure, Point, Retraining, Trial, baseline_seed, finalist_seed
from nas.space import digest, load
from nas.standings import Records, board, read
from nas.store import Entry, Score, Store, Task
from nas.submit import entry_files, main, submit
from nas.submitted import EntryError, parse, problems, read_entry

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
SPACE = load(RINGS)
HOSTILE = "Wide\x1b[31m | <script>alert(1)</script> ![x](http://evil.example) `rm`\u202e @everybody"
EXAMPLES, TOP = 400, len(SPACE.ladder.steps) - 1
LEVELS = {"linear": 0.50, "mlp": 0.62}
FINALISTS = {3: 0.80, 4: 0.70, 5: 0.90, 6: 0.55}
"""True scores by candidate; the last is ruled out after two seeds. Candidate 7 is not confirmed."""
DIVERGED = Failure(stage="train", rule="diverged", message="the loss is not finite; lower the learning rate")
SOURCE = '"""An idea."""\nfrom nas.api import nnx\n\n\nclass Model(nnx.Module):\n    width = {width}\n'


def write_run(
    folder: Path, run_seed: int = 0, *, lost: tuple[int, int] | None = None, skipped: tuple[int, int] | None = None,
    params: int = 100,
) -> Path:  # fmt: skip
    """A run that was confirmed, without training: scores are drawn.

    Args:
      folder: of the run.
      run_seed: the search's seed.
      lost: candidate and place of a fresh seed that diverged.
      skipped: candidate and place of a fresh seed that was never trained.
      params: of every candidate.
    """
    space = {"space": RINGS, "space_name": "rings", "space_version": 1, "space_digest": digest(SPACE)}
    ladder = {"steps": list(SPACE.ladder.steps), "eta": 3, "draws": 2}
    about = {"metric": "accuracy", "maximize": True, "decimals": 4, "ladder": ladder, "budget": 5, "seed": run_seed}
    device = {"processor": "A processor", "system": "Linux", "python": "3.11.7", "instructions": ["avx2"], "workers": 2}
    config = {**space, **about, "versions": {"jax": "0.10.2"}, "machine": device, "name": folder.name, "created": "now"}
    rows: list[Retraining] = []
    store, rng = Store.create(folder, config), np.random.default_rng(run_seed)
    ease = np.random.default_rng(5).normal(0, 0.15, EXAMPLES)  # of the test split's examples, the same for all
    people = [("baseline", name, level) for name, level in LEVELS.items()]
    people += [("evolution", "insert", level) for level in (*FINALISTS.values(), 0.5)]
    for number, (arm, operator, level) in enumerate(people, 1):
        candidate = Candidate(
            id=number, source=SOURCE.format(width=number), idea=HOSTILE if number == 4 else f"Idea {number}.", arm=arm,
            operator=operator, parents=(number - 1,) if number > 3 else (),
        )  # fmt: skip
        cost = {"params": params, "flops": 30, "train_flops": 90, "memory_bytes": 4000, "ops": 9}
        trial = Trial(id=number, candidate=number, arm=arm, values={}, recipe={"lr": 0.01, "wd": 0.001}, seed=number)
        entry = Entry(candidate=candidate, slot=number, failure=None, program=None)
        store.begin(Task(slot=number, kind="first", candidate=number, decision={}), [entry], [trial])
        program = {"digest": f"d{number}", "fingerprint": f"f{number}", "cost": cost, "traits": [], "plan": {}}
        store.admit(number, None, program)
        score = Score(trial=number, rung=TOP, slot=number, point=_point(level + 0.02), failure=None)
        store.finish(number, {}, {"cpu_s": 2.0, "wall_s": 3.0, "stages": {}}, [score])
        if number <= 6:
            count = BASELINE_SEEDS if arm == "baseline" else 2 if number == 6 else SEEDS
            for place in range(count):
                if (number, place) == skipped:
                    continue
                row = _seed(store, candidate, place, level + rng.normal(0, 0.01), ease, rng, run_seed)
                if (number, place) == lost:
                    store.test_path(number, place).unlink()
                    row = dataclasses.replace(row, point=None, test=None, failure=DIVERGED)
                rows.append(row)
    store.retrain(rows)
    store.close()
    return folder


def _point(score: float) -> Point:
    return Point(step=SPACE.ladder.steps[-1], train_loss=0.5, loss=0.5, score=score)


def _seed(
    store: Store, candidate: Candidate, place: int, level: float, ease: np.ndarray, rng: np.random.Generator,
    run_seed: int,
) -> Retraining:  # fmt: skip
    scores = (rng.random(EXAMPLES) < level + ease).astype(np.float32)
    path = store.test_path(candidate.id, place)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, scores=scores)
    baseline = candidate.arm == "baseline"
    chosen = baseline_seed("rings", candidate.operator, place)
    return Retraining(
        candidate=candidate.id, purpose="seeds", place=place, rung=TOP, values={}, recipe={"lr": 0.01, "wd": 0.001},
        seed=chosen if baseline else finalist_seed(run_seed, candidate.id, place), point=_point(level),
        test={"score": float(scores.mean(dtype=np.float64)), "loss": 0.5, "examples": EXAMPLES},
        usage={"cpu_s": 1.0, "wall_s": 1.5},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return read(Store(run))


@pytest.fixture(scope="module")
def boards(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three entries of two runs stand."""
    made = tmp_path_factory.mktemp("boards")
    for candidate in (5, 4):
        submit(run, candidate, made)
    submit(write_run(run.parent / "second", 1), 3, made)
    return made


@pytest.fixture
def folder(boards: Path, tmp_path: Path) -> Path:
    """A copy of the folder of these entries, to be spoiled."""
    shutil.copytree(boards / "rings@1", tmp_path / "rings@1")
    return tmp_path / "rings@1"


def edit(entry: Path, change: Callable[[dict[str, Any]], object], file: str = "entry.json") -> None:
    """Change a file of an entry as somebody would who also mends the hashes."""
    plain = json.loads((entry / file).read_text("utf-8"))
    change(plain)
    (entry / file).write_text(json.dumps(plain), "utf-8")
    if file != "entry.json":
        new = hashlib.sha256((entry / file).read_bytes()).hexdigest()
        edit(entry, lambda record: record["files"].update({file: new}))


def row_of(record: Mapping[str, Any], candidate: int) -> dict[str, Any]:
    return next(row for row in record["rows"] if row["candidate"] == candidate)


def own(record: Mapping[str, Any]) -> dict[str, Any]:
    return row_of(record, record["candidate"])


def said(folder: Path) -> str:
    found = check(folder)
    assert all("\n" not in line and len(line) < 300 for line in found)
    return "\n".join(found)


# ---- what is written


def test_entries_that_were_submitted_pass_the_check(folder: Path) -> None:
    assert check(folder) == []
    assert [check(folder / name) for name in ("first-0004", "first-0005", "second-0003")] == [[], [], []]


def test_entry_says_what_the_leaderboard_says(folder: Path, records: Records) -> None:
    entry = read_entry(folder / "first-0005")
    (one,) = [one for one in board(records).confirmed if one.row.candidate == 5]
    assert one.belief.test is not None and one.belief.claim is not None and one.belief.claim.claimed
    assert entry.own["says"]["test"]["value"] == one.belief.test.value
    assert entry.own["says"]["claim"]["adjusted"] == one.belief.claim.adjusted
    assert (folder / "first-0005" / "candidate.py").read_text("utf-8") == SOURCE.format(width=5)
    for row, told in zip(entry.record["rows"], entry.rows, strict=True):
        kept = [records.tests[row["candidate"], place] for place in range(len(row["seeds"]))]
        assert np.array_equal(told.test, np.array(kept))


def test_entry_has_every_row_of_its_confirmation_and_its_receipt(folder: Path) -> None:
    record = read_entry(folder / "first-0005").record
    assert sorted(row["candidate"] for row in record["rows"]) == [1, 2, 3, 4, 5, 6]
    assert record["versions"] == {"jax": "0.10.2"} and record["machine"]["processor"] == "A processor"
    cost = record["cost"]
    assert (cost["candidate_search_s"], cost["candidate_seeds_s"]) == (3.0, SEEDS * 1.5)
    assert (cost["search_s"], cost["confirmation_s"]) == (21.0, 1.5 * (2 * BASELINE_SEEDS + 3 * SEEDS + 2))
    assert cost["dollars"] is None
    assert record["accesses"]["test"] == 2 * BASELINE_SEEDS + 3 * SEEDS + 2


def test_entry_says_how_candidates_were_locked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "elsewhere")
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"sandbox": "strict"}), "utf-8")
    store = Store(run, write=True)
    for slot, missing in ((3, "files (ENOSYS)"), (5, "files (ENOSYS)"), (6, "nothing")):
        told = {"id": str(slot), "kind": "sandbox", "author": "the search", "time": "now"}
        store.hear(slot, told | {"content": {"mode": "auto", "missing": missing}})
    store.close()
    made = submit(run, 5, tmp_path)
    told = "strict, then auto without files (ENOSYS), then auto"
    assert read_entry(made).record["sandbox"] == told
    shown = (made.parent / "README.md").read_text("utf-8").replace("\\", "")
    assert f"- Sandbox: {told}\n" in shown
    assert check(made.parent) == []


def test_entry_of_a_version_that_did_not_keep_the_locks_is_right(folder: Path) -> None:
    assert read_entry(folder / "first-0005").record["sandbox"] is None
    edit(folder / "first-0005", lambda record: record.pop("sandbox"))
    assert check(folder) == []
    edit(folder / "first-0005", lambda record: record.update(sandbox=["strict"]))
    assert "sandbox is ['strict']" in said(folder)


def test_entry_has_no_path_of_this_machine(folder: Path, run: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            assert str(run.parent) not in text and str(Path(__file__).parent) not in text


def test_readme_is_a_function_of_the_entries(folder: Path) -> None:
    before = (folder / "README.md").read_bytes()
    entries = [read_entry(folder / name) for name in ("second-0003", "first-0005", "first-0004")]
    assert to_markdown(entries).encode() == before == to_markdown(entries[::-1]).encode()
    (folder / "README.md").unlink()
    assert main(["--regenerate", str(folder)]) == 0
    assert (folder / "README.md").read_bytes() == before


def test_order_of_submissions_does_not_matter(run: Path, folder: Path, tmp_path: Path) -> None:
    submit(run.parent / "second", 3, tmp_path / "other")
    for candidate in (4, 5):
        submit(run, candidate, tmp_path / "other")
    for path in folder.rglob("*"):
        assert path.is_dir() or (tmp_path / "other" / "rings@1" / path.relative_to(folder)).read_bytes() == (
            path.read_bytes()
        )


def test_readme_has_entries_best_first_and_the_baselines_of_each_confirmation(folder: Path) -> None:
    lines = (folder / "README.md").read_text("utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "idea" not in line][:7]
    assert [row[1].partition("]")[0].strip("[ ") for row in rows[:3]] == ["first-0005", "second-0003", "first-0004"]
    names = [row[2] for row in rows[3:]]  # trained with other noise in either run, so each of its own
    assert sorted(names) == ["linear", "linear", "mlp", "mlp"]
    assert all(row[3] == "–" for row in rows[3:]) and rows[0][3] == "**yes**"


def test_baselines_that_serve_two_confirmations_stand_there_once(run: Path, tmp_path: Path) -> None:
    for candidate in (4, 5):
        made = submit(run, candidate, tmp_path)
    lines = (made.parent / "README.md").read_text("utf-8").splitlines()
    assert sum("| baseline |" in line for line in lines) == 2


def test_text_of_a_model_has_no_markup_in_the_readme(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    assert "alert(1)" in text
    for part in ("<script", "![x](", "http://", "\x1b", "\u202e", " @everybody", "`rm`"):
        assert part not in text


def test_times_of_two_machines_share_no_table(folder: Path) -> None:
    other = "Another | processor"
    edit(folder / "first-0004", lambda record: record["machine"].update(processor=other))
    assert main(["--regenerate", str(folder)]) == 0
    text = (folder / "README.md").read_text("utf-8")
    assert text.count("| entry | candidate's search") == 2 and "On Another \\| processor" in text
    assert check(folder) == []


def test_seed_that_failed_is_said_and_forbids_the_claim(tmp_path: Path) -> None:
    made = submit(write_run(tmp_path / "lost", lost=(5, 2)), 5, tmp_path)
    assert check(made.parent) == []
    text = (made.parent / "README.md").read_text("utf-8")
    assert "no: seed failed" in text and "4 (1 failed)" in text


def test_scores_that_are_no_bits_are_kept_to_float32(records: Records) -> None:
    rng = np.random.default_rng(0)
    tests = {key: scores + rng.normal(0, 0.1, EXAMPLES).astype(np.float32) for key, scores in records.tests.items()}
    rows = [
        dataclasses.replace(row, test={**(row.test or {}), "score": tests[row.candidate, row.place].mean(dtype=float)})
        for row in records.retrainings
    ]
    changed = dataclasses.replace(records, tests=tests, retrainings=rows)
    entry = parse(entry_files(changed, 5, SPACE, "losses"), "losses")
    assert problems(entry) == []
    told = next(row for row in entry.rows if row.candidate == 5)
    assert np.array_equal(told.test[2], tests[5, 2])


def test_submitting_again_changes_nothing(run: Path, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    submit(run, 5, folder.parent)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_entry_takes_the_place_of_another_only_on_demand(run: Path, folder: Path) -> None:
    shutil.rmtree(folder / "second-0003")
    other = run.parent / "second"
    with pytest.raises(EntryError, match="--replace"):
        submit(other, 3, folder.parent, "first-0005")
    assert read_entry(folder / "first-0005").record["run"]["name"] == "first"
    submit(other, 3, folder.parent, "first-0005", replace=True)
    assert read_entry(folder / "first-0005").record["run"]["name"] == "second"
    assert check(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "first-0004", "first-0005"]


# ---- what is refused


@pytest.mark.parametrize(
    ("candidate", "why"),
    [(7, "was not confirmed"), (6, "has 2 fresh seeds"), (1, "is a baseline"), (99, "there is no candidate")],
)
def test_candidate_that_was_not_confirmed_is_refused(run: Path, tmp_path: Path, candidate: int, why: str) -> None:
    with pytest.raises(EntryError, match=why):
        submit(run, candidate, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_candidate_over_a_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match="params 401 is more than the space allows"):
        submit(write_run(tmp_path / "large", params=401), 5, tmp_path)


def test_confirmation_that_was_stopped_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match="baseline mlp has 9 of 10"):
        submit(write_run(tmp_path / "stopped", skipped=(2, 9)), 5, tmp_path)


def test_run_of_a_space_that_changed_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "first")
    path = tmp_path / "first" / "run.json"
    path.write_text(path.read_text("utf-8").replace(digest(SPACE), "0" * 16), "utf-8")
    with pytest.raises(EntryError, match="not what it was"):
        submit(tmp_path / "first", 5, tmp_path)


@pytest.mark.parametrize("name", ["../up", "a..b", "..", ".hidden", "a/b", "/root", "a b", "a\nb", "", "x" * 81, "a."])
def test_name_that_leads_elsewhere_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(EntryError, match=f"'{re.escape(' '.join(name.split()))}' is no name of an entry"):
            submit(run, 5, tmp_path, name)
        assert list(tmp_path.iterdir()) == []
    else:
        assert submit(run, 5, tmp_path, name).name == "first-0005"


@pytest.mark.parametrize("place", ["rings@1", "rings@1/first-0005", "rings@1/README.md"])
def test_nothing_is_written_through_a_link(run: Path, tmp_path: Path, place: str) -> None:
    target, link = tmp_path / "elsewhere", tmp_path / "boards" / place
    link.parent.mkdir(parents=True)
    target.mkdir()
    link.symlink_to(target)
    with pytest.raises(EntryError, match="symbolic link"):
        submit(run, 5, tmp_path / "boards")
    assert list(target.iterdir()) == []


def test_nothing_is_added_to_a_folder_with_a_wrong_entry(run: Path, folder: Path) -> None:
    edit(folder / "first-0004", lambda record: own(record)["says"]["test"].update(value=0.99))
    shutil.rmtree(folder / "first-0005")
    with pytest.raises(EntryError, match="first-0004"):
        submit(run, 5, folder.parent)
    assert not (folder / "first-0005").exists()


# ---- what the check sees


def better(text: str) -> str:
    """The same results on single examples but for the first bits, which are all right now."""
    return base64.b64encode(b"\xff" * 10 + base64.b64decode(text)[10:]).decode()


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "mean": (lambda r: own(r)["says"]["test"].update(value=0.99), "test.value is said to be 0.99"),
    "error": (lambda r: own(r)["says"]["test"].update(error=0.001), "test.error is said to be 0.001"),
    "claim": (lambda r: own(r)["says"]["claim"].update(claimed=not own(r)["says"]["claim"]["claimed"]), "claimed"),
    "p": (lambda r: own(r)["says"]["claim"].update(adjusted=0.5), "claim.adjusted"),
    "rank": (lambda r: own(r)["says"].update(rank=[1, 7]), r"rank[1] is said to be 7"),
    "seed's score": (lambda r: own(r)["seeds"][1].update(test=0.999), "seed 1 says 0.999 on test"),
    "validation": (lambda r: own(r)["seeds"][1].update(validation=0.999), "validation.value is said"),
    "search score": (lambda r: own(r).update(search=0.1), "luck.value is said"),
    "chosen seed": (lambda r: own(r)["seeds"][1].update(seed=42), "seed 1 is 42, not the one"),
    "missing place": (lambda r: own(r)["seeds"][2].update(place=7), "a fresh seed is missing"),
    "no score": (lambda r: own(r)["seeds"][2].update(test=None), "a score on one split and not on the other"),
    "failure": (lambda r: own(r)["seeds"][2].update(failure="train/diverged"), "has a score and a failure"),
    "flops": (lambda r: r["rows"][-1]["program"].update(flops=10**400), "is not an entry's record"),
    "limits": (lambda r: own(r)["program"].update(params=401), "params 401 is more than the space allows"),
    "contract": (lambda r: r["space"]["contract"].update(max_params=9), "params 100 is more than the space allows (9)"),
    "other baseline": (lambda r: r["space"]["baselines"].append("cnn"), "the space has cnn, linear, mlp"),
    "finalist": (lambda r: r.update(candidate=1), "is no finalist"),
    "nobody": (lambda r: r.update(candidate=77), "is no finalist"),
    "direction": (lambda r: r["space"].update(maximize=False), "is said to be"),
    "versions": (lambda r: r.update(versions={}), "versions is empty"),
    "cost": (lambda r: r["cost"].update(search_s=-1), "cost search_s is -1"),
    "format": (lambda r: r.update(format=2), "has format 2"),
    "no rows": (lambda r: r.update(rows=[]), "do not name the same candidates"),
    "row of text": (lambda r: r.update(rows="abc"), "cannot be read"),
    "no claim": (lambda r: own(r)["says"].pop("claim"), "is said to be"),
    "digits": (lambda r: r["space"].update(decimals=10**9), "no name, version and decimals"),
    "space": (lambda r: r["space"].update(name="../x"), "no name, version and decimals"),
    "name of another": (lambda r: r.update(entry="first-0004"), "calls itself"),
    "nested": (lambda r: r.update(cost="much"), "is not an entry's record"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_record_that_was_edited_is_found(folder: Path, what: str) -> None:
    change, why = FORGERIES[what]
    edit(folder / "first-0005", change)
    for where in (folder, folder / "first-0005"):
        found = said(where)
        assert why in found and "first-0005" in found
        assert "first-0004" not in found.replace("calls itself 'first-0004'", "")


def test_seed_that_was_taken_out_everywhere_is_found(folder: Path) -> None:
    entry = folder / "first-0005"
    edit(entry, lambda tests: tests["results"]["5"].pop(), "test.json")
    edit(entry, lambda record: own(record)["seeds"].pop())
    assert "candidate 5: 4 fresh seeds, the entry rule wants 5 or more" in said(folder)


def test_rival_that_was_taken_out_everywhere_is_found(folder: Path) -> None:
    entry = folder / "first-0005"
    for rival, why in ((2, "baselines confirmed are linear"), (6, "is said to be")):
        edit(entry, lambda tests, who=rival: tests["results"].pop(str(who)), "test.json")
        edit(entry, lambda record, who=rival: record["rows"].remove(row_of(record, who)))
        assert why in said(folder)


@pytest.mark.parametrize("file", ["candidate.py", "test.json"])
def test_file_that_was_edited_is_found(folder: Path, file: str) -> None:
    path = folder / "first-0005" / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert said(folder) == f"first-0005: {file} was changed: its SHA-256 is not the one in entry.json"


def test_results_of_another_entry_are_found(folder: Path) -> None:
    shutil.copyfile(folder / "second-0003" / "test.json", folder / "first-0005" / "test.json")
    assert "test.json was changed" in said(folder)
    edit(folder / "first-0005", lambda tests: None, "test.json")  # with its hash mended
    assert "on test, its examples" in said(folder)


def test_results_that_were_improved_with_their_hash_are_found(folder: Path) -> None:
    edit(folder / "first-0005", lambda t: t["results"].update({"5": [*map(better, t["results"]["5"])]}), "test.json")
    assert "on test, its examples" in said(folder)


@pytest.mark.parametrize(
    "tests",
    [
        {"examples": 10**13, "as": "bits", "results": {}}, {"examples": "400", "as": "bits", "results": {}},
        {"examples": 400, "as": "pickle", "results": {}}, {"results": 3}, {"examples": 401},
    ],
)  # fmt: skip
def test_results_of_another_form_are_found(folder: Path, tests: dict[str, Any]) -> None:
    edit(folder / "first-0005", lambda plain: (plain.pop("examples"), plain.update(tests)), "test.json")
    assert said(folder).startswith("first-0005: ")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff", '{"format": NaN}', '{"a": 1, "a": 1}', "[" * 10**5])
def test_file_that_is_no_record_is_found(folder: Path, text: str) -> None:
    (folder / "first-0005" / "entry.json").write_bytes(text.encode("latin-1"))
    assert said(folder).startswith("first-0005: cannot be read")


def test_entry_of_another_version_or_state_of_the_space_is_found(folder: Path) -> None:
    edit(folder / "first-0005", lambda record: record["space"].update(version=2))
    assert "is of rings@2 and stands in rings@1; two versions of a space never share a table" in said(folder)
    edit(folder / "first-0005", lambda record: record["space"].update(version=1, digest="other"))
    assert "its space differs from that of first-0004 in digest" in said(folder)


def test_whole_folder_under_the_name_of_another_version_is_found(folder: Path) -> None:
    moved = folder.rename(folder.with_name("rings@2"))
    assert said(moved).count("is of rings@1 and stands in rings@2") == 3
    assert "stands in rings@2" in said(moved / "first-0005")


def test_entry_under_another_name_is_found(folder: Path) -> None:
    shutil.copytree(folder / "first-0005", folder / "twin")
    edit(folder / "twin", lambda record: record.update(entry="twin"))
    assert said(folder) == "twin: repeats first-0005"
    (folder / "twin").rename(folder / "a..b")
    assert "'a..b' is no name of an entry" in said(folder)


def test_links_and_strangers_in_a_folder_are_found(folder: Path, tmp_path: Path) -> None:
    (folder / "first-0005" / "more.py").write_text("import os", "utf-8")
    assert "first-0005: more.py does not belong to an entry" in said(folder)
    (folder / "first-0005" / "more.py").unlink()
    source = folder / "first-0005" / "candidate.py"
    source.rename(tmp_path / "candidate.py")
    assert "candidate.py is missing" in said(folder)
    source.symlink_to(tmp_path / "candidate.py")
    assert "first-0005: candidate.py is no file of its own" in said(folder)
    (folder / "first-0005").rename(tmp_path / "first-0005")
    (folder / "first-0005").symlink_to(tmp_path / "first-0005")
    assert "first-0005: is no folder of its own" in said(folder)


def test_readme_that_was_edited_or_is_missing_is_found(folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(readme.read_text("utf-8").replace("0.", "1."), "utf-8")
    assert said(folder) == "README.md: is not what the entries give; --regenerate writes it anew"
    readme.unlink()
    assert said(folder).startswith("README.md: is missing")


def test_space_that_is_installed_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(SPACE, contract=dataclasses.replace(SPACE.contract, max_params=90))
    monkeypatch.setattr("nas.submitted.names", lambda: ["rings"])
    monkeypatch.setattr("nas.submitted.load", lambda name: other)
    assert "the space that is installed here has another contract, digest" in said(folder)


def test_seeds_are_all_different() -> None:
    assert len({finalist_seed(3, 5, 1), finalist_seed(3, 5, 2), finalist_seed(3, 6, 1), finalist_seed(4, 5, 1)}) == 4
    assert baseline_seed("rings", "mlp", 0) != baseline_seed("rings", "linear", 0)


# ---- the command line


def test_command_line_writes_checks_and_says_what_is_wrong(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "5", "--boards", str(tmp_path)]) == 0
    made = tmp_path / "rings@1"
    assert capsys.readouterr().out.strip() == str(made / "first-0005")
    assert main(["--check", str(made), str(made / "first-0005")]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    edit(made / "first-0005", lambda record: own(record)["says"]["test"].update(value=0.99))
    assert main(["--check", str(made)]) == 1
    assert "test.value is said to be 0.99" in capsys.readouterr().out
    assert main(["--check", str(tmp_path / "none")]) == 1
    assert "there is no such folder" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["RUN"], ["RUN", "five"], ["RUN", "5", "--check", "x"], ["none", "5"]])
def test_command_line_that_is_wrong_gets_one_line(
    run: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(run) if argument == "RUN" else argument for argument in arguments]
    try:
        code = main([*given, "--results", str(tmp_path)])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and capsys.readouterr().err.count("\n") == 1


# ---- one run's history


def test_history_has_each_confirmed_candidate_that_beats_the_record_before_it(records: Records) -> None:
    found = improvements(records)
    assert [(one.candidate, one.before) for one in found] == [(3, 2), (5, 3)]  # 4 is claimed, and below 3
    claims = {one.row.candidate: one.belief.claim for one in board(records).confirmed}
    assert claims[4] is not None and claims[4].claimed
    last = found[-1]
    assert last.file == "candidates/0005.py" and last.operator == "insert"
    assert last.change == "+1 -1 lines against 4: + width = 5 …"
    assert last.gain is not None and last.gain.against == 3
    low, high = last.gain.interval()
    assert low < 0.1 < high and last.gain.value == pytest.approx(0.1, abs=0.05)


def test_gain_over_a_baseline_is_the_effect_of_the_claim(records: Records) -> None:
    first = improvements(records)[0]
    (one,) = [one for one in board(records).confirmed if one.row.candidate == first.candidate]
    assert one.belief.claim is not None and first.gain == one.belief.claim.effect


def test_history_is_printed_in_80_columns(records: Records) -> None:
    out = io.StringIO()
    write_improvements(records, out)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and lines[0] == "rings@1 · run first"
    text = " ".join(out.getvalue().split())
    assert "candidates/0005.py" in text and "(5 seeds), +0." in text and "over 3 (Idea 3.)" in text


def test_history_says_why_it_is_empty(records: Records) -> None:
    out = io.StringIO()
    write_improvements(dataclasses.replace(records, retrainings=(), tests={}), out)
    assert "nothing is confirmed yet" in out.getvalue()
    few = [row for row in records.retrainings if row.candidate < 3 or row.place < 2]
    write_improvements(dataclasses.replace(records, retrainings=few), out)
    assert "no confirmed improvement" in out.getvalue()


def test_boards_of_this_project_hold(capsys: pytest.CaptureFixture[str]) -> None:
    boards = sorted((Path(__file__).parents[1] / "results").glob("*@*"))
    assert boards and main(["--check", *map(str, boards)]) == 0
