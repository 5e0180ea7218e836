"""What spaces over sequences of tokens share: what lies around a candidate, primitives, known architectures.

`byte_lm` and `recall` are made of it. A space names `language_model` with its scope as its skeleton, one of the
grammars of `grammar`, and the sources that `baselines` reads. Nothing here imports JAX when it is loaded.
"""

import dataclasses
from pathlib import Path
from typing import Any

from nas.space import Scope, SearchSpace, Spec, read_sources

FOLDER = Path(__file__).parent
SCOPES: tuple[Scope, ...] = ("Mixer", "Block", "Stack")

ASKED: dict[Scope, str] = {
    "Mixer": """\
You write the mixer of a block: (B, T, D) to (B, T, D). The skeleton norms its input, adds its output to the stream and
has a SwiGLU of its own after it; it stacks {depth} such blocks, each with parameters of its own.

""",
    "Block": """\
You write a whole block, (B, T, D) to (B, T, D), with its norms and residuals, its mixing of positions and its MLP; the
skeleton stacks {depth} of them, each with parameters of its own.

""",
    "Stack": """\
You write the whole middle, (B, T, D) to (B, T, D): a pattern of the primitives of `layers` (Attention, SlidingWindow,
Recurrence, GatedLinearAttention, DeltaRule, Convolution, MLP, GatedMLP, RoutedMLP), each made as
`self.first = layers.Attention(spec, rngs=rngs)` and used as `h = self.first(h)`. They bring norm and residual, and
their sizes follow from spec: a mixer has 4 D^2 parameters, an MLP 8 D^2; the limits allow about {layers} of them. What
goes where, how often, shared or not, in parallel or in turn, is the design.

""",
}
"""What a page of guidance says first: what is written at a scope, with `depth` and `layers` to be put in."""


def with_remat(space: SearchSpace, told: str) -> SearchSpace:
    """An option: what is inside a layer is computed anew for the gradients (`on`), which saves memory and takes time.

    Raises:
      ValueError: it is neither `on` nor `off`.
    """
    if told not in ("on", "off"):
        raise ValueError(f"'{told}' is neither on nor off; give one of them.")
    return dataclasses.replace(space, spec=dataclasses.replace(space.spec, remat=told == "on"))


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
