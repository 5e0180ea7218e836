"""The random arm: a fresh candidate drawn from the primitives that a space offers.

In goes a space and a random generator, out comes source text: a stem, a few body blocks, some of them with a residual
connection, and a head. It learns nothing from results; that is what makes it the control of the other arms. `render`,
which turns a primitive into statements, serves `evolution` too.
"""

import ast
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.propose.source import Draft, expression, names_read, statements, tunable_source
from nas.records import Choice, Integer, Real
from nas.space import Primitive, SearchSpace

RESIDUAL = 0.5
"""Probability that a body block which keeps the width gets a residual connection."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_RESIZING = re.compile(r"strid|pool|VALID|\[:|::")
"""What in a primitive hints that it changes the length of the series, so that a residual would not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A primitive with its placeholders filled.

    Attributes:
      init: statements for `__init__`.
      call: statements for `__call__`, on `h`.
      width: source of the number of features after it.
      tunables: declarations that it adds to `TUNABLES`.
    """

    init: list[ast.stmt]
    call: list[ast.stmt]
    width: str
    tunables: dict[str, ast.expr] = field(default_factory=dict)


def sample(space: SearchSpace, rng: np.random.Generator) -> str:
    """Draw a candidate from the space's grammar.

    Args:
      space: its grammar gives the primitives, its scope the class.
      rng: source of randomness; the same state gives the same text.
    Returns:
      Source text that passes the gate.
    """
    grammar, scope = space.grammar, space.scope
    width = "spec.channels" if scope == "Model" else "spec.width"
    count = int(rng.integers(grammar.blocks[0], grammar.blocks[1] + 1))
    chosen = [pick(grammar.stem, rng), *(pick(grammar.body, rng) for _ in range(count)), pick(grammar.head, rng)]
    init: list[ast.stmt] = []
    call: list[ast.stmt] = []
    tunables: dict[str, ast.expr] = {}
    told: list[str] = []
    for index, primitive in enumerate(chosen):
        is_head = index == len(chosen) - 1
        if is_head and scope != "Model" and width != "spec.width":
            init += statements(f"self.fit = nnx.Linear({width}, spec.width, rngs=rngs)")
            call += statements("h = self.fit(h)")
            width = "spec.width"
        name = f"{identifier(primitive.name)}_{index}"
        piece = render(primitive, name=name, width=width, taken=tunables, rng=rng)
        residual = 0 < index < len(chosen) - 1 and may_be_added(primitive, piece, width) and rng.random() < RESIDUAL
        call += with_residual(piece.call, "h", f"skip_{index}") if residual else piece.call
        told.append(f"residual {primitive.name}" if residual else primitive.name)
        init += piece.init
        tunables |= piece.tunables
        width = piece.width
    return _module(space, f"Random: {', '.join(told)}.", init, call, tunables)


def render(primitive: Primitive, *, name: str, width: str, taken: Container[str], rng: np.random.Generator) -> Piece:
    """Fill a primitive's placeholders.

    What only `__init__` knows (`spec`, `hp`) and `__call__` uses is kept as an attribute `<name>_<placeholder>`.

    Args:
      primitive: what to place.
      name: the attribute name for its layers; no other attribute may begin with it.
      width: source of the number of features of `h` before it.
      taken: names of tunables that are in use.
      rng: picks the values of its choices.
    """
    values = {"name": name, "width": _atom(width)}
    tunables: dict[str, ast.expr] = {}
    for key, options in primitive.choices.items():
        if isinstance(options, Choice | Integer | Real):
            tunable = unused(key, lambda candidate: candidate in taken or candidate in tunables)
            tunables[tunable] = tunable_source(options)
            values[key] = f"hp.{tunable}"
        else:
            values[key] = str(options[int(rng.integers(len(options)))])
    kept: dict[str, str] = {}
    in_call: dict[str, str] = {}
    for key in _PLACEHOLDER.findall(primitive.call):
        if key in values and {"spec", "hp"}.intersection(_names(values[key])):
            kept[f"{name}_{key}"] = values[key]
            in_call[key] = f"self.{name}_{key}"
    stored = "".join(f"self.{attribute} = {value}\n" for attribute, value in kept.items())
    return Piece(
        init=statements(stored + _fill(primitive.init, values)),
        call=statements(_fill(primitive.call, values | in_call)),
        width=ast.unparse(expression(_fill(primitive.out, values))),
        tunables=tunables,
    )


def pick(options: Any, rng: np.random.Generator) -> Any:
    """One of a sequence, each as likely."""
    return options[int(rng.integers(len(options)))]


def identifier(name: str) -> str:
    """A name as part of an attribute's name."""
    return re.sub(r"\W+", "_", name).strip("_").lower() or "part"


def unused(stem: str, is_taken: Callable[[str], bool]) -> str:
    """`stem`, `stem_2`, `stem_3`, …: the first that is free."""
    number = 1
    while is_taken(stem if number == 1 else f"{stem}_{number}"):
        number += 1
    return stem if number == 1 else f"{stem}_{number}"


def may_be_added(primitive: Primitive, piece: Piece, width: str) -> bool:
    """Whether what comes out may be added to what went in, as far as the text shows, and is not already."""
    same = piece.width == ast.unparse(expression(width)) and not primitive.residual
    return same and not _RESIZING.search(primitive.init + primitive.call)


def with_residual(call: list[ast.stmt], name: str, skip: str) -> list[ast.stmt]:
    """The statements with what `name` holds before them added to what it holds after them."""
    if len(call) == 1 and isinstance(call[0], ast.Assign) and ast.unparse(call[0].targets[0]) == name:
        return statements(f"{name} = {name} + {ast.unparse(call[0].value)}")
    return [*statements(f"{skip} = {name}"), *call, *statements(f"{name} = {skip} + {name}")]


def _module(
    space: SearchSpace, idea: str, init: list[ast.stmt], call: list[ast.stmt], tunables: dict[str, ast.expr]
) -> str:
    """Write the candidate out, by way of a draft, which adds what it needs."""
    frame = f"""{idea!r}
class {space.scope}(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        pass
    def __call__(self, x):
        pass
"""
    draft = Draft(frame, space.scope)
    draft.init.body, draft.call.body = init or draft.init.body, call
    draft.tunables = tunables
    return draft.text()


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _atom(source: str) -> str:
    """The expression in parentheses, unless it needs none wherever it stands."""
    simple = isinstance(expression(source), ast.Name | ast.Attribute | ast.Constant | ast.Call)
    return source if simple else f"({source})"


def _names(source: str) -> list[str]:
    try:
        return list(names_read(expression(source)))
    except SyntaxError:  # part of an expression; such a value names nothing
        return []
