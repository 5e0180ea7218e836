"""A candidate's source, opened for editing: parse, change the tree, tidy, write it out again.

A `Draft` is a syntax tree with the places that proposers edit at hand. Editing may leave layers, tunables, helpers and
imports behind that nothing uses any more, or use names of the API that are not imported; `Draft.text` mends both. It
knows nothing of shapes (`widths`) and decides nothing (`evolution`).
"""

import ast
import warnings
from collections.abc import Iterable, Mapping

from nas.admit.gate import FACADE, imported
from nas.kernels import OFFERED
from nas.records import Choice, Tunable

IDEA_LENGTH = 300
"""Most characters of a parent's idea that a child repeats."""
STEPS = 3
"""How many operators a child's docstring lists after the idea."""
_THEN = "; then "


class Draft:
    """One candidate being edited.

    Attributes:
      tree: its module, without docstring, imports and `TUNABLES`; imported names have their names in `nas.api`, and
        what it calls like something of the API without importing that (`layers = []`) is called `own_layers`.
      idea: its docstring.
      tunables: the source expression of each tunable by name.
      unit: the class that the space asks for.
    """

    def __init__(self, source: str, scope: str) -> None:
        self.tree = parse(source)
        self.idea = ast.get_docstring(self.tree) or ""
        aliases = imported(self.tree)
        offered = (name for name in (*FACADE, *OFFERED) if name not in aliases)
        rename(self.tree, {name: f"own_{name}" for name in offered if name in _bound(self.tree)})
        renamed = {alias: name for alias, name in aliases.items() if alias != name}
        if renamed:
            rename(self.tree, renamed)
        self.tunables: dict[str, ast.expr] = {}
        body: list[ast.stmt] = []
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and _is_tunables(statement):
                self.tunables = _entries(statement.value)
            elif not isinstance(statement, ast.ImportFrom) and not _is_text(statement):
                body.append(statement)
        self.tree.body = body
        self.unit = next(s for s in body if isinstance(s, ast.ClassDef) and s.name == scope)

    @property
    def init(self) -> ast.FunctionDef:
        """`__init__` of the unit."""
        return method(self.unit, "__init__")

    @property
    def call(self) -> ast.FunctionDef:
        """`__call__` of the unit."""
        return method(self.unit, "__call__")

    @property
    def definitions(self) -> dict[str, ast.stmt]:
        """The helpers, functions, classes and constants at the top level, by name, the unit excepted."""
        return {name: s for s in self.tree.body if s is not self.unit for name in defined(s).names}

    def names(self) -> set[str]:
        """Every identifier in use; for membership tests only, since the order of a set is not repeatable."""
        used = set(self.tunables).union(FACADE, OFFERED, ("x", "h"))
        for node in ast.walk(self.tree):
            found = (getattr(node, field, None) for field in ("id", "attr", "arg", "name"))
            used.update(name for name in found if isinstance(name, str))
        return used

    def fresh(self, stem: str, *, taken: Iterable[str] = ()) -> str:
        """An identifier from `stem` that is no beginning of one in use: `conv_2`, or `conv` itself."""
        stem = "".join(c if c.isalnum() else "_" for c in stem).strip("_") or "part"
        stem = stem if stem.isidentifier() else f"n{stem}"
        used = self.names().union(taken)
        number = 1
        while True:
            name = stem if number == 1 else f"{stem}_{number}"
            if name not in used and not any(other.startswith(name + "_") for other in used):
                return name
            number += 1

    def text(self, operator: str = "") -> str:
        """The source, tidied, with `operator` added to the docstring."""
        self._tidy()
        module = ast.Module(body=[ast.Expr(ast.Constant(_retold(self.idea, operator)))], type_ignores=[])
        used = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)} - _bound(self.tree)
        kinds = [node.id for e in self.tunables.values() for node in ast.walk(e) if isinstance(node, ast.Name)]
        for origin, offered in (("nas.api", FACADE), ("nas.kernels", OFFERED)):
            names = [ast.alias(name) for name in sorted(set(offered)) if name in used or name in kinds]
            if names:
                module.body.append(ast.ImportFrom(origin, names, 0))
        if self.tunables:
            keys: list[ast.expr | None] = [ast.Constant(name) for name in self.tunables]
            target = ast.Name("TUNABLES", ast.Store())
            module.body.append(ast.Assign([target], ast.Dict(keys, list(self.tunables.values()))))
        module.body += self.tree.body
        return ast.unparse(ast.fix_missing_locations(module)) + "\n"

    def _tidy(self) -> None:
        """Remove the layers, helpers and tunables that nothing reads."""
        for unit in [s for s in self.tree.body if isinstance(s, ast.ClassDef)]:
            for init in [s for s in unit.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]:
                elsewhere = [s for s in self.tree.body if s is not unit] + [s for s in unit.body if s is not init]
                read = {a for s in elsewhere for a in attributes_read(s)}
                init.body = [s for s in needed(init.body, read, keep_effects=True)] or [ast.Pass()]
        while True:
            top = self.tree.body
            kept = [s for s in top if s is self.unit or not _is_unread(s, [other for other in top if other is not s])]
            if len(kept) == len(top):
                break
            self.tree.body = kept
        read = {a for s in self.tree.body for a in attributes_read(s)}
        self.tunables = {name: kind for name, kind in self.tunables.items() if name in read}


def parse(source: str) -> ast.Module:
    """Parse without passing on the parser's warnings about the candidate's literals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def statements(text: str) -> list[ast.stmt]:
    """Parse statements, one a line."""
    return parse(text).body


def expression(text: str) -> ast.expr:
    """Parse an expression."""
    return ast.parse(text.strip(), mode="eval").body


def structure(source: str) -> str:
    """The source without docstring, comments and layout: equal for sources that differ in nothing else."""
    tree = parse(source)
    tree.body = [s for s in tree.body if not _is_text(s)]
    return ast.dump(tree)


def method(unit: ast.ClassDef, name: str) -> ast.FunctionDef:
    """A method of a class by name."""
    return next(s for s in unit.body if isinstance(s, ast.FunctionDef) and s.name == name)


def tunable_source(tunable: Tunable) -> ast.expr:
    """A tunable as a candidate declares it."""
    if isinstance(tunable, Choice):
        return expression(f"choice({', '.join(map(repr, tunable.options))})")
    log = ", log=True" if tunable.log else ""
    return expression(f"{type(tunable).__name__.lower()}({tunable.low!r}, {tunable.high!r}{log})")


class Bound:
    """What a statement binds: local names, and attributes of self."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.attributes: dict[str, None] = {}

    def add(self, target: ast.expr) -> None:
        """Add an assignment's target."""
        if isinstance(target, ast.Name):
            self.names[target.id] = None
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self.add(part)
        elif isinstance(target, ast.Starred | ast.Subscript):
            self.add(target.value)
        elif isinstance(target, ast.Attribute):
            if isinstance(target.value, ast.Name) and target.value.id == "self":
                self.attributes[target.attr] = None
            else:
                self.add(target.value)


def defined(statement: ast.stmt) -> Bound:
    """What a statement assigns, in its nested blocks too; `blocks.append(...)` counts as assigning `blocks`."""
    bound = Bound()
    _collect(statement, bound)
    return bound


def _collect(statement: ast.stmt, bound: Bound) -> None:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        bound.names[statement.name] = None
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            bound.add(target)
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        bound.add(statement.target)
    elif isinstance(statement, ast.For):
        bound.add(statement.target)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        if isinstance(function, ast.Attribute) and not isinstance(function.value, ast.Call):
            bound.add(function.value)
    for nested in blocks(statement):
        for inner in nested:
            _collect(inner, bound)


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statement lists directly inside a `for` or an `if`."""
    if isinstance(statement, ast.For | ast.If):
        return [block for block in (statement.body, statement.orelse) if block]
    return []


def names_read(node: ast.AST) -> dict[str, None]:
    """The names that are loaded in a node, in order, those bound in nested functions and comprehensions excepted."""
    inner: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.comprehension):
            inner.update(n.id for n in ast.walk(part.target) if isinstance(n, ast.Name))
        elif isinstance(part, ast.Lambda | ast.FunctionDef):
            inner.update(n.arg for n in ast.walk(part.args) if isinstance(n, ast.arg))
            if isinstance(part, ast.FunctionDef):
                inner.update(n.id for s in part.body for n in ast.walk(s) if _is_stored(n) and isinstance(n, ast.Name))
    loads = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        loads.append(node.target.id)
    return {name: None for name in loads if name not in inner}


def attributes_read(node: ast.AST) -> dict[str, None]:
    """The attributes that are loaded in a node, of whatever."""
    return {n.attr: None for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}


def needed(body: list[ast.stmt], attributes: Iterable[str], *, keep_effects: bool = False) -> list[ast.stmt]:
    """The statements of an `__init__` that the given attributes depend on, in order.

    Args:
      body: the statements of `__init__`.
      attributes: the attributes of self that are wanted.
      keep_effects: keep also what assigns nothing (`super().__init__()`, `assert`, `raise`).
    """
    wanted, locals_wanted = set(attributes), set[str]()
    kept: list[ast.stmt] = []
    for statement in reversed(body):
        bound = defined(statement)
        effect = not bound.names and not bound.attributes and not isinstance(statement, ast.Pass)
        if (effect and keep_effects) or wanted.intersection(bound.attributes) or locals_wanted & set(bound.names):
            kept.append(statement)
            locals_wanted.update(names_read(statement))
            wanted.update(attributes_read(statement))
    return kept[::-1]


def rename(
    node: ast.AST,
    names: Mapping[str, str],
    attributes: Mapping[str, str] | None = None,
    tunables: Mapping[str, str] | None = None,
) -> None:
    """Rename variables, attributes of self and tunables (attributes of hp) in place."""
    owners = {"self": attributes or {}, "hp": tunables or {}}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in owners:
            part.attr = owners[part.value.id].get(part.attr, part.attr)
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            part.id = names.get(part.id, part.id)
        elif isinstance(part, ast.arg):
            part.arg = names.get(part.arg, part.arg)
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            part.name = names.get(part.name, part.name)


def _retold(idea: str, operator: str) -> str:
    """The parent's idea and the last few operators: `Gated convolutions; then insert glu.`"""
    sentence, *steps = " ".join(idea.partition("\n\n")[0].split()).rstrip(". ").split(_THEN)
    steps = [*steps, operator][-STEPS:] if operator else steps
    return _THEN.join([sentence[:IDEA_LENGTH], *steps]) + "."


def _bound(tree: ast.AST) -> set[str]:
    """The names that a source binds anywhere; for membership tests only."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_stored(node)}
    given = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return stored | given | {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def _is_stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_tunables(statement: ast.Assign) -> bool:
    target = statement.targets[0]
    return isinstance(target, ast.Name) and target.id == "TUNABLES"


def _entries(node: ast.expr) -> dict[str, ast.expr]:
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}


def _is_unread(statement: ast.stmt, others: list[ast.stmt]) -> bool:
    """Whether nothing else needs a top-level statement; `f.defvjp(...)` is needed as long as `f` is."""
    read = {name for other in others for name in names_read(other) if not _is_registration(other, name)}
    names = defined(statement).names
    if isinstance(statement, ast.Expr):
        return not any(name in read or _is_defined(name, others) for name in names)
    return bool(names) and not any(name in read for name in names)


def _is_registration(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Expr) and name in defined(statement).names


def _is_defined(name: str, others: list[ast.stmt]) -> bool:
    return any(name in defined(other).names for other in others if not isinstance(other, ast.Expr))
