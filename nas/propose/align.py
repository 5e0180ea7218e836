"""Two sources side by side: which statement of one stands for which of the other, and how far apart they are.

In go two sources, out come pairs of statements of `__call__`, and what has the same place in both by way of them:
layers, helpers, names, and the numbers and functions that differ there. A statement is known by its form: a layer
counts by how it is constructed and not by its name, and numbers and functions that may stand in for each other are left
open. The same is written out in words here. Nothing is changed, and nothing is known of shapes (`widths`).
"""

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from nas.admit.gate import FACADE, dotted
from nas.propose.numbers import INTERCHANGEABLE, METHODS, PADDINGS
from nas.propose.source import Draft, blocks, defined, needed
from nas.propose.widths import ARITHMETIC
from nas.space import SearchSpace, Spec

ALIKE = 0.5
"""Two statements whose forms are at least so similar (ratio of matching text) take each other's place."""
GAP = 0.6
"""What a statement without a partner costs in an alignment; one that is exchanged for another costs up to 1."""
OTHER_NAMES = 1e-6
"""What other names or numbers cost in statements of one form: of two such partners the one with the same is taken."""

_ALIASES = {name: name for name in FACADE}


def distance(candidate: str, baseline: str, space: SearchSpace) -> float:
    """How far apart two sources are: 0 if their statements have the same forms, 1 if they have nothing in common."""
    sides = [Side(Draft(source, space.scope)) for source in (candidate, baseline)]
    one, other = (side.draft.call.body for side in sides)
    return _cost(align(sides[0], sides[1], one, other)) / (GAP * (_count(one) + _count(other)))


# ---- the form of a statement


class Side:
    """One of two sources, with what its attributes of self are made of.

    Attributes:
      draft: the source.
      init: the statements of its `__init__`.
      made: by attribute of self, the statements of `__init__` that make it.
      helpers: functions, classes and constants at the top level and methods of the unit, by name.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft, self.init = draft, draft.init.body
        attributes = {a: None for s in self.init for a in defined(s).attributes}
        self.made = {a: needed(self.init, [a]) for a in attributes}
        self.helpers = {**draft.definitions, **{m.name: m for m in helper_methods(draft)}}
        self._forms: dict[str, str] = {}

    def number(self, node: ast.AST) -> ast.expr | None:
        """The arithmetic that a node is, or that the attribute of self is assigned; None if it is something else."""
        if is_number(node):
            return node if isinstance(node, ast.expr) else None
        made = self.made.get(own_attribute(node), [])
        only = made[0] if len(made) == 1 and isinstance(made[0], ast.Assign) else None
        return only.value if only is not None and is_number(only.value) else None

    def form(self, parts: Sequence[ast.AST], *, called: bool = True) -> str:
        """Text in which names, numbers and interchangeable functions are left open, layers written out if `called`."""
        blank = _Blank(self, called)
        return "\n".join(ast.unparse(blank.visit(copy.deepcopy(part))) for part in parts)

    def made_of(self, attribute: str) -> str:
        """The form of what makes an attribute of self; the name itself where it is made elsewhere."""
        if attribute not in self._forms:
            made = self.made.get(attribute)
            self._forms[attribute] = self.form(made, called=False) if made else f"self.{attribute}"
        return self._forms[attribute]


class _Blank(ast.NodeTransformer):
    def __init__(self, side: Side, called: bool) -> None:
        self.side, self.called = side, called
        self.order: dict[str, str] = {}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and self.side.number(node) is not None:
            return ast.Name("number")
        path = api_path(node) if isinstance(node, ast.Attribute) else None
        if path is not None:
            return ast.Name(_GROUPS.get(path, path))
        if isinstance(node, ast.Attribute):
            own = own_attribute(node)
            if own and self.called:
                return ast.Name(f"<{self.side.made_of(own)}>")
            node.attr = self._placed(f"self.{own}") if own else METHOD_GROUPS.get(node.attr, node.attr)
        elif isinstance(node, ast.Constant) and node.value in PADDINGS:
            return ast.Name("padding")
        elif isinstance(node, ast.Name) and node.id not in FACADE and node.id not in self.side.helpers:
            node.id = self._placed(node.id)
        elif isinstance(node, ast.arg):
            node.arg = self._placed(node.arg)
        return self.generic_visit(node)

    def _placed(self, name: str) -> str:
        return name if name in ("self", "spec", "rngs") else self.order.setdefault(name, f"v{len(self.order)}")


def is_number(node: ast.AST) -> bool:
    """Whether an expression is arithmetic on constants and what the space fixes."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return type(node.op) in ARITHMETIC and is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spec"


def evaluated(node: ast.AST | None, spec: Spec) -> float | None:
    """The value of arithmetic; None if it has none."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(operand=operand):
            value = evaluated(operand, spec)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            one, other = evaluated(left, spec), evaluated(right, spec)
            try:
                return None if one is None or other is None else ARITHMETIC[type(op)](one, other)
            except ZeroDivisionError:
                return None
        case ast.Attribute(attr=name):
            return getattr(spec, name, None)
    return None


def api_path(node: ast.AST) -> str | None:
    """The full name of something in the API; None for anything else."""
    return dotted(node, _ALIASES)


def own_attribute(node: ast.AST) -> str:
    """The name of an attribute of self; empty for anything else."""
    mine = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if mine and isinstance(node, ast.Attribute) else ""


def _grouped(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """One name for all that may stand in for each other, also by way of a third."""
    found: dict[str, str] = {}
    for group in groups:
        name = next((found[other] for other in group if other in found), group[0])
        found |= dict.fromkeys(group, name)
    return found


_GROUPS, METHOD_GROUPS = _grouped(INTERCHANGEABLE), _grouped(METHODS)
"""By function, and by method of arrays, the name of the group of those that may stand in for each other."""


def helper_methods(draft: Draft) -> list[ast.FunctionDef]:
    """The methods of the unit but for `__init__` and `__call__`."""
    named = [s for s in draft.unit.body if isinstance(s, ast.FunctionDef)]
    return [s for s in named if s.name not in ("__init__", "__call__")]


# ---- alignment


@dataclass(frozen=True, slots=True)
class Pair:
    """A statement of the candidate and one of the baseline, or one of them alone.

    Attributes:
      mine: of the candidate.
      theirs: of the baseline.
      cost: at most `OTHER_NAMES` where the forms are the same; of a loop or a branch, that of what is inside.
      inner: alignments of the blocks of a loop or a branch with the same head; None for anything else.
    """

    mine: ast.stmt | None
    theirs: ast.stmt | None
    cost: float
    inner: "list[list[Pair]] | None" = None

    @property
    def equal(self) -> bool:
        """Whether both have it, in one form."""
        return self.inner is not None or self.cost <= OTHER_NAMES


def align(one: Side, other: Side, mine: list[ast.stmt], theirs: list[ast.stmt]) -> list[Pair]:
    """Align two blocks at the least cost, by dynamic programming; what is in neither's place stands alone."""
    table = {(0, 0): (0.0, list[Pair]())}
    for i in range(len(mine) + 1):
        for j in range(len(theirs) + 1):
            ways = []
            if i and j:
                pair = _paired(one, other, mine[i - 1], theirs[j - 1])
                ways += [(table[i - 1, j - 1], pair)] if pair is not None else []
            if i:
                ways.append((table[i - 1, j], Pair(mine[i - 1], None, GAP * _count([mine[i - 1]]))))
            if j:
                ways.append((table[i, j - 1], Pair(None, theirs[j - 1], GAP * _count([theirs[j - 1]]))))
            if ways:
                before, pair = min(ways, key=lambda way: way[0][0] + way[1].cost)
                table[i, j] = (before[0] + pair.cost, [*before[1], pair])
    return table[len(mine), len(theirs)][1]


def _paired(one: Side, other: Side, mine: ast.stmt, theirs: ast.stmt) -> Pair | None:
    """What it costs to take one statement for another; None if they must not."""
    if isinstance(mine, ast.Return) != isinstance(theirs, ast.Return):
        return None
    inner = list(zip(blocks(mine), blocks(theirs), strict=False))
    if inner and type(mine) is type(theirs) and len(blocks(mine)) == len(blocks(theirs)):
        if one.form(head(mine)) == other.form(head(theirs)):
            aligned = [align(one, other, a, b) for a, b in inner]
            return Pair(mine, theirs, sum(map(_cost, aligned)) + _names_cost(mine, theirs), aligned)
    a, b = one.form([mine]), other.form([theirs])
    if a == b and _is_alias(mine) and ast.dump(mine) != ast.dump(theirs):
        return None  # it says nothing but which names
    if a == b:
        return Pair(mine, theirs, _names_cost(mine, theirs))
    ratio = SequenceMatcher(None, a, b, autojunk=False).ratio()
    if isinstance(mine, ast.Return):  # neither can be without one
        return Pair(mine, theirs, 1 - ratio + 1e-3)
    return Pair(mine, theirs, 1 - ratio + 1e-3) if ratio >= ALIKE else None


def _is_alias(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name)


def _names_cost(mine: ast.stmt, theirs: ast.stmt) -> float:
    return 0.0 if ast.dump(mine) == ast.dump(theirs) else OTHER_NAMES


def head(statement: ast.stmt) -> list[ast.AST]:
    """What a loop or a branch begins with."""
    found = [getattr(statement, name, None) for name in ("target", "iter", "test")]
    return [part for part in found if isinstance(part, ast.AST)]


def _cost(pairs: Sequence[Pair]) -> float:
    return sum(pair.cost for pair in pairs)


def _count(body: Sequence[ast.stmt]) -> int:
    return sum(1 + sum(map(_count, blocks(statement))) for statement in body)


# ---- what corresponds


class Match:
    """What has the same place in both sources, from the statements that have, and after that by name.

    Args:
      mine, theirs: candidate and baseline.
      pairs: their aligned statements.
      spec: of the space.

    Attributes:
      common: by the id of a statement of the baseline, the candidate's.
      attributes: by name of an attribute of self of the baseline, that of the candidate.
      names: likewise of variables.
      leaves: a number or a function of the candidate, what the baseline has in its place, and the call that it is in.
    """

    def __init__(self, mine: Side, theirs: Side, pairs: Sequence[Pair], spec: Spec) -> None:
        self.mine, self.theirs, self.spec = mine, theirs, spec
        self.common: dict[int, ast.stmt] = {}
        self.attributes: dict[str, str] = {}
        arguments = zip(theirs.draft.call.args.args, mine.draft.call.args.args, strict=False)
        self.names = {a.arg: b.arg for a, b in arguments}
        self.leaves: list[tuple[ast.AST, ast.AST, str]] = []
        self._match(pairs)

    def _match(self, pairs: Sequence[Pair]) -> None:
        """Find what has the same place in both sources, from the statements that have, and after that by name."""
        for pair in pairs:
            if pair.equal and pair.mine is not None and pair.theirs is not None:
                if pair.inner is None:
                    self._walk(pair.mine, pair.theirs, "")
                else:
                    for a, b in zip(head(pair.mine), head(pair.theirs), strict=True):
                        self._walk(a, b, "")
                    for aligned in pair.inner:
                        self._match(aligned)
        for name in self.theirs.made:
            free = name not in self.attributes and name not in self.attributes.values()
            if free and name in self.mine.made and self.mine.made_of(name) == self.theirs.made_of(name):
                self._pair_attribute(name, name)
        for name, statement in self.theirs.helpers.items():
            same = self.mine.helpers.get(name)
            if same is not None and id(statement) not in self.common:
                if self.mine.form([same], called=False) == self.theirs.form([statement], called=False):
                    self.common[id(statement)] = same
                    self._walk(same, statement, "")

    def _pair_attribute(self, mine: str, theirs: str) -> None:
        """Take two attributes for the same, one for one, and with them what they are made of."""
        taken = mine in self.attributes.values() if theirs not in self.attributes else self.attributes[theirs] != mine
        if taken:
            return
        new = theirs not in self.attributes
        self.attributes[theirs] = mine
        if new and mine in self.mine.made and theirs in self.theirs.made:
            for a, b in zip(self.mine.made[mine], self.theirs.made[theirs], strict=True):
                if id(b) not in self.common:
                    self.common[id(b)] = a
                    self._walk(a, b, "")

    def _walk(self, mine: Any, theirs: Any, where: str) -> None:
        """Go through two trees of one form side by side: pair names, collect numbers and functions that differ."""
        if isinstance(mine, list):
            for a, b in zip(mine, theirs, strict=True):
                self._walk(a, b, where)
            return
        if not isinstance(mine, ast.AST):
            return
        numbers = self.mine.number(mine), self.theirs.number(theirs)
        both_own = bool(own_attribute(mine) and own_attribute(theirs))
        if all(number is not None for number in numbers) and not both_own:
            values = [evaluated(number, self.spec) for number in numbers]
            if values[0] != values[1] or values[0] is None and ast.dump(mine) != ast.dump(theirs):
                self.leaves.append((mine, theirs, where))
            return
        if both_own:
            self._pair_attribute(own_attribute(mine), own_attribute(theirs))
            return
        if isinstance(mine, ast.Attribute) and api_path(mine) is not None:
            if api_path(mine) != api_path(theirs):
                self.leaves.append((mine, theirs, where))
            return
        if isinstance(mine, ast.Constant) and mine.value in PADDINGS and ast.dump(mine) != ast.dump(theirs):
            self.leaves.append((mine, theirs, where))
        if isinstance(mine, ast.Attribute) and isinstance(theirs, ast.Attribute) and mine.attr != theirs.attr:
            if mine.attr in METHOD_GROUPS:
                self.leaves.append((mine, theirs, where))
        if isinstance(mine, ast.Name) and isinstance(theirs, ast.Name):
            self.names.setdefault(theirs.id, mine.id)
        if isinstance(mine, ast.arg) and isinstance(theirs, ast.arg):
            self.names.setdefault(theirs.arg, mine.arg)
        inside = _function(mine, self.mine) if isinstance(mine, ast.Call) else where
        for name in mine._fields:
            told = f"{mine.arg} of {where}" if isinstance(mine, ast.keyword) else where if name == "func" else inside
            self._walk(getattr(mine, name, None), getattr(theirs, name, None), told)


# ---- in words


def _function(call: ast.Call, side: Side) -> str:
    """What a call calls, in a word: of a layer the class."""
    made = side.made.get(own_attribute(call.func), [])
    last = made[-1] if made else None
    if isinstance(last, ast.Assign) and isinstance(last.value, ast.Call):
        return _function(last.value, side)
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def leaf_in_words(node: ast.AST, side: Side) -> str:
    """A number, or the last name of a function."""
    number = side.number(node)
    if isinstance(node, ast.Attribute) and number is None:
        return node.attr
    return ast.unparse(number if number is not None else node)


def in_words(statement: ast.stmt, side: Side) -> str:
    """A statement with its layers written out, without what goes without saying."""

    class Told(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            made = side.made.get(own_attribute(node), [])
            last = made[-1] if made else None
            return copy.deepcopy(last.value) if isinstance(last, ast.Assign) else self.generic_visit(node)

    text = " ".join(ast.unparse(Told().visit(copy.deepcopy(statement))).split())
    for plain in (", rngs=rngs", "jax.nn.", "jnp.", "nnx.", "lax."):
        text = text.replace(plain, "")
    return text
