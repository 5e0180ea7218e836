"""The static gate: what it lets pass, what it rejects, and that its messages say what to write."""

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

from nas.admit import gate
from nas.records import Choice, Integer, Real

GATED = '''"""Gated dilated convolutions: the whole series in view for a third of the parameters."""
from nas.api import choice, integer, jax, jnp, nnx

TUNABLES = {"kernel": choice(3, 5, 7), "growth": choice(1, 2)}


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):          # spec: shapes, width, depth; hp: the values drawn for TUNABLES
        self.embed = nnx.Linear(spec.channels, spec.width, rngs=rngs)
        self.blocks = nnx.List(
            nnx.Conv(spec.width, 2 * spec.width, (hp.kernel,), kernel_dilation=(hp.growth**i,), rngs=rngs)
            for i in range(spec.depth)
        )
        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):                           # (B, T, C) -> (B, classes)
        h = self.embed(x)
        for conv in self.blocks:
            value, gate = jnp.split(conv(h), 2, axis=-1)
            h = h + value * jax.nn.sigmoid(gate)
        return self.head(h.mean(axis=1))
'''

FOREIGN = '''"""Two-headed gated recurrence with shared helpers and a router's auxiliary loss."""
from nas.api import integer, jax as j, jnp as np, lax, nnx, real
from nas.kernels import short_convolution as fast

TUNABLES = {"decay": real(0.5, 0.99, log=True), "heads": integer(1, 4)}
SCALE = 0.5
relu = j.nn.relu


@j.custom_vjp
def rounded(x):
    return np.round(x * 8) / 8


def _forward(x):
    return rounded(x), None


def _backward(residual, g):
    return (g,)


rounded.defvjp(_forward, _backward)


class Cell(nnx.Module):
    """One step."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__()
        self._gate = nnx.Linear(width, width, kernel_init=nnx.initializers.lecun_normal(), rngs=rngs)
        self.bias = nnx.Param(j.random.normal(rngs.params(), (width,)) * SCALE)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: j.Array) -> j.Array:
        def step(carry, row):
            carry = carry * j.numpy.exp(-1.0) + row
            return carry, carry

        _, rows = lax.scan(step, np.zeros_like(x[:, 0]), np.swapaxes(x, 0, 1))
        h = np.swapaxes(rows, 0, 1).at[:, 0].set(0.0) + self.bias[...]
        return self.drop(relu(self._gate(h)))


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        if spec.width % 2:
            raise ValueError(f"width {spec.width!r} is odd")
        cells = [Cell(spec.width, rngs=rngs) for _ in range(hp.heads)]
        self.cells = nnx.List(cells)
        self.decay = hp.decay
        self.taps = nnx.Param(np.ones((3, spec.width)))
        self.names = {k: v for k, v in zip(("a", "b"), (1, 2))}

    def mix(self, h, *rest, **named):
        assert h.ndim == 3
        return h.astype(np.float32) @ np.eye(h.shape[-1])

    def __call__(self, x):
        h = x if self.decay > 0.1 else -x
        for i, cell in enumerate(self.cells):
            h += cell(h) * self.decay**i
        balance = (lambda v: v.mean())(h)
        return self.mix(rounded(fast(h, self.taps))), balance
'''


def _within(old: str, new: str) -> str:
    """The example with one part replaced."""
    assert old in GATED
    return GATED.replace(old, new, 1)


BODY = "        h = self.embed(x)\n"
HEAD = "        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)\n"


@pytest.mark.parametrize(("source", "scope"), [(GATED, "Model"), (FOREIGN, "Mixer")])
def test_check_honest_candidate_passes(source: str, scope: str) -> None:
    assert gate.check(source, scope).failures == ()


def test_check_reads_idea_and_tunables() -> None:
    gated = gate.check(FOREIGN, "Mixer")
    assert gated.idea.startswith("Two-headed gated")
    assert gated.tunables == {"decay": Real(0.5, 0.99, True), "heads": Integer(1, 4)}
    assert gate.check(GATED, "Model").tunables == {"kernel": Choice((3, 5, 7)), "growth": Choice((1, 2))}


STATEMENTS = {
    "while True:\n            h = x": ("statement", "for"),
    "try:\n            h = x\n        except ValueError:\n            h = x": ("statement", "if"),
    "with jax.named_scope('a'):\n            h = x": ("statement", "remove"),
    "del x": ("statement", "remove"),
    "global a": ("statement", "argument"),
    "nonlocal x": ("statement", "return"),
    "h = yield x": ("statement", "return"),
    "match x:\n            case 1:\n                pass": ("statement", "if"),
    "h = (y := x)": ("statement", "line of its own"),
    "import os": ("import", "import only from nas.api and nas.kernels"),
    "from flax import nnx as n": ("import", "from nas.api import nnx"),
    "from nas.records import Choice": ("import", "import only from nas.api and nas.kernels"),
    "from nas.api import lax": ("import", "top of the module"),
    "from nas.api import *": ("import", "nas.api has no"),
    "from nas.kernels import *": ("import", "nas.kernels has no"),
    "from nas.kernels import rms_norms": ("import", "Did you mean rms_norm?"),
    "from nas.kernels import op": ("import", "nas.kernels has no 'op'; it has attention, "),
    "from nas.kernels import cross_entropy": ("import", "nas.kernels has no 'cross_entropy'"),
    "h = jnp.relu(x)": ("name", "jax.nn.relu"),
    "h = jnp.concatinate([x])": ("name", "jnp.concatenate"),
    "h = nnx.Lineer(3, 3)": ("name", "nnx.Linear"),
    "h = jax.jit(x)": ("name", "the whole program is compiled"),
    "jax.debug.print('x')": ("name", "prints nothing"),
    "h = jnp.load('x')": ("name", "jnp.load"),
    "h = jax.pure_callback(x, x, x)": ("name", "jax.pure_callback"),
    "h = jax.experimental.io_callback(x)": ("name", "jax.experimental"),
    "h = jax.live_arrays()": ("name", "jax.live_arrays"),
    "h = jax.lax.add_p.bind(x, x)": ("name", "lax.add_p"),
    "h = jax.version.os.environ": ("name", "jax.version"),
    "h = jnp": ("name", "only as jnp.<name>"),
    "h = jax.nn": ("name", "only as jax.nn.<name>"),
    "h = lax.exp(x)": ("name", "Add it to the line"),
    "h = open('x')": ("name", "'open'"),
    "h = embed(x)": ("name", "'embed'"),
    "print(x)": ("name", "remove it"),
    "h = getattr(x, 'shape')": ("name", "nnx.List"),
    "jnp = x": ("name", "Choose another name"),
    "h = nnx.Rngs(0)": ("name", "the rngs __init__ receives"),
    "h = jax.random.key(0)": ("name", "rngs.params()"),
    "h = x.__class__": ("dunder", "super().__init__"),
    "h = __builtins__": ("dunder", "Choose"),
    "h = __cl\uff41ss__": ("dunder", "Choose"),
    "h = x.meen(1)": ("attribute", "Did you mean mean"),
    "h = self.embedd(x)": ("attribute", "Did you mean embed"),
    "h = x._private": ("attribute", "_private"),
    "x.shape = 3": ("attribute", "Assign only to self"),
    "jnp.pi = 3": ("attribute", "cannot be changed"),
    "h = spec.widht": ("attribute", "Did you mean width"),
    "h = hp.kernal": ("tunables", "Did you mean kernel"),
    "TUNABLES = {}": ("tunables", "assigned twice"),
    "h = b'x'": ("literal", "jnp"),
    "h = 99999999999": ("literal", "2**31"),
    "h = '" + "a" * 3000 + "'": ("literal", "2000"),
    "h = = x": ("syntax", "Correct the line"),
    "break": ("syntax", "Correct the line"),
    "def f(a, a):\n            return a": ("syntax", "Correct the line"),
    "class Inner:\n            for i in (1,):\n                pass": ("class", "__init__"),
    "class Inner(nnx.Module, metaclass=nnx.Module):\n            pass": ("class", "Remove"),
    "def __getattr__(self, name):\n            return x": ("dunder", "__init__"),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_check_names_line_and_remedy(statement: str) -> None:
    rule, remedy = STATEMENTS[statement]
    source = _within(BODY, f"{BODY}        {statement}\n")
    failures = gate.check(source, "Model").failures
    assert failures
    told = [failure for failure in failures if failure.rule == rule]
    assert told and all(failure.stage == "gate" and failure.blame == "candidate" for failure in failures)
    assert any(remedy in failure.message for failure in told), [str(failure) for failure in failures]
    expected = source.splitlines().index("        " + statement.splitlines()[0]) + 1
    assert any(failure.line is not None and 0 <= failure.line - expected <= 1 for failure in told)


def test_check_wrong_import_is_reported_once() -> None:
    source = _within('"""\nfrom', '"""\nimport numpy as np\nfrom').replace("h.mean(axis=1)", "np.mean(np.abs(h), 1)")
    assert [failure.rule for failure in gate.check(source, "Model").failures] == ["import"]


DECLARATIONS = {
    '{"kernel": choice(3, 5, 7), "growth": choice(n)}': "literal",
    '{"kernel": choice(3, 5, 7), "growth": choice()}': "at least one",
    '{"kernel": choice(3, 5, 7), "growth": integer(4, 1)}': "below",
    '{"kernel": choice(3, 5, 7), "growth": integer(1.5, 3)}': "whole",
    '{"kernel": choice(3, 5, 7), "growth": real(0, 1, log=True)}': "log range",
    '{"kernel": choice(3, 5, 7), "growth": real(0, 1, log=1)}': "log=True or False",
    '{"kernel": choice(3, 5, 7), "growth": 3}': "choice",
    '{"kernel": choice(3, 5, 7), 3: choice(1, 2)}': "no name",
    '{"kernel": choice(3, 5, 7), "a b": choice(1, 2)}': "no name",
    'dict(kernel=choice(3, 5, 7), growth=choice(1, 2))': "plain dict",
    '{"kernel": choice(3, 5, 7), **{"growth": choice(1, 2)}}': "no name",
}  # fmt: skip


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_check_tunables_must_be_literal(declaration: str) -> None:
    source = _within('{"kernel": choice(3, 5, 7), "growth": choice(1, 2)}', declaration)
    source = source.replace("choice, integer, jax", "choice, integer, real, jax")
    failures = [failure for failure in gate.check(source, "Model").failures if failure.rule == "tunables"]
    assert any(DECLARATIONS[declaration] in failure.message for failure in failures), failures


SHAPES = {
    "class": [("class Model(", "class Modell("), ("class Model(nnx.Module)", "class Model")],
    "signature": [
        ("(self, spec, hp, *, rngs)", "(self, spec, hp, rngs)"),
        ("(self, spec, hp, *, rngs)", "(self, cfg, *, rngs)"),
        ("(self, spec, hp, *, rngs)", "(self, spec, hp, *, rngs=None)"),
        ("__call__(self, x)", "__call__(self, x, train=False)"),
        ("def __call__(", "def forward("),
    ],
    "docstring": [
        ('"""Gated dilated convolutions: the whole series in view for a third of the parameters."""', '""" """')
    ],
}


@pytest.mark.parametrize(("rule", "old", "new"), [(rule, *pair) for rule, pairs in SHAPES.items() for pair in pairs])
def test_check_module_must_have_the_agreed_form(rule: str, old: str, new: str) -> None:
    failures = [failure for failure in gate.check(_within(old, new), "Model").failures if failure.rule == rule]
    assert failures
    if rule == "signature":
        assert any(
            ("(self, spec, hp, *, rngs)" if "__init__" in f.message else "(self, x)") in f.message for f in failures
        )


def test_check_two_classes_of_the_scope_are_rejected() -> None:
    assert any(f.rule == "class" for f in gate.check(GATED + GATED[GATED.index("class Model") :], "Model").failures)


def test_check_scope_decides_the_class() -> None:
    assert any("class Block" in failure.message for failure in gate.check(GATED, "Block").failures)


BOMBS = {
    "unary": "x = " + "-" * 15_000 + "1",
    "not": "x = " + "not " * 4_500 + "1",
    "sum": "x = 1" + "+1" * 9_000,
    "calls": "x = f" + "()" * 9_000,
    "attributes": "x = a" + ".b" * 9_000,
    "brackets": "x = " + "[" * 190 + "]" * 190,
    "open": "(" * 15_000,
    "lambda": "x = " + "lambda: " * 2_000 + "1",
    "power": "x = 9**9**9**9",
    "digits": "x = " + "9" * 15_000,
    "indent": "\n".join(" " * i + "if 1:" for i in range(100)) + "\n" + " " * 100 + "pass",
    "nul": "x = 1\0",
    "bidi": "x = 1  # \u202e",
    "surrogate": "x = '\ud800'",
    "cookie": "# -*- coding: utf-7 -*-\nx = 1",
    "form feed": "\x0cx = 1",
    "escape": 'x = "\\d"',
    "name": 'x = "\\N{nothing}"',
    "empty": "",
    "long": "x = 1\n" * 5_000,
    "fstring": "x = f'" + "{f'" * 20,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_check_parser_bomb_becomes_a_failure(bomb: str) -> None:
    assert gate.check(BOMBS[bomb], "Model").failures
    assert gate.check(GATED + BOMBS[bomb], "Model").failures or bomb in (
        "power",
        "escape",
        "form feed",
        "cookie",
        "empty",
    )


# A cut after the head of the last method may leave a whole module.
@pytest.mark.parametrize("length", range(0, FOREIGN.rindex("def __call__"), 131))
def test_check_truncated_source_never_raises(length: int) -> None:
    assert gate.check(FOREIGN[:length], "Mixer").failures


def test_check_failures_are_ordered_and_bounded() -> None:
    source = _within(BODY, BODY + "".join(f"        h = unknown_{i}(x)\n" for i in range(100)))
    lines = [failure.line or 0 for failure in gate.check(source, "Model").failures]
    assert len(lines) == gate.REPORTED and lines == sorted(lines)


def test_api_names_exist() -> None:
    import jax
    import jax.image
    import jax.numpy
    import jax.scipy.special
    from flax import nnx

    from nas import layers

    modules = {"jax": jax, "jnp": jax.numpy, "lax": jax.lax, "layers": layers, "nnx": nnx}
    for module, listed in gate.API.items():
        found: Any = modules[module.partition(".")[0]]
        for part in module.split(".")[1:]:
            found = getattr(found, part)
        assert [name for name in sorted(listed) if not hasattr(found, name)] == [], module


def test_import_needs_no_jax() -> None:
    program = "import json, sys, nas.admit.gate; print(json.dumps('jax' in sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) is False


def test_dotted_follows_aliases() -> None:
    node = ast.parse("j.numpy.fft.rfft", mode="eval").body
    assert gate.dotted(node, {"j": "jax"}) == "jnp.fft.rfft"
    assert gate.dotted(node, {}) is None


def test_names_that_are_alike_do_not_keep_the_search_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counting(name: str, allowed: Any, n: int, cutoff: float) -> list[str]:
        nonlocal compared
        compared += len(name) * sum(map(len, allowed))
        return []

    monkeypatch.setattr(gate.difflib, "get_close_matches", counting)
    for length in (30, 190):
        bound = "".join(f"    {'ab' * (length // 2)}{i:02} = {i}\n" for i in range(45))
        unknown = "".join(f"    {'ba' * (length // 2)}{i:02}\n" for i in range(45))
        assert gate.check(f"def f():\n{bound}{unknown}", "Model").failures
    assert 0 < compared < 20 * 40 * 2_000
