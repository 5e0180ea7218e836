"""A paused trial on disk: one safetensors file whose metadata says what the arrays belong to.

Written under a temporary name, flushed and renamed, so that a file that has its name is whole. Arrays are checked
against a template on the way in: a restored scalar of shape (1,) would broadcast without a word and be wrong.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.files import write_file

_SUM = "sha256"
"""Entry of the metadata with the hash of all arrays; files of before have none."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


def save(path: Path, leaves: Sequence[Any], meta: Mapping[str, Any]) -> int:
    """Write arrays in order, with JSON metadata, durably and atomically.

    Returns:
      The file's size [bytes].
    """
    from safetensors.numpy import save as to_bytes

    # np.array(..., order="C") keeps a 0-d array 0-d, which np.ascontiguousarray does not.
    arrays = {f"{index:04d}": np.array(leaf, order="C") for index, leaf in enumerate(leaves)}
    written = {**meta, _SUM: _sum(arrays.values())}
    content = to_bytes(arrays, metadata={"nas": json.dumps(written, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    return len(content)


def _sum(arrays: Iterable[np.ndarray]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def unreadable(path: Path) -> str | None:
    """Why a checkpoint cannot be read; None if it can."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {})["nas"])
            arrays = [file.get_tensor(name) for name in sorted(file.keys())]
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        return " ".join(str(error).split())[:200]
    return None if written.get(_SUM) in (None, _sum(arrays)) else "its numbers are not those that were written"


def load(path: Path, template: Sequence[Any], meta: Mapping[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Read arrays back in order, and the metadata.

    Args:
      path: the file.
      template: things with `shape` and `dtype`, one an array.
      meta: entries that the file's metadata must have, for instance the program's digest.
    Raises:
      CheckpointError: the file is missing, damaged, or belongs to something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            written = json.loads((file.metadata() or {})["nas"])
            arrays = [file.get_tensor(name) for name in sorted(file.keys())]
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from error
    if written.pop(_SUM, None) not in (None, _sum(arrays)):
        raise CheckpointError(f"checkpoint {path.name} holds other numbers than were written; the disk is damaged")
    for key, value in meta.items():
        if written.get(key) != value:
            raise CheckpointError(f"checkpoint {path.name} has {key} {written.get(key)!r}, not {value!r}")
    found = [(array.shape, str(array.dtype)) for array in arrays]
    wanted = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in template]
    if found != wanted:
        raise CheckpointError(f"checkpoint {path.name} holds arrays {found[:3]}…, not {wanted[:3]}…")
    return arrays, written
