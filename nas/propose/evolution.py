"""The evolution arm: children of any source that passes the gate, by parse, change, write out.

In goes a parent's text (two for a crossing), the space and a random generator; out comes a child's text and the name
of what was done. It works on the syntax tree of whatever was written against the API and not on templates, knows no
scores but in `choose_parent`, and runs nothing: `widths` guesses what fits, and the tracer decides.
"""

import ast
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nas.admit import gate
from nas.propose import numbers
from nas.propose.crossing import transplant
from nas.propose.grammar import identifier, may_be_added, pick, render, with_residual
from nas.propose.places import (
    Context,
    Segment,
    find_points,
    find_segments,
    is_method,
    self_attributes,
    statement_lists,
    variables,
)
from nas.propose.source import Draft, defined, names_read, needed, rename, statements, structure, tunable_source
from nas.propose.widths import Tensor, analyse, is_pointwise, size, width_source
from nas.records import Choice, Value
from nas.space import Primitive, SearchSpace

ATTEMPTS = 80
"""How many children are tried before a parent is given up."""


class NoChild(ValueError):
    """No operator gave a child of this parent that passes the gate and differs from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A new source and what was done to get it, for instance `insert conv`."""

    source: str
    operator: str


Operator = Callable[[Context], str | None]
"""Changes the draft and says what it did, or returns None and leaves the draft as it was."""


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
    segments = find_segments(Context(draft=donor, flow=analyse(donor, space), space=space, rng=rng))
    fit = [s for s in segments if s.before.width is not None and s.after.width is not None]
    donated = [s for s in fit if s.before.series is not None and s.before.series is s.after.series]
    return _retry(source, space, rng, lambda context: _cross(context, donor, donated))


def at_values(source: str, values: Mapping[str, Value], scope: str) -> str:
    """A parent's text with these values as its defaults, so that its children start from a draw of it.

    Only a choice can say its default; the default of a range is its middle, and ranges stay as they are.

    Args:
      source: passes the gate.
      values: of its tunables; what it does not declare or does not offer is ignored.
      scope: of the space.
    Returns:
      The same text if nothing changes.
    """
    draft, changed = Draft(source, scope), False
    for name, declared in draft.tunables.items():
        tunable = numbers.read_tunable(declared)
        options = [repr(option) for option in tunable.options] if isinstance(tunable, Choice) else []
        spelled = repr(values.get(name))
        if isinstance(tunable, Choice) and spelled in options[1:]:
            index = options.index(spelled)
            first, rest = tunable.options[index], (*tunable.options[:index], *tunable.options[index + 1 :])
            draft.tunables[name] = tunable_source(Choice((first, *rest)))
            changed = True
    return draft.text() if changed else source


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
    """
    weights = parent_weights(scores, children, maximize)
    return int(rng.choice(len(weights), p=weights))


def parent_weights(scores: np.ndarray, children: np.ndarray, maximize: bool) -> np.ndarray:
    """The probability of each candidate to be drawn as a parent; see `choose_parent`.

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
    return weight / weight.sum()


def _retry(source: str, space: SearchSpace, rng: np.random.Generator, operate: Operator) -> Child:
    form, draft = structure(source), Draft(source, space.scope)
    flow = analyse(draft, space)
    known = flow.clashes
    for _ in range(ATTEMPTS):
        operator = operate(Context(draft=draft, flow=flow, space=space, rng=rng))
        if operator is None:
            continue
        child = draft.text(operator)
        draft = Draft(source, space.scope)  # faster than a deep copy
        flow = analyse(draft, space)
        if structure(child) == form or gate.check(child, space.scope).failures:
            continue
        if analyse(Draft(child, space.scope), space).clashes <= known:
            return Child(source=child, operator=operator)
    raise NoChild(f"no change of the parent gave a new candidate in {ATTEMPTS} attempts; choose another parent")


def _place(context: Context, primitive: Primitive, segment: Segment, *, residual: float = 0.0) -> bool:
    """Put a primitive in a segment's place, fitted to the width that is expected after it."""
    draft, space, rng = context.draft, context.space, context.rng
    width = width_source(segment.before, space)
    name = draft.fresh(identifier(primitive.name))
    piece = render(primitive, name=name, width=width, taken=draft.tunables, rng=rng)
    if segment.before.series is False and not is_pointwise(piece.init + piece.call):
        return False
    out = size(piece.width, context.flow, draft, space)
    own = {n: draft.fresh(n) for s in piece.call for n in defined(s).names if n != "h" and n in variables(draft)}
    call = piece.call
    if out == segment.before.width and rng.random() < residual and may_be_added(primitive, piece, width):
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
    points, body = find_points(context), context.space.grammar.body
    if not points or not body:
        return None
    primitive = pick(body, context.rng)
    return f"insert {primitive.name}" if _place(context, primitive, pick(points, context.rng), residual=0.5) else None


def _swap(context: Context) -> str | None:
    """Replace a segment that uses layers by a primitive; now and then the way in or the way out."""
    grammar, rng = context.space.grammar, context.rng
    if rng.random() < 0.2:
        return _swap_end(context)
    segments = [s for s in find_segments(context) if s.before.width is not None and s.before.series is s.after.series]
    segments = [s for s in segments if any("self" in names_read(statement) for statement in s.body)]
    if not segments or not grammar.body:
        return None
    segment, primitive = pick(segments, rng), pick(grammar.body, rng)
    return f"swap for {primitive.name}" if _place(context, primitive, segment, residual=0.3) else None


def _swap_end(context: Context) -> str | None:
    """Replace everything before a point by a stem of the grammar, or everything after it by a head."""
    grammar, draft, rng = context.space.grammar, context.draft, context.rng
    body = draft.call.body
    points = [p for p in find_points(context) if p.block is body and p.before.series]
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
    name = point.read
    start = Segment(block=body, start=0, stop=point.start, read=name, written=name, before=x, after=point.before)
    if not _place(context, primitive, start):
        return None
    return f"swap stem for {primitive.name}"


def _delete(context: Context) -> str | None:
    segments = [s for s in find_segments(context) if s.read == s.written]
    if not segments:
        return None
    segment = pick(segments, context.rng)
    if len(segment.body) == len(segment.block):
        return None
    del segment.block[segment.start : segment.stop]
    return "delete"


def _duplicate(context: Context) -> str | None:
    """Repeat a segment, with parameters of its own or with the same ones."""
    draft, rng = context.draft, context.rng
    segments = [s for s in find_segments(context) if s.in_place]
    if not segments:
        return None
    segment = pick(segments, rng)
    body = copy.deepcopy(segment.body)
    layers = [a for s in body for a in self_attributes(s) if not is_method(draft, a)]
    shares = not layers or rng.random() < 0.3
    if not shares:
        copied = copy.deepcopy([s for s in needed(draft.init.body, layers) if not _is_size(s)])
        bound = [defined(statement) for statement in copied]
        attributes = {a: draft.fresh(a) for b in bound for a in b.attributes}
        names = {n: draft.fresh(n) for b in bound for n in b.names}
        for statement in copied:
            rename(statement, names, attributes)
        for statement in body:
            rename(statement, {}, attributes)
        draft.init.body += copied
    segment.block[segment.stop : segment.stop] = body
    return "repeat with shared weights" if shares else "repeat"


def _is_size(statement: ast.stmt) -> bool:
    """Whether a statement only gives a number a name (`width = 2 * spec.width`), so that copies can share it."""
    made = (ast.Call, ast.List, ast.Dict, ast.ListComp, ast.Attribute)
    plain = isinstance(statement, ast.Assign) and not defined(statement).attributes
    parts = ast.walk(statement.value) if isinstance(statement, ast.Assign) else ()
    given = ("spec", "hp")
    return plain and not any(isinstance(n, made) and ast.unparse(n).partition(".")[0] not in given for n in parts)


def _reorder(context: Context) -> str | None:
    """Exchange two adjacent statements, or two adjacent segments."""
    lists = [block for block in statement_lists(context.draft) if len(block) > 1]
    segments = [s for s in find_segments(context) if s.in_place]
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
    segments = [s for s in find_segments(context) if s.in_place and not _is_sum(s)]
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


def _cross(context: Context, donor: Draft, donated: list[Segment]) -> str | None:
    """Copy a segment of the donor into the draft, at a point or in place of a segment."""
    rng = context.rng
    places = find_points(context) + [s for s in find_segments(context) if s.before.width is not None]
    if not donated or not places:
        return None
    segment = pick(donated, rng)
    alike = [p for p in places if p.before.series is segment.before.series is p.after.series]
    equal = [p for p in alike if p.before.width == segment.before.width]
    if not alike:
        return None
    transplant(context, donor, segment, pick(equal if equal and rng.random() < 0.8 else alike, rng))
    return "cross"


def _number(context: Context) -> str | None:
    return numbers.change_constant(context.draft, context.rng)


def _range(context: Context) -> str | None:
    return numbers.change_range(context.draft, context.rng)


def _tunable(context: Context) -> str | None:
    """Declare a number as a tunable, or fix one; text and truth values no descendant could make tunable again."""
    draft, rng = context.draft, context.rng
    if rng.random() < 0.6:
        return numbers.make_tunable(draft, rng)
    fixable = {
        name: node for name, node in draft.tunables.items() if _is_number(node) and _read_as_written(draft, name)
    }
    everything, draft.tunables = draft.tunables, fixable
    fixed = numbers.fix_tunable(draft, rng)
    draft.tunables = everything
    return fixed


def _is_number(declared: ast.expr) -> bool:
    tunable = numbers.read_tunable(declared)
    return not isinstance(tunable, Choice) or not any(isinstance(option, str | bool) for option in tunable.options)


def _read_as_written(draft: Draft, name: str) -> bool:
    """Whether a tunable is only ever read as `hp.name`, so that a value can take its place."""
    reads = [n.value for n in ast.walk(draft.tree) if isinstance(n, ast.Attribute) and n.attr == name]
    return all(isinstance(owner, ast.Name) and owner.id == "hp" for owner in reads)


def _function(context: Context) -> str | None:
    return numbers.exchange(context.draft, context.rng, causal=context.space.contract.causal)


_OPERATORS: tuple[Operator, ...] = (
    *(_insert, _insert, _swap, _swap, _delete, _duplicate, _reorder, _residual),
    *(_number, _number, _range, _tunable, _function, _function),
)
"""The operators of `mutate`; one that is listed twice is tried twice as often."""
