"""Where in a candidate something can be inserted, taken out, replaced or copied.

In goes a draft with what is known of its shapes, out come points and segments of its `__call__`: statements that turn
one variable into another and nothing else. It chooses none and changes nothing; `evolution` does.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nas.propose.source import Draft, blocks, defined, names_read
from nas.propose.widths import Flow, Tensor
from nas.space import SearchSpace

LONGEST = 4
"""Most statements in a segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an operator works with: a draft that it may change, what is known of it, the space, the generator."""

    draft: Draft
    flow: Flow
    space: SearchSpace
    rng: np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive statements of `__call__` that turn one variable into another, and nothing else that is used later.

    Attributes:
      block: the list that holds them.
      start, stop: first statement, and one past the last.
      read, written: the variables' names.
      before, after: what they hold, as far as known.
    """

    block: list[ast.stmt]
    start: int
    stop: int
    read: str
    written: str
    before: Tensor
    after: Tensor

    @property
    def body(self) -> list[ast.stmt]:
        """The statements."""
        return self.block[self.start : self.stop]

    @property
    def in_place(self) -> bool:
        """Whether the variable keeps its name and, as far as known, its shape."""
        same = (self.before.width, self.before.series) == (self.after.width, self.after.series)
        return same and self.before.length == self.after.length and self.read == self.written


def statement_lists(draft: Draft) -> Iterator[list[ast.stmt]]:
    """The statement lists of `__call__`: its body, and what is nested in `for` and `if`."""
    queue = [draft.call.body]
    while queue:
        block = queue.pop(0)
        yield block
        queue += [nested for statement in block for nested in blocks(statement)]


class _Uses:
    """What each statement of `__call__` reads and assigns, looked up once."""

    def __init__(self, draft: Draft) -> None:
        self.body = draft.call.body
        self.lists = list(statement_lists(draft))
        each = [statement for block in self.lists for statement in block]
        self.read = {id(s): names_read(s) for s in each}
        self.written = {id(s): defined(s).names for s in each}
        self.returns = {id(s) for s in each if any(isinstance(node, ast.Return) for node in ast.walk(s))}
        self.read_anywhere = {name for s in self.body for name in self.read[id(s)]}
        self.variables = variables(draft)

    def is_live(self, block: list[ast.stmt], index: int, name: str) -> bool:
        """Whether a variable may be read after this point."""
        for statement in block[index:]:
            if name in self.read[id(statement)]:
                return True
            if name in self.written[id(statement)] and not blocks(statement):
                return False
        return block is not self.body and name in self.read_anywhere


def find_points(context: Context) -> list[Segment]:
    """Empty segments: where something may be inserted, with the variable that it would change."""
    found: list[Segment] = []
    uses = _Uses(context.draft)
    for block in uses.lists:
        for index in range(len(block) + (block is not uses.body)):
            for name, value in context.flow.at(block, index).items():
                known = isinstance(value, Tensor) and value.width is not None and value.series is not None
                if known and uses.is_live(block, index, name):
                    ends = {"read": name, "written": name, "before": value, "after": value}
                    found.append(Segment(block=block, start=index, stop=index, **ends))
    return found


def find_segments(context: Context) -> list[Segment]:
    """What can be taken out, replaced or copied as one."""
    found: list[Segment] = []
    uses = _Uses(context.draft)
    for block in uses.lists:
        for start in range(len(block)):
            for stop in range(start + 1, min(start + LONGEST, len(block)) + 1):
                segment = _segment(context.flow, uses, block, start, stop)
                if segment is not None:
                    found.append(segment)
    return found


def _segment(flow: Flow, uses: _Uses, block: list[ast.stmt], start: int, stop: int) -> Segment | None:
    body = block[start:stop]
    if any(id(statement) in uses.returns for statement in body):
        return None
    before, after = flow.at(block, start), flow.at(block, stop)
    inputs: dict[str, None] = {}
    outputs: dict[str, None] = {}
    for statement in body:
        inputs |= {n: None for n in uses.read[id(statement)] if n not in outputs and n in before}
        outputs |= uses.written[id(statement)]
    local = [name for name in inputs if name in uses.variables]
    live = [name for name in outputs if uses.is_live(block, stop, name)]
    if len(local) != 1 or len(live) != 1:
        return None
    first, last = before.get(local[0]), after.get(live[0])
    if not isinstance(first, Tensor) or not isinstance(last, Tensor):
        return None
    return Segment(block=block, start=start, stop=stop, read=local[0], written=live[0], before=first, after=last)


def variables(draft: Draft) -> set[str]:
    """The argument and the local names of `__call__`; for membership tests only."""
    return {"x"}.union(*(defined(s).names for s in draft.call.body))


def self_attributes(node: ast.AST) -> dict[str, None]:
    """The attributes of self that are read in a node."""
    found = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return {n.attr: None for n in found if isinstance(n.value, ast.Name) and n.value.id == "self"}


def is_method(draft: Draft, name: str) -> bool:
    """Whether the unit has a method of this name."""
    return any(isinstance(s, ast.FunctionDef) and s.name == name for s in draft.unit.body)
