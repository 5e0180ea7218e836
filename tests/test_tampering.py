"""Tampering with the score: it works on a trainer that runs candidates itself, and leaves ours where it was."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tampering

from nas.admit import Flow, drive_all
from nas.execute import Event, Job
from nas.execute.local import LocalExecutor
from nas.flows import Outcome, Place, admission, first_rung, preload
from nas.records import Failure, Trial
from nas.space import load
from nas.store import Store
from nas.train.job import prepare_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's locks are Linux's"),
]
RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
SPACE = load(RINGS)
WIDE = load(f"{RINGS}:growing").baselines["wide"]
SOURCES = {"honest": "", "other": "", **tampering.KINDS}


def unguarded(flow: Flow[Outcome]) -> Flow[Outcome]:
    """The same flow; what traces has no gate and no facade."""
    events: Sequence[Event] | None = None
    while True:
        try:
            jobs = next(flow) if events is None else flow.send(events)
        except StopIteration as stop:
            return stop.value
        events = yield [without_facade(job) for job in jobs]


def without_facade(job: Job) -> Job:
    if job.entry != "nas.admit.trace:trace_job":
        return job
    return dataclasses.replace(job, entry=f"{tampering.__name__}:{tampering.trace_job.__name__}")


def way(place: Place, slot: int, source: str) -> Flow[Outcome]:
    """Admission and first rung of one candidate."""
    admitted = yield from unguarded(admission(place, slot, source, {}))
    if admitted.facts is None:
        return admitted
    trial = Trial(id=slot, candidate=slot, arm="random", values={}, recipe={"lr": 0.05, "wd": 0.01}, seed=7)
    return (yield from first_rung(place, slot, source, admitted.facts, True, [trial]))


def said(outcome: Outcome) -> Any:
    """All that a trial measured, to the last bit; or why there is nothing."""
    if outcome.failure is not None:
        return outcome.failure
    (score,) = outcome.scores
    return score.failure or (dataclasses.asdict(score.point), tuple(score.losses)) if score.point else score.failure


@pytest.fixture(scope="module")
def behind_the_wall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each kind measures, admitted and trained as a search does it."""
    store = Store.create(tmp_path_factory.mktemp("run") / "run", {})
    prepare_job(RINGS, str(store.folder / "data"))
    place = Place(reference=RINGS, space=SPACE, store=store, examples=200)
    models = {"other": WIDE.replace("jnp.tanh", "jnp.sin")}
    ways = [way(place, slot, SOURCES[kind] + models.get(kind, WIDE)) for slot, kind in enumerate(SOURCES, 1)]
    with LocalExecutor(1, (*preload(SPACE), "nas.api", "tampering"), sandbox="strict") as executor:
        outcomes = drive_all(executor, ways)
    yield dict(zip(SOURCES, map(said, outcomes), strict=True))
    store.close()


def in_one_process(folder: Path, kinds: Sequence[str]) -> dict[str, str]:
    """The last line that the trainer prints which runs the candidate itself, for each kind."""
    folders = [folder / str(number) for number in range(len(kinds))]
    for kind, each in zip(kinds, folders, strict=True):
        each.mkdir()
        (each / "candidate.py").write_text(SOURCES[kind] + WIDE, "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, tampering.__file__, *map(str, folders)]
    subprocess.run(command, capture_output=True, timeout=300, env=environment, check=True)
    outputs = [(each / "output").read_text("utf-8", "replace").strip().splitlines() for each in folders]
    return {kind: (lines or [""])[-1] for kind, lines in zip(kinds, outputs, strict=True)}


@pytest.mark.parametrize("kind", tampering.KINDS)
def test_tampering_leaves_the_score_bit_for_bit_or_fails_the_candidate(
    behind_the_wall: dict[str, Any], kind: str
) -> None:
    honest, found = behind_the_wall["honest"], behind_the_wall[kind]
    assert not isinstance(honest, Failure) and honest != behind_the_wall["other"]  # so that equal says something
    assert found == honest or isinstance(found, Failure) and found.blame == "candidate", found


def test_most_kinds_of_tampering_change_nothing_at_all(behind_the_wall: dict[str, Any]) -> None:
    honest = behind_the_wall["honest"]
    assert sum(behind_the_wall[kind] == honest for kind in tampering.KINDS) >= 12


def test_tampering_works_where_candidates_run_beside_the_data(tmp_path: Path) -> None:
    lines = in_one_process(tmp_path, ["honest", *tampering.KINDS])
    honest = lines.pop("honest")
    assert honest.startswith('{"loss"') and honest != tampering.FAKE, honest
    changed = [kind for kind, line in lines.items() if line != honest and line.startswith('{"loss"')]
    assert len(changed) >= len(tampering.KINDS) / 2, changed
