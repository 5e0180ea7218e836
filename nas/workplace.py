"""Where the jobs of a run run: an executor on this machine, and the arrays that its trainers map.

In goes a run's store, out comes an executor with what flows need to know. Searching and confirming open the same one.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas import inbox
from nas.execute import Event, Executor, Job, Sandbox, Unlocked, chosen_sandbox
from nas.execute.confine import sentence
from nas.execute.local import LocalExecutor
from nas.files import sha256
from nas.flows import Place, preload
from nas.records import to_plain
from nas.space import SearchSpace, digest
from nas.store import Store, StoreError, write_file


class Workplace(NamedTuple):
    """An executor that is open, the run that it works for, and what a person must know of how candidates are locked."""

    executor: LocalExecutor
    place: Place
    warnings: Sequence[str]


@contextlib.contextmanager
def open_workplace(
    store: Store, space: SearchSpace, workers: int, sandbox: Sandbox | None = None
) -> Iterator[Workplace]:
    """Start an executor for a run, and make its arrays unless they are there.

    Args:
      store: of the run, open for writing.
      space: the one that it was made with.
      workers: jobs at once.
      sandbox: how candidates are locked; as the run has it, or as is usual here, if None.
    Raises:
      StoreError: the space's file has changed since, the arrays cannot be made, or a lock is missing.
    """
    if store.config["space_digest"] != digest(space):
        text = f"'{store.folder}' was made with another state of space '{space.name}@{store.config['space_version']}'"
        what = "file or its data" if space.task.identity else "file"
        raise StoreError(f"{text}; restore the space's {what}, or start a new run")
    devices = store.config.get("devices", 1)
    if devices > (there := devices_here()):
        text = f"a trial of '{store.folder}' has {devices} devices and this machine has {there}"
        raise StoreError(f"{text}; go on where there are as many")
    found, reference = accelerators(), store.config["space"]
    try:
        mode = chosen_sandbox(sandbox, store.config.get("sandbox"))
        executor = LocalExecutor(workers, preload(space), found, sandbox=mode)
    except Unlocked as error:
        raise StoreError(str(error)) from error
    with executor:
        warnings = _locks(executor, store, mode)
        _try_space(executor, reference)
        kind = found[0].partition(":")[0] if found else "cpu"
        place = Place(
            reference=reference, space=space, store=store, accelerators=len(found), platform=kind, devices=devices,
            examples=_prepare(executor, store, reference),
        )  # fmt: skip
        yield Workplace(executor, place, warnings)


def _try_space(executor: LocalExecutor, reference: str) -> None:
    """Load the space where candidates are traced, so that no candidate is blamed if it cannot be.

    Raises:
      StoreError: it cannot.
    """
    executor.submit(Job(id="space", entry="nas.admit.trace:load_job", payload={"space": reference}, sealed=True))
    while not (events := executor.poll(1.0)):
        pass
    if events[0].kind != "done":
        text = "Candidates are traced where no files but code can be read; read data in the split function"
        raise StoreError(f"the space cannot be loaded there: {events[0].error or events[0].kind}. {text}")


def _locks(executor: LocalExecutor, store: Store, mode: Sandbox) -> list[str]:
    """Find out how candidates are locked here, and note it in the run where that is not in every way, or has changed.

    Returns:
      What a candidate could do for want of a lock, a sentence each.
    Raises:
      StoreError: a lock is missing that the mode asks for.
    """
    try:
        missing = executor.missing_locks()
    except Unlocked as error:
        text = "Search where the kernel has that lock, or say --sandbox auto to go on with the others"
        raise StoreError(f"the sandbox has {error}. {text}") from error
    noted = [message["content"] for message in store.messages() if message["kind"] == "sandbox"]
    content = {"mode": mode, "missing": "; ".join(f"{layer} ({why})" for layer, why in missing.items()) or "nothing"}
    if content != (noted[-1] if noted else {"mode": mode, "missing": "nothing"}):
        slot = max((task.slot for task in store.tasks()), default=-1) + 1
        store.hear(slot, to_plain(inbox.message("sandbox", "the search", **content)))
    return [f"SANDBOX {mode}: {sentence(layer, why)}" for layer, why in missing.items()]


def default_workers() -> int:
    """Jobs at once: one a core; on a machine with accelerators four a device, as far as there are cores.

    A training has its device for itself. The others trace and check what is trained next, on cores.
    """
    devices = len(accelerators())
    return max(devices, min(4 * devices, cores())) if devices else cores()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_here() -> int:
    """Devices that a trial could have: accelerators, or what a CPU is told to pretend to be."""
    pretended = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return len(accelerators()) or (int(pretended[1]) if pretended else 1)


def accelerators() -> Sequence[str]:
    """Devices that JAX could use here, found without opening one: a driver opened in this process stays open."""
    if any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13)):
        return [f"cuda:{path.name[6:]}" for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    if importlib.util.find_spec("libtpu"):
        chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
        return [f"tpu:{index}" for index in range(len(chips))]
    return []


def _prepare(executor: Executor, store: Store, reference: str) -> int:
    """Make the training and validation arrays, unless they are there and whole; returns how many validation examples.

    Raises:
      StoreError: they cannot be made, or are not those that the run was begun with.
    """
    folder = store.data_note.parent
    job = data_job(store, reference, folder, f"prepare-{time.monotonic_ns()}")
    if job is not None:
        executor.submit(job)
        while not (events := executor.poll(1.0)):
            pass
        put_data(store, reference, folder, events[0])
    known = store.data_known(folder)
    assert known is not None, "arrays without a note"
    return known["validation"]


def data_job(store: Store, reference: str, folder: Path, name: str) -> Job | None:
    """The job that makes the arrays of a folder beside those that are there; None if these are whole.

    Args:
      store: of the run, open for writing.
      reference: of the space that they are of.
      folder: of the run, where they belong.
      name: of the job.
    """
    if store.data_known(folder) is not None and not store.damaged_data(folder):
        return None
    for left in folder.glob(".arrays.*"):  # by a process that was killed: nobody else writes here
        shutil.rmtree(left, ignore_errors=True)
    return Job(id=name, entry="nas.train.job:prepare_job", payload={"space": reference, "folder": str(_beside(folder))})


def put_data(store: Store, reference: str, folder: Path, event: Event) -> None:
    """Move what such a job made to its place, the note last, if it is what was there before; arguments as there.

    Raises:
      StoreError: the job failed, or the arrays are not those that the run was begun with; none is moved then.
    """
    try:
        if event.kind != "done":
            raise StoreError(f"the data of space '{reference}' could not be made: {event.error or event.kind}")
        if not _as_before(store, folder, event.result):
            text = f"the data of space '{reference}' is not what this run was begun with"
            raise StoreError(f"{text}; bring back what it is made of, or begin a new run")
        for path in sorted(_beside(folder).iterdir()):
            os.replace(path, folder / path.name)
        write_file(folder / store.data_note.name, json.dumps(event.result).encode())
    finally:
        shutil.rmtree(_beside(folder), ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder / f".arrays.{os.getpid()}"


def _as_before(store: Store, folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether new arrays are those of the note; where it cannot be read, whether they are those that are there."""
    known = store.data_known(folder)
    if known is not None or not (folder / store.data_note.name).exists():
        return known is None or made == known
    there = {name: folder / name for name in made["sha256"] if (folder / name).exists()}
    return all(sha256(path) == made["sha256"][name] for name, path in there.items())
