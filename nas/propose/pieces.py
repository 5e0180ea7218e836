"""What a candidate has that its nearest baseline has not, piece by piece, and the candidate with one piece put back.

In go two sources, out come pieces, each with a module that is the candidate but for this piece, which is as in the
baseline. What `align` finds no partner for, or another one, is a piece; what differs inside a pair of one form, a
width, a kernel, an activation, is a piece of its own. A piece that fits nowhere alone gets a linear map where only the
number of features is at odds, or is joined with the piece it needs. Nothing is run or traced here, so a piece that
looks right may still be refused by the tracer.
"""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.admit import gate
from nas.admit.gate import FACADE
from nas.propose.align import METHOD_GROUPS, Match, Pair, Side, align, api_path, helper_methods, in_words, leaf_in_words
from nas.propose.source import Draft, attributes_read, blocks, defined, expression, rename, statements, structure
from nas.propose.widths import Tensor, analyse
from nas.records import Value
from nas.space import SearchSpace


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
        self.mine, self.theirs = Side(self.draft), Side(self.other)
        self.parts: list[_Part] = []
        self.spots: dict[int, _Spot] = {}
        pairs = align(self.mine, self.theirs, self.draft.call.body, self.other.call.body)
        self.match = Match(self.mine, self.theirs, pairs, space.spec)
        self.common = self.match.common
        self.flows = analyse(self.draft, space), analyse(self.other, space)
        self._share_names()
        body = self._merged(pairs, self.draft.call.body, self.other.call.body)
        self._mark_leaves()
        self.draft.call.body = body
        self._add_layers()
        self._add_helpers()

    # ---- names

    def _share_names(self) -> None:
        """Call in the baseline what corresponds as in the candidate, and everything else by names of its own."""
        other, draft = self.other, self.draft
        taken = draft.names()
        attributes = dict(self.match.attributes)
        for name in [*self.theirs.made, *(m.name for m in helper_methods(other) if id(m) not in self.common)]:
            if name not in attributes:
                clash = name in taken or name in attributes.values()
                attributes[name] = draft.fresh(name, taken=[*attributes.values()]) if clash else name
        used = set[str]()
        names: dict[str, str] = {}
        for name, mine in self.match.names.items():
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

    def _merged(self, pairs: Sequence[Pair], mine: list[ast.stmt], theirs: list[ast.stmt]) -> list[ast.stmt]:
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
                        words = in_words(statement, self.theirs if is_theirs else self.mine)
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
        for mine, theirs, where in self.match.leaves:
            words = [leaf_in_words(node, side) for node, side in ((theirs, self.theirs), (mine, self.mine))]
            part = found.setdefault((words[0], words[1]), _Part())
            mark = -1 - sum(len(one.new) for one in found.values())
            method = isinstance(mine, ast.Attribute) and mine.attr in METHOD_GROUPS and api_path(mine) is None
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
        self.draft.unit.body += [m for m in helper_methods(self.other) if id(m) not in self.common]

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
    """Drop the helper methods that nothing calls, and then those that only they called."""
    while True:
        own = helper_methods(draft)
        unread = [m for m in own if not any(m.name in attributes_read(s) for s in draft.unit.body if s is not m)]
        if not unread:
            return
        draft.unit.body = [s for s in draft.unit.body if not any(s is m for m in unread)]
