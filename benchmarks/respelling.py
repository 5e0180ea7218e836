"""Write a candidate another way: the same network and the same training step, in other words.

In goes a source that passes the gate, out comes another one that computes the same, by five techniques, which can be
applied one by one or all together:

    order    independent statements of `__init__`, methods, helpers and tunables stand in another order
    list     some layers that were attributes of their own are kept in one `nnx.List`
    steps    intermediate results of `__call__` get names of their own, in the order in which they are computed
    names    attributes, variables, arguments, methods, helper classes, tunables and imports are called otherwise
    layout   docstring, comments, blank lines, broken lines, depth of indentation

A sixth, `early`, is not among them unless asked for: some intermediate results are computed before others that came
first. The network is the same but for rounding: gradients that flow together are added up in another order.

Layers that are made in another order draw other random numbers, and leaves stand in another order: that is the point.
What is *not* done: other algebra, other functions of the library for the same thing, loops unrolled. The rules are
careful and not complete: where a change could mean something (a name that is a keyword somewhere, an attribute that
arrays have too, a statement with an effect) it is left out.
"""

import ast
import builtins
import io
import keyword
import tokenize
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from nas.admit.gate import BUILTINS, FACADE, VALUE_ATTRIBUTES, dotted, imported
from nas.propose.source import defined, expression, parse, statements

TECHNIQUES = ("order", "list", "steps", "names", "layout")
OTHERS = ("early",)

_FIXED = frozenset(("self", "spec", "hp", "rngs", "x", "TUNABLES"))
_OPAQUE = (
    *(ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.BoolOp),
    *(ast.JoinedStr, ast.Dict),
)
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aeiou"


def respell(source: str, scope: str, rng: np.random.Generator, techniques: Iterable[str] = TECHNIQUES) -> str:
    """Write a candidate another way.

    Args:
      source: a candidate that passes the gate.
      scope: the class that the space asks for, whose name stays.
      rng: source of randomness.
      techniques: which of `TECHNIQUES`, or `early`, to apply.
    """
    chosen = set(techniques)
    tree = parse(source)
    words = _Words(tree, rng)
    if "order" in chosen:
        _reorder(tree, rng)
    if "list" in chosen:
        _pack(tree, scope, words, rng)
    for technique in ("steps", "early"):
        if technique in chosen:
            _name_steps(tree, scope, words, rng, early=technique == "early")
    if "names" in chosen:
        _rename(tree, scope, words)
    if "layout" in chosen:
        return _lay_out(tree, words, rng)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Words:
    """Makes words that occur nowhere in a source."""

    def __init__(self, tree: ast.Module, rng: np.random.Generator) -> None:
        self.rng = rng
        self.used = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *FACADE, *VALUE_ATTRIBUTES}
        for node in ast.walk(tree):
            found = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
            self.used.update(name for name in found if isinstance(name, str))

    def __call__(self) -> str:
        while True:
            letters = [part[int(self.rng.integers(len(part)))] for _ in range(3) for part in (_CONSONANTS, _VOWELS)]
            word = "".join(letters)
            if word not in self.used:
                self.used.add(word)
                return word


# ---- order


def _reorder(tree: ast.Module, rng: np.random.Generator) -> None:
    """Shuffle what does not depend on each other: statements of `__init__`, methods, helpers, tunables."""
    tree.body = _shuffled(tree.body, rng)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {m.name for m in _methods(node)}
            for method in [m for m in _methods(node) if m.name == "__init__"]:
                method.body = _shuffled(method.body, rng, methods)
            node.body = _shuffled(node.body, rng)
        elif isinstance(node, ast.Assign) and _is_tunables(node):
            if isinstance(node.value, ast.Dict):
                order = rng.permutation(len(node.value.keys))
                node.value.keys = [node.value.keys[i] for i in order]
                node.value.values = [node.value.values[i] for i in order]


def _shuffled(body: Sequence[ast.stmt], rng: np.random.Generator, methods: Iterable[str] = ()) -> list[ast.stmt]:
    """A random order in which each statement still follows all that it must follow.

    One statement must follow another if either writes what the other reads or writes. What binds nothing (a docstring,
    an import, an assertion), returns, or hands out `self` keeps its place.
    """
    reads, writes = [_read(s) for s in body], [_written(s) for s in body]
    fixed = [not w or r & {"self", *(f"self.{m}" for m in methods)} for r, w in zip(reads, writes, strict=True)]

    def follows(later: int, earlier: int) -> bool:
        clash = writes[earlier] & (reads[later] | writes[later]) or reads[earlier] & writes[later]
        return bool(fixed[later] or fixed[earlier] or clash)

    left, order = list(range(len(body))), []
    while left:
        free = [i for i in left if not any(j < i and follows(i, j) for j in left)]
        chosen = free[int(rng.integers(len(free)))]
        left.remove(chosen)
        order.append(body[chosen])
    return order


def _read(statement: ast.stmt) -> set[str]:
    """Names and attributes of self that occur in a statement; `self` itself if it is used for anything else."""
    nodes = list(ast.walk(statement))
    owners = {id(n.value) for n in nodes if isinstance(n, ast.Attribute)}
    found = {f"self.{n.attr}" for n in nodes if isinstance(n, ast.Attribute) and _is_self(n.value)}
    found |= {n.id for n in nodes if isinstance(n, ast.Name) and n.id != "self"}
    inside = isinstance(statement, ast.FunctionDef | ast.ClassDef)  # where self is an argument
    bare = any(_is_self(n) and id(n) not in owners for n in nodes)
    return found | {"self"} if bare and not inside else found


def _written(statement: ast.stmt) -> set[str]:
    if any(isinstance(node, ast.Return | ast.Raise | ast.Assert) for node in ast.walk(statement)):
        return {statement.name} if isinstance(statement, ast.FunctionDef | ast.ClassDef) else set()
    bound = defined(statement)
    return {*bound.names, *(f"self.{attribute}" for attribute in bound.attributes)}


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


# ---- list


def _pack(tree: ast.Module, scope: str, words: _Words, rng: np.random.Generator) -> None:
    """Keep some layers of the unit in one list instead of attributes of their own."""
    unit = _unit(tree, scope)
    init = _method(unit, "__init__")
    if init is None:
        return
    aliases = imported(tree)
    layers = [
        (s, name) for s in init.body if (name := _layer(s, aliases)) and _is_private(name, tree, unit)
    ]  # fmt: skip
    chosen = [(s, name) for s, name in layers if rng.random() < 0.6]
    if not chosen:
        return
    held = words()
    places = {name: index for index, (_, name) in enumerate(chosen)}
    nnx = next(alias for alias, name in aliases.items() if name == "nnx")
    body: list[ast.stmt] = []
    packed = {id(s) for s, _ in chosen}
    for statement in init.body:
        if id(statement) not in packed or not isinstance(statement, ast.Assign):
            body.append(statement)
            continue
        if not any(_is_made(s, held) for s in body):
            body += statements(f"self.{held} = {nnx}.List([])")
        append = statements(f"self.{held}.append(None)")
        assert isinstance(append[0], ast.Expr) and isinstance(append[0].value, ast.Call)
        append[0].value.args = [statement.value]
        body += append
    init.body = body
    _Packed(held, places).visit(unit)


def _is_made(statement: ast.stmt, attribute: str) -> bool:
    return attribute in defined(statement).attributes


def _layer(statement: ast.stmt, aliases: Mapping[str, str]) -> str | None:
    """The attribute, if the statement is `self.<attribute> = nnx.<Class>(...)`."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target, value = statement.targets[0], statement.value
    if not (isinstance(target, ast.Attribute) and _is_self(target.value) and isinstance(value, ast.Call)):
        return None
    path = dotted(value.func, aliases) or ""
    return target.attr if path.startswith("nnx.") and path.rpartition(".")[2][:1].isupper() else None


def _is_private(attribute: str, tree: ast.Module, unit: ast.ClassDef) -> bool:
    """Whether the attribute is assigned once and otherwise only read, as `self.<attribute>` inside the unit."""
    everywhere = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == attribute]
    inside = [n for n in ast.walk(unit) if isinstance(n, ast.Attribute) and n.attr == attribute and _is_self(n.value)]
    stored = [n for n in inside if not isinstance(n.ctx, ast.Load)]
    return len(everywhere) == len(inside) and len(stored) == 1


class _Packed(ast.NodeTransformer):
    """Reads the layers where they are now."""

    def __init__(self, held: str, places: Mapping[str, int]) -> None:
        self.held, self.places = held, places

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if _is_self(node.value) and node.attr in self.places:
            return expression(f"self.{self.held}[{self.places[node.attr]}]")
        return self.generic_visit(node)


# ---- steps


def _name_steps(tree: ast.Module, scope: str, words: _Words, rng: np.random.Generator, *, early: bool) -> None:
    """Give intermediate results in the statements of `__call__` names of their own."""
    call = _method(_unit(tree, scope), "__call__")
    if call is None:
        return
    body: list[ast.stmt] = []
    for statement in call.body:
        if isinstance(statement, ast.Assign | ast.Return) and statement.value is not None:
            counted = _Steps(words, ())
            counted.visit(statement.value)
            last = max(counted.count - 1, 0)  # the whole
            first = range(int(rng.integers(last + 1)))
            steps = _Steps(words, {i for i in range(last) if rng.random() < 0.3} if early else first)
            steps.visit(statement.value)  # in place: the whole stays what it is
            body += steps.made
        body.append(statement)
    call.body = body


class _Steps(ast.NodeTransformer):
    """Takes operations out of an expression, numbered in the order in which Python evaluates them.

    If they are the first so many, the order of evaluation stays.
    """

    def __init__(self, words: _Words, chosen: Container[int]) -> None:
        self.words, self.chosen = words, chosen
        self.made: list[ast.stmt] = []
        self.count = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, _OPAQUE):  # in which something is evaluated several times, later, or perhaps not
            self.generic_visit(node)
        if not isinstance(node, ast.expr) or not _is_operation(node):
            return node
        self.count += 1
        if self.count - 1 not in self.chosen:
            return node
        name = self.words()
        self.made.append(ast.Assign([ast.Name(name, ast.Store())], node))
        return ast.Name(name, ast.Load())


def _is_operation(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("T", "mT", "real", "imag")
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.operand, ast.Constant)
    return isinstance(node, (ast.Call, ast.BinOp, ast.Subscript, ast.Compare, *_OPAQUE))


# ---- names


def _rename(tree: ast.Module, scope: str, words: _Words) -> None:
    """Call everything otherwise that may be. Each name has one new name throughout, so scopes need no thought."""
    nodes = list(ast.walk(tree))
    classes = [n for n in nodes if isinstance(n, ast.ClassDef)]
    aliases = imported(tree)
    methods = [m for c in classes for m in _methods(c)]
    called_by_libraries = {m.name for c in classes if not _is_plain(c, classes, aliases) for m in _methods(c)}
    dunders = {m.name for m in methods if m.name.startswith("__")}
    keywords = {n.arg for n in nodes if isinstance(n, ast.keyword) and n.arg}
    on_classes = {n for c in classes for s in c.body if s not in methods for n in _stored_names(s)}
    tunables = _tunables(tree)

    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_self(n.value) and _is_stored(n)}
    attributes |= {m.name for m in methods}
    attributes -= {*VALUE_ATTRIBUTES, *on_classes, *tunables, *dunders, *called_by_libraries}

    variables = {name for s in tree.body for name in _stored_names(s)} | {
        n.arg for n in nodes if isinstance(n, ast.arg)
    }
    variables |= {n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef) and n not in methods}
    variables -= {*_FIXED, *BUILTINS, *keywords, *on_classes, *aliases, scope}

    def renamed(names: Iterable[str]) -> dict[str, str]:
        return {name: words() for name in sorted(names)}

    _Renamed(
        variables=renamed(variables) | (imports := renamed(aliases)),
        attributes=renamed(attributes),
        tunables=renamed(tunables),
        imports=imports,
        methods=methods,
        aliases=aliases,
    ).visit(tree)


class _Renamed(ast.NodeTransformer):
    def __init__(
        self,
        *,
        variables: Mapping[str, str],
        attributes: Mapping[str, str],
        tunables: Mapping[str, str],
        imports: Mapping[str, str],
        methods: Sequence[ast.FunctionDef],
        aliases: Mapping[str, str],
    ) -> None:
        self.variables, self.attributes, self.tunables = variables, attributes, tunables
        self.imports, self.methods, self.aliases = imports, {id(m) for m in methods}, aliases

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.variables.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        self.generic_visit(node)
        node.arg = self.variables.get(node.arg, node.arg)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if dotted(node, self.aliases) is None:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            names = {"hp": self.tunables, "spec": {}}.get(owner, self.attributes)
            node.attr = names.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        names = self.attributes if id(node) in self.methods else self.variables
        node.name = names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self.variables.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            alias.asname = self.imports[alias.asname or alias.name]
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if _is_tunables(node) and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                if isinstance(key, ast.Constant):
                    key.value = self.tunables.get(str(key.value), key.value)
        return self.generic_visit(node)


def _is_stored(node: ast.Name | ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _stored_names(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and _is_stored(n)}


def _methods(unit: ast.ClassDef) -> list[ast.FunctionDef]:
    return [s for s in unit.body if isinstance(s, ast.FunctionDef)]


def _is_plain(unit: ast.ClassDef, classes: Sequence[ast.ClassDef], aliases: Mapping[str, str]) -> bool:
    """Whether a class has no methods that a library calls by name: it is a module, or made from its like."""
    own = {c.name for c in classes}
    paths = [dotted(base, aliases) or (base.id if isinstance(base, ast.Name) else "") for base in unit.bases]
    return all(path == "nnx.Module" or path in own for path in paths)


def _is_tunables(statement: ast.Assign) -> bool:
    return isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == "TUNABLES"


def _tunables(tree: ast.Module) -> set[str]:
    found = [s.value for s in tree.body if isinstance(s, ast.Assign) and _is_tunables(s)]
    keys = [key for value in found if isinstance(value, ast.Dict) for key in value.keys]
    return {str(key.value) for key in keys if isinstance(key, ast.Constant)}


def _unit(tree: ast.Module, scope: str) -> ast.ClassDef:
    return next(s for s in tree.body if isinstance(s, ast.ClassDef) and s.name == scope)


def _method(unit: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((m for m in _methods(unit) if m.name == name), None)


# ---- layout


def _lay_out(tree: ast.Module, words: _Words, rng: np.random.Generator) -> str:
    """Write the tree out with another docstring, comments, blank and broken lines, and another indentation."""
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        first.value = ast.Constant(" ".join(words() for _ in range(6)).capitalize() + ".")
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    lines = text.splitlines()
    for row, column, inserted in sorted(_insertions(text, words, rng), reverse=True):
        lines[row] = lines[row][:column] + inserted + lines[row][column:]
    depth = int(rng.choice([2, 3, 8]))
    written = [line for whole in lines for line in whole.split("\n")]
    return "\n".join(_indented(line, depth) for line in written) + "\n"


def _insertions(text: str, words: _Words, rng: np.random.Generator) -> list[tuple[int, int, str]]:
    """What to put where: (line from 0, column, text), at starts and ends of statements and after inner commas."""
    found = []
    starts = {node.lineno - 1: node.col_offset for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)}
    for row, column in starts.items():
        if rng.random() < 0.3:
            found.append((row, column, f"# {words()} {words()}\n{' ' * column}"))
        elif rng.random() < 0.2:
            found.append((row, 0, "\n"))
    depth = inside_text = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        inside_text += kind.endswith("STRING_START")  # the parts of an f-string, from Python 3.12 on
        inside_text -= kind.endswith("STRING_END")
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == "," and depth and not inside_text and rng.random() < 0.3:
                found.append((token.end[0] - 1, token.end[1], f"  # {words()}\n" if rng.random() < 0.3 else "\n"))
        elif token.type == tokenize.NEWLINE and rng.random() < 0.2:
            found.append((token.start[0] - 1, token.start[1], f"  # {words()}"))
    return found


def _indented(line: str, depth: int) -> str:
    """The line at another depth of indentation; where it had no whole number of steps, it is inside brackets."""
    bare = line.lstrip(" ")
    steps, rest = divmod(len(line) - len(bare), 4)
    return " " * (steps * depth + rest) + bare
