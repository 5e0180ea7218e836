"""Small changes of a draft: constants, tunables, and functions that may stand in for each other.

Each function takes a draft and a random generator, changes the draft in place and says what it did, or returns None
and leaves it alone where there is nothing to change. Numbers that are axes, indices or shapes are left alone, since
almost no change of those fits.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.admit.gate import FACADE, dotted
from nas.propose.source import Draft, attributes_read, expression, statements, tunable_source
from nas.records import Choice, Integer, Real, Value

_ACTIVATIONS = """relu gelu silu tanh elu selu celu leaky_relu hard_swish hard_tanh soft_sign softplus sigmoid relu6
    log_sigmoid hard_sigmoid""".split()
_STARTS = "lecun_normal lecun_uniform he_normal he_uniform glorot_normal glorot_uniform truncated_normal".split()
INTERCHANGEABLE: tuple[tuple[str, ...], ...] = (
    tuple(f"jax.nn.{name}" for name in _ACTIVATIONS),
    tuple(f"nnx.{name}" for name in _ACTIVATIONS),
    ("jnp.tanh", "jnp.sin", "jax.nn.relu", "jax.nn.silu", "jax.nn.soft_sign"),
    ("nnx.LayerNorm", "nnx.RMSNorm", "nnx.BatchNorm"),
    ("nnx.avg_pool", "nnx.max_pool"),
    ("nnx.GRUCell", "nnx.SimpleCell"),
    ("jnp.mean", "jnp.max", "jnp.sum"),
    ("jnp.maximum", "jnp.minimum", "jnp.add", "jnp.multiply"),
    ("jnp.cumsum", "lax.cummax", "lax.cumlogsumexp"),
    tuple(f"nnx.initializers.{name}" for name in _STARTS),
    tuple(f"jax.nn.initializers.{name}" for name in _STARTS),
)
"""Functions of the API that take the same arguments to a result of the same shape."""
LOOKING_ASIDE = ("nnx.BatchNorm",)
"""What sees other positions and examples in training, which a causal space refuses."""
METHODS = (("mean", "max"), ("cumsum", "cumprod"))
"""Methods of arrays of which the same holds."""
PADDINGS = ("SAME", "CAUSAL", "CIRCULAR", "REFLECT")
"""Paddings that keep the length."""

_AXIS_KEYWORDS = frozenset(
    """axis axes axis1 axis2 keepdims feature_axes reduction_axes batch_axis source destination dtype ndim in_axes
    out_axes shape newshape num_spatial_dims""".split()
)
_AXIS_CALLS = frozenset(
    """mean max min sum std var prod median any all argmax argmin split concatenate concat stack swapaxes transpose
    moveaxis expand_dims squeeze cumsum cumprod cummax cummin flip sort argsort softmax log_softmax logsumexp reshape
    broadcast_to take repeat tile permute_dims unstack array_split astype zeros ones eye arange""".split()
)
_NARROW = 8
"""Whole numbers from here on are taken for widths: all equal ones of an `__init__` change together."""
_ALIASES = {name: name for name in FACADE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A number in a draft that may change.

    Attributes:
      node: the constant.
      whole: the arithmetic expression that it belongs to; the constant itself if there is none.
      function: the function that holds it, None at the top level.
      unit: the class that holds it.
      keyword: name of the argument that it is given as, or of the call's function.
    """

    node: ast.Constant
    whole: ast.expr
    function: ast.FunctionDef | None
    unit: ast.ClassDef | None
    keyword: str


def change_constant(draft: Draft, rng: np.random.Generator) -> str | None:
    """Change a number, and with it the equal expressions that it has to fit to."""
    sites = list(_sites(draft))
    if not sites:
        return None
    site = sites[int(rng.integers(len(sites)))]
    old = site.node.value
    new = _changed(old, rng)
    if new is None:
        return None
    _replace(site, draft, ast.Constant(new))
    return f"constant {old} to {new}"


def make_tunable(draft: Draft, rng: np.random.Generator) -> str | None:
    """Declare a number as a tunable, with another default, so that the child differs from its parent."""
    sites = [site for site in _sites(draft) if site.unit is draft.unit and site.function in (draft.init, draft.call)]
    if not sites:
        return None
    site = sites[int(rng.integers(len(sites)))]
    old = site.node.value
    options: list[Any] = [_changed(old, rng), old, _changed(old, rng)]
    distinct = [v for i, v in enumerate(options) if v is not None and v not in options[:i]]
    if len(distinct) < 2 or distinct[0] == old:
        return None
    name = draft.fresh(site.keyword or "factor")
    if site.function is draft.call:
        draft.init.body += statements(f"self.{name} = hp.{name}")
        _replace(site, draft, expression(f"self.{name}"))
    else:
        _replace(site, draft, expression(f"hp.{name}"))
    draft.tunables[name] = tunable_source(Choice(tuple(distinct)))
    return f"tunable {name}"


def fix_tunable(draft: Draft, rng: np.random.Generator) -> str | None:
    """Write one value of a tunable, not its default, in its place."""
    if not draft.tunables:
        return None
    name = list(draft.tunables)[int(rng.integers(len(draft.tunables)))]
    tunable = read_tunable(draft.tunables[name])
    if isinstance(tunable, Choice):
        rest: list[Value] = [option for option in tunable.options if option != tunable.default]
    else:
        rest = [value for value in (tunable.low, tunable.high) if value != tunable.default]
    if not rest:
        return None
    value = rest[int(rng.integers(len(rest)))]

    def matches(node: ast.AST) -> bool:
        owner = node.value if isinstance(node, ast.Attribute) and node.attr == name else None
        return isinstance(owner, ast.Name) and owner.id == "hp"

    _Replacer(matches, expression(repr(value))).visit(draft.tree)
    return None if name in attributes_read(draft.tree) else f"fix {name}"


def change_range(draft: Draft, rng: np.random.Generator) -> str | None:
    """Change what a tunable may be, and with it its default."""
    if not draft.tunables:
        return None
    name = list(draft.tunables)[int(rng.integers(len(draft.tunables)))]
    tunable = read_tunable(draft.tunables[name])
    changed = _other_choice(tunable, rng) if isinstance(tunable, Choice) else _other_range(tunable, rng)
    if changed is None or changed.default == tunable.default:
        return None
    draft.tunables[name] = tunable_source(changed)
    return f"range of {name}"


def exchange(draft: Draft, rng: np.random.Generator, *, causal: bool) -> str | None:
    """Put another function, method or padding (not where order matters) in the place of an interchangeable one."""
    sites: list[tuple[ast.Attribute | ast.Constant, str, list[str]]] = []
    for node in ast.walk(draft.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            path = dotted(node, _ALIASES)
            groups = INTERCHANGEABLE if path is not None else METHODS
            found = path if path is not None else node.attr
            out = {found, *(LOOKING_ASIDE if causal else ())}
            sites += [(node, found, [o for o in group if o not in out]) for group in groups if found in group]
        elif isinstance(node, ast.Constant) and node.value in PADDINGS and not causal:
            sites.append((node, str(node.value), [o for o in PADDINGS if o != node.value]))
    if not sites:
        return None
    node, found, others = sites[int(rng.integers(len(sites)))]
    other = others[int(rng.integers(len(others)))]
    if isinstance(node, ast.Constant):
        node.value = other
    elif "." in other:
        new = expression(other)
        assert isinstance(new, ast.Attribute)
        node.value, node.attr = new.value, new.attr
    else:
        node.attr = other
    return f"function {found.rpartition('.')[2]} to {other.rpartition('.')[2]}"


def read_tunable(node: ast.expr) -> Choice | Integer | Real:
    """The tunable that a declaration which passed the gate stands for."""
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    arguments = [ast.literal_eval(argument) for argument in node.args]
    log = any(ast.literal_eval(keyword.value) for keyword in node.keywords)
    if node.func.id == "choice":
        return Choice(tuple(arguments))
    low, high = arguments
    return Integer(low, high, log) if node.func.id == "integer" else Real(float(low), float(high), log)


def _other_choice(tunable: Choice, rng: np.random.Generator) -> Choice | None:
    """Another option first, or a new one beside the first."""
    options = list(tunable.options)
    if len(options) > 1 and rng.random() < 0.5:
        index = int(rng.integers(1, len(options)))
        return Choice((options[index], *options[:index], *options[index + 1 :]))
    new = _changed(options[0], rng)
    return Choice((new, *options)) if new is not None and new not in options else None


def _other_range(tunable: Integer | Real, rng: np.random.Generator) -> Integer | Real:
    """The range moved, widened or halved; on a logarithmic scale if it has one."""
    low, high, move = tunable.low, tunable.high, int(rng.integers(3))
    if tunable.log:
        factor = 2 if rng.random() < 0.5 else 0.5
        bounds = [(low * factor, high * factor), (low, high * 2), (low * 0.5, high)][move]
    else:
        step = (high - low) / 2
        bounds = [(low, high - step), (low + step, high), (low, high + step)][move]
    if isinstance(tunable, Integer):
        first = max(round(bounds[0]), 1 if low >= 1 else round(bounds[0]))
        return Integer(first, max(round(bounds[1]), first + 1), tunable.log)
    return Real(float(f"{bounds[0]:.4g}"), float(f"{bounds[1]:.4g}"), tunable.log)


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """A number near another: ±1, double or half; a fraction stays one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        options = [v for v in (value + 1, value - 1, value * 2, value // 2) if v >= 1 and v != value]
        return options[int(rng.integers(len(options)))] if value >= 1 and options else None
    if isinstance(value, float) and value != 0:
        up = value * 2 if not 0.5 <= value < 1 else 1 - (1 - value) / 2
        options = [up, value / 2, value * 1.25 if value * 1.25 < 1 or value >= 1 else value * 0.75]
        return float(f"{options[int(rng.integers(3))]:.4g}")
    return None


def _sites(draft: Draft) -> Iterator[Site]:
    """The numbers of a draft that are neither axes, indices nor shapes."""
    for statement in draft.tree.body:
        unit = statement if isinstance(statement, ast.ClassDef) else None
        for inner in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            function = inner if isinstance(inner, ast.FunctionDef) else None
            body: list[ast.stmt] = inner.body if isinstance(inner, ast.FunctionDef) else [inner]
            for node, whole, keyword in (found for s in body for found in _numbers(s, None, "")):
                yield Site(node=node, whole=whole, function=function, unit=unit, keyword=keyword)


def _numbers(node: ast.AST, whole: ast.expr | None, keyword: str) -> Iterator[tuple[ast.Constant, ast.expr, str]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, int | float) and not isinstance(node.value, bool) and node.value != 0:
            yield node, whole or node, keyword
        return
    if isinstance(node, ast.UnaryOp | ast.Compare | ast.Assert | ast.Raise | ast.JoinedStr):
        return  # -1 and the like, tests, messages
    if isinstance(node, ast.Subscript):
        yield from _numbers(node.value, None, keyword)
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        yield from _numbers(node.func, None, keyword)
        for index, argument in enumerate(node.args):
            if name not in _AXIS_CALLS or not isinstance(argument, ast.Constant | ast.Tuple | ast.List):
                of_roll = name == "roll" and index > 1
                yield from () if of_roll else _numbers(argument, None, name.lower() if index > 0 else "")
        for given in node.keywords:
            if given.arg not in _AXIS_KEYWORDS:
                yield from _numbers(given.value, None, given.arg or "")
    else:
        for child in ast.iter_child_nodes(node):
            part = isinstance(node, ast.BinOp) and isinstance(child, ast.expr)
            yield from _numbers(child, (whole or node) if part and isinstance(node, ast.expr) else None, keyword)


def _replace(site: Site, draft: Draft, new: ast.expr) -> None:
    """Put an expression in a number's place, and in that of what has to stay equal to it."""
    in_init = site.function is not None and site.function.name == "__init__"
    number = site.node.value
    if site.whole is not site.node:
        before = ast.dump(site.whole)
        _Replacer(lambda node: node is site.node, new).visit(site.whole)
        after = copy.deepcopy(site.whole)
        if in_init and site.function is not None:
            _Replacer(lambda node: isinstance(node, ast.expr) and ast.dump(node) == before, after).visit(site.function)
    elif in_init and site.function is not None and isinstance(number, int) and number >= _NARROW:
        same = [s.node for s in _sites(draft) if s.function is site.function and s.node.value == number]
        _Replacer(lambda node: any(node is other for other in same), new).visit(site.function)
    else:
        _Replacer(lambda node: node is site.node, new).visit(draft.tree)


class _Replacer(ast.NodeTransformer):
    """Replaces what matches by copies of an expression."""

    def __init__(self, matches: Callable[[ast.AST], bool], new: ast.expr) -> None:
        self.matches, self.new = matches, new

    def visit(self, node: ast.AST) -> Any:
        return copy.deepcopy(self.new) if self.matches(node) else self.generic_visit(node)
