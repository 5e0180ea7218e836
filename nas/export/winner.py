"""Export one confirmed candidate: choose a seed, write the folder, run it, compare its score with the leaderboard's.

In go a run's store and the number of a candidate; out comes a folder. The seed is the one with the best *validation*
score: a seed that was chosen by its test score would have a test score that flatters. Nothing is trained here. The test
split is made again by the space and leaves with the folder, unless it shall not; it counts as no further access, since
nothing new is asked of it, but whoever has the folder can tune on it.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from nas.execute import Job, Need
from nas.execute.local import LocalExecutor
from nas.export import card, jobs, source
from nas.flows import TRAIN_MEMORY_BYTES, preload
from nas.progress import one_line
from nas.records import Retraining, defaults
from nas.space import SearchSpace, digest, laid_out, load
from nas.standings import Board, Confirmed, Records, board, rank
from nas.store import Entry, Store, StoreError, write_file
from nas.workplace import accelerators

WEIGHTS, TEST = "weights.safetensors", "test.safetensors"
TOLERANCE = 1e-6
"""Most by which a folder's score may differ from the leaderboard's."""
TIMEOUT_S = 1800.0
"""Longest that one of an export's jobs may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """What leaves.

    Attributes:
      entry: the candidate.
      confirmed: what its seeds say.
      seed: the training whose weights leave.
      trained: all its seeds that were scored on the test split.
      facts: of the program that was trained.
    """

    entry: Entry
    confirmed: Confirmed
    seed: Retraining
    trained: Sequence[Retraining]
    facts: Mapping[str, Any]


def choose(store: Store, records: Records, made: Board, candidate: int, place: int | None = None) -> Winner:
    """Find what is needed of a candidate.

    Args:
      store: of the run.
      records: of the run.
      made: its leaderboard.
      candidate: its id.
      place: number of the seed; None takes the one with the best validation score.
    Raises:
      StoreError: there is no such candidate or seed, it is not confirmed, or its weights are gone.
    """
    entries = {entry.candidate.id: entry for entry in records.entries}
    if candidate not in entries:
        known = f"ids go from 1 to {max(entries)}" if entries else "it has none yet"
        raise StoreError(f"there is no candidate {candidate} in this run; {known}, see the table's column 'id'")
    entry = entries[candidate]
    found = [one for one in made.confirmed if one.row.candidate == candidate]
    trained = [r for r in records.retrainings if (r.candidate, r.purpose) == (candidate, "seeds") and r.test]
    if not found or not trained:
        raise StoreError(_unconfirmed(store, records, entry, bool(found)))
    if entry.candidate.arm == "baseline":
        text = (
            f"candidate {candidate} is the baseline {one_line(entry.candidate.operator)}, of which no weights are kept"
        )
        raise StoreError(f"{text}; export a finalist")
    seed = _seed(store, records, trained, place)
    return Winner(
        entry=entry, confirmed=found[0], seed=seed, trained=trained, facts=_program(records, entry, seed)
    )  # fmt: skip


def _unconfirmed(store: Store, records: Records, entry: Entry, failed: bool) -> str:
    """Why a candidate cannot leave, and what to do."""
    candidate = entry.candidate.id
    if failed:
        return f"no fresh seed of candidate {candidate} could be trained to the end; export another candidate"
    if entry.failure is not None:
        return f"candidate {candidate} was rejected at admission, so it was never trained; export another candidate"
    ours = [row.candidate for row in rank(records) if row.arm != "baseline"]
    if candidate not in ours:
        return f"candidate {candidate} is not confirmed and has no score to be chosen by; export another candidate"
    finalists = max(5, ours.index(candidate) + 1)
    command = f"python -m nas.leaderboard {store.folder} --confirm {finalists}"
    return f"candidate {candidate} is not confirmed, so no test score is known of it; run {command} and export again"


def _seed(store: Store, records: Records, trained: Sequence[Retraining], place: int | None) -> Retraining:
    there = [row for row in trained if store.weights_path(row.candidate, row.place).is_file()]
    known = ", ".join(str(row.place) for row in there) or "none"
    if place is not None:
        there = [row for row in there if row.place == place]
    if not there:
        path = store.weights_path(trained[0].candidate, trained[0].place if place is None else place)
        text = f"weights of this candidate are missing ({path.parent.name}/{path.name}); seeds that have them: {known}"
        raise StoreError(f"{text}. Restore the file, or give another --seed")
    return max(there, key=lambda row: (records.sign * row.point.score if row.point else -np.inf, -row.place))


def _program(records: Records, entry: Entry, seed: Retraining) -> Mapping[str, Any]:
    """Facts of the program at a training's values: the candidate's own, or those of a trial that had these values."""
    if entry.program is not None and dict(seed.values) == defaults(entry.candidate.tunables):
        return entry.program
    same = {str(t.id) for t in records.trials if (t.candidate, dict(t.values)) == (seed.candidate, dict(seed.values))}
    for task in records.tasks:
        for trial, own in ((task.outcome or {}).get("programs") or {}).items():
            if trial in same and "program" in own:
                return own["program"]
    raise StoreError(f"the program of candidate {seed.candidate} at the confirmed numbers is not in the run's database")


# ---- the folder


def export(store: Store, records: Records, candidate: int, out: Path, *, place: int | None, data: bool) -> float:
    """Write a candidate's folder and run it.

    Args:
      store: of the run, read only.
      records: of the run.
      candidate: its id.
      out: the folder, made if need be; an older export in it is replaced.
      place: number of the seed; None takes the one with the best validation score.
      data: whether the test split leaves too.
    Returns:
      The test score that the folder's own script gave.
    Raises:
      StoreError: the candidate cannot be exported, `out` cannot be written, or the folder gives another score.
    """
    made = board(records)
    winner = choose(store, records, made, candidate, place)
    on_cpu = winner.facts["plan"]["train_level"] is not None  # levels are those of a CPU
    space = laid_out(_space(store), "cpu" if on_cpu else "cuda")
    _check_free(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.resolve()) as staged:  # jobs run elsewhere
            found = _stage(store, records, made, winner, space, Path(staged))
            (Path(staged) / jobs.STAGED).unlink()
            if not data:
                (Path(staged) / TEST).unlink()
                (out / TEST).unlink(missing_ok=True)
            for path in sorted(Path(staged).iterdir()):
                os.replace(path, out / path.name)
    except OSError as error:
        raise StoreError(
            f"'{out}' cannot be written ({error.strerror or error}); give --out a folder that can"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()  # which only works where nothing was written
    return found


def _space(store: Store) -> SearchSpace:
    space = load(store.config["space"])
    if digest(space) != store.config["space_digest"]:
        text = f"'{store.folder}' was made with another state of space '{space.name}@{store.config['space_version']}'"
        raise StoreError(f"{text}; restore the space's file, then export")
    if space.spec.dtype != "float32":
        text = f"a network that computes in {space.spec.dtype} cannot be exported yet"
        raise StoreError(f"{text}; nas.leaderboard --show ID prints its source")
    return space


def _check_free(out: Path) -> None:
    """Refuse a folder that holds anything but an export."""
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir()}
    try:
        ours = json.loads((out / "config.json").read_text("utf-8")).get("exporter", {}).get("name") == "nas-search"
    except (OSError, ValueError, AttributeError):
        ours = False
    if names and not ours:
        raise StoreError(f"'{out}' holds other files; give --out a folder that is new, empty, or an export")


def _stage(store: Store, records: Records, made: Board, winner: Winner, space: SearchSpace, folder: Path) -> float:
    code, named = source.network(
        space, winner.entry.candidate.source, winner.seed.values, winner.entry.candidate.tunables,
        card.about(made, winner.entry, space),
    )  # fmt: skip
    config = _config(store, winner, space)
    write_file(folder / "network.py", code.encode())
    write_file(folder / "score.py", source.score(space).encode())
    write_file(folder / "evaluate.py", source.evaluate(named).encode())
    write_file(folder / "config.json", json.dumps(config, indent=2, sort_keys=True).encode() + b"\n")
    found = _prove(store, winner, space, folder, named)
    text = card.readme(store, records, made, winner, config, named)
    write_file(folder / "README.md", text.encode())
    wanted = "".join(f"{name}=={store.config['versions'][name]}\n" for name in ("jax", "jaxlib", "flax", "numpy"))
    write_file(folder / "requirements.txt", wanted.encode())
    return found


def _prove(store: Store, winner: Winner, space: SearchSpace, folder: Path, named: Mapping[str, str]) -> float:
    """Write the arrays under their names, run the folder's script, and compare example by example."""
    seed, facts = winner.seed, winner.facts
    assert seed.test is not None, "a seed without a test score was chosen"
    devices = accelerators() if facts["plan"]["train_level"] is None else []  # levels are those of a CPU
    need = Need(cpus=1, accelerators=min(1, len(devices)), memory_bytes=TRAIN_MEMORY_BYTES)
    with LocalExecutor(1, preload(space), devices) as executor:
        payload = {
            "space": store.config["space"], "program": str(store.program_path(facts["digest"])),
            "digest": facts["digest"], "param_leaves": facts["param_leaves"], "how": dict(facts["plan"]),
            "cache": str(store.folder / "cache"), "weights": str(store.weights_path(seed.candidate, seed.place)),
            "step": space.ladder.steps[seed.rung], "folder": str(folder), "test": TEST,
        }  # fmt: skip
        count = _run(executor, "arrays_job", payload, need)["leaves"]
        payload = {"folder": str(folder), "build": named["build"]}
        names = _run(executor, "names_job", payload, Need(), sealed=folder)
        if not isinstance(names, list) or len(names) != count or len({*names}) != count:
            raise StoreError(
                f"the exported network has {len(names)} arrays and the program {count}; please report this"
            )
        _rename_arrays(folder, names, space.task.parts)
        need = Need(cpus=1, memory_bytes=TRAIN_MEMORY_BYTES)  # what is sealed is given no accelerator
        scores = np.frombuffer(_run(executor, "scores_job", {"folder": str(folder)}, need, sealed=folder), np.float32)
    return _agreed(store, seed, scores)


def _run(
    executor: LocalExecutor, entry: str, payload: Mapping[str, Any], need: Need, *, sealed: Path | None = None
) -> Any:
    """What a job answers; a sealed one may read this folder, another writes into those of its payload."""
    job = Job(
        id=f"{entry}-{time.monotonic_ns()}", entry=f"nas.export.jobs:{entry}", payload=payload, need=need,
        timeout_s=TIMEOUT_S, sealed=sealed is not None, readable=[str(sealed)] if sealed else (),
        writable=None if sealed else [payload["folder"], payload["cache"]],
    )  # fmt: skip
    executor.submit(job)
    while True:
        for event in executor.poll(1.0):
            if event.kind != "done":
                what = {"arrays_job": "its arrays cannot be read", "names_job": "its module cannot be loaded"}
                text = what.get(entry, "its script does not run")
                raise StoreError(f"the candidate is not exported, {text}: {one_line(event.error or event.kind)}")
            return event.result


def _rename_arrays(folder: Path, names: Sequence[str], tasks: Sequence[str]) -> None:
    """Give the arrays the names that they have in the network, behind their task's where there are several."""
    from safetensors.numpy import load_file

    found, named = load_file(folder / jobs.STAGED), dict[str, np.ndarray]()
    for part, task in enumerate(tasks or [""]):
        before = f"{task}/" if task else ""
        named |= {before + name: found[f"{part}/{index:04d}"] for index, name in enumerate(names)}
    jobs.write_arrays(folder / WEIGHTS, named)


def _agreed(store: Store, seed: Retraining, scores: np.ndarray) -> float:
    """The mean of what the folder's script found.

    Raises:
      StoreError: it is not what the leaderboard says.
    """
    assert seed.test is not None, "a seed without a test score was chosen"
    found, known = float(scores.mean(dtype=np.float64)), float(seed.test["score"])
    if not abs(found - known) <= TOLERANCE:
        before = np.load(store.test_path(seed.candidate, seed.place))["scores"]
        other = int((before != scores).sum()) if before.shape == scores.shape else max(len(before), len(scores))
        text = (
            f"the exported folder scores {found:.7f} where the leaderboard says {known:.7f} ({other:,} examples differ)"
        )
        raise StoreError(f"{text}; restore the weights, or export on the machine and with the versions of the run")
    return found


def _config(store: Store, winner: Winner, space: SearchSpace) -> dict[str, Any]:
    config, seed, plan = store.config, winner.seed, winner.facts["plan"]
    options = {
        "xla_backend_optimization_level": plan["eval_level"],
        "xla_cpu_use_fusion_emitters": plan["fusion_emitters"],
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    assert seed.test is not None, "a seed without a test score was chosen"
    return {
        "exporter": {"name": "nas-search", "version": _version()},
        "architecture": {
            "candidate": seed.candidate, "scope": space.scope, "spec": asdict(space.spec), "hp": dict(seed.values),
            "fingerprint": winner.facts["fingerprint"], "cost": winner.facts["cost"],
        },
        "input": {"shape": ["batch", *space.contract.input_shape], "dtype": space.contract.input_dtype},
        "output": {"shape": ["batch", *space.contract.output_shape], "dtype": "float32"},
        "training": {
            "optimizer": "schedule-free AdamW; the weights are its averaged sequence", **seed.recipe,
            "steps": space.ladder.steps[seed.rung], "batch": space.recipe.batch, "warmup": space.recipe.warmup,
            "seed": seed.seed, "place": seed.place,
        },
        "evaluation": {
            "metric": space.task.metric, "maximize": space.task.maximize, "score": seed.test["score"],
            "examples": seed.test["examples"], "file": TEST, "batch": space.recipe.eval_batch,
            "tasks": list(space.task.parts),
            "compiler_options": {} if plan["eval_level"] is None else options,
        },
        "run": {
            "name": config["name"], "created": config["created"], "seed": config["seed"],
            "space": config["space_name"], "space_version": config["space_version"],
            "space_digest": config["space_digest"],
        },
        "versions": config["versions"],
        "machine": config["machine"],
    }  # fmt: skip


def _version() -> str:
    try:
        return version("nas-search")
    except PackageNotFoundError:
        return "unknown"
