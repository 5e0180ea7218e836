"""The three jobs of an export, each in a process of its own: arrays out of a checkpoint, names, and the proof.

The first trusts the program's bytes, as training did, and never sees the candidate's source. The other two run the
exported code, sealed. That code is handed the test split, which a search never does: all it could do with it is to
report a score, and the score must be the one that the trainer measured.
"""

import sys
from pathlib import Path
from typing import Any

STAGED = "leaves.safetensors"
"""File with a seed's arrays by task and number: averaged parameters, then calibrated state."""


def arrays_job(
    space: str, program: str, digest: str, param_leaves: int, how: dict[str, Any], cache: str, weights: str, step: int,
    folder: str, test: str,
) -> dict[str, Any]:  # fmt: skip
    """Write what a seed was scored with, and the split that it was scored on.

    Args:
      space: reference of the space.
      program: file with the artifacts.
      digest: their SHA-256.
      param_leaves: how many of init's outputs are parameters.
      how: the program's `Plan` as plain data.
      cache: folder of the persistent compilation cache.
      weights: checkpoint of the seed.
      step: steps that it had.
      folder: where to write.
      test: name of the test split's file there.
    Returns:
      `leaves` and `examples`, the numbers of arrays of a network and of test examples.
    """
    import jax
    import numpy as np
    from optax import contrib

    from nas.space import load
    from nas.train import checkpoint
    from nas.train.engine import Engine, Plan
    from nas.train.job import configure, read_program

    configure(cache)
    loaded = load(space)
    train, split = loaded.task.split("train"), loaded.task.split("test")
    engine = Engine(loaded, read_program(Path(program), digest), param_leaves, train, train, Plan(**how))
    template, tree = jax.tree.flatten([engine.template()] * len(engine.parts))
    leaves, _ = checkpoint.load(Path(weights), template, {"digest": digest, "step": step})
    arrays: dict[str, Any] = {}
    for part, (params, state, opt, _) in enumerate(jax.device_put(jax.tree.unflatten(tree, leaves))):
        settled = engine.calibrated(params, state, opt, part) if state else state
        averaged = jax.jit(contrib.schedule_free_eval_params)(opt, params)
        found = [np.asarray(leaf) for leaf in (*averaged, *settled)]
        arrays |= {f"{part}/{index:04d}": leaf for index, leaf in enumerate(found)}
    write_arrays(Path(folder) / STAGED, arrays)
    write_arrays(Path(folder) / test, {"inputs": np.asarray(split.inputs), "targets": np.asarray(split.targets)})
    return {"leaves": len(arrays) // len(engine.parts), "examples": len(split.inputs)}


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays by name as safetensors."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)


def names_job(folder: str, build: str) -> list[str]:
    """Names of the exported network's arrays in the order of a program's leaves: parameters, then state."""
    from flax import nnx

    from nas.export.standalone import array_names

    network = _imported(folder, "network")
    model = nnx.eval_shape(getattr(network, build))
    _, params, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
    return array_names(params) + array_names(state)


def scores_job(folder: str) -> bytes:
    """What the exported script finds on each test example, float32."""
    import numpy as np

    return np.asarray(_imported(folder, "evaluate").scores(), np.float32).tobytes()


def _imported(folder: str, name: str) -> Any:
    """A module of an exported folder; this process serves one export and ends."""
    import importlib

    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    return importlib.import_module(name)
