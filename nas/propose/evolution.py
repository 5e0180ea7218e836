"""The evolution arm: children of any source that passes the gate, by parse, change, write out.

In goes a parent's text (two for a crossing), the space and a random generator; out comes a child's text and the name
of what was done. It works on the syntax tree of whatever was written against the API and not on templates, knows no
scores but in `choose_parent`, and runs nothing: `widths` guesses what fits, and the tracer decides.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.admit import gate
from nas.propose import numbers
from nas.propose.grammar import identifier, keeps_shape, pick, render, with_residual
from nas.propose.source import (
    Draft,
    attributes_read,
    blocks,
    defined,
    names_read,
    needed,
    rename,
    statements,
    structure,
)
from nas.propose.widths import Flow, Tensor, analyse, is_pointwise, size, width_source
from nas.space import Primitive, SearchSpace

ATTEMPTS = 80
"""How many children are tried before a parent is given up."""
LONGEST = 4
"""Most statements in a segment that is copied, moved or replaced at once."""


class NoChild(ValueError):
    """No operator gave a child of this parent that passes the gate and differs from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A new source and what was done to get it, for instance `insert conv`."""

    source: str
    operator: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an operator works with: a draft that it may change, what is known of it, the space, the generator."""

    draft: Draft
    flow: Flow
    space: SearchSpace
    rng: np.random.Generator


Operator = Callable[[Context], str | None]


def mutate(source: str, space: SearchSpace, rng: np.random.Generator) -> Child:
    """Make a child of one parent.

    Args:
      source: the parent, which passes the gate.
      space: its grammar gives the primitives to insert and to swap for, its spec the widths.
      rng: source of randomness; the same state gives the same child.
    Raises:
      NoChild: no operator applies.
    """
    return _retry(source, space, rng, lambda context: pick(_OPERATORS, rng)(context))


def cross(source: str, other: str, space: SearchSpace, rng: np.random.Generator) -> Child:
    """Make a child that is `source` with a segment of `other`, and with the layers and helpers that it uses.

    Args:
      source: the parent that is changed.
      other: the parent that gives; both pass the gate.
      space: gives scope and spec.
      rng: source of randomness.
    Raises:
      NoChild: no segment of `other` fits into `source`.
    """
    donor = Draft(other, space.scope)
    given = Context(draft=donor, flow=analyse(donor, space), space=space, rng=rng)
    return _retry(source, space, rng, lambda context: _cross(context, given))


def choose_parent(scores: np.ndarray, children: np.ndarray, maximize: bool, rng: np.random.Generator) -> int:
    """Draw a parent: better and less visited ones more often, whatever the scale of the scores.

    The probability is proportional to sigmoid((s - median) / MAD) / (1 + children).

    Args:
      scores: score of each candidate; one that is not finite is never drawn.
      children: how many children each has.
      maximize: whether a higher score is better.
      rng: source of randomness.
    Returns:
      Index into `scores`.
    Raises:
      ValueError: the arrays differ in length, or no score is finite.
    Source: the weighted sampling of ShinkaEvolve (Lange et al., arXiv 2509.19349); our change: where more than half of
    the scores are equal, so that MAD is 0, the mean absolute deviation takes its place.
    """
    scores, children = np.asarray(scores, float), np.asarray(children, float)
    if scores.shape != children.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and children {children.shape} differ; give one number for each parent")
    valid = np.isfinite(scores)
    if not valid.any():
        raise ValueError(f"none of {scores.size} scores is finite; give at least one candidate with a score")
    gain = np.where(valid, scores if maximize else -scores, 0.0)
    distance = gain - np.median(gain[valid])
    spread = np.median(np.abs(distance[valid])) or np.mean(np.abs(distance[valid])) or 1.0
    weight = valid / (1.0 + np.exp(-np.clip(distance / spread, -30.0, 30.0))) / (1.0 + children)
    return int(rng.choice(scores.size, p=weight / weight.sum()))


def _retry(source: str, space: SearchSpace, rng: np.random.Generator, operate: Operator) -> Child:
    parent = Draft(source, space.scope)
    known, form = analyse(parent, space).clashes, structure(source)
    for _ in range(ATTEMPTS):
        draft = parent.copy()
        operator = operate(Context(draft=draft, flow=analyse(draft, space), space=space, rng=rng))
        if operator is None:
            continue
        child = draft.text(operator)
        if structure(child) == form or gate.check(child, space.scope).failures:
            continue
        if analyse(Draft(child, space.scope), space).clashes <= known:
            return Child(source=child, operator=operator)
    raise NoChild(f"no change of the parent gave a new candidate in {ATTEMPTS} attempts; choose another parent")


def _lists(draft: Draft) -> Iterator[list[ast.stmt]]:
    """The statement lists of `__call__`: its body, and what is nested in `for` and `if`."""
    queue = [draft.call.body]
    while queue:
        block = queue.pop(0)
        yield block
        queue += [nested for statement in block for nested in blocks(statement)]


def _is_live(draft: Draft, block: list[ast.stmt], index: int, name: str) -> bool:
    """Whether a variable may be read after this point."""
    for statement in block[index:]:
        if name in names_read(statement):
            return True
        if name in defined(statement).names and not blocks(statement):
            return False
    return block is not draft.call.body and any(name in names_read(s) for s in draft.call.body)


def _points(context: Context) -> list[Segment]:
    """Empty segments: where something may be inserted, with the variable that it would change."""
    found = []
    for block in _lists(context.draft):
        for index in range(len(block) + (block is not context.draft.call.body)):
            for name, value in context.flow.at(block, index).items():
                known = isinstance(value, Tensor) and value.width is not None and value.series is not None
                if known and _is_live(context.draft, block, index, name):
                    found.append(
                        Segment(block=block, start=index, stop=index, read=name, written=name, **_ends(value, value))
                    )
    return found


def _ends(before: Tensor, after: Tensor) -> dict[str, Any]:
    return {"before": before, "after": after}


def _segments(context: Context) -> list[Segment]:
    """What can be taken out, replaced or copied as one."""
    found = []
    for block in _lists(context.draft):
        for start in range(len(block)):
            for stop in range(start + 1, min(start + LONGEST, len(block)) + 1):
                segment = _segment(context, block, start, stop)
                if segment is not None:
                    found.append(segment)
    return found


def _segment(context: Context, block: list[ast.stmt], start: int, stop: int) -> Segment | None:
    body = block[start:stop]
    if any(isinstance(node, ast.Return) for s in body for node in ast.walk(s)):
        return None
    before, after = context.flow.at(block, start), context.flow.at(block, stop)
    inputs: dict[str, None] = {}
    outputs: dict[str, None] = {}
    for statement in body:
        inputs |= {n: None for n in names_read(statement) if n not in outputs and n in before}
        outputs |= defined(statement).names
    local = [n for n in inputs if n in _variables(context.draft)]
    live = [n for n in outputs if _is_live(context.draft, block, stop, n)]
    if len(local) != 1 or len(live) != 1:
        return None
    first, last = before.get(local[0]), after.get(live[0])
    if not isinstance(first, Tensor) or not isinstance(last, Tensor):
        return None
    return Segment(block=block, start=start, stop=stop, read=local[0], written=live[0], **_ends(first, last))


def _variables(draft: Draft) -> set[str]:
    """The argument and the local names of `__call__`; for membership tests only."""
    return {"x"}.union(*(defined(s).names for s in draft.call.body))


def _place(context: Context, primitive: Primitive, segment: Segment, *, residual: float = 0.0) -> bool:
    """Put a primitive in a segment's place, fitted to the width that is expected after it."""
    draft, space, rng = context.draft, context.space, context.rng
    width = width_source(segment.before, space)
    name = draft.fresh(identifier(primitive.name))
    piece = render(primitive, name=name, width=width, taken=draft.tunables, rng=rng)
    if segment.before.series is False and not is_pointwise(piece.init + piece.call):
        return False
    out = size(piece.width, context.flow, draft, space)
    own = {n: draft.fresh(n) for s in piece.call for n in defined(s).names if n != "h" and n in _variables(draft)}
    call = piece.call
    if out == segment.before.width and rng.random() < residual and keeps_shape(primitive, piece, width):
        call = with_residual(call, "h", draft.fresh("skip"))
    if out is not None and segment.after.width not in (None, out):
        fit = draft.fresh("fit", taken=(name,))
        target = width_source(segment.after, space)
        piece.init.extend(statements(f"self.{fit} = nnx.Linear({piece.width}, {target}, rngs=rngs)"))
        call = [*call, *statements(f"h = self.{fit}(h)")]
    entry = [] if segment.read == segment.written else statements(f"{segment.written} = {segment.read}")
    for statement in call:
        rename(statement, own | {"h": segment.written})
    draft.init.body += piece.init
    draft.tunables |= piece.tunables
    segment.block[segment.start : segment.stop] = [*entry, *call]
    return True


def _insert(context: Context) -> str | None:
    points, body = _points(context), context.space.grammar.body
    if not points or not body:
        return None
    primitive = pick(body, context.rng)
    return f"insert {primitive.name}" if _place(context, primitive, pick(points, context.rng), residual=0.5) else None


def _swap(context: Context) -> str | None:
    """Replace a segment that uses layers by a primitive; now and then the way in or the way out."""
    grammar, rng = context.space.grammar, context.rng
    if rng.random() < 0.2:
        return _swap_end(context)
    segments = [s for s in _segments(context) if s.before.width is not None and s.before.series is s.after.series]
    segments = [s for s in segments if any("self" in names_read(statement) for statement in s.body)]
    if not segments or not grammar.body:
        return None
    segment, primitive = pick(segments, rng), pick(grammar.body, rng)
    return f"swap for {primitive.name}" if _place(context, primitive, segment, residual=0.3) else None


def _swap_end(context: Context) -> str | None:
    """Replace everything before a point by a stem of the grammar, or everything after it by a head."""
    grammar, draft, rng = context.space.grammar, context.draft, context.rng
    body = draft.call.body
    points = [p for p in _points(context) if p.block is body and p.before.series]
    head = bool(rng.integers(2))
    options = grammar.head if head else grammar.stem
    if not points or not options or not isinstance(body[-1], ast.Return):
        return None
    point, primitive = pick(points, rng), pick(options, rng)
    if head:
        width = width_source(point.before, context.space)
        name = draft.fresh(identifier(primitive.name))
        piece = render(primitive, name=name, width=width, taken=draft.tunables, rng=rng)
        for statement in piece.call:
            rename(statement, {"h": point.read})
        body[point.start :] = piece.call
        draft.init.body += piece.init
        draft.tunables |= piece.tunables
        return f"swap head for {primitive.name}"
    x = context.flow.at(body, 0).get("x")
    if point.read == "x" or not isinstance(x, Tensor) or not x.series:
        return None
    segment = Segment(block=body, start=0, stop=point.start, read="h", written="h", **_ends(x, point.before))
    if not _place(context, primitive, segment):
        return None
    for statement in body:
        rename(statement, {"h": point.read} if point.read != "h" else {})
    return f"swap stem for {primitive.name}"


def _delete(context: Context) -> str | None:
    segments = [s for s in _segments(context) if s.read == s.written]
    if not segments:
        return None
    segment = pick(segments, context.rng)
    del segment.block[segment.start : segment.stop]
    return "delete" if segment.block else None


def _duplicate(context: Context) -> str | None:
    """Repeat a segment, with parameters of its own or with the same ones."""
    draft, rng = context.draft, context.rng
    segments = [s for s in _segments(context) if s.in_place]
    if not segments:
        return None
    segment = pick(segments, rng)
    body = copy.deepcopy(segment.body)
    layers = [a for s in body for a in _self_attributes(s) if not _is_method(draft, a)]
    shares = not layers or rng.random() < 0.3
    if not shares:
        copied = copy.deepcopy(needed(draft.init.body, layers))
        bound = [defined(statement) for statement in copied]
        attributes = {a: draft.fresh(a) for b in bound for a in b.attributes if a in layers}
        copied = [s for s, b in zip(copied, bound, strict=True) if b.names or attributes.keys() & b.attributes]
        names = {n: draft.fresh(n) for b in bound for n in b.names}
        for statement in copied:
            rename(statement, names, attributes)
        for statement in body:
            rename(statement, {}, attributes)
        draft.init.body += copied
    segment.block[segment.stop : segment.stop] = body
    return "repeat with shared weights" if shares else "repeat"


def _reorder(context: Context) -> str | None:
    """Exchange two adjacent statements, or two adjacent segments."""
    lists = [block for block in _lists(context.draft) if len(block) > 1]
    segments = [s for s in _segments(context) if s.in_place]
    pairs = [
        (a, b) for a in segments for b in segments if a.block is b.block and a.stop == b.start and a.read == b.read
    ]
    if pairs and context.rng.random() < 0.7:
        first, second = pick(pairs, context.rng)
        first.block[first.start : second.stop] = [*second.body, *first.body]
        return "reorder"
    if not lists:
        return None
    block = pick(lists, context.rng)
    index = int(context.rng.integers(len(block) - 1))
    if isinstance(block[index + 1], ast.Return):
        return None
    block[index], block[index + 1] = block[index + 1], block[index]
    return "reorder"


def _residual(context: Context) -> str | None:
    """Add what went into a segment to what comes out of it."""
    segments = [s for s in _segments(context) if s.in_place and not _is_sum(s)]
    if not segments:
        return None
    segment = pick(segments, context.rng)
    wrapped = with_residual(segment.body, segment.read, context.draft.fresh("skip"))
    segment.block[segment.start : segment.stop] = wrapped
    return "residual"


def _is_sum(segment: Segment) -> bool:
    """Whether the segment is one statement that adds to its variable already."""
    only = segment.body[0]
    value = only.value if isinstance(only, ast.Assign) else None
    added = isinstance(only, ast.AugAssign) or isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)
    return len(segment.body) == 1 and added


def _cross(context: Context, given: Context) -> str | None:
    """Copy a segment of the donor into the draft, at a point or in place of a segment."""
    rng = context.rng
    donated = [s for s in _segments(given) if s.before.width is not None and s.before.series is not None]
    donated = [s for s in donated if s.after.width is not None and s.after.series is s.before.series]
    places = _points(context) + [s for s in _segments(context) if s.before.width is not None]
    if not donated or not places:
        return None
    segment = pick(donated, rng)
    alike = [p for p in places if p.before.series is segment.before.series is p.after.series]
    equal = [p for p in alike if p.before.width == segment.before.width]
    if not alike:
        return None
    _transplant(context, given, segment, pick(equal if equal and rng.random() < 0.8 else alike, rng))
    return "cross"


def _transplant(context: Context, given: Context, segment: Segment, place: Segment) -> None:
    """Copy a segment with its layers, methods, helpers and tunables, renamed where names clash."""
    draft, donor = context.draft, given.draft
    body = copy.deepcopy(segment.body)
    methods = _methods(donor, body)
    layers = [a for s in [*body, *methods] for a in _self_attributes(s) if not _is_method(donor, a)]
    copied = copy.deepcopy(needed(donor.init.body, layers))
    helpers = _helpers(donor, [*body, *methods, *copied])
    everything = [*body, *methods, *copied, *helpers]
    kept = [h for h in helpers if not any(ast.dump(h) == ast.dump(other) for other in draft.tree.body)]

    held = {a: None for s in copied for a in defined(s).attributes} | {m.name: None for m in methods}
    attributes = {a: draft.fresh(a) for a in held}
    tunables = {t: draft.fresh(t) for s in everything for t in attributes_read(s) if t in donor.tunables}
    used = draft.names()
    top = {n: draft.fresh(n) for s in kept for n in defined(s).names if n in used}
    bound = {n: None for s in [*body, *copied] for n in _bound_names(s)}
    names = top | {n: draft.fresh(n) for n in bound if n in used and n not in ("self", "spec", "hp", "rngs")}
    for statement in [*methods, *kept]:
        rename(statement, top, attributes, tunables)
    for statement in copied:
        rename(statement, names, attributes, tunables)
    enters, leaves = place.written, names.get(segment.written, segment.written)
    if segment.read == segment.written:
        names |= {segment.read: enters}
        leaves = enters
    elif segment.read not in bound:
        names |= {segment.read: enters}
    for statement in body:
        rename(statement, names, attributes, tunables)

    entry = [] if place.read == place.written else statements(f"{place.written} = {place.read}")
    entry += _fitted(context, place.before, segment.before, enters)
    if segment.read != segment.written and segment.read in bound:
        entry += statements(f"{names.get(segment.read, segment.read)} = {enters}")
    leave = [] if leaves == enters else statements(f"{enters} = {leaves}")
    place.block[place.start : place.stop] = [*entry, *body, *leave]
    index = place.start + len(entry) + len(body) + len(leave)
    place.block[index:index] = _fitted(context, segment.after, place.after, enters)
    draft.init.body += copied
    draft.unit.body += methods
    draft.tunables |= {tunables[t]: copy.deepcopy(donor.tunables[t]) for t in tunables}
    position = draft.tree.body.index(draft.unit)
    draft.tree.body[position:position] = kept
    draft.kernels += donor.kernels


def _fitted(context: Context, given: Tensor, wanted: Tensor, name: str) -> list[ast.stmt]:
    """A linear map from one width to another, if they differ."""
    if given.width == wanted.width or given.width is None or wanted.width is None:
        return []
    fit = context.draft.fresh("fit")
    sizes = ["spec.width" if t.width == context.space.spec.width else str(t.width) for t in (given, wanted)]
    context.draft.init.body += statements(f"self.{fit} = nnx.Linear({', '.join(sizes)}, rngs=rngs)")
    return statements(f"{name} = self.{fit}({name})")


def _self_attributes(node: ast.AST) -> dict[str, None]:
    """The attributes of self that are read in a node."""
    found = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    return {n.attr: None for n in found if isinstance(n.value, ast.Name) and n.value.id == "self"}


def _is_method(draft: Draft, name: str) -> bool:
    return any(isinstance(s, ast.FunctionDef) and s.name == name for s in draft.unit.body)


def _methods(donor: Draft, body: Sequence[ast.stmt]) -> list[ast.FunctionDef]:
    """Copies of the methods of the unit that statements call, directly or not."""
    found: dict[str, ast.FunctionDef] = {}
    queue = [a for s in body for a in _self_attributes(s)]
    while queue:
        name = queue.pop(0)
        if name not in found and _is_method(donor, name) and not name.startswith("__"):
            found[name] = next(s for s in donor.unit.body if isinstance(s, ast.FunctionDef) and s.name == name)
            queue += _self_attributes(found[name])
    return copy.deepcopy(list(found.values()))


def _helpers(donor: Draft, body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Copies of the top-level statements that statements need, directly or not, in the donor's order."""
    wanted: list[ast.stmt] = []
    queue: list[ast.stmt] = list(body)
    while queue:
        read = names_read(queue.pop(0))
        for statement in donor.tree.body:
            new = statement is not donor.unit and not any(statement is other for other in wanted)
            if new and any(name in read for name in defined(statement).names):
                wanted.append(statement)
                queue.append(statement)
    return copy.deepcopy([s for s in donor.tree.body if any(s is other for other in wanted)])


def _bound_names(statement: ast.stmt) -> dict[str, None]:
    """Every name that is bound anywhere in a statement; methods and arguments of classes excepted."""
    found = dict(defined(statement).names)
    if not isinstance(statement, ast.ClassDef | ast.FunctionDef):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found[node.id] = None
            elif isinstance(node, ast.arg):
                found[node.arg] = None
    return found


def _number(context: Context) -> str | None:
    return numbers.change_constant(context.draft, context.rng)


def _range(context: Context) -> str | None:
    return numbers.change_range(context.draft, context.rng)


def _tunable(context: Context) -> str | None:
    make = context.rng.random() < 0.6
    return (numbers.make_tunable if make else numbers.fix_tunable)(context.draft, context.rng)


def _function(context: Context) -> str | None:
    return numbers.exchange(context.draft, context.rng, causal=context.space.contract.causal)


_OPERATORS: tuple[Operator, ...] = (
    *(_insert, _insert, _swap, _swap, _delete, _duplicate, _reorder, _residual),
    *(_number, _number, _range, _tunable, _function, _function),
)
"""The operators of `mutate`; one that is listed twice is tried twice as often."""
