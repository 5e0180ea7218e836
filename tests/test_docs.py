"""The page that candidates are written from does what it says: its files, calls, limits and rejections are run."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas import history, space
from nas.admit import gate, program, trace
from nas.records import Choice, Failure, Integer, Program, Real, Value, defaults

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "candidate.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"(?m)^## ", PAGE)}
FILES = {str(re.findall(r"(?m)^class (\w+)", file)[-1]): file for file in re.findall(r"(?s)```python\n(.*?)```", PAGE)}
PROHIBITIONS = re.findall(r"(?m)^- No `while`.*(?:\n  .*)*", PAGE)

MAX_TOKENS = 2_500
B, T, C, D, H = 2, 40, 3, 16, 4


def _cells(section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    rows = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1:]]


def _code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _space(scope: space.Scope, **limits: Any) -> space.SearchSpace:
    """A space over series of C features, small enough to trace in a blink."""
    zeros = space.Split(np.zeros((8, T, C), np.float32), np.zeros(8, np.int32))
    return space.SearchSpace(
        name="toy",
        version=1,
        scope=scope,
        spec=space.Spec(length=T, channels=C, classes=5, width=D, depth=2, heads=H),
        task=space.Task(split=lambda name: zeros, loss=lambda o, t: o[:, 0], score=lambda o, t: o[:, 0], metric="loss"),
        contract=space.Contract(input_shape=(T, C), output_shape=(5,), **limits),
        recipe=space.Recipe(batch=4, eval_batch=8),
        ladder=space.Ladder(steps=(1,)),
        grammar=space.Grammar(stem=(), body=(), head=()),
        baselines={},
    )


def _admit(source: str, scope: space.Scope, **limits: Any) -> Program | Failure:
    """The whole way of a source text: gate, trace at the defaults, check."""
    toy, gated = _space(scope, **limits), gate.check(source, scope)
    if gated.failures:
        return gated.failures[0]
    traced = trace.trace(toy, source, defaults(gated.tunables))
    if isinstance(traced, Failure):
        return traced
    return program.check(*traced, toy.contract, toy.recipe)


def _block(call: str = "return self.layer(x)", init: str = "", scope: str = "Block") -> str:
    """A tiny candidate with these statements."""
    return f'''"""A tiny candidate."""
from nas.api import choice, integer, jax, jnp, lax, nnx, real


class {scope}(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layer = nnx.Linear(spec.{"width" if scope == "Block" else "channels"}, spec.width, rngs=rngs)
{textwrap.indent(init, " " * 8)}

    def __call__(self, x):
{textwrap.indent(call, " " * 8)}
'''


# ---- length


def test_page_is_short_enough_for_a_prompt() -> None:
    # No tokenizer is at hand. A tokenizer of the usual kind first splits text into runs of letters, up to three digits,
    # or signs, and never joins two of them, so their number is the least it can make; a word above nine letters is
    # taken for two. The other two figures are rules of thumb; the highest counts.
    pieces = re.findall(r"[^\r\n\w]?[A-Za-z]+|\d{1,3}| ?[^\s\w]+[\r\n]*|_+|\s*[\r\n]+|\s+(?!\S)|\s+", PAGE)
    split = sum(2 if len(piece.strip()) > 9 else 1 for piece in pieces)
    assert max(split, 1.4 * len(PAGE.split()), len(PAGE) / 3.6) <= MAX_TOKENS


# ---- complete files, scopes, spec, tunables


def test_complete_files_are_a_model_and_a_part_of_one() -> None:
    assert list(FILES) == ["Model", "Mixer"]


@pytest.mark.parametrize("scope", FILES)
def test_complete_file_is_admitted(scope: space.Scope) -> None:
    assert gate.check(FILES[scope], scope).tunables
    admitted = _admit(FILES[scope], scope)
    assert isinstance(admitted, Program), admitted


def test_scopes_are_all_described() -> None:
    named = [_code(row[0])[0] for row in _cells("# Write a candidate")]
    assert named == list(typing.get_args(space.Scope))


@pytest.mark.parametrize(("scope", "copies"), [("Block", 2), ("Mixer", 2), ("Stack", 1)])
def test_skeleton_makes_the_stated_number_of_copies(scope: space.Scope, copies: int) -> None:
    source = _block("return x + self.layer(x)").replace("class Block", f"class {scope}")
    biasless = source.replace("spec.width, rngs", "spec.width, use_bias=False, rngs")
    one, other = (
        trace.functions(_space(scope), trace.execute(text, scope), SimpleNamespace()) for text in (source, biasless)
    )
    assert len(one.params) - len(other.params) == copies


def test_spec_fields_are_all_named() -> None:
    (paragraph,) = re.findall(r"(?s)^`spec` has .*?\n\n", PAGE, re.MULTILINE)
    assert [name for name in _code(paragraph) if name != "spec"] == [f.name for f in dataclasses.fields(space.Spec)]


def test_tunables_are_read_with_the_stated_defaults() -> None:
    (paragraph,) = re.findall(r"(?s)^`TUNABLES` declares .*?\n\n", PAGE, re.MULTILINE)
    calls = [code for code in _code(paragraph) if re.fullmatch(r"\w+\(.*\)", code)]
    declared = ", ".join(f'"t{index}": {call}' for index, call in enumerate(calls))
    gated = gate.check(_block().replace("\n\n\nclass", f"\n\nTUNABLES = {{{declared}}}\n\n\nclass"), "Block")
    assert gated.failures == ()
    assert list(gated.tunables.values()) == [Choice((3, 5, 7)), Integer(1, 8), Real(0.1, 1.0, True)]
    values: list[Value] = list(defaults(gated.tunables).values())
    assert values == pytest.approx([3, 4, 0.1**0.5])


# ---- rules

FORBIDDEN = {
    "while": "while x:\n    return x",
    "try": "try:\n    return x\nexcept ValueError:\n    return x",
    "with": "with x:\n    return x",
    "print": "print(x)",
    "getattr": "return getattr(self, 'layer')(x)",
    "jax.jit": "return jax.jit(self.layer)(x)",
    "nnx.Rngs(...)": "return nnx.Dropout(0.1, rngs=nnx.Rngs(0))(x)",
}


def test_forbidden_things_are_all_tried() -> None:
    assert _code("".join(PROHIBITIONS)) == list(FORBIDDEN)


@pytest.mark.parametrize("thing", FORBIDDEN)
def test_forbidden_thing_is_rejected(thing: str) -> None:
    assert gate.check(_block(FORBIDDEN[thing]), "Block").failures


def test_named_layers_are_all_told() -> None:
    told = re.findall(
        r"`(\w+)", PAGE.partition("## Named layers")[2].partition("\n## ")[0].partition("| of `layers`")[2]
    )
    assert set(told) == set(gate.API["layers"])


def test_imports_are_those_of_the_gate() -> None:
    (names,) = re.findall(r"Import only `([^`]+)` from `nas.api`", PAGE)
    assert names.split(", ") == list(gate.FACADE)


def test_named_api_passes_the_gate() -> None:
    text = "".join(part for name, part in SECTIONS.items() if name != "The commonest rejections")
    remedies = " ".join(row[-1] for row in _cells("The commonest rejections"))
    names = set(re.findall(r"\b(?:jax|jnp|lax|nnx)(?:\.\w+)+", text.replace(PROHIBITIONS[0], "") + remedies))
    assert len(names) > 25
    modules = {name for name in names if name in gate.API}  # `jax.nn` says where to look and is no call
    calls = "\n".join(f"_ = {name}" for name in sorted(names - modules))
    assert gate.check(_block(f"{calls}\nreturn x"), "Block").failures == ()


@pytest.mark.parametrize("layer", ["nnx.Dropout(0.1, rngs=rngs)", "nnx.BatchNorm(spec.width, rngs=rngs)"])
def test_layer_that_changes_inside_a_scan_is_rejected(layer: str) -> None:
    call = "return x + lax.scan(lambda h, a: (h, self.inner(a)), x[:, 0], x.swapaxes(0, 1))[1].swapaxes(0, 1)"
    failure = _admit(_block(call, f"self.inner = {layer}"), "Block")
    assert isinstance(failure, Failure) and failure.stage == "trace"


LOOPS = (
    "for _ in range(3):\n    x = self.layer(x)\nreturn x",
    "return lax.fori_loop(0, 3, lambda i, h: 0.5 * h, self.layer(x))",
)


@pytest.mark.parametrize("loop", LOOPS)
def test_loop_with_constant_bounds_is_admitted(loop: str) -> None:
    assert isinstance(_admit(_block(loop), "Block"), Program)


def test_variable_and_auxiliary_loss_are_admitted() -> None:
    init = "self.k = nnx.Variable(jnp.arange(spec.length))\nself.w = nnx.Param(jnp.ones(spec.width))"
    call = "y = self.layer(x) * self.w[...] + self.k[...][:, None]\nreturn y, 0.01 * jnp.mean(y**2)"
    assert isinstance(_admit(_block(call, init), "Block"), Program)


# ---- primitives


@cache
def _primitives() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Every call of the table, with the shape that came out and the shape that the page states."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    spec = space.Spec(length=T, vocab=11, classes=5, width=D, depth=2, heads=H)
    stated: dict[str, tuple[int, ...]] = {}
    for _, cell in _cells("Primitives"):
        shape = re.search(r"→ \(([^)]*)\)", cell)
        for call in _code(cell):
            axes = shape[1] if shape else "B, T, D"
            stated[call] = eval(f"({axes})", {"B": B, "T": T, "D": D, "H": H})

    def everything(x: jax.Array, ids: jax.Array) -> dict[str, Any]:
        names = {"jax": jax, "jnp": jnp, "lax": jax.lax, "nnx": nnx, "spec": spec, "rngs": nnx.Rngs(0)}
        names |= {"B": B, "T": T, "D": D, "H": H, "x": x, "ids": ids, "q": x.reshape(B, T, H, D // H)}
        return {call: eval(call, names) for call in stated}

    x, ids = jax.ShapeDtypeStruct((B, T, D), jnp.float32), jax.ShapeDtypeStruct((B, T), jnp.int32)
    made = nnx.eval_shape(everything, x, ids)
    return {call: (made[call].shape, shape) for call, shape in stated.items()}


def test_primitives_are_about_twenty() -> None:
    assert 14 <= len(_primitives()) <= 25  # beside them the operations with fast code


def test_primitive_call_gives_the_stated_shape() -> None:
    assert {call: made for call, (made, _) in _primitives().items()} == {
        call: stated for call, (_, stated) in _primitives().items()
    }


class _Hoist(ast.NodeTransformer):
    """Moves what makes a layer or a parameter out of an expression, to where a candidate makes it."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        path = gate.dotted(node.func, {"nnx": "nnx"})
        if path is None or not path.startswith("nnx.") or path[4].islower():
            return self.generic_visit(node)
        self.made.append(ast.unparse(node))
        return ast.parse(f"self.made_{len(self.made) - 1}", mode="eval").body


def test_primitive_calls_are_admitted_together() -> None:
    hoist = _Hoist()
    used = [ast.unparse(hoist.visit(ast.parse(call, mode="eval"))) for call in _primitives()]
    init = ["T, D, H = spec.length, spec.width, spec.heads"]
    init += [f"self.made_{index} = {made}" for index, made in enumerate(hoist.made)]
    call = [f"B, T, D, H = *x.shape, {H}", "q, ids = x.reshape(B, T, H, D // H), jnp.argmax(x, axis=-1)"]
    call += [f"x += ({expression}).mean()" for expression in used] + ["return x"]
    source = _block("\n".join(call), "\n".join(init)).replace("spec.vocab", "spec.width")
    admitted = _admit(source, "Block")
    assert isinstance(admitted, Program), admitted


def test_primitive_signature_is_the_library_s() -> None:
    import jax
    from flax import nnx

    for (signature,) in (_code(row[0]) for row in _cells("Primitives")):
        call = ast.parse(signature, mode="eval").body
        assert isinstance(call, ast.Call)
        path = gate.dotted(call.func, {name: name for name in gate.MODULES}) or ""
        found: Any = {"jax": jax, "jnp": jax.numpy, "lax": jax.lax, "nnx": nnx}[path.partition(".")[0]]
        for name in path.split(".")[1:]:
            found = getattr(found, name)
        parameters = inspect.signature(found.__init__ if isinstance(found, type) else found).parameters
        names = [name for name in parameters if name != "self"]
        positional = [ast.unparse(argument) for argument in call.args]
        assert names[: len(positional)] == positional, signature
        for keyword in call.keywords:
            default = parameters[str(keyword.arg)].default
            assert default == ast.literal_eval(keyword.value), f"{signature}: {keyword.arg} is {default}"


# ---- rejections


def _renamed() -> Failure:
    """What a copy of the first file under other names is told, if it is the same program."""
    one = _admit(FILES["Model"], "Model")
    other = _admit(FILES["Model"].replace("convs", "layers").replace("gate", "door"), "Model")
    assert isinstance(one, Program) and isinstance(other, Program) and one.fingerprint == other.fingerprint
    return history.failure_of_duplicate(1)


REJECTED: dict[tuple[str, str], Callable[[], Program | Failure]] = {
    ("gate/import", "import only from"): lambda: _admit(_block("import numpy\nreturn self.layer(x)"), "Block"),
    ("gate/name", "not part of the API"): lambda: _admit(_block("return jnp.relu(self.layer(x))"), "Block"),
    ("trace/shape", "__call__ returned shape"): lambda: _admit(
        _block("return jnp.concatenate([x, self.layer(x)], -1)"), "Block"
    ),
    ("trace/shape", "this space asks for"): lambda: _admit(_block(scope="Model"), "Model"),
    ("trace/shape", "boolean conversion"): lambda: _admit(
        _block("if x.mean() > 0:\n    return x\nreturn self.layer(x)"), "Block"
    ),
    ("trace/error", "'list'"): lambda: _admit(
        _block("return self.layers[0](x)", "self.layers = [nnx.Linear(spec.width, spec.width, rngs=rngs)]"), "Block"
    ),
    ("trace/error", "made or removed a variable"): lambda: _admit(
        _block("self.mean = nnx.Variable(x.mean())\nreturn self.layer(x)"), "Block"
    ),
    ("trace/error", "lax.while_loop"): lambda: _admit(
        _block("return lax.while_loop(lambda h: h.sum() > 1, lambda h: 0.5 * h, self.layer(x))"), "Block"
    ),
    ("program/params", "the space allows"): lambda: _admit(_block(), "Block", max_params=100),
    ("program/flops", "the space allows"): lambda: _admit(_block(), "Block", max_flops=100),
    ("program/input", "do not depend on the input"): lambda: _admit(
        _block("return self.layer(jnp.zeros_like(x))"), "Block"
    ),
    ("duplicate/duplicate", "the same program"): _renamed,
}


def _rejections() -> list[tuple[str, str]]:
    """The rules of the page with their messages, one pair for each."""
    return [(rule, _code(cells[1])[0]) for cells in _cells("The commonest rejections") for rule in _code(cells[0])]


def test_rejections_are_all_tried() -> None:
    tried = list(REJECTED)
    stated = _rejections()
    assert [rule for rule, _ in stated] == [rule for rule, _ in tried]
    assert all(part in message for (_, part), (_, message) in zip(tried, stated, strict=True))


@pytest.mark.parametrize("case", range(len(REJECTED)), ids=[f"{rule} {part}" for rule, part in REJECTED])
def test_rejection_reads_as_the_page_says(case: int) -> None:
    failure = list(REJECTED.values())[case]()
    assert isinstance(failure, Failure)
    rule, message = _rejections()[case]
    assert f"{failure.stage}/{failure.rule}" == rule, str(failure)
    assert re.search(".*".join(map(re.escape, message.split("…"))), failure.message), str(failure)
    assert str(failure).startswith(rule)


# ---- the README


def test_readme_names_its_two_commands_before_line_20() -> None:
    opening = (ROOT / "README.md").read_text("utf-8").splitlines()[:19]
    commands = {line.strip().removeprefix("$ ").partition("#")[0].strip() for line in opening}
    assert {"make search", "make test"} <= commands
