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

from nas.execute import Executor, Job
from nas.execute.local import LocalExecutor
from nas.flows import Place, preload
from nas.space import SearchSpace, digest
from nas.store import Store, StoreError


class Workplace(NamedTuple):
    """An executor that is open, and the run that it works for."""

    executor: LocalExecutor
    place: Place


@contextlib.contextmanager
def open_workplace(store: Store, space: SearchSpace, workers: int) -> Iterator[Workplace]:
    """Start an executor for a run, and make its arrays unless they are there.

    Args:
      store: of the run, open for writing.
      space: the one that it was made with.
      workers: jobs at once.
    Raises:
      StoreError: the space's file has changed since, or the arrays cannot be made.
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
    with LocalExecutor(workers, preload(space), found) as executor:
        kind = found[0].partition(":")[0] if found else "cpu"
        yield Workplace(
            executor,
            Place(
                reference=reference, space=space, store=store, examples=_prepare(executor, store, reference),
                accelerators=len(found), platform=kind, devices=devices,
            ),
        )  # fmt: skip


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
