"""What a candidate has that its nearest baseline has not, piece by piece, and the candidate with one piece put back.

In go two sources, out come pieces, each with a module that is the candidate but for this piece, which is as in the
baseline. Statements of the two `__call__` are aligned by their form: a layer counts by how it is constructed and not
by its name, and numbers and functions that may stand in for each other are left open. What has no partner, or another
one, is a piece; what differs inside a pair of one form, a width, a kernel, an activation, is a piece of its own. A
piece that fits nowhere alone gets a linear map where only the number of features is at odds, or is joined with the
piece it needs. Nothing is run or traced here, so a piece that looks right may still be refused by the tracer.
"""

import ast
import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from nas.admit import gate
from nas.admit.gate import FACADE, dotted
from nas.propose.numbers import INTERCHANGEABLE, METHODS, PADDINGS
from nas.propose.source import (
    Draft,
    attributes_read,
    blocks,
    defined,
    expression,
    needed,
    rename,
    statements,
    structure,
)
from nas.propose.widths import Tensor, analyse
from nas.records import Value
from nas.space import SearchSpace, Spec

ALIKE = 0.5
"""Two statements whose forms are at least so similar (ratio of matching text) take each other's place."""
GAP = 0.6
"""What a statement without a partner costs in an alignment; one that is exchanged for another costs up to 1."""
OTHER_NAMES = 1e-6
"""What other names or numbers cost in statements of one form: of two such partners the one with the same is taken."""
WORDS = 70
"""Most characters of one side of a piece in words."""

_ALIASES = {name: name for name in FACADE}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One difference between a candidate and a baseline.

    Attributes:
      before: what the baseline has there, in words; empty if nothing.
      after: what the candidate has there, likewise.
      source: the candidate with this piece alone as in the baseline; empty if no module could be made.
      fitted: whether a linear map was added where the numbers of features were at odds.
      reason: why there is no module.
    """

    before: str
    after: str
    source: str = ""
    fitted: bool = False
    reason: str = ""


def pieces(candidate: str, baseline: str, space: SearchSpace, refused: Mapping[str, str] | None = None) -> list[Piece]:
    """Find what a candidate has that a baseline has not.

    Args:
      candidate: its source, without tunables (see `fixed`).
      baseline: likewise; both pass the gate.
      space: gives scope and spec.
      refused: sources that the tracer does not take, and why: what they put back is joined with what is beside it.
    Returns:
      Pieces in the order of `__call__`, then those that are a number or a function in what both have. The same sources
      give the same pieces.
    """
    return _Union(candidate, baseline, space, refused or {}).pieces()


def distance(candidate: str, baseline: str, space: SearchSpace) -> float:
    """How far apart two sources are: 0 if their statements have the same forms, 1 if they have nothing in common."""
    sides = [_Side(Draft(source, space.scope)) for source in (candidate, baseline)]
    one, other = (side.draft.call.body for side in sides)
    return _cost(_align(sides[0], sides[1], one, other)) / (GAP * (_count(one) + _count(other)))


def fixed(source: str, values: Mapping[str, Value], scope: str) -> str:
    """The source with the values of its tunables written in their places, and nothing left to tune."""
    draft = Draft(source, scope)

    class Fix(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            of_hp = isinstance(node.value, ast.Name) and node.value.id == "hp" and node.attr in values
            return expression(repr(values[node.attr])) if of_hp else self.generic_visit(node)

    Fix().visit(draft.tree)
    draft.tunables = {}
    return draft.text()


# ---- the form of a statement


class _Side:
    """One of the two sources, with what its attributes of self are made of."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.init = draft, draft.init.body
        attributes = {a: None for s in self.init for a in defined(s).attributes}
        self.made = {a: needed(self.init, [a]) for a in attributes}
        self.helpers = {**draft.definitions, **{m.name: m for m in _methods(draft)}}
        self._forms: dict[str, str] = {}

    def number(self, node: ast.AST) -> ast.expr | None:
        """The arithmetic that a node is, or that the attribute of self is assigned; None if it is something else."""
        if _is_number(node):
            return node if isinstance(node, ast.expr) else None
        made = self.made.get(_own(node), [])
        only = made[0] if len(made) == 1 and isinstance(made[0], ast.Assign) else None
        return only.value if only is not None and _is_number(only.value) else None

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
    def __init__(self, side: _Side, called: bool) -> None:
        self.side, self.called = side, called
        self.order: dict[str, str] = {}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and self.side.number(node) is not None:
            return ast.Name("number")
        path = dotted(node, _ALIASES) if isinstance(node, ast.Attribute) else None
        if path is not None:
            return ast.Name(_GROUPS.get(path, path))
        if isinstance(node, ast.Attribute):
            own = _own(node)
            if own and self.called:
                return ast.Name(f"<{self.side.made_of(own)}>")
            node.attr = self._placed(f"self.{own}") if own else _METHOD_GROUPS.get(node.attr, node.attr)
        elif isinstance(node, ast.Constant) and node.value in PADDINGS:
            return ast.Name("padding")
        elif isinstance(node, ast.Name) and node.id not in FACADE and node.id not in self.side.helpers:
            node.id = self._placed(node.id)
        elif isinstance(node, ast.arg):
            node.arg = self._placed(node.arg)
        return self.generic_visit(node)

    def _placed(self, name: str) -> str:
        return name if name in ("self", "spec", "rngs") else self.order.setdefault(name, f"v{len(self.order)}")


def _is_number(node: ast.AST) -> bool:
    """Whether an expression is arithmetic on constants and what the space fixes."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_number(node.operand)
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATORS and _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spec"


def _evaluated(node: ast.AST | None, spec: Spec) -> float | None:
    """The value of arithmetic; None if it has none."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(operand=operand):
            value = _evaluated(operand, spec)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _evaluated(left, spec), _evaluated(right, spec)
            try:
                return None if one is None or other is None else _OPERATORS[type(op)](one, other)
            except ZeroDivisionError:
                return None
        case ast.Attribute(attr=name):
            return getattr(spec, name, None)
    return None


def _own(node: ast.AST) -> str:
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


_GROUPS, _METHOD_GROUPS = _grouped(INTERCHANGEABLE), _grouped(METHODS)


def _methods(draft: Draft) -> list[ast.FunctionDef]:
    named = [s for s in draft.unit.body if isinstance(s, ast.FunctionDef)]
    return [s for s in named if s.name not in ("__init__", "__call__")]


# ---- alignment


@dataclass(frozen=True, slots=True)
class _Pair:
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
    inner: "list[list[_Pair]] | None" = None

    @property
    def equal(self) -> bool:
        return self.inner is not None or self.cost <= OTHER_NAMES


def _align(one: _Side, other: _Side, mine: list[ast.stmt], theirs: list[ast.stmt]) -> list[_Pair]:
    """The cheapest alignment of two blocks, by dynamic programming."""
    table = {(0, 0): (0.0, list[_Pair]())}
    for i in range(len(mine) + 1):
        for j in range(len(theirs) + 1):
            ways = []
            if i and j:
                pair = _paired(one, other, mine[i - 1], theirs[j - 1])
                ways += [(table[i - 1, j - 1], pair)] if pair is not None else []
            if i:
                ways.append((table[i - 1, j], _Pair(mine[i - 1], None, GAP * _count([mine[i - 1]]))))
            if j:
                ways.append((table[i, j - 1], _Pair(None, theirs[j - 1], GAP * _count([theirs[j - 1]]))))
            if ways:
                before, pair = min(ways, key=lambda way: way[0][0] + way[1].cost)
                table[i, j] = (before[0] + pair.cost, [*before[1], pair])
    return table[len(mine), len(theirs)][1]


def _paired(one: _Side, other: _Side, mine: ast.stmt, theirs: ast.stmt) -> _Pair | None:
    """What it costs to take one statement for another; None if they must not."""
    if isinstance(mine, ast.Return) != isinstance(theirs, ast.Return):
        return None
    inner = list(zip(blocks(mine), blocks(theirs), strict=False))
    if inner and type(mine) is type(theirs) and len(blocks(mine)) == len(blocks(theirs)):
        if one.form(_head(mine)) == other.form(_head(theirs)):
            aligned = [_align(one, other, a, b) for a, b in inner]
            return _Pair(mine, theirs, sum(map(_cost, aligned)) + _names_cost(mine, theirs), aligned)
    a, b = one.form([mine]), other.form([theirs])
    if a == b and _is_alias(mine) and ast.dump(mine) != ast.dump(theirs):
        return None  # it says nothing but which names
    if a == b:
        return _Pair(mine, theirs, _names_cost(mine, theirs))
    ratio = SequenceMatcher(None, a, b, autojunk=False).ratio()
    if isinstance(mine, ast.Return):  # neither can be without one
        return _Pair(mine, theirs, 1 - ratio + 1e-3)
    return _Pair(mine, theirs, 1 - ratio + 1e-3) if ratio >= ALIKE else None


def _is_alias(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name)


def _names_cost(mine: ast.stmt, theirs: ast.stmt) -> float:
    return 0.0 if ast.dump(mine) == ast.dump(theirs) else OTHER_NAMES


def _head(statement: ast.stmt) -> list[ast.AST]:
    """What a loop or a branch begins with."""
    found = [getattr(statement, name, None) for name in ("target", "iter", "test")]
    return [part for part in found if isinstance(part, ast.AST)]


def _cost(pairs: Sequence[_Pair]) -> float:
    return sum(pair.cost for pair in pairs)


def _count(body: Sequence[ast.stmt]) -> int:
    return sum(1 + sum(map(_count, blocks(statement))) for statement in body)


# ---- both sources in one


@dataclass(slots=True)
class _Part:
    """The smallest difference that can be put back.

    Attributes:
      before, after: in words, of the baseline and of the candidate.
      place: where in `__call__` it is; what is in both sources has none.
      new: by mark, what takes the place of a number or a function of the candidate.
      wheres: names of the calls in which these are.
    """

    before: str = ""
    after: str = ""
    place: int | None = None
    new: dict[int, ast.expr | str] = field(default_factory=dict)
    wheres: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """What the variables hold around a statement that only one source has, in either of them."""

    part: int
    theirs: bool
    ends: Mapping[tuple[str, str], Mapping[str, Any]]


class _Union:
    """A draft that holds the statements of both sources, marked, so that every choice of parts is one selection."""

    def __init__(self, candidate: str, baseline: str, space: SearchSpace, refused: Mapping[str, str]) -> None:
        self.refused = refused
        self.space, self.known = space, analyse(Draft(candidate, space.scope), space).clashes
        self.form = structure(Draft(candidate, space.scope).text())
        self.draft, self.other = Draft(candidate, space.scope), Draft(baseline, space.scope)
        self.mine, self.theirs = _Side(self.draft), _Side(self.other)
        self.parts: list[_Part] = []
        self.spots: dict[int, _Spot] = {}
        self.common: dict[int, ast.stmt] = {}  # by the id of a statement of the baseline, the candidate's
        self.attributes: dict[str, str] = {}
        self.names = _same_arguments(self.other.call, self.draft.call)
        self.leaves: list[tuple[ast.AST, ast.AST, str]] = []
        pairs = _align(self.mine, self.theirs, self.draft.call.body, self.other.call.body)
        self._match(pairs)
        self.flows = analyse(self.draft, space), analyse(self.other, space)
        self._share_names()
        body = self._merged(pairs, self.draft.call.body, self.other.call.body)
        self._mark_leaves()
        self.draft.call.body = body
        self._add_layers()
        self._add_helpers()

    # ---- what corresponds

    def _match(self, pairs: Sequence[_Pair]) -> None:
        """Find what has the same place in both sources, from the statements that have, and after that by name."""
        for pair in pairs:
            if pair.equal and pair.mine is not None and pair.theirs is not None:
                if pair.inner is None:
                    self._walk(pair.mine, pair.theirs, "")
                else:
                    for a, b in zip(_head(pair.mine), _head(pair.theirs), strict=True):
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
        both_own = bool(_own(mine) and _own(theirs))
        if all(number is not None for number in numbers) and not both_own:
            values = [_evaluated(number, self.space.spec) for number in numbers]
            if values[0] != values[1] or values[0] is None and ast.dump(mine) != ast.dump(theirs):
                self.leaves.append((mine, theirs, where))
            return
        if both_own:
            self._pair_attribute(_own(mine), _own(theirs))
            return
        if isinstance(mine, ast.Attribute) and dotted(mine, _ALIASES) is not None:
            if dotted(mine, _ALIASES) != dotted(theirs, _ALIASES):
                self.leaves.append((mine, theirs, where))
            return
        if isinstance(mine, ast.Constant) and mine.value in PADDINGS and ast.dump(mine) != ast.dump(theirs):
            self.leaves.append((mine, theirs, where))
        if isinstance(mine, ast.Attribute) and isinstance(theirs, ast.Attribute) and mine.attr != theirs.attr:
            if mine.attr in _METHOD_GROUPS:
                self.leaves.append((mine, theirs, where))
        if isinstance(mine, ast.Name) and isinstance(theirs, ast.Name):
            self.names.setdefault(theirs.id, mine.id)
        if isinstance(mine, ast.arg) and isinstance(theirs, ast.arg):
            self.names.setdefault(theirs.arg, mine.arg)
        inside = _function(mine, self.mine) if isinstance(mine, ast.Call) else where
        for name in mine._fields:
            told = f"{mine.arg} of {where}" if isinstance(mine, ast.keyword) else where if name == "func" else inside
            self._walk(getattr(mine, name, None), getattr(theirs, name, None), told)

    def _share_names(self) -> None:
        """Call in the baseline what corresponds as in the candidate, and everything else by names of its own."""
        other, draft = self.other, self.draft
        taken = draft.names()
        attributes = dict(self.attributes)
        for name in [*self.theirs.made, *(m.name for m in _methods(other) if id(m) not in self.common)]:
            if name not in attributes:
                clash = name in taken or name in attributes.values()
                attributes[name] = draft.fresh(name, taken=[*attributes.values()]) if clash else name
        used = set[str]()
        names: dict[str, str] = {}
        for name, mine in self.names.items():
            if mine not in used:  # one for one
                names[name] = mine
                used.add(mine)
        own = {n for s in other.init.body if id(s) not in self.common for n in defined(s).names}
        own |= {n for n, s in other.definitions.items() if id(s) not in self.common}
        bound = own | {n for s in other.call.body for n in defined(s).names}
        for name in sorted(bound):
            if name not in names and (name in used or name in own and name in taken):
                names[name] = draft.fresh(name, taken=[*names.values()])
        rename(other.tree, {a: b for a, b in names.items() if a not in FACADE}, attributes)
        self.theirs.made = {attributes.get(a, a): made for a, made in self.theirs.made.items()}
        self.renamed = names

    # ---- the merged body

    def _merged(self, pairs: Sequence[_Pair], mine: list[ast.stmt], theirs: list[ast.stmt]) -> list[ast.stmt]:
        body: list[ast.stmt] = []
        i = j = 0
        for pair in pairs:
            if pair.equal and pair.mine is not None and pair.theirs is not None:
                for aligned, a, b in zip(pair.inner or [], blocks(pair.mine), blocks(pair.theirs), strict=True):
                    a[:] = self._merged(aligned, a, b)
                body.append(pair.mine)
            else:
                part = len(self.parts)
                self.parts.append(_Part(place=len(self.parts)))
                last = {"mine": i + (pair.mine is not None), "theirs": j + (pair.theirs is not None)}
                ends = {
                    ("mine", "before"): self.flows[0].at(mine, i),
                    ("mine", "after"): self.flows[0].at(mine, last["mine"]),
                    ("theirs", "before"): self._renamed(self.flows[1].at(theirs, j)),
                    ("theirs", "after"): self._renamed(self.flows[1].at(theirs, last["theirs"])),
                }
                for statement, is_theirs in ((pair.mine, False), (pair.theirs, True)):
                    if statement is not None:
                        words = _in_words(statement, self.theirs if is_theirs else self.mine)
                        setattr(self.parts[part], "before" if is_theirs else "after", words)
                        self._mark(statement, len(self.spots))
                        self.spots[len(self.spots)] = _Spot(part=part, theirs=is_theirs, ends=ends)
                        body.append(statement)
            i, j = i + (pair.mine is not None), j + (pair.theirs is not None)
        return body

    def _renamed(self, held: Mapping[str, Any]) -> dict[str, Any]:
        return {self.renamed.get(name, name): value for name, value in held.items()}

    def _mark(self, node: ast.AST, mark: int) -> None:
        node.mark = mark  # type: ignore[attr-defined]  # copies of the tree keep it

    def _mark_leaves(self) -> None:
        """Equal exchanges belong together: features have to fit each other, and a change changes them all."""
        found: dict[tuple[str, str], _Part] = {}
        for mine, theirs, where in self.leaves:
            words = [_leaf_words(node, side) for node, side in ((theirs, self.theirs), (mine, self.mine))]
            part = found.setdefault((words[0], words[1]), _Part())
            mark = -1 - sum(len(one.new) for one in found.values())
            method = isinstance(mine, ast.Attribute) and mine.attr in _METHOD_GROUPS and dotted(mine, _ALIASES) is None
            number = self.theirs.number(theirs)
            new = number if number is not None else theirs
            self._mark(mine, mark)
            assert isinstance(new, ast.expr)
            part.new[mark] = theirs.attr if method and isinstance(theirs, ast.Attribute) else copy.deepcopy(new)
            if where and number is not None and where not in part.wheres:
                part.wheres.append(where)
            places = f" in {', '.join(part.wheres)}" if part.wheres else ""
            places += f" ({len(part.new)} times)" if len(part.new) > 1 else ""
            part.before, part.after = words[0] + places, words[1] + places
        self.parts += found.values()

    def _add_layers(self) -> None:
        """Put what the baseline alone constructs where it has it; what nothing reads goes when written out."""
        body, place = self.draft.init.body, 0
        for statement in self.other.init.body:
            same = self.common.get(id(statement))
            if same is None:
                body.insert(place, statement)
                place += 1
            else:
                place = next(i for i, other in enumerate(body) if other is same) + 1

    def _add_helpers(self) -> None:
        kept = [s for s in self.other.tree.body if s is not self.other.unit and id(s) not in self.common]
        known = [ast.dump(s) for s in self.draft.tree.body]
        index = self.draft.tree.body.index(self.draft.unit)
        self.draft.tree.body[index:index] = [s for s in kept if ast.dump(s) not in known]
        self.draft.unit.body += [m for m in _methods(self.other) if id(m) not in self.common]
        self.draft.kernels += self.other.kernels

    # ---- selections

    def variant(self, chosen: set[int], *, fit: bool = False) -> tuple[str, bool]:
        """The candidate with these parts as in the baseline, and whether a linear map was added."""
        draft = copy.deepcopy(self.draft)
        new = {mark: value for part in chosen for mark, value in self.parts[part].new.items()}
        _Exchange(new).visit(draft.unit)
        for helper in draft.definitions.values():
            _Exchange(new).visit(helper)
        maps: list[ast.stmt] = []
        draft.call.body = self._selected(draft, draft.call.body, chosen, maps if fit else None)
        draft.init.body += maps
        _drop_unread_methods(draft)
        return draft.text(), bool(maps)

    def _selected(
        self, draft: Draft, body: list[ast.stmt], chosen: set[int], maps: list[ast.stmt] | None
    ) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        run: list[ast.stmt] = []
        for statement in [*body, None]:
            spot = self.spots.get(getattr(statement, "mark", -1)) if statement is not None else None
            if statement is not None and spot is not None and spot.part in chosen:
                run.append(statement)
                continue
            if run:
                made += self._put_back(draft, run, maps)
                run = []
            if statement is not None and (spot is None or not spot.theirs):
                for block in blocks(statement) if spot is None else []:
                    block[:] = self._selected(draft, block, chosen, maps) or [ast.Pass()]
                made.append(statement)
        return made

    def _put_back(self, draft: Draft, run: list[ast.stmt], maps: list[ast.stmt] | None) -> list[ast.stmt]:
        """The baseline's statements of a run, between linear maps where features are at odds."""
        spots = [self.spots[statement.mark] for statement in run]  # type: ignore[attr-defined]
        kept = [statement for statement, spot in zip(run, spots, strict=True) if spot.theirs]
        if maps is None:
            return kept
        enter, leave = spots[0].ends, spots[-1].ends
        written = {n: None for statement in run for n in defined(statement).names}
        if not kept:
            return self._maps(draft, enter["mine", "before"], leave["mine", "after"], written, maps)
        read = {n.id: None for s in kept for n in ast.walk(s) if isinstance(n, ast.Name)}
        before = self._maps(draft, enter["mine", "before"], enter["theirs", "before"], read, maps)
        ends = isinstance(kept[-1], ast.Return)
        after = [] if ends else self._maps(draft, leave["theirs", "after"], leave["mine", "after"], written, maps)
        return [*before, *kept, *after]

    def _maps(
        self, draft: Draft, given: Mapping[str, Any], wanted: Mapping[str, Any], names: Mapping[str, None],
        maps: list[ast.stmt],
    ) -> list[ast.stmt]:  # fmt: skip
        """Linear maps for the variables whose number of features differs, and nothing else."""
        made: list[ast.stmt] = []
        for name in names:
            one, other = given.get(name), wanted.get(name)
            if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.series is not other.series:
                continue
            if one.width and other.width and one.width != other.width:
                fit = draft.fresh("fit", taken=[a for s in maps for a in defined(s).attributes])
                sizes = ["spec.width" if w == self.space.spec.width else str(w) for w in (one.width, other.width)]
                maps += statements(f"self.{fit} = nnx.Linear({', '.join(sizes)}, rngs=rngs)")
                made += statements(f"{name} = self.{fit}({name})")
        return made

    # ---- pieces

    def pieces(self) -> list[Piece]:
        groups, index = [{part} for part in range(len(self.parts))], 0
        while index < len(groups):
            joined = self._joined(groups, index)
            index = index + 1 if joined is None else min(joined, index)
        return [piece for group in groups if (piece := self._piece(group)) is not None]

    def _piece(self, group: set[int]) -> Piece | None:
        """A group as a piece; None if putting it back changes nothing."""
        source, fitted, reason = self._module(group)
        if not reason and structure(source) == self.form:
            return None
        parts = [self.parts[part] for part in sorted(group)]
        before = "; ".join(part.before for part in parts if part.before)
        after = "; ".join(part.after for part in parts if part.after)
        return Piece(before=before, after=after, source=source, fitted=fitted, reason=reason)

    def _joined(self, groups: list[set[int]], index: int) -> int | None:
        """Join a group that does not fit alone with as few neighbours as it takes; None if nothing is joined.

        A linear map is the second choice, and the first where the baseline has something else there.
        """
        if not self._wrong(self.variant(groups[index])[0]) or self._fits_by_map(groups[index]):
            return None
        for first, last in _stretches(index, len(groups)):
            union = set[int]().union(*groups[first:last])
            if not self._wrong(self.variant(union)[0]) or self._fits_by_map(union):
                groups[first:last] = [union]
                return first
        return None

    def _fits_by_map(self, group: set[int]) -> bool:
        """Whether what the baseline has in its place fits between linear maps."""
        new = any(self.parts[part].before and self.parts[part].place is not None for part in group)
        return new and not self._wrong(self.variant(group, fit=True)[0])

    def _module(self, group: set[int]) -> tuple[str, bool, str]:
        """Source of a group put back, whether a linear map was needed, and why there is none."""
        reason = ""
        for fit in (False, True):
            source, fitted = self.variant(group, fit=fit)
            wrong = self._wrong(source)
            if not wrong:
                return source, fitted, ""
            reason = reason or wrong
        return "", False, reason

    def _wrong(self, source: str) -> str:
        """Why a source cannot be a candidate, as far as its text shows; empty if it can."""
        if source in self.refused:
            return self.refused[source]
        failures = gate.check(source, self.space.scope).failures
        if failures:
            return str(failures[0])
        clashes = analyse(Draft(source, self.space.scope), self.space).clashes
        return "shapes or names do not fit what is around it" if clashes > self.known else ""


def _stretches(index: int, count: int) -> Iterator[tuple[int, int]]:
    """First and one past the last of every stretch of two or more that holds an index, the shortest first."""
    for length in range(2, count + 1):
        for first in range(max(0, index - length + 1), min(index, count - length) + 1):
            yield first, first + length


def _same_arguments(theirs: ast.FunctionDef, mine: ast.FunctionDef) -> dict[str, str]:
    return {a.arg: b.arg for a, b in zip(theirs.args.args, mine.args.args, strict=False)}


class _Exchange(ast.NodeTransformer):
    """Puts other numbers and functions in the places of those that are marked."""

    def __init__(self, new: Mapping[int, ast.expr | str]) -> None:
        self.new = new

    def visit(self, node: ast.AST) -> Any:
        value = self.new.get(getattr(node, "mark", 0))
        if isinstance(value, ast.expr):
            return copy.deepcopy(value)
        if isinstance(value, str) and isinstance(node, ast.Attribute):
            node.attr = value
        return self.generic_visit(node)


def _drop_unread_methods(draft: Draft) -> None:
    while True:
        own = _methods(draft)
        unread = [
            m for m in own if not any(m.name in attributes_read(s) for s in draft.unit.body if s is not m)
        ]  # fmt: skip
        if not unread:
            return
        draft.unit.body = [s for s in draft.unit.body if not any(s is m for m in unread)]


# ---- words


def _function(call: ast.Call, side: _Side) -> str:
    """What a call calls, in a word: of a layer the class."""
    made = side.made.get(_own(call.func), [])
    last = made[-1] if made else None
    if isinstance(last, ast.Assign) and isinstance(last.value, ast.Call):
        return _function(last.value, side)
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _leaf_words(node: ast.AST, side: _Side) -> str:
    number = side.number(node)
    if isinstance(node, ast.Attribute) and number is None:
        return node.attr
    return ast.unparse(number if number is not None else node)


def _in_words(statement: ast.stmt, side: _Side) -> str:
    """A statement with its layers written out, without what goes without saying."""

    class Told(ast.NodeTransformer):
        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            made = side.made.get(_own(node), [])
            last = made[-1] if made else None
            return copy.deepcopy(last.value) if isinstance(last, ast.Assign) else self.generic_visit(node)

    text = " ".join(ast.unparse(Told().visit(copy.deepcopy(statement))).split())
    for plain in (", rngs=rngs", "jax.nn.", "jnp.", "nnx.", "lax."):
        text = text.replace(plain, "")
    return text


def shortened(text: str, length: int = WORDS) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


# ---- other sizes


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
    width = ast.Constant(max(1, round(space.spec.width * factor)))

    def rounded(node: ast.expr, value: int) -> ast.expr:
        return ast.Constant(max(1, round(value * factor)))

    def whole(node: ast.expr, value: int) -> ast.expr:
        return rounded(node, value) if isinstance(node, ast.Constant) else _Exchange({1: width}).visit(_marked(node))

    for change in (rounded, whole):
        made = _Resize(source, space, change).draft.text()
        if analyse(Draft(made, space.scope), space).clashes <= known:
            return made
    return ""


def _marked(node: ast.expr) -> ast.expr:
    """A copy in which the space's width is marked with 1."""
    copied = copy.deepcopy(node)
    for part in ast.walk(copied):
        if isinstance(part, ast.Attribute) and part.attr == "width":
            part.mark = 1  # type: ignore[attr-defined]
    return copied


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
        if not isinstance(node, ast.expr) or not _is_number(node):
            return self.generic_visit(node)
        value = _evaluated(node, self.spec)
        if not isinstance(value, int) or value < 1 or value in self.kept:
            return node
        of_width = any(isinstance(part, ast.Attribute) and part.attr == "width" for part in ast.walk(node))
        plain = isinstance(node, ast.Constant) and value in self.widths and value > 2
        return self.change(node, value) or node if of_width or plain else node
