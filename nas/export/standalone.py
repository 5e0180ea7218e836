"""What an exported folder's code is made of: `source.py` copies these functions as they stand here.

They know nothing of this project, import jax, flax and numpy alone, and import what else they need where they need it,
so that no name of theirs gets into a candidate's way. The coordinator reads this file as text and never imports it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def predict(model: Any, x: Any) -> jax.Array:
    """The network's outputs for a batch of inputs, float32."""
    returned = model(x)
    output = returned[0] if isinstance(returned, tuple) else returned  # the other is a loss for training alone
    return output.astype(jnp.float32)


def fill(model: Any, arrays: dict[str, Any]) -> None:
    """Give a network its weights and its running statistics, by the names that `array_names` gives them.

    Random streams are set to what an evaluation starts from, so that a network which draws in evaluation does it as
    it did when it was scored.
    """
    _, params, streams, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
    names = [array_names(part) for part in (params, state)]
    if sorted(names[0] + names[1]) != sorted(arrays):
        wrong = sorted({*names[0], *names[1]} ^ {*arrays})
        raise ValueError(f"the weights belong to another network: {', '.join(wrong[:5])}")
    for part, own in zip((params, state), names, strict=True):
        leaves, tree = jax.tree.flatten(part)
        found = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in zip(own, leaves, strict=True)]
        for name, array, leaf in zip(own, found, leaves, strict=True):
            if array.shape != leaf.shape:
                raise ValueError(f"{name} has shape {array.shape} in the file and {leaf.shape} in the network")
        nnx.update(model, jax.tree.unflatten(tree, found))
    leaves, tree = jax.tree.flatten(streams)
    fresh = [first_draw(index, leaf) for index, leaf in enumerate(leaves)]
    nnx.update(model, jax.tree.unflatten(tree, fresh))


def array_names(state: Any) -> list[str]:
    """Where each array is in the network, for instance `convs.0.kernel`, in the order in which JAX flattens them."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path in paths]


def first_draw(index: int, leaf: Any) -> jax.Array:
    """A random stream at the start of an evaluation: its key, or that it has given none yet."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.zeros(leaf.shape, leaf.dtype)
    key = jax.random.fold_in(jax.random.key(0), index)
    return key if leaf.shape == () else jax.random.split(key, leaf.shape)


def read_arrays(path: Any) -> dict[str, Any]:
    """The arrays of a safetensors file by name: a length, a JSON header with types, shapes and places, the bytes."""
    import json

    import numpy as np

    letters = {"F": "float", "I": "int", "U": "uint"}
    others = {"BOOL": "bool", "BF16": "bfloat16", "C64": "complex64"}
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        code = entry["dtype"]
        kind = jnp.dtype(others.get(code) or letters[code[0]] + code[1:])
        arrays[name] = np.frombuffer(content[begin:end], kind).reshape(entry["shape"])
    return arrays


def own_arrays(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin so, by what follows."""
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if not own:
        known = ", ".join(sorted({name.partition("/")[0] for name in arrays}))
        raise ValueError(f"the file has no weights of {prefix.rstrip('/')!r}; it has those of {known}")
    return own


def score_each(model: Any, predict: Any, score: Any, split: dict[str, Any], batch: int, options: dict[str, Any]) -> Any:
    """The score of every example of a split, float32.

    Args:
      model: in evaluation mode.
      predict: (model, inputs) -> outputs.
      score: (outputs, targets) -> the score of each example.
      split: `inputs` and `targets`.
      batch: examples in a call; what does not fill one is left out.
      options: XLA's, of a CPU: they decide the last bits.
    """
    import numpy as np

    definition, state = nnx.split(model)

    def scores(state: Any, x: Any, y: Any) -> Any:
        return score(predict(nnx.merge(definition, state), x), y)

    inputs, targets = split["inputs"], split["targets"]
    lowered = jax.jit(scores).lower(state, inputs[:batch], targets[:batch])
    compiled = lowered.compile(compiler_options=options if jax.default_backend() == "cpu" else {})
    starts = range(0, len(inputs) - batch + 1, batch)
    return np.concatenate([np.asarray(compiled(state, inputs[i : i + batch], targets[i : i + batch])) for i in starts])


def run_folder(folder: Path, load: Any, predict: Any, score: Any, read_arrays: Any) -> Any:
    """The score of every example of the folder's test split, one task after the other where there are several."""
    import json

    import numpy as np

    config = json.loads((folder / "config.json").read_text("utf-8"))["evaluation"]
    path = folder / config["file"]
    if not path.exists():
        raise SystemExit(f"{path.name} is not here; it holds the test split as arrays 'inputs' and 'targets'")
    split, tasks = read_arrays(path), config["tasks"]
    models = [load(task) for task in tasks] if tasks else [load()]
    count, found = len(split["inputs"]) // len(models), []
    for place, model in enumerate(models):
        own = {name: array[place * count : (place + 1) * count] for name, array in split.items()}
        found.append(score_each(model, predict, score, own, config["batch"], config["compiler_options"]))
    return np.concatenate(found)


def compare(folder: Path, scores: Any) -> int:
    """Print the mean beside the leaderboard's; 0 if they agree to 1e-6, else 1."""
    import json

    import numpy as np

    config = json.loads((folder / "config.json").read_text("utf-8"))["evaluation"]
    found = float(np.mean(scores, dtype=np.float64))
    apart = abs(found - config["score"])
    print(f"{config['metric']} on {len(scores):,} test examples: {found:.7f}")
    print(f"the leaderboard's of this seed:  {config['score']:.7f}, {apart:.1e} apart")
    return 0 if apart <= 1e-6 else 1
