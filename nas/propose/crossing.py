"""Copying a part of one candidate into another: the statements, and all that they need, renamed where names clash.

In goes a segment of a donor and a place in a draft, and the draft is changed. What comes along: the layers that the
segment calls with what their construction needs, methods, helper functions and classes, tunables, and linear maps
where the widths differ. It does not choose what goes where; `evolution` does.
"""

import ast
import copy
from collections.abc import Sequence

from nas.propose.places import Context, Segment, is_method, self_attributes
from nas.propose.source import Draft, attributes_read, defined, names_read, needed, rename, statements
from nas.propose.widths import Tensor


def transplant(context: Context, donor: Draft, segment: Segment, place: Segment) -> None:
    """Copy a segment with its layers, methods, helpers and tunables, renamed where names clash."""
    draft = context.draft
    body = copy.deepcopy(segment.body)
    methods = _methods(donor, body)
    layers = [a for s in [*body, *methods] for a in self_attributes(s) if not is_method(donor, a)]
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


def _fitted(context: Context, given: Tensor, wanted: Tensor, name: str) -> list[ast.stmt]:
    """A linear map from one width to another, if they differ."""
    if given.width == wanted.width or given.width is None or wanted.width is None:
        return []
    fit = context.draft.fresh("fit")
    sizes = ["spec.width" if t.width == context.space.spec.width else str(t.width) for t in (given, wanted)]
    context.draft.init.body += statements(f"self.{fit} = nnx.Linear({', '.join(sizes)}, rngs=rngs)")
    return statements(f"{name} = self.{fit}({name})")


def _methods(donor: Draft, body: Sequence[ast.stmt]) -> list[ast.FunctionDef]:
    """Copies of the methods of the unit that statements call, directly or not."""
    found: dict[str, ast.FunctionDef] = {}
    queue = [a for s in body for a in self_attributes(s)]
    while queue:
        name = queue.pop(0)
        if name not in found and is_method(donor, name) and not name.startswith("__"):
            found[name] = next(s for s in donor.unit.body if isinstance(s, ast.FunctionDef) and s.name == name)
            queue += self_attributes(found[name])
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
