"""What is wrong with what a space declares, before anything of it runs.

Each check takes a space and returns one sentence, what is wrong and what to change, or None. A search asks all of them
before it begins; `python -m nas.testing` goes on from there to the space's data, functions and programs.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from nas.space import SearchSpace, SpaceError


def must_hold(space: SearchSpace, reference: str) -> None:
    """Raise what is wrong with a space's declarations.

    Raises:
      SpaceError: the first problem, in one line.
    """
    for check in DECLARATIONS.values():
        try:
            problem = check(space)
        except Exception as error:  # a field may be of any type
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if problem is not None:
            raise SpaceError(f"space '{reference}': {problem}. `python -m nas.testing '{reference}'` checks all of it.")


def _identity(space: SearchSpace) -> str | None:
    plain = re.split("[?@]", space.name)[0].replace(":", "_")  # of what was chosen or made larger: name?size=gpu@axis=2
    if not (plain.isidentifier() and plain == plain.lower()):
        return f"name {space.name!r} is not lower-case letters, digits and _; rename it, with :variant for a variant"
    if not (isinstance(space.version, int) and space.version >= 1):
        return f"version is {space.version!r}; count from 1 and raise it when anything changes that scores depend on"
    if space.scope not in ("Model", "Block", "Mixer", "Stack"):
        return f"scope {space.scope!r} is none of Model, Block, Mixer, Stack; choose one"
    if space.credible_gain is not None and not space.credible_gain > 0:
        return f"credible_gain is {space.credible_gain}; give what a discovery may gain at most, or None to believe all"
    if not isinstance(space.baselines, Mapping) or not all(isinstance(text, str) for text in space.baselines.values()):
        return "baselines is no mapping of names to source texts; `nas.space.read_sources` makes one of a folder"
    return None if space.baselines else "there is no baseline; give at least one known architecture to compare with"


def _spec(space: SearchSpace) -> str | None:
    spec = space.spec
    small = [n for n in ("length", "classes", "width", "depth", "heads") if getattr(spec, n) < 1]
    if small:
        return f"spec.{small[0]} is {getattr(spec, small[0])}; it must be at least 1"
    if (spec.channels > 0) == (spec.vocab > 0):
        return f"spec has channels={spec.channels} and vocab={spec.vocab}; exactly one of them is above 0"
    if spec.width % spec.heads:
        return f"spec.heads={spec.heads} does not divide spec.width={spec.width}; choose a divisor"
    return None


def _contract(space: SearchSpace) -> str | None:
    spec, contract = space.spec, space.contract
    expected = (spec.length,) if spec.vocab else (spec.length, spec.channels)
    if spec.vocab and not np.issubdtype(contract.input_dtype, np.integer):
        return f"contract.input_dtype is {contract.input_dtype} while spec.vocab={spec.vocab}; token ids are int32"
    if space.scope != "Model" and contract.input_shape != expected:
        return f"contract.input_shape is {contract.input_shape}; the skeleton takes {expected}, from spec"
    if contract.output_shape[-1:] != (spec.classes,):
        return f"contract.output_shape is {contract.output_shape}; its last axis must be spec.classes={spec.classes}"
    if contract.causal and len(contract.output_shape) < 2:
        return "contract.causal is set, but an output has no axis of positions; unset it, or predict at every position"
    limits = {name: getattr(contract, name) for name in ("max_params", "max_flops", "max_memory_bytes")}
    wrong = [name for name, limit in limits.items() if limit is not None and limit <= 0]
    return f"contract.{wrong[0]} is {limits[wrong[0]]}; give a positive number, or None for no limit" if wrong else None


def _recipe(space: SearchSpace) -> str | None:
    recipe = space.recipe
    for name, least in (("batch", 1), ("eval_batch", 1), ("warmup", 0)):
        if getattr(recipe, name) < least:
            return f"recipe.{name} is {getattr(recipe, name)}; it must be at least {least}"
    for name in ("lr", "wd"):
        if getattr(recipe, name).low < 0:
            return f"recipe.{name} begins at {getattr(recipe, name).low}; it must not be negative"
    return None


def _ladder(space: SearchSpace) -> str | None:
    ladder = space.ladder
    if (
        not ladder.steps
        or ladder.steps[0] < 1
        or any(b <= a for a, b in zip(ladder.steps, ladder.steps[1:], strict=False))
    ):
        return f"ladder.steps is {ladder.steps}; give positive numbers, each larger than the one before"
    if ladder.eta < 1:
        return f"ladder.eta is {ladder.eta}; one of eta trials is promoted, so give 2 or more, or 1 to promote them all"
    return None if ladder.draws >= 1 else f"ladder.draws is {ladder.draws}; a candidate needs at least one draw"


DECLARATIONS: dict[str, Callable[[SearchSpace], str | None]] = {
    "name and version": _identity,
    "spec": _spec,
    "contract": _contract,
    "recipe": _recipe,
    "ladder": _ladder,
}
"""The checks by what they look at."""
