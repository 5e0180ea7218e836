"""Write an exported folder's code: text of candidate, skeleton and space goes in, modules that stand alone come out.

Only text is read: nothing is imported or run here. What is copied brings whatever it uses, see `copying.py`.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.export import copying
from nas.export.copying import ALLOWED, Copied, Place, binds, reads
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
FACADE = ("build", "load", "predict", "read_arrays")
"""What an exported module offers, unless the candidate has a name of its own like it: then with a `_`."""

_HERE = Path(__file__).resolve().parent
_STANDALONE = _HERE / "standalone.py"


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
    wanted = ["predict", "fill", "read_arrays", *(["own_arrays"] if space.task.parts else [])]
    helpers = copying.copy([Place(_STANDALONE, name) for name in wanted])
    taken = {*own.names, "SPEC", "HP", "build", "load", *_defined(helpers.text)}
    needs, skeleton = _needs(own, tree), _skeleton(space)
    before = copying.copy(needs, taken, own.kernels)
    around = copying.copy([skeleton] if skeleton else [], {*taken, *before.names.values()})
    build = _build(space, around.names[skeleton] if skeleton else "")
    ours = [_numbers(space, values, tunables), _apart(before.text, _namespace(own, needs, before))]
    ours += [_apart(around.text, build, helpers.text)]
    lines = {*before.imports, *around.imports, *helpers.imports, *own.imports, "from types import SimpleNamespace",
             "from pathlib import Path"}  # fmt: skip
    if clash := own.binds & {name for line in lines for name in re.findall(r"\w+$", line)} - own.imported:
        raise StoreError(
            f"the candidate has names of its own for {', '.join(sorted(clash))}; rename them in its source"
        )
    named = {name: _free(name, own.names) for name in FACADE}
    for name in {name for text in ours for name in _defined(text)} - own.from_kernels:
        ours = [re.sub(rf"\b{name}\b", _free(name, own.names), text) for text in ours]
    about = about.format(**named)
    idea = ast.get_docstring(tree) or "A candidate."
    head = f'"""{_quotable(idea)}\n\n{about}\n"""\n\n' + "\n".join(_sorted_imports(lines))
    numbers, first, last = ours
    return f"{head}\n\n{numbers}\n{_apart(first, _rest(tree, source), last)}\n", named


class _Own:
    """What a candidate's tree imports, binds and names."""

    def __init__(self, tree: ast.Module) -> None:
        self.imports: set[str] = set()
        self.imported: set[str] = set()
        self.kernels: dict[Place, str] = {}
        self.layers = ""
        self.binds = {name for s in tree.body if not isinstance(s, ast.ImportFrom) for name in binds(s)}
        self.names = self.binds | {*reads(tree)}
        dropped = {"TUNABLES"}
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom):
                dropped |= self._take(statement)
        left = [s for s in tree.body if not _is_declaration(s)]
        if used := sorted(dropped & {name for s in left for name in reads(s)}):
            raise StoreError(
                f"the candidate uses {', '.join(used)} beside its declaration; a module has only the values"
            )

    def _take(self, statement: ast.ImportFrom) -> set[str]:
        """Translate an import; returns the names that an exported module does without."""
        dropped = set()
        for alias in statement.names:
            name = alias.asname or alias.name
            if statement.module == "nas.kernels":
                self.kernels[copying.operation(alias.name)] = name
                continue
            if alias.name == "layers":
                self.layers = name
                continue
            if alias.name not in API:
                dropped.add(name)
                continue
            line = API[alias.name]
            self.imported.add(name)
            if name != alias.name:
                line = f"{line} as {name}" if alias.name != "jnp" else f"import jax.numpy as {name}"
            self.imports.add(line)
        return dropped

    @property
    def from_kernels(self) -> set[str]:
        """Names that it has from `nas.kernels` and `nas.api.layers`, which the copy has too."""
        return {*self.kernels.values(), self.layers}


def _needs(own: _Own, tree: ast.Module) -> list[Place]:
    """What the candidate uses of `nas.kernels` and `nas.api.layers`."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == own.layers != ""}
    return [*own.kernels, *map(copying.primitive, sorted(used))]


def _namespace(own: _Own, needs: Sequence[Place], parts: Copied) -> str:
    """The name by which a candidate has layers."""
    layers = ", ".join(f"{place.name}={parts.names[place]}" for place in needs if place not in own.kernels)
    return f"{own.layers} = SimpleNamespace({layers})" if layers else ""


def _is_declaration(statement: ast.stmt) -> bool:
    """Whether it is an import, or the assignment of TUNABLES."""
    return isinstance(statement, ast.ImportFrom) or "TUNABLES" in binds(statement)


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
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n")


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


def _skeleton(space: SearchSpace) -> Place | None:
    """What lies around a candidate; a `Model` has none."""
    if space.scope == "Model":
        return None
    if space.skeleton is None:
        return Place(_HERE.parent / "admit" / "skeleton.py", "Skeleton")
    return _place_of(_whole(space.skeleton)[0], "skeleton")


def _whole(skeleton: Any) -> tuple[Any, dict[str, Any]]:
    """A function, and what is said already of its keyword arguments."""
    if isinstance(skeleton, functools.partial) and not skeleton.args:
        return skeleton.func, dict(skeleton.keywords)
    return skeleton, {}


def _build(space: SearchSpace, skeleton: str) -> str:
    """`build` and `load`."""
    unit = f"{space.scope}(SPEC, HP, rngs=rngs)"
    if space.scope != "Model":
        settings = {"scope": space.scope, "per_position": len(space.contract.output_shape) == 2}
        if space.skeleton is not None:
            settings = _whole(space.skeleton)[1]
        more = "".join(f", {name}={value!r}" for name, value in settings.items())
        unit = f"{skeleton}({space.scope}, SPEC, HP, rngs=rngs{more})"
    tasks = space.task.parts
    given = f"task={tasks[0]!r}, " if tasks else ""
    which = f" of a task: {', '.join(tasks)}" if tasks else ""
    arrays = 'own_arrays(read_arrays(path), f"{task}/")' if tasks else "read_arrays(path)"
    return (
        "def build(seed=0):\n"
        '    """The network with fresh weights, ready to be trained."""\n'
        "    rngs = nnx.Rngs(jax.random.key(seed))\n"
        f"    return {unit}\n\n\n"
        f'def load({given}path=Path(__file__).with_name("weights.safetensors")):\n'
        f'    """The network with the weights of a file, in evaluation mode{which}."""\n'
        "    model = nnx.eval_shape(build)  # shapes alone: every array is in the file\n"
        "    model.eval()\n"
        f"    fill(model, {arrays})\n"
        "    return model"
    )


# ---- the score, and the script that reproduces it


def score(space: SearchSpace) -> str:
    """Write the module that holds the space's score, by the name `score`.

    Raises:
      StoreError: it cannot be copied.
    """
    place = _place_of(space.task.score, "score")
    made = copying.copy([place])
    name, imports, text = made.names[place], made.imports, made.text
    head = f'"""How {space.name}@{space.version} scores an example: (outputs, targets) -> {space.task.metric}."""\n\n'
    text = head + "".join(f"{line}\n" for line in _sorted_imports(imports)) + ("\n\n" if imports else "") + text + "\n"
    return text if name == "score" else f"{text}\n\nscore = {name}\n"


def evaluate(named: Mapping[str, str]) -> str:
    """Write the script; `named` says what the network's functions are called."""
    made = copying.copy([Place(_STANDALONE, name) for name in ("run_folder", "compare")])
    lines = {*made.imports, "from pathlib import Path"}
    network = ", ".join(f"network.{named[name]}" for name in ("load", "predict"))
    return (
        '"""Score this folder\'s network on the test split, and compare with the leaderboard."""\n\n'
        + "\n".join(_sorted_imports({*lines, "import sys"}))
        + "\n\nimport network\nfrom score import score\n\nFOLDER = Path(__file__).parent\n\n\n"
        + f"{made.text}\n\n\ndef scores():\n"
        + '    """The score of every example of the test split."""\n'
        + f"    return run_folder(FOLDER, {network}, score, network.{named['read_arrays']})\n\n\n"
        + 'if __name__ == "__main__":\n    sys.exit(compare(FOLDER, scores()))\n'
    )


def _place_of(function: Any, what: str) -> Place:
    """Where a function or class at the top of a module is defined."""
    name, module = getattr(function, "__qualname__", ""), sys.modules.get(getattr(function, "__module__", ""))
    path = getattr(module, "__file__", None)
    if path is None or not name.isidentifier():
        raise StoreError(f"the space's {what} is no function at the top of a file, so it cannot be copied; make it one")
    return Place(Path(path).resolve(), name)


# ---- small things


def _defined(text: str) -> set[str]:
    """Names that a text binds at its top, imports apart."""
    return {n for s in ast.parse(text).body if not isinstance(s, ast.Import | ast.ImportFrom) for n in binds(s)}


def _apart(*texts: str) -> str:
    """Definitions below each other, without those that are empty."""
    return "\n\n\n".join(text for text in texts if text)


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
