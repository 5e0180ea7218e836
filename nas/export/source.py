"""Write an exported folder's code: text of candidate, skeleton and space goes in, modules that stand alone come out.

Only text is read: nothing is imported or run here. A function that is copied brings whatever of its own file it uses,
and must import nothing but jax, flax, numpy and the standard library; what cannot be copied is said in one line.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.progress import visible
from nas.records import Choice, Tunable, Value
from nas.space import SearchSpace
from nas.store import StoreError

API = {
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "lax": "from jax import lax",
    "nnx": "from flax import nnx",
}
"""What the names of `nas.api` stand for, but for those that declare tunables."""
ALLOWED = ("jax", "flax", "numpy")
"""Packages that exported code may import beside the standard library."""
FACADE = ("build", "load", "predict", "read_arrays")
"""What an exported module offers, unless the candidate has a name of its own like it: then with a `_`."""

_HERE = Path(__file__).parent


class File:
    """A Python file as text, from which definitions are copied with everything in it that they use."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text("utf-8")
        self.lines = self.text.splitlines(keepends=True)
        self.bound: dict[str, ast.stmt] = {}
        self.imported: dict[str, ast.alias] = {}
        for statement in ast.parse(self.text).body:
            for name in _binds(statement):
                self.bound[name] = statement
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self.imported.update({alias.asname or alias.name.split(".")[0]: alias for alias in statement.names})

    def copy(self, wanted: Sequence[str], given: Mapping[str, str] = {}) -> tuple[list[str], str]:  # noqa: B006
        """Copy definitions.

        Args:
          wanted: their names.
          given: names that the copy has by another name, instead of what the file binds to them.
        Returns:
          The import lines that they need, and their text in the order of the file.
        Raises:
          StoreError: they need what cannot be copied.
        """
        imports: set[str] = set()
        chosen: dict[int, ast.stmt] = {}
        todo, seen = list(wanted), set(given)
        while todo:
            name = todo.pop()
            statement = self.bound.get(name)
            if name in seen or statement is None:  # a builtin, or a name of its own
                continue
            seen.add(name)
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports.add(self._import(statement, self.imported[name]))
                continue
            chosen[statement.lineno] = statement
            self._check_inner_imports(statement)
            todo += _names(statement, apart=_arguments(statement))
        text = "\n\n\n".join(self._segment(chosen[line]) for line in sorted(chosen))
        for name, other in given.items():
            text = re.sub(rf"\b{name}\b", other, text)
        return sorted(imports), text

    def _segment(self, statement: ast.stmt) -> str:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))])
        return "".join(self.lines[first - 1 : statement.end_lineno]).rstrip()

    def _check_inner_imports(self, statement: ast.stmt) -> None:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    self._import(node, alias)

    def _import(self, statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
        """One import as a line of its own."""
        module = statement.module or "" if isinstance(statement, ast.ImportFrom) else alias.name
        root = module.split(".")[0]
        relative = isinstance(statement, ast.ImportFrom) and statement.level
        if relative or root not in ALLOWED and root not in sys.stdlib_module_names:
            text = f"{self.path.name} line {statement.lineno} needs '{module}', but exported code may import jax, flax"
            raise StoreError(f"{text} and numpy alone; write it with them, or copy what it needs into the file")
        one = ast.unparse(alias)
        return f"import {one}" if isinstance(statement, ast.Import) else f"from {module} import {one}"


def _binds(statement: ast.stmt) -> Iterator[str]:
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


def _names(tree: ast.AST, apart: Set[str] = frozenset()) -> list[str]:
    """Names that a tree reads, but for those that it has as arguments."""
    reads = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return [name for name in reads if name not in apart]


def _arguments(statement: ast.stmt) -> set[str]:
    """Names of a function's own arguments."""
    if not isinstance(statement, ast.FunctionDef):
        return set()
    own = statement.args
    return {argument.arg for argument in (*own.posonlyargs, *own.args, *own.kwonlyargs)}


# ---- the network


def network(
    space: SearchSpace, source: str, values: Mapping[str, Value], tunables: Mapping[str, Tunable], about: str
) -> tuple[str, dict[str, str]]:
    """Write the module of a candidate at values of its tunables.

    Args:
      space: gives sizes, scope and skeleton.
      source: the candidate's text, as it was admitted.
      values: one value for each tunable.
      tunables: as declared, for the reader.
      about: what the module's docstring says after the idea.
    Returns:
      The text, and what its functions of `FACADE` are called.
    Raises:
      StoreError: it needs what an exported module cannot have.
    """
    tree = ast.parse(source)
    own = _Own(tree)
    imports, around = _around(space)
    helpers, text = File(_HERE / "standalone.py").copy(["predict", "fill", "read_arrays"])
    ours = f"{_numbers(space, values, tunables)}\n{{candidate}}\n\n\n{around}{_build(space)}\n\n\n{text}\n"
    lines = {*imports, *helpers, *own.imports, "from types import SimpleNamespace", "from pathlib import Path"}
    if clash := own.binds & {name for line in lines for name in re.findall(r"\w+$", line)} - own.imported:
        raise StoreError(
            f"the candidate has names of its own for {', '.join(sorted(clash))}; rename them in its source"
        )
    named = {name: _free(name, own.names) for name in FACADE}
    for name in _defined(ours.replace("{candidate}", "")):
        ours = re.sub(rf"\b{name}\b", _free(name, own.names), ours)
    about = about.format(**named)
    idea = ast.get_docstring(tree) or "A candidate."
    head = f'"""{_quotable(idea)}\n\n{about}\n"""\n\n' + "\n".join(_sorted_imports(lines))
    return f"{head}\n\n{ours}".replace("{candidate}", _rest(tree, source).strip("\n"), 1), named


class _Own:
    """What a candidate's tree imports, binds and names."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports: set[str] = set()
        self.imported: set[str] = set()
        self.binds = {name for s in tree.body if not isinstance(s, ast.ImportFrom) for name in _binds(s)}
        self.names = self.binds | {*_names(tree)}
        dropped = {"TUNABLES"}
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom):
                dropped |= self._take(statement)
        left = [s for s in tree.body if not _is_declaration(s)]
        if used := sorted(dropped & {name for s in left for name in _names(s)}):
            raise StoreError(
                f"the candidate uses {', '.join(used)} beside its declaration; a module has only the values"
            )

    def _take(self, statement: ast.ImportFrom) -> set[str]:
        """Translate an import; returns the names that an exported module does without."""
        dropped = set()
        for alias in statement.names:
            if statement.module != "nas.api":
                text = f"the candidate imports {alias.name} from {statement.module}, which is not exported yet"
                raise StoreError(f"{text}; write it with jnp and lax")
            name = alias.asname or alias.name
            if alias.name not in API:
                dropped.add(name)
                continue
            line = API[alias.name]
            self.imported.add(name)
            if name != alias.name:
                line = f"{line} as {name}" if alias.name != "jnp" else f"import jax.numpy as {name}"
            self.imports.add(line)
        return dropped


def _is_declaration(statement: ast.stmt) -> bool:
    """Whether it is an import, or the assignment of TUNABLES."""
    return isinstance(statement, ast.ImportFrom) or "TUNABLES" in _binds(statement)


def _rest(tree: ast.Module, source: str) -> str:
    """The candidate's text without docstring, imports and TUNABLES, its comments kept where lines allow it."""
    is_text = bool(tree.body) and ast.get_docstring(tree) is not None
    gone = [s for index, s in enumerate(tree.body) if index == 0 and is_text or _is_declaration(s)]
    kept = [s for s in tree.body if s not in gone]
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    drop = {line for s in gone for line in range(s.lineno, (s.end_lineno or s.lineno) + 1)}
    if drop & {line for s in kept for line in (s.lineno, s.end_lineno)}:  # several statements on a line
        return ast.unparse(ast.Module(body=kept, type_ignores=[]))
    text = "\n".join(line for number, line in enumerate(lines, 1) if number not in drop)
    return re.sub(r"\n{4,}", "\n\n\n", text)


def _numbers(space: SearchSpace, values: Mapping[str, Value], tunables: Mapping[str, Tunable]) -> str:
    sizes = ", ".join(f"{key}={value!r}" for key, value in asdict(space.spec).items())
    text = (
        f'SPEC = SimpleNamespace({sizes})\n"""Sizes: positions, features, token ids, classes, width, depth, heads."""\n'
    )
    if not values:
        return text + 'HP = SimpleNamespace()\n"""It declares no numbers to tune."""\n\n'
    rows = "".join(f"    {key}={value!r},  # {_declared(tunables.get(key))}\n" for key, value in values.items())
    return (
        text + f'HP = SimpleNamespace(\n{rows})\n"""The numbers that the search found, with the range of each."""\n\n'
    )


def _declared(tunable: Tunable | None) -> str:
    if tunable is None:
        return "as declared"
    if isinstance(tunable, Choice):
        return f"choice({', '.join(map(repr, tunable.options))})"
    return f"{type(tunable).__name__.lower()}({tunable.low}, {tunable.high}{', log=True' if tunable.log else ''})"


def _around(space: SearchSpace) -> tuple[list[str], str]:
    """The skeleton's imports and text; a `Model` has none."""
    if space.scope == "Model":
        return [], ""
    if space.skeleton is None:
        file, name = File(_HERE.parent / "admit" / "skeleton.py"), "Skeleton"
    else:
        file, name = _file_of(space.skeleton, "skeleton")
    imports, text = file.copy([name], {"Spec": "SimpleNamespace"})
    return imports, f"{text}\n\n\n"


def _build(space: SearchSpace) -> str:
    """`build` and `load`."""
    unit = f"{space.scope}(SPEC, HP, rngs=rngs)"
    if space.scope != "Model":
        if space.skeleton is None:
            more = f", scope={space.scope!r}, per_position={len(space.contract.output_shape) == 2}"
            unit = f"Skeleton({space.scope}, SPEC, HP, rngs=rngs{more})"
        else:
            unit = f"{space.skeleton.__name__}({space.scope}, SPEC, HP, rngs=rngs)"
    return (
        "def build(seed=0):\n"
        '    """The network with fresh weights, ready to be trained."""\n'
        "    rngs = nnx.Rngs(jax.random.key(seed))\n"
        f"    return {unit}\n\n\n"
        'def load(path=Path(__file__).with_name("weights.safetensors")):\n'
        '    """The network with the weights of a file, in evaluation mode."""\n'
        "    model = nnx.eval_shape(build)  # shapes alone: every array is in the file\n"
        "    model.eval()\n"
        "    fill(model, read_arrays(path))\n"
        "    return model"
    )


# ---- the score, and the script that reproduces it


def score(space: SearchSpace) -> str:
    """Write the module that holds the space's score, by the name `score`.

    Raises:
      StoreError: it cannot be copied.
    """
    file, name = _file_of(space.task.score, "score")
    imports, text = file.copy([name])
    head = f'"""How {space.name}@{space.version} scores an example: (outputs, targets) -> {space.task.metric}."""\n\n'
    text = head + "".join(f"{line}\n" for line in _sorted_imports(imports)) + ("\n\n" if imports else "") + text + "\n"
    return text if name == "score" else f"{text}\n\nscore = {name}\n"


def evaluate(named: Mapping[str, str]) -> str:
    """Write the script; `named` says what the network's functions are called."""
    imports, text = File(_HERE / "standalone.py").copy(["run_folder", "compare"])
    lines = {*imports, "from pathlib import Path"}
    network = ", ".join(f"network.{named[name]}" for name in ("load", "predict"))
    return (
        '"""Score this folder\'s network on the test split, and compare with the leaderboard."""\n\n'
        + "\n".join(_sorted_imports({*lines, "import sys"}))
        + "\n\nimport network\nfrom score import score\n\nFOLDER = Path(__file__).parent\n\n\n"
        + f"{text}\n\n\ndef scores():\n"
        + '    """The score of every example of the test split."""\n'
        + f"    return run_folder(FOLDER, {network}, score, network.{named['read_arrays']})\n\n\n"
        + 'if __name__ == "__main__":\n    sys.exit(compare(FOLDER, scores()))\n'
    )


def _file_of(function: Any, what: str) -> tuple[File, str]:
    """The file and the name of a function or class at the top of a module."""
    name, module = getattr(function, "__qualname__", ""), sys.modules.get(getattr(function, "__module__", ""))
    path = getattr(module, "__file__", None)
    if path is None or not name.isidentifier():
        raise StoreError(f"the space's {what} is no function at the top of a file, so it cannot be copied; make it one")
    return File(Path(path)), name


# ---- small things


def _defined(text: str) -> set[str]:
    """Names that a text binds at its top, imports apart."""
    return {n for s in ast.parse(text).body if not isinstance(s, ast.Import | ast.ImportFrom) for n in _binds(s)}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _sorted_imports(lines: Iterable[str]) -> list[str]:
    """Import lines, the standard library's first."""
    own = [line for line in lines if line.split()[1].split(".")[0] in ALLOWED]
    standard = sorted((line for line in lines if line not in own), key=_import_key)
    return [*standard, *([""] if standard and own else []), *sorted(own, key=_import_key)]


def _import_key(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line


def _quotable(text: str) -> str:
    """Text that can stand in a docstring, and be printed."""
    text = "\n".join(visible(line).rstrip() for line in text.splitlines())
    text = text.replace("\\", "\\\\").replace('"""', "'''").strip()
    return f"{text} " if text.endswith('"') else text
