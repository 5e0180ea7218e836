"""A candidate at other sizes: its numbers of hidden features multiplied by one factor, to match a number of parameters.

In goes a source without tunables, out comes its text at a factor, or at the one at which its program has a wanted
number of parameters as nearly as whole features and the space's limits allow. Nothing is traced here: whoever asks for
a number of parameters says how. Depth and kernels stay as they are, and so does what a scope must keep.
"""

import ast
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from nas.admit import Flow
from nas.propose.align import evaluated, is_number
from nas.propose.source import Draft
from nas.propose.widths import Tensor, analyse
from nas.records import Failure
from nas.space import SearchSpace

MATCHED = 0.05
"""Share by which a number of parameters may differ from the wanted one and still count as the same."""
TOO_LARGE = ("params", "flops", "memory")
"""Rules of a space's limits: what breaks one of them may fit at a smaller size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A source at one size.

    Attributes:
      source: its text.
      factor: by which the numbers of hidden features were multiplied.
      facts: of its program.
      limited: whether the space's limits, and not whole features, kept it from having more parameters.
    """

    source: str
    factor: float
    facts: Mapping[str, Any]
    limited: bool = False

    @property
    def params(self) -> int:
        """How many parameters it has."""
        return self.facts["cost"]["params"]


def nearest_size(
    source: str, wanted: int, space: SearchSpace, traced: Callable[[str], Flow[Mapping[str, Any] | Failure]]
) -> Flow[Size | Failure]:
    """Find the size, of those that the space admits, whose number of parameters is nearest; by bisection.

    The first that is within `MATCHED` will do.

    Args:
      source: without tunables.
      wanted: number of parameters.
      space: gives scope and spec.
      traced: says what a text is as a program, or why it is none.
    Returns:
      The size; or why there is none.
    """
    best: Size | None = None
    failure, limited = Failure(stage="program", rule="size", message="no size of it is admitted"), False
    options = factors(source, space)
    index, low, high = options.index(1.0), -1, len(options)
    while low < index < high:
        text = resized(source, options[index], space)
        facts = (yield from traced(text)) if text else None
        if facts is None or isinstance(facts, Failure) and facts.rule not in TOO_LARGE and options[index] != 1.0:
            del options[index]
            high -= 1
        elif isinstance(facts, Failure):
            failure, limited, high = facts, True, index
        else:
            size = Size(source=text, factor=options[index], facts=facts)
            best = size if best is None or abs(size.params - wanted) < abs(best.params - wanted) else best
            if abs(size.params / wanted - 1) <= MATCHED:
                return size
            low, high = (low, index) if size.params > wanted else (index, high)
        index = (low + high) // 2
    if best is None:
        return failure
    return replace(best, limited=limited and best.params < wanted)


# ---- one size


def factors(source: str, space: SearchSpace) -> list[float]:
    """Factors from a quarter to four, ascending, 1 among them, that round numbers of hidden features differently.

    Each of two neighbours makes at least one number of features differ by one; see `resized`.
    """
    values = set[int]()
    _Resize(source, space, lambda node, value: values.add(value))
    cuts = {(count + 0.5) / value for value in values for count in range(value // 4, 4 * value)}
    inside = sorted(cut for cut in cuts if 0.25 <= cut <= 4)
    between = [(low + high) / 2 for low, high in pairwise(inside)]
    last = next((cut for cut in reversed(inside) if cut < 1), None)
    own = [] if last is None or last == inside[-1] else [(last + next(cut for cut in inside if cut > 1)) / 2]
    return sorted({*between} - {*own} | {1.0})


def resized(source: str, factor: float, space: SearchSpace) -> str:
    """The source with all its numbers of hidden features multiplied by one factor and rounded.

    A number counts as one if it is made of the space's width, or written out and found as the width of something; what
    scopes other than `Model` must keep is kept. Where rounding each alone does not fit together, as in halves that have
    to be halves, a whole number takes the place of the space's width.

    Args:
      source: without tunables.
      factor: 1 gives the source itself.
      space: gives scope and spec.
    Returns:
      The text; empty if nothing fits together.
    """
    if factor == 1.0:
        return source
    known = analyse(Draft(source, space.scope), space).clashes
    width = max(1, round(space.spec.width * factor))

    def rounded(node: ast.expr, value: int) -> ast.expr:
        return ast.Constant(max(1, round(value * factor)))

    def whole(node: ast.expr, value: int) -> ast.expr:
        return rounded(node, value) if isinstance(node, ast.Constant) else _AtWidth(width).visit(copy.deepcopy(node))

    for change in (rounded, whole):
        made = _Resize(source, space, change).draft.text()
        if analyse(Draft(made, space.scope), space).clashes <= known:
            return made
    return ""


class _AtWidth(ast.NodeTransformer):
    """Puts a number in the place of the space's width."""

    def __init__(self, width: int) -> None:
        self.width = width

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Constant(self.width) if node.attr == "width" else node


class _Resize(ast.NodeTransformer):
    """Shows a function every number of hidden features, and puts what it gives, if anything, in its place."""

    def __init__(self, source: str, space: SearchSpace, change: Callable[[ast.expr, int], ast.expr | None]) -> None:
        self.draft, self.spec, self.change = Draft(source, space.scope), space.spec, change
        flow = analyse(self.draft, space)
        held = [value for variables in flow.before.values() for value in variables.values()]
        self.widths = {value.width for value in held if isinstance(value, Tensor)}
        self.kept = {self.spec.width} if space.scope != "Model" else set()
        for unit in [s for s in self.draft.tree.body if isinstance(s, ast.ClassDef)]:
            for init in [s for s in unit.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]:
                init.body = [self.visit(statement) for statement in init.body]

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Tuple) and all(isinstance(part, ast.Constant) for part in node.elts):
            return node  # kernels and strides
        if not isinstance(node, ast.expr) or not is_number(node):
            return self.generic_visit(node)
        value = evaluated(node, self.spec)
        if not isinstance(value, int) or value < 1 or value in self.kept:
            return node
        of_width = any(isinstance(part, ast.Attribute) and part.attr == "width" for part in ast.walk(node))
        plain = isinstance(node, ast.Constant) and value in self.widths and value > 2
        return self.change(node, value) or node if of_width or plain else node
