"""What spaces over sequences of tokens share: what lies around a candidate, primitives, known architectures.

`byte_lm` and `recall` are made of it. A space names `language_model` with its scope as its skeleton, one of the
grammars of `grammar`, and the sources that `baselines` reads. Nothing here imports JAX when it is loaded.
"""

from pathlib import Path
from typing import Any

from nas.space import Scope, Spec, read_sources

FOLDER = Path(__file__).parent
SCOPES: tuple[Scope, ...] = ("Mixer", "Block", "Stack")


def baselines(scope: Scope) -> dict[str, str]:
    """Sources of known architectures of a scope by name, in the order in which they are trained."""
    return read_sources(FOLDER / "baselines" / scope.lower())


def language_model(
    unit: type, spec: Spec, hp: Any, *, rngs: Any, scope: Scope, tied: bool = True, decoded: int = 0
) -> Any:
    """What `SearchSpace.skeleton` asks for, as `skeleton.LanguageModel` describes it; partial in its last arguments.

    Layers are scanned and rematerialised as `spec` says.
    """
    from nas.search_spaces.sequence.skeleton import LanguageModel

    return LanguageModel(unit, spec, hp, rngs=rngs, scope=scope, tied=tied, decoded=decoded)
