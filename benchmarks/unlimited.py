"""MNIST-1D without limits: the published task, and networks of the published sizes to train on it.

Loaded by the jobs too, as the space `benchmarks.unlimited:SPACE`, so nothing here imports JAX.
"""

from dataclasses import replace
from pathlib import Path

from nas.admit import Admitted, admit, drive
from nas.admit.gate import check
from nas.execute import Executor
from nas.records import defaults
from nas.search_spaces.mnist1d import space as mnist1d
from nas.space import SearchSpace, read_sources

NETWORKS = read_sources(Path(__file__).parent / "networks")
"""Source text by name."""


def _unlimited(space: SearchSpace) -> SearchSpace:
    contract = replace(space.contract, max_params=None, max_flops=None)
    # A thousand divides the published test set and the fresh splits.
    return replace(space, contract=contract, recipe=replace(space.recipe, eval_batch=1_000))


SPACE = _unlimited(mnist1d.SPACE)
VARIANTS = {"shuffled": _unlimited(mnist1d.VARIANTS["shuffled"])}


def reference(*, shuffled: bool = False) -> str:
    """What jobs load the space by."""
    return f"{__name__}:{'shuffled' if shuffled else 'SPACE'}"


def admit_network(executor: Executor, name: str, *, shuffled: bool = False) -> Admitted:
    """Take a network through the door that every candidate takes.

    Raises:
      ValueError: it was rejected; the message says why.
    """
    gated = check(NETWORKS[name], SPACE.scope)
    if gated.failures:
        raise ValueError(f"network '{name}': {gated.failures[0]}")
    found = drive(
        executor, admit(reference(shuffled=shuffled), NETWORKS[name], defaults(gated.tunables), tag=f"{name}{shuffled}")
    )
    if not isinstance(found, Admitted):
        raise ValueError(f"network '{name}': {found}")
    return found
