"""Jobs of a trainer: write a space's data, and train the trials of one program to the rungs where they are scored.

An entry runs in a process of its own (`nas.execute`), with plain data in and out; `engine` has what is compiled. A
program's bytes must have the admitted hash. A trial that fails takes no other with it, and one whose checkpoint
cannot be used is trained again from its start.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.admit import leaks
from nas.declared import misfit
from nas.files import sha256
from nas.judge import parts
from nas.machine import device_name
from nas.records import Failure, Point, hash_blobs, to_plain
from nas.space import Split, load
from nas.train import checkpoint
from nas.train.engine import Engine, Plan

IDENTITY = "identity.txt"
"""File beside the arrays that says what data they were made of, where the space's code does not."""


def prepare_job(space: str, folder: str) -> dict[str, Any]:
    """Entry: write the training and validation split where trainers map them; the test split is not made here.

    Args:
      space: reference to it.
      folder: that nobody maps arrays of; made if it is not there.
    Returns:
      How many examples `train` and `validation` have, and the `sha256` of each file by its name.
    Raises:
      ValueError: they do not fit the batches of the space's recipe; examples would be left out in silence.
    """
    loaded = load(space)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"sha256": {}}
    for name in ("train", "validation"):
        split = loaded.task.split(name)
        if problem := misfit(loaded, name, len(split.inputs)):
            raise ValueError(f"{name}: {problem}")
        for part, array in zip(Split._fields, split, strict=True):
            path = target / f"{name}.{part}.npy"
            np.save(path, array)
            made["sha256"][path.name] = sha256(path)
        made[name] = len(split.inputs)
    if loaded.task.identity is not None:
        (target / IDENTITY).write_text(loaded.task.identity(), "utf-8")
    return made


def read_split(folder: str, name: str) -> Split:
    """Map a split that `prepare_job` wrote.

    Raises:
      OSError: a file is missing or damaged, which is no candidate's fault.
    """
    try:
        return Split(*(np.load(Path(folder) / f"{name}.{part}.npy", mmap_mode="r") for part in Split._fields))
    except OSError:
        raise
    except Exception as error:  # a damaged head is read as Python, and anything may come of it
        text = f"the arrays in {folder} are damaged; remove that folder, it is made again"
        raise OSError(errno.EIO, text) from error


def other_data_of(train: Split, validation: Split, tasks: int, batch: int) -> tuple[Split, Split]:
    """Data that no score so far was made on: as much of both splits as fits changes places.

    The first examples of each task are moved, in one block. Where a task draws windows of one text with replacement,
    part of what is validated on was trained on: it finds what knows the old validation data, and no overfitting.

    Args:
      train: examples, one task after the other.
      validation: likewise.
      tasks: how many tasks there are.
      batch: what the size of the new validation split is a multiple of.
    Returns:
      A training split of the same size, and a validation split of at most that of the old one. If there are fewer
      examples than a batch, both are as they were.
    """
    moved = min(len(train.inputs), len(validation.inputs)) // tasks // batch * batch
    if not moved:
        return train, validation

    def by_task(array: np.ndarray) -> np.ndarray:
        return array.reshape(tasks, -1, *array.shape[1:])

    def flat(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, *array.shape[2:])

    swapped = [
        (
            flat(np.concatenate([by_task(old)[:, moved:], by_task(new)[:, :moved]], axis=1)),
            flat(by_task(old)[:, :moved]),
        )
        for old, new in zip(train, validation, strict=True)
    ]
    return Split(*(pair[0] for pair in swapped)), Split(*(pair[1] for pair in swapped))


def train_job(
    space: str,
    program: str,
    digest: str,
    param_leaves: int,
    how: dict[str, Any],
    data: str,
    cache: str | None,
    start: int,
    stops: list[int],
    trials: list[dict[str, Any]],
    devices: int = 1,
    other_data: bool = False,
) -> dict[str, Any]:
    """Entry: train trials of one program through rungs.

    Args:
      space: reference of the space.
      program: file with the artifacts.
      digest: their SHA-256; other bytes are refused.
      param_leaves: how many of init's outputs are parameters.
      how: the program's `Plan` as plain data.
      data: folder that `prepare_job` wrote.
      cache: folder of the persistent compilation cache, or None.
      start: steps the trials have had.
      stops: steps at which they are scored, ascending; training ends at the last.
      trials: for each `id`, `lr`, `wd`, `seed`, `load` (checkpoint files and steps, the best first: the first that
        can be read is taken), `save` (file or None) and, for a confirmation alone, `test`: the file that shall hold its
        scores on the test split, which is made here, used once and written nowhere, and `inference`: whether that shall
        be timed. Where a space has several tasks, `bar` may be the score of each that another trial has: what is
        hopeless against it is left after some of them.
      devices: over how many devices a batch is laid.
      other_data: whether training and validation data change places first, see `other_data_of`.
    Returns:
      For each trial `points`, a list of (point, training losses since the point before), a `failure` if it ended
      before the last stop, what the test split said, if it was asked for, and `inference_s`, likewise; the program's
      `step_s` on `device`; and CPU seconds by stage.
    """
    clock = time.process_time
    began = clock()
    import jax

    configure(cache)
    if devices > 1 and os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_num_cpu_devices", devices)  # what a test of this asks for; a job has no XLA_FLAGS
    loaded = load(space)
    jax.devices()  # opens the backend
    spent = {"start": clock() - began, "compile": 0.0, "train": 0.0, "evaluate": 0.0, "checkpoint": 0.0}
    began = clock()
    blobs = read_program(Path(program), digest)
    splits = read_split(data, "train"), read_split(data, "validation")
    if other_data:
        splits = other_data_of(*splits, len(loaded.task.parts) or 1, loaded.recipe.eval_batch)
    engine = Engine(loaded, blobs, param_leaves, *splits, Plan(**how), devices)
    spent["compile"] += clock() - began
    results = []
    for trial in trials:
        began = clock()
        step, carries = _begin(engine, trial, digest)
        engine.compiled_step(carries[0])
        spent["compile"] += clock() - began
        began = clock()
        if step < start:  # its last checkpoint is lost; what it measured on the way there is known already
            carries = [engine.train(trial, step, start, carry, index)[0] for index, carry in enumerate(carries)]
            step = start
        spent["train"] += clock() - began
        points: list[Any] = []
        result: dict[str, Any] = {"points": points}
        for stop in stops:
            measured = _to_stop(engine, trial, step, stop, carries, spent)
            if isinstance(measured, Failure):
                result["failure"] = to_plain(measured)
                break
            points.append((to_plain(measured[0]), measured[1]))
            step = stop
        whole = "failure" not in result and len(points[-1][0]["parts"]) in (0, len(engine.parts))
        if trial["save"] and whole:
            began = clock()
            checkpoint.save(Path(trial["save"]), jax.tree.leaves(carries), {"digest": digest, "step": step})
            spent["checkpoint"] += clock() - began
        if trial.get("test") and whole:
            began = clock()
            result["test"] = _test(engine, carries, Path(trial["test"]), Path(data))
            spent["evaluate"] += clock() - began
        if trial.get("inference") and whole:
            began = clock()
            result["inference_s"] = engine.time_inference(carries[0])
            spent["evaluate"] += clock() - began
        results.append(result)
    step_s = engine.step_s if math.isfinite(engine.step_s) else None
    device = device_name(jax.devices()[0].device_kind)
    return {"trials": results, "spent": spent, "step_s": step_s, "device": device}


def _to_stop(
    engine: Engine, trial: dict[str, Any], step: int, stop: int, carries: list[Any], spent: dict[str, float]
) -> tuple[Point, list[float]] | Failure:
    """Train a trial on each task from step to stop and score it; returns the point and the training losses.

    Tasks that a trial is not worth are left out: then the point has no score for them, and its carry is of no use.
    """
    clock, bar, maximize = time.process_time, trial.get("bar"), engine.space.task.maximize
    scores, loss_of, curves = dict[str, float](), list[float](), list[list[float]]()
    for index, part in enumerate(engine.parts):
        began = clock()
        carries[index], losses = engine.train(trial, step, stop, carries[index], index)
        spent["train"] += clock() - began
        began = clock()
        finite = all(map(math.isfinite, losses))
        settled = engine.settled(carries[index], index) if finite else None
        loss, score, first = engine.score(settled, index) if settled else (math.nan, math.nan, None)
        if not (settled and math.isfinite(loss) and math.isfinite(score)):
            return _diverged(losses, step, stop, engine.how.chunk)
        leak = engine.leak(settled, first, engine.leak_calls(step, stop), (trial["seed"], stop, index), index)
        spent["evaluate"] += clock() - began
        if leak is not None:
            return leaks.failure(leak, f"with parameters trained for {stop} steps, and not at admission")
        scores[part] = score
        loss_of.append(loss)
        curves.append(losses)
        if bar and len(scores) < len(engine.parts):
            beaten = [bar[name] for name in engine.parts]
            if parts.hopeless(list(scores.values()), beaten, maximize=maximize):
                break
    whole = len(scores) == len(engine.parts)
    score = float(np.mean(list(scores.values()))) if whole else parts.expected(scores, bar or {})
    curve = [float(np.mean(each)) for each in zip(*curves, strict=True)]
    named = scores if engine.space.task.parts else {}
    point = Point(step=stop, train_loss=float(np.mean(curve)), loss=float(np.mean(loss_of)), score=score, parts=named)
    return point, curve


def _test(engine: Engine, carries: Sequence[Any], file: Path, data: Path) -> dict[str, Any]:
    """Score a finished trial on the test split, keep what every example said, and return the means."""
    note, task = data / IDENTITY, engine.space.task
    try:
        same = task.identity is None or note.read_text("utf-8") == task.identity()
    except ValueError:  # it cannot be read as what it was
        same = False
    if not same:
        raise OSError(errno.ESTALE, "the data is not what the run began with; restore it, or start a new run")
    split = task.split("test")
    found = [engine.evaluate_each(carry, split, index) for index, carry in enumerate(carries)]
    losses, scores = (np.concatenate(each) for each in zip(*found, strict=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, scores=scores)
    os.replace(temporary, file)
    return {"score": float(scores.mean(dtype=np.float64)), "loss": float(losses.mean(dtype=np.float64)),
            "examples": len(scores)}  # fmt: skip


def _begin(engine: Engine, trial: dict[str, Any], digest: str) -> tuple[int, list[Any]]:
    """A trial's carries, one a task, and the steps it has had, by the best checkpoint that can be used; or none.

    Training again from an earlier one gives the same bits as the last would have, only later.
    """
    import jax

    template, tree = jax.tree.flatten([engine.template()] * len(engine.parts)) if trial["load"] else ([], None)
    for path, step in trial["load"]:
        with contextlib.suppress(checkpoint.CheckpointError):
            leaves, _ = checkpoint.load(Path(path), template, {"digest": digest, "step": step})
            return step, engine.placed(jax.tree.unflatten(tree, leaves))
    return 0, engine.placed([(*engine.init(trial["seed"]), np.uint32(0)) for _ in engine.parts])


def configure(cache: str | None) -> None:
    """Settings of JAX in a trainer; the cache holds every executable, however quickly it compiled."""
    import jax

    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def read_program(path: Path, digest: str) -> dict[str, bytes]:
    """The artifacts in a program file.

    Raises:
      OSError: the bytes are not those that were admitted: the file is damaged, or somebody has changed it.
    """
    import msgpack

    try:
        blobs = msgpack.unpackb(path.read_bytes())
        if hash_blobs(blobs) == digest:
            return blobs
    except (ValueError, KeyError, TypeError, msgpack.UnpackException):
        pass
    raise OSError(errno.EIO, f"program {path.name} is not the one that was admitted; take it from a copy of the run")


def _diverged(losses: Sequence[float], start: int, stop: int, chunk: int) -> Failure:
    known = [start + (index + 1) * chunk for index, loss in enumerate(losses) if not math.isfinite(loss)]
    message = (
        f"the loss was not finite by step {known[0] if known else stop}; a norm, a smaller initialisation or a lower "
        "learning rate keeps it finite"
    )
    return Failure(stage="train", rule="diverged", message=message)
