"""Where the jobs of a run run: an executor on this machine, and the arrays that its trainers map.

In goes a run's store, out comes an executor with what flows need to know. Searching and confirming open the same one.
"""

import contextlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nas import inbox
from nas.execute import Executor, Job, Sandbox, Unlocked, chosen_sandbox
from nas.execute.confine import sentence
from nas.execute.local import LocalExecutor
from nas.flows import Place, preload
from nas.records import to_plain
from nas.space import SearchSpace, digest
from nas.store import Store, StoreError


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
    """Jobs at once unless told otherwise: one an accelerator, or one a core."""
    return len(accelerators()) or cores()


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
    """Make the training and validation arrays, unless they are there; returns how many validation examples."""
    folder = store.folder / "data"
    note = folder / "sizes.json"
    if note.exists():
        return json.loads(note.read_text("utf-8"))["validation"]
    payload = {"space": reference, "folder": str(folder)}
    executor.submit(Job(id=f"prepare-{time.monotonic_ns()}", entry="nas.train.job:prepare_job", payload=payload))
    while True:
        for event in executor.poll(1.0):
            if event.kind != "done":
                raise StoreError(f"the data of space '{reference}' could not be made: {event.error or event.kind}")
            note.write_text(json.dumps(event.result), "utf-8")
            return event.result["validation"]
