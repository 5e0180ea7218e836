"""Copy definitions out of Python files as text, with what they use, from their own file and from other files of ours.

Only text is read: nothing is imported or run here. What is copied may import jax, flax, numpy and the standard library;
what cannot be copied is said in one line. An operation of `nas.kernels` is copied as its reference, in plain jnp.
"""

import ast
import itertools
import re
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from nas.kernels import OFFERED
from nas.store import StoreError

ALLOWED = ("jax", "flax", "numpy")
"""Packages that exported code may import beside the standard library."""
STAND_INS = {("nas.space", "Spec"): "SimpleNamespace", ("nas.space", "Scope"): "str"}
"""What a copy has instead of some types of ours."""

_CONSTANT = re.compile(r"[A-Z_]+ = .*")
_OURS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is defined: a file and the name there."""

    path: Path
    name: str


def operation(name: str) -> Place:
    """The reference of an operation of `nas.kernels`."""
    if name not in OFFERED:
        raise StoreError(f"nas.kernels has no {name}; it has {', '.join(OFFERED)}")
    return Place((_OURS / "kernels" / f"{name}.py").resolve(), "reference")


def primitive(name: str) -> Place:
    """A layer of `nas.api.layers`."""
    return Place(_OURS / "layers.py", name)


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied.

    Attributes:
      imports: lines that it needs.
      text: definitions, each file's in their order, what is used before what uses it.
      names: what each wanted definition is called there.
    """

    imports: set[str]
    text: str
    names: dict[Place, str]


def copy(wanted: Sequence[Place], taken: Set[str] = frozenset(), names: dict[Place, str] | None = None) -> Copied:
    """Copy definitions with everything that they use.

    Args:
      wanted: the definitions.
      taken: names that the copy must leave to others; what has one gets a `_`.
      names: what some definitions are to be called all the same.
    Raises:
      StoreError: they need what cannot be copied.
    """
    making = _Copy(set(taken), dict(names or {}))
    for place in wanted:
        making.want(place)
    return making.made()


@dataclass(slots=True)
class _File:
    """A file as text and tree, with what is chosen of it."""

    path: Path
    text: str
    bound: dict[str, ast.stmt] = field(default_factory=dict)
    aliases: dict[str, ast.alias] = field(default_factory=dict)
    remarks: list[ast.Expr] = field(default_factory=list)
    chosen: dict[int, ast.stmt] = field(default_factory=dict)
    links: dict[str, str | Place] = field(default_factory=dict)
    spaces: set[str] = field(default_factory=set)
    gone: list[ast.stmt] = field(default_factory=list)


class _Copy:
    """Definitions that are chosen so far, by file; see `copy`."""

    def __init__(self, taken: set[str], names: dict[Place, str]) -> None:
        self.taken, self.names = taken, names
        self.files: dict[Path, _File] = {}
        self.imports: set[str] = set()
        self.order: list[_File] = []

    def want(self, place: Place) -> None:
        """Choose a definition and what it uses."""
        file = self._file(place.path)
        statement = file.bound.get(place.name)
        if statement is None or isinstance(statement, ast.Import | ast.ImportFrom):
            raise StoreError(f"{place.path.name} does not define '{place.name}' at its top, so it cannot be copied")
        if statement.lineno not in file.chosen:
            file.chosen[statement.lineno] = statement
            self._follow(file, statement)
            for remark in file.remarks:  # such as `function.defvjp(forward, backward)`
                if remark.lineno not in file.chosen and place.name == _root(remark.value):
                    file.chosen[remark.lineno] = remark
                    self._follow(file, remark)
        if file not in self.order:
            self.order.append(file)

    def made(self) -> Copied:
        """The text of all that is chosen."""
        for file in self.order:
            for statement in file.chosen.values():
                for name in binds(statement):
                    self._call(Place(file.path, name))
        parts = [
            part for file in self.order for line in sorted(file.chosen) if (part := self._text(file, file.chosen[line]))
        ]
        text = parts[0] if parts else ""
        for before, after in itertools.pairwise(parts):
            text += ("\n" if _CONSTANT.fullmatch(before) and _CONSTANT.fullmatch(after) else "\n\n\n") + after
        return Copied(self.imports, text, self.names)

    # ---- choosing

    def _file(self, path: Path) -> _File:
        if path not in self.files:
            text = path.read_text("utf-8")
            file = self.files[path] = _File(path, text)
            for statement in ast.parse(text).body:
                file.bound.update(dict.fromkeys(binds(statement), statement))
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    file.aliases.update({a.asname or a.name.split(".")[0]: a for a in statement.names})
                elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                    file.remarks.append(statement)
        return self.files[path]

    def _follow(self, file: _File, statement: ast.stmt) -> None:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                ours = [alias for alias in node.names if self._import(file, node, alias, inside=True)]
                if ours:
                    file.gone.append(node)
        for name in reads(statement, apart=_arguments(statement)):
            bound = file.bound.get(name)
            if isinstance(bound, ast.Import | ast.ImportFrom):
                self._import(file, bound, file.aliases[name])
            elif bound is not None and bound is not statement:
                self.want(Place(file.path, name))
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in file.spaces:
                self.want(operation(node.attr))

    def _import(
        self, file: _File, statement: ast.Import | ast.ImportFrom, alias: ast.alias, *, inside: bool = False
    ) -> bool:
        """Note an import as a line of the copy, or copy what it means, if that is ours; returns whether it is."""
        module = statement.module or "" if isinstance(statement, ast.ImportFrom) else alias.name
        local = alias.asname or alias.name
        if isinstance(statement, ast.ImportFrom) and not statement.level:
            if (module, alias.name) in STAND_INS:
                file.links[local] = STAND_INS[module, alias.name]
                return True
            if (module, alias.name) == ("nas", "kernels"):
                file.spaces.add(local)
                return True
            place = operation(alias.name) if module == "nas.kernels" else _ours(module, alias.name)
            if place is not None:
                file.links[local] = place
                self.want(place)
                return True
        root = module.split(".")[0]
        relative = isinstance(statement, ast.ImportFrom) and statement.level
        if relative or root not in ALLOWED and root not in sys.stdlib_module_names:
            text = f"{file.path.name} line {statement.lineno} needs '{module}', but exported code may import jax, flax"
            raise StoreError(f"{text} and numpy alone; write it with them, or copy what it needs into the file")
        if not inside:
            one = ast.unparse(alias)
            self.imports.add(f"import {one}" if isinstance(statement, ast.Import) else f"from {module} import {one}")
        return False

    # ---- writing

    def _call(self, place: Place) -> str:
        """What a definition is called in the copy."""
        if place not in self.names:
            ours = place.path.parent.name == "kernels" and place.name == "reference"
            name = place.path.stem if ours else place.name
            while name in self.taken or name in self.names.values():
                name += "_"
            self.names[place] = name
        return self.names[place]

    def _text(self, file: _File, statement: ast.stmt) -> str:
        """A statement with the copy's names in the place of the file's."""
        starts = [0]
        for line in file.text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line.encode()))
        content = file.text.encode()  # columns are in bytes
        edits: list[tuple[int, int, str]] = []

        def edit(node: ast.expr | ast.stmt, text: str) -> None:
            assert node.end_lineno is not None and node.end_col_offset is not None, "parsed from text"
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            if content[begin:end].decode(errors="replace") != ast.unparse(node):  # as in an f-string of Python 3.11
                where = f"{file.path.name} line {statement.lineno}"
                raise StoreError(f"{where} has '{ast.unparse(node)}' in a string, which cannot be copied as '{text}'")
            edits.append((begin, end, text))

        apart = _arguments(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in file.spaces:
                edit(node, self._call(operation(node.attr)))
            elif isinstance(node, ast.Name) and node.id not in apart:
                name = self._name(file, node.id)
                if name != node.id:
                    edit(node, name)
        for node in file.gone:
            if statement.lineno <= node.lineno <= (statement.end_lineno or 0):
                edits.append((starts[node.lineno - 1], starts[node.end_lineno or node.lineno], ""))
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            head = re.compile(rb"(def|class)\s+").match(content, starts[statement.lineno - 1])
            assert head is not None, "a definition at the top of a file"
            name = self._call(Place(file.path, statement.name))
            edits.append((head.end(), head.end() + len(statement.name.encode()), name))
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
        begin, end = starts[first - 1], starts[statement.end_lineno or first]
        text = content[begin:end]
        for at, until, new in sorted(edits, reverse=True):
            text = text[: at - begin] + new.encode() + text[until - begin :]
        return text.decode().rstrip()

    def _name(self, file: _File, name: str) -> str:
        link = file.links.get(name)
        if link is not None:
            return link if isinstance(link, str) else self._call(link)
        bound = file.bound.get(name)
        if bound is None or isinstance(bound, ast.Import | ast.ImportFrom) or bound.lineno not in file.chosen:
            return name
        return self._call(Place(file.path, name))


def _ours(module: str, name: str) -> Place | None:
    """Where a name of a module of ours is defined."""
    root, *rest = module.split(".")
    path = _OURS.joinpath(*rest).with_suffix(".py") if rest else None
    return Place(path.resolve(), name) if root == "nas" and path is not None and path.is_file() else None


def binds(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a file binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0]
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def reads(tree: ast.AST, apart: Set[str] = frozenset()) -> list[str]:
    """Names that a tree reads, but for those that it has as arguments."""
    found = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return [name for name in found if name not in apart]


def _arguments(statement: ast.stmt) -> set[str]:
    """Names of a function's own arguments."""
    if not isinstance(statement, ast.FunctionDef):
        return set()
    own = statement.args
    return {argument.arg for argument in (*own.posonlyargs, *own.args, *own.kwonlyargs)}


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes and calls begins with."""
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
