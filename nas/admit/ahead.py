"""Compile an admitted program for a TPU on a machine that has none: does it compile, how long, and does it fit?

In go a program's artifacts, lowered for `tpu`, out come what XLA's TPU compiler says of one training step and of one
evaluation: seconds and memory. All training examples count in both, since the engine keeps them on the device; those
of validation are brought there batch by batch. Nothing is run, so how fast they are is not said. Needs the package
`libtpu` (extra `tpu`), which brings the compiler.
"""

import importlib.util
import math
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nas.space import SearchSpace, Split, load


class Tpu(NamedTuple):
    """A TPU that can be compiled for: its name in JAX, the smallest slice of it, and its memory [bytes]."""

    topology: str
    slice_name: str
    memory_bytes: int


TPUS = {
    "tpu-v4": Tpu("v4:2x2x1", "v4-8", 32 << 30),
    "tpu-v5e": Tpu("v5e:2x2", "v5litepod-4", 16 << 30),
    "tpu-v5p": Tpu("v5p:2x2x1", "v5p-8", 95 << 30),
    "tpu-v6e": Tpu("v6e:2x2", "v6e-4", 32 << 30),
}
"""By the name that `--device` takes. Memory of one chip as the maker states it (cloud.google.com/tpu/docs)."""


def missing() -> str:
    """Why nothing can be compiled ahead of time here, as a sentence; empty if it can."""
    if importlib.util.find_spec("libtpu") is None:
        return "compiling for a TPU needs the package libtpu; in this project's folder: pip install -e '.[tpu]'"
    return ""


def environment(tpu: Tpu) -> dict[str, str]:
    """What the library has to be told: without it, it asks the network where it is, and lets one process in alone."""
    return {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": tpu.slice_name, "TPU_LOG_DIR": "disabled", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip


def compile_job(space: str, blobs: Mapping[str, bytes], param_leaves: int, device: str) -> dict[str, Any]:
    """Entry of a job: for `step` and `evaluation` the seconds and bytes of each, and whether the larger fits.

    Training examples are made here, since only then it is known how many there are.

    Args:
      space: reference of the space.
      blobs: artifacts that were checked, lowered for `tpu`.
      param_leaves: how many of init's outputs are parameters.
      device: a key of `TPUS`.
    Returns:
      By program `compile_s` and `memory_bytes`; of both `data_bytes`, what the training examples take; and `device`,
      `memory_bytes` of the device and `fits`.
    """
    tpu = TPUS[device]
    os.environ.update(environment(tpu))
    loaded = load(space)
    data = _avals(loaded.task.split("train"))
    found = {name: _compiled(tpu, *one) for name, one in _programs(loaded, blobs, param_leaves, data).items()}
    most = max(one["memory_bytes"] for one in found.values())
    return {
        **found, "data_bytes": sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in data), "device": device,
        "memory_bytes": tpu.memory_bytes, "fits": most <= tpu.memory_bytes,
    }  # fmt: skip


def _avals(split: Split) -> tuple[Any, ...]:
    """Shapes of a split's arrays as they lie on a device, where numbers of eight bytes have four."""
    import jax

    return tuple(jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)) for a in split)


def _programs(
    space: SearchSpace, blobs: Mapping[str, bytes], param_leaves: int, data: tuple[Any, ...]
) -> dict[str, tuple[Any, Any]]:
    """The training step and the evaluation as functions, with the shapes of their arguments, `data` in both."""
    import jax

    from nas.train.engine import Engine, Plan

    recipe = space.recipe
    how = Plan(mode="scan", chunk=1, train_level=None, eval_level=None, fusion_emitters=True)
    parts = len(space.task.parts) or 1
    examples = Split(*(np.zeros((parts, 1)) for _ in Split._fields))  # of the data only the shapes are needed
    engine = Engine(space, dict(blobs), param_leaves, examples, examples, how, platform="tpu")
    carry = engine.template()
    batch = [jax.ShapeDtypeStruct((recipe.eval_batch, *aval.shape[1:]), aval.dtype) for aval in data]
    evaluate = engine._evaluation()

    def evaluation(data: Any, *arguments: Any) -> Any:
        return evaluate(*arguments)

    number = jax.ShapeDtypeStruct((), np.float32)
    numbers = number, number, jax.ShapeDtypeStruct((), np.uint32)
    rows = jax.ShapeDtypeStruct((recipe.batch,), np.int32)
    return {
        "step": (engine.step_function(), (carry, numbers, data, rows)),
        "evaluation": (evaluation, (data, *carry[:3], *batch)),
    }


def _compiled(tpu: Tpu, function: Any, avals: Any) -> dict[str, Any]:
    """Compile a function for one chip; arguments that it does not use take memory too."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    chip = SingleDeviceSharding(topologies.get_topology_desc(tpu.topology, platform="tpu").devices[0])
    began = time.perf_counter()
    traced = jax.jit(function, in_shardings=chip, out_shardings=chip, keep_unused=True).trace(*avals)
    compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    seconds = time.perf_counter() - began
    memory: Any = compiled.memory_analysis()
    sizes = ("argument", "output", "temp", "generated_code")
    total = sum(getattr(memory, f"{name}_size_in_bytes") for name in sizes) - memory.alias_size_in_bytes
    return {"compile_s": round(seconds, 2), "memory_bytes": int(total)}
