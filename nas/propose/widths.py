"""What is known of a candidate's shapes without running it: features and length of each variable at each statement.

In goes a draft and its space, out comes `Flow`: for every statement of `__call__` what each variable holds before it,
and how many contradictions were met. It is an interpreter over a tiny domain (numbers, tensors of which only the last
axis, the time axis and their being there are known, layers, lists of them) that follows helper classes and functions
and answers "unknown" to everything else. It guesses in order to place blocks where they fit, and to drop children that
cannot fit; the tracer decides.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nas.admit.gate import API, BUILTINS, FACADE, MODULES, dotted
from nas.kernels import OFFERED
from nas.propose.source import Draft, names_read
from nas.records import Choice, Integer, Real
from nas.space import SearchSpace

_STEPS = 20_000
"""Expressions evaluated in one analysis; beyond it everything is unknown."""
_CALLS = 8
"""How deep calls of the candidate's own functions are followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An array of which some is known.

    Attributes:
      width: size of the last axis.
      series: True for (B, T, D), False for (B, D), None if unknown.
      length: size of the time axis; negative numbers are unknown lengths, equal where the length is the same.
      source: expression of the width in the unit's `__init__`, where there is one.
    """

    width: int | None = None
    series: bool | None = None
    length: int = -1
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of the API: what it takes and gives in the last axis, and what it does along the axis before.

    It mixes along it or not, and divides its size by `stride` (None: unknown).
    """

    into: int | None = None
    out: int | None = None
    source: str | None = None
    mixes: bool = False
    stride: int | None = 1
    embeds: bool = False
    chain: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of one of the candidate's own classes."""

    unit: ast.ClassDef
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Many:
    """A list of which the elements look alike."""

    element: Any


@dataclass(slots=True)
class Flow:
    """The result of `analyse`.

    Attributes:
      before: what the variables hold before statement `index` of a block, by (id of the block, index); the entry after
        the last statement is there too.
      sizes: what the names in the unit's `__init__` hold at its end.
      clashes: contradictions: widths that do not fit, names and attributes that are read and never assigned.
    """

    before: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    clashes: int = 0

    def at(self, block: list[ast.stmt], index: int) -> dict[str, Any]:
        """What the variables hold before a statement; empty where it was not reached."""
        return self.before.get((id(block), index), {})


def analyse(draft: Draft, space: SearchSpace) -> Flow:
    """Interpret a candidate at the default values of its tunables."""
    return _Interpreter(draft, space).run()


def width_source(tensor: Tensor, space: SearchSpace) -> str:
    """Source of a tensor's width, for `__init__`."""
    if tensor.source is not None:
        plain = tensor.width == space.spec.width and "spec.width" in tensor.source and "hp." not in tensor.source
        return "spec.width" if plain else tensor.source
    return "spec.width" if tensor.width in (None, space.spec.width) else str(tensor.width)


_LINEAR = {"nnx.Linear": False, "nnx.Conv": True, "nnx.ConvTranspose": True}
_NORMS = ("nnx.LayerNorm", "nnx.RMSNorm", "nnx.BatchNorm", "nnx.GroupNorm", "nnx.InstanceNorm")
_CELLS = ("nnx.GRUCell", "nnx.LSTMCell", "nnx.OptimizedLSTMCell", "nnx.SimpleCell")
_KEEPING = frozenset(
    """abs exp log log1p sin cos tanh sqrt rsqrt square sign negative cumsum cumprod cummax cummin flip roll sort clip
    zeros_like ones_like full_like stop_gradient asarray reciprocal nan_to_num floor round power logistic integer_pow
    celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu log_sigmoid log_softmax relu relu6
    selu sigmoid silu soft_sign softmax softplus standardize swish mish squareplus maximum minimum add multiply
    subtract divide""".split()
)
"""Functions whose result has the shape of their arguments."""
_POINTWISE = _KEEPING - frozenset("cumsum cumprod cummax cummin flip roll sort".split()) | {
    *("Linear", "LayerNorm", "RMSNorm", "Dropout"),
}
_REDUCING = frozenset("mean max min sum std var median prod any all argmax argmin logsumexp amax amin average".split())
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_NUMBER = (int, float)


class _Interpreter:
    def __init__(self, draft: Draft, space: SearchSpace) -> None:
        self.draft, self.space, self.flow = draft, space, Flow()
        self.globals = dict.fromkeys([*sorted(BUILTINS), *FACADE, *OFFERED])
        self.classes = {s.name: s for s in draft.tree.body if isinstance(s, ast.ClassDef)}
        self.aliases = {name: name for name in FACADE}
        self.steps, self.depth, self.lengths, self.recording = 0, 0, 1, False

    def run(self) -> Flow:
        for statement in self.draft.tree.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.globals[statement.name] = statement
            else:
                self.execute(statement, self.globals)
        spec, scope = self.space.spec, self.space.scope
        unit = Instance(self.draft.unit, self.class_attributes(self.draft.unit))
        env = self.globals | {"self": unit, "spec": spec, "hp": _defaults(self.draft), "rngs": None}
        self.block(self.draft.init.body, env)
        self.flow.sizes = env
        shape = self.space.contract.input_shape
        source = "spec.channels" if shape[-1] == spec.channels else str(shape[-1])
        x: Any = Tensor(width=shape[-1], series=len(shape) == 2, length=spec.length, source=source)
        if scope != "Model":
            x = Tensor(width=spec.width, series=True, length=spec.length, source="spec.width")
        elif spec.vocab:
            x = None
        self.recording = True
        result = self.block(self.draft.call.body, self.globals | {"self": unit, "x": x})
        wanted = spec.width if scope != "Model" else spec.classes
        value = result[0] if isinstance(result, tuple) and result else result
        if isinstance(value, Tensor) and value.width not in (None, wanted):
            self.flow.clashes += 1
        if isinstance(value, Tensor) and value.series is (
            scope == "Model" and len(self.space.contract.output_shape) == 1
        ):
            self.flow.clashes += 1
        return self.flow

    def class_attributes(self, unit: ast.ClassDef) -> dict[str, Any]:
        """Methods and class-level names, so that reading them is no clash."""
        found: dict[str, Any] = {}
        for statement in unit.body:
            if isinstance(statement, ast.FunctionDef):
                found[statement.name] = statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                found |= {t.id: self.value(statement.value, self.globals) for t in targets if isinstance(t, ast.Name)}
        return found

    def block(self, body: list[ast.stmt], env: dict[str, Any]) -> Any:
        """Run statements; return what the first `return` gave."""
        result = None
        for index, statement in enumerate(body):
            if self.recording and self.depth == 0:
                self.flow.before[id(body), index] = dict(env)
            given = self.execute(statement, env)
            result = given if result is None else result
        if self.recording and self.depth == 0:
            self.flow.before[id(body), len(body)] = dict(env)
        return result

    def execute(self, statement: ast.stmt, env: dict[str, Any]) -> Any:
        match statement:
            case ast.Assign():
                value = self.value(statement.value, env)
                for target in statement.targets:
                    self.bind(target, value, env)
            case ast.AnnAssign(target=target, value=given) if given is not None:
                self.bind(target, self.value(given, env), env)
            case ast.AugAssign():
                # parsed afresh: the target is a node with Store context
                before = self.value(ast.parse(ast.unparse(statement.target), mode="eval").body, env)
                self.bind(statement.target, self.combine(before, statement.op, self.value(statement.value, env)), env)
            case ast.For():
                self.bind(statement.target, _element(self.value(statement.iter, env)), env)
                return self.block(statement.body, env)
            case ast.If():
                self.value(statement.test, env)
                other = dict(env)
                if all(isinstance(s, ast.Raise) for s in statement.body):
                    return self.block(statement.orelse, env)
                result = self.block(statement.body, env)
                self.block(statement.orelse, other)
                env |= {name: value for name, value in other.items() if name not in env}
                return result
            case ast.Return(value=given) if given is not None:
                return self.value(given, env)
            case ast.FunctionDef():
                self.check_names(statement, env)
                env[statement.name] = None
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[added])):
                env[name] = Many(self.value(added, env))
            case ast.Expr():
                self.value(statement.value, env)
        return None

    def check_names(self, node: ast.AST, env: Mapping[str, Any]) -> None:
        own = node.name if isinstance(node, ast.FunctionDef) else None
        self.flow.clashes += sum(name not in env and name != own for name in names_read(node))

    def bind(self, target: ast.expr, value: Any, env: dict[str, Any]) -> None:
        match target:
            case ast.Name():
                env[target.id] = value
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if isinstance(env.get("self"), Instance):
                env["self"].attributes[name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                known = value if isinstance(value, tuple) and len(value) == len(parts) else None
                for index, part in enumerate(parts):
                    self.bind(part, known[index] if known else _element(value), env)
            case ast.Starred(value=inner):
                self.bind(inner, None, env)

    def value(self, node: ast.expr | None, env: dict[str, Any]) -> Any:
        """What an expression gives; None is unknown."""
        self.steps += 1
        if node is None or self.steps > _STEPS:
            return None
        handler = getattr(self, f"on_{type(node).__name__.lower()}", None)
        if handler is not None:
            return handler(node, env)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, env)
        return None

    def on_constant(self, node: ast.Constant, env: dict[str, Any]) -> Any:
        return node.value

    def on_name(self, node: ast.Name, env: dict[str, Any]) -> Any:
        self.flow.clashes += node.id not in env
        return env.get(node.id)

    def on_lambda(self, node: ast.Lambda, env: dict[str, Any]) -> Any:
        self.check_names(node, env)
        return None

    def on_tuple(self, node: ast.Tuple | ast.List, env: dict[str, Any]) -> Any:
        return tuple(self.value(part, env) for part in node.elts)

    on_list = on_tuple

    def on_listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, env: dict[str, Any]) -> Any:
        return Many(self.value(node.elt, self.inside(node.generators, env)))

    on_generatorexp = on_setcomp = on_listcomp

    def on_dictcomp(self, node: ast.DictComp, env: dict[str, Any]) -> Any:
        inner = self.inside(node.generators, env)
        self.value(node.key, inner)
        self.value(node.value, inner)

    def inside(self, generators: list[ast.comprehension], env: dict[str, Any]) -> dict[str, Any]:
        """What is bound inside a comprehension."""
        inner = dict(env)
        for generator in generators:
            self.bind(generator.target, _element(self.value(generator.iter, inner)), inner)
        return inner

    def on_starred(self, node: ast.Starred, env: dict[str, Any]) -> Any:
        return _element(self.value(node.value, env))

    def on_unaryop(self, node: ast.UnaryOp, env: dict[str, Any]) -> Any:
        value = self.value(node.operand, env)
        return -value if isinstance(node.op, ast.USub) and isinstance(value, _NUMBER) else value

    def on_ifexp(self, node: ast.IfExp, env: dict[str, Any]) -> Any:
        self.value(node.test, env)
        first, second = self.value(node.body, env), self.value(node.orelse, env)
        return second if first is None else first

    def on_compare(self, node: ast.Compare, env: dict[str, Any]) -> Any:
        values = [self.value(part, env) for part in (node.left, *node.comparators)]
        return next((value for value in values if isinstance(value, Tensor)), None)

    def on_binop(self, node: ast.BinOp, env: dict[str, Any]) -> Any:
        return self.combine(self.value(node.left, env), node.op, self.value(node.right, env))

    def combine(self, left: Any, op: ast.operator, right: Any) -> Any:
        """Arithmetic on numbers, broadcasting on tensors."""
        if isinstance(left, _NUMBER) and isinstance(right, _NUMBER):
            function = ARITHMETIC.get(type(op))
            try:
                if isinstance(op, ast.Pow) and abs(left) < 100 and abs(right) < 10:
                    return left**right
                return function(left, right) if function else None
            except (ZeroDivisionError, OverflowError):
                return None
        if isinstance(op, ast.MatMult):
            return None
        tensors = [value for value in (left, right) if isinstance(value, Tensor)]
        if len(tensors) < 2:
            return tensors[0] if tensors else None
        return self.broadcast(*tensors)

    def broadcast(self, left: Tensor, right: Tensor) -> Tensor:
        widths = [t.width for t in (left, right) if t.width not in (None, 1)]
        mixed = left.series is not None and right.series is not None and left.series is not right.series
        self.flow.clashes += mixed or len(set(widths)) > 1
        if left.series and right.series and 1 not in (left.length, right.length):
            self.flow.clashes += left.length != right.length and min(left.length, right.length) > 0
        wide = left if left.width not in (None, 1) or right.width is None else right
        long = left if left.length > 1 or right.length <= 1 else right
        series = left.series if left.series is not None else right.series
        return replace(wide, series=series, length=long.length)

    def on_attribute(self, node: ast.Attribute, env: dict[str, Any]) -> Any:
        if (path := dotted(node, self.aliases)) is not None:
            return path
        value = self.value(node.value, env)
        if value is self.space.spec:
            return getattr(value, node.attr, None)
        if isinstance(value, _Values):
            return value.get(node.attr)
        if isinstance(value, Instance):
            self.flow.clashes += node.attr not in value.attributes and self.inherits_only_module(value.unit)
            return value.attributes.get(node.attr)
        if isinstance(value, Tensor) and node.attr == "at":
            return Many(value)  # h.at[index].set(...) gives back h
        if isinstance(value, Tensor) and node.attr == "shape" and value.series is not None:
            length = (value.length if value.length > 0 else None,) if value.series else ()
            return (None, *length, value.width)
        return None

    def inherits_only_module(self, unit: ast.ClassDef) -> bool:
        return all(dotted(base, self.aliases) == "nnx.Module" for base in unit.bases)

    def on_subscript(self, node: ast.Subscript, env: dict[str, Any]) -> Any:
        value = self.value(node.value, env)
        index = node.slice
        if isinstance(value, tuple):
            at = self.value(index, env)
            return value[at] if isinstance(at, int) and -len(value) <= at < len(value) else None
        if isinstance(value, Many) or not isinstance(value, Tensor):
            self.value(index, env)
            return None if isinstance(index, ast.Slice) else _element(value)
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        if any(isinstance(part, ast.Constant) and part.value in (None, ...) for part in parts) or not value.series:
            return None
        result: Tensor | None = value
        for axis, part in enumerate(parts):
            whole = isinstance(part, ast.Slice) and part.lower is part.upper is part.step is None
            if result is None or whole:
                continue
            if isinstance(part, ast.Slice) and axis == 1:
                result = replace(result, length=self.unknown_length())
            elif axis == 1:
                result = replace(result, series=False)
            else:
                result = None
        return result

    def unknown_length(self) -> int:
        self.lengths += 1
        return -self.lengths

    def on_call(self, node: ast.Call, env: dict[str, Any]) -> Any:
        arguments = [self.value(argument, env) for argument in node.args]
        keywords = {keyword.arg: self.value(keyword.value, env) for keyword in node.keywords if keyword.arg}
        if isinstance(node.func, ast.Attribute) and dotted(node.func, self.aliases) is None:
            owner = self.value(node.func.value, env)
            if isinstance(owner, Tensor):
                return self.tensor_method(owner, node.func.attr, arguments, keywords)
            if isinstance(owner, Instance):
                found = self.on_attribute(node.func, env)
                if isinstance(found, ast.FunctionDef):
                    return self.call(found, [owner, *arguments], keywords)
                return self.apply(found, arguments)
            return None
        if isinstance(node.func, ast.Name) and node.func.id in ("zip", "enumerate", "list", "tuple", "reversed", "max"):
            return self.builtin(node.func.id, arguments)
        function = self.value(node.func, env)
        if isinstance(function, str):
            return self.api(function, arguments, keywords, node, env)
        if isinstance(function, ast.ClassDef):
            return self.instance(function, arguments, keywords)
        if isinstance(function, ast.FunctionDef):
            return self.call(function, arguments, keywords)
        return self.apply(function, arguments)

    def builtin(self, name: str, arguments: list[Any]) -> Any:
        if name == "zip":
            return Many(tuple(_element(argument) for argument in arguments))
        if name == "enumerate":
            return Many((None, _element(arguments[0]) if arguments else None))
        if name == "max":
            return max(arguments) if arguments and all(isinstance(a, _NUMBER) for a in arguments) else None
        return arguments[0] if arguments else ()

    def instance(self, unit: ast.ClassDef, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        made = Instance(unit, self.class_attributes(unit))
        init = made.attributes.get("__init__")
        if not isinstance(init, ast.FunctionDef):
            return None
        self.call(init, [made, *arguments], keywords)
        return made

    def call(self, function: ast.FunctionDef, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """Follow a call of the candidate's own function; its clashes count."""
        if self.depth >= _CALLS or function.decorator_list:
            return next((a for a in arguments if isinstance(a, Tensor)), None) if function.decorator_list else None
        names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        every = [*names, *(a.arg for a in function.args.kwonlyargs)]
        every += [a.arg for a in (function.args.vararg, function.args.kwarg) if a]
        default = zip(reversed(names), reversed(function.args.defaults), strict=False)
        env = self.globals | dict.fromkeys(every) | {name: self.value(d, self.globals) for name, d in default}
        env |= dict(zip(names, arguments, strict=False))
        env |= {name: value for name, value in keywords.items() if name in every}
        self.depth += 1
        result = self.block(function.body, env)
        self.depth -= 1
        return result

    def apply(self, layer: Any, arguments: list[Any]) -> Any:
        """Call a layer or an object on its first argument."""
        x = arguments[0] if arguments else None
        if isinstance(layer, Instance):
            found = layer.attributes.get("__call__")
            return self.call(found, [layer, *arguments], {}) if isinstance(found, ast.FunctionDef) else None
        if isinstance(layer, str):
            return self.api(layer, arguments, {}, None, {})
        if not isinstance(layer, Layer):
            return None
        if layer.embeds:
            return Tensor(width=layer.out, series=True, length=self.space.spec.length, source=layer.source)
        for inner in layer.chain:
            x = self.apply(inner, [x])
        if layer.chain or not isinstance(x, Tensor):
            return x if layer.chain else self.made_of_unknown(layer)
        self.flow.clashes += layer.into is not None and x.width is not None and layer.into != x.width
        self.flow.clashes += layer.mixes and x.series is False
        known = layer.stride == 1 or layer.stride is not None and x.length > 0
        length = -(-x.length // layer.stride) if known and layer.stride else self.unknown_length()
        width, source = (x.width, x.source) if layer.out is None else (layer.out, layer.source)
        return replace(x, width=width, source=source, length=length)

    def made_of_unknown(self, layer: Layer) -> Tensor:
        """What a layer gives whose input is not known: in the middle of a network most likely a whole series."""
        if self.space.scope == "Model":
            return Tensor(width=layer.out, source=layer.source)
        return Tensor(width=layer.out, source=layer.source, series=True, length=self.space.spec.length)

    def tensor_method(self, x: Tensor, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name in _REDUCING:
            return self.reduce(x, arguments[0] if arguments else keywords.get("axis"), keywords)
        if name in ("astype", "clip", "cumsum", "cumprod", "round", "set", "add", "multiply", "conj"):
            return x
        if name == "reshape":
            shape = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else tuple(arguments)
            return self.reshape(x, shape)
        return None

    def reshape(self, x: Tensor, shape: tuple[Any, ...]) -> Any:
        if len(shape) == 2 and shape[-1] == -1 and x.series and x.width is not None and x.length > 0:
            return Tensor(width=x.width * x.length, series=False)
        if len(shape) in (2, 3):
            width = shape[-1] if isinstance(shape[-1], int) and shape[-1] > 0 else None
            return Tensor(width=width, series=len(shape) == 3, length=self.unknown_length())
        return None

    def reduce(self, x: Tensor, axis: Any, keywords: dict[str, Any]) -> Any:
        time = axis in (1, -2) and x.series is True
        if keywords.get("keepdims"):
            return replace(x, length=1) if time else replace(x, width=1, source=None) if axis in (-1, 2) else None
        return replace(x, series=False, length=-1) if time else None

    def api(
        self, path: str, arguments: list[Any], keywords: dict[str, Any], node: ast.Call | None, env: dict[str, Any]
    ) -> Any:
        """A call of something of the API."""
        name = path.rpartition(".")[2]
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if path.startswith("nnx.") and name[:1].isupper():
            return self.layer(path, arguments, keywords, node)
        if path.startswith("layers.") and name[:1].isupper():
            return Layer(into=self.space.spec.width, mixes=True)
        if name in _REDUCING and tensors:
            return self.reduce(tensors[0], arguments[1] if len(arguments) > 1 else keywords.get("axis"), keywords)
        if name == "where" and len(arguments) == 3:
            return self.combine(arguments[1], ast.Add(), arguments[2])
        if name in _KEEPING and tensors:
            return self.combine(tensors[0], ast.Add(), tensors[1]) if len(tensors) == 2 else tensors[0]
        if name in ("avg_pool", "max_pool", "min_pool") and tensors:
            return self.pool(tensors[0], arguments, keywords)
        if name == "reshape" and tensors and len(arguments) > 1 and isinstance(arguments[1], tuple):
            return self.reshape(tensors[0], arguments[1])
        axis = arguments[2] if len(arguments) > 2 else keywords.get("axis", 0)
        if name == "split" and tensors and len(arguments) > 1:
            return self.split(tensors[0], arguments[1], axis)
        if name in ("concatenate", "concat") and arguments and isinstance(arguments[0], tuple):
            axis = arguments[1] if len(arguments) > 1 else keywords.get("axis", 0)
            return self.concatenate([part for part in arguments[0] if isinstance(part, Tensor)], axis, arguments[0])
        return None

    def pool(self, x: Tensor, arguments: list[Any], keywords: dict[str, Any]) -> Tensor:
        window = _single(arguments[1] if len(arguments) > 1 else keywords.get("window_shape"))
        stride = _single(arguments[2] if len(arguments) > 2 else keywords.get("strides", 1))
        self.flow.clashes += x.series is False
        if x.length < 1 or window is None or not stride:
            return replace(x, length=self.unknown_length())
        if keywords.get("padding") == "SAME":
            return replace(x, length=-(-x.length // stride))
        self.flow.clashes += window > x.length
        return replace(x, length=max((x.length - window) // stride + 1, 1))

    def split(self, x: Tensor, parts: Any, axis: Any) -> Any:
        if axis not in (-1, 2) or not isinstance(parts, int) or isinstance(parts, bool) or not 0 < parts < 100:
            return None
        if x.width is None:
            return (replace(x, source=None),) * parts
        self.flow.clashes += x.width % parts != 0
        source = f"({x.source}) // {parts}" if x.source is not None else None
        return (replace(x, width=x.width // parts, source=source),) * parts

    def concatenate(self, tensors: list[Tensor], axis: Any, parts: tuple[Any, ...]) -> Any:
        if not tensors or len(tensors) < len(parts):
            return None
        last = axis == -1 or axis == (2 if tensors[0].series else 1)
        if axis in (1, -2) and not last:
            return replace(tensors[0], length=self.unknown_length())
        widths = [tensor.width for tensor in tensors if tensor.width is not None]
        if not last or len(widths) < len(tensors):
            return None
        sources = [f"({tensor.source})" for tensor in tensors if tensor.source is not None]
        source = " + ".join(sources) if len(sources) == len(tensors) else None
        return replace(tensors[0], width=sum(widths), source=source)

    def layer(self, path: str, arguments: list[Any], keywords: dict[str, Any], node: ast.Call | None) -> Any:
        def given(position: int, name: str) -> int | None:
            value = arguments[position] if len(arguments) > position else keywords.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) else None

        if path in ("nnx.List",):
            return arguments[0] if arguments else ()
        if path == "nnx.Sequential":
            return Layer(chain=tuple(arguments))
        if path in _LINEAR:
            source = self.source(node, 1, "out_features")
            stride = _single(arguments[3] if len(arguments) > 3 else keywords.get("strides", 1))
            plain = path != "nnx.ConvTranspose" and keywords.get("padding", "SAME") != "VALID"
            into, out = given(0, "in_features"), given(1, "out_features")
            stride = stride if plain else None
            return Layer(into=into, out=out, source=source, mixes=_LINEAR[path], stride=stride)
        if path in _NORMS:
            return Layer(into=given(0, "num_features"))
        if path in ("nnx.Dropout", "nnx.PReLU"):
            return Layer()
        if path == "nnx.Embed":
            return Layer(out=given(1, "features"), source=self.source(node, 1, "features"), embeds=True)
        if path == "nnx.MultiHeadAttention":
            heads, features = given(0, "num_heads"), given(2, "qkv_features") or given(1, "in_features")
            self.flow.clashes += bool(heads and features and features % heads)
            return Layer(into=given(1, "in_features"), out=given(3, "out_features"), mixes=True)
        if path in _CELLS:
            source = self.source(node, 1, "hidden_features")
            return Layer(into=given(0, "in_features"), out=given(1, "hidden_features"), source=source, mixes=True)
        if path == "nnx.RNN":
            return arguments[0] if arguments else None
        return None

    def source(self, node: ast.Call | None, position: int, name: str) -> str | None:
        """Text of an argument, if it means the same anywhere in the unit's `__init__`."""
        if node is None or self.depth or self.recording:
            return None
        by_name = [keyword.value for keyword in node.keywords if keyword.arg == name]
        found = node.args[position] if len(node.args) > position else by_name[0] if by_name else None
        own = {name for s in self.draft.init.body if isinstance(s, ast.Assign) for name in _plain_names(s)}
        if found is None or any(n not in own and n not in ("spec", "hp") for n in names_read(found)):
            return None
        return ast.unparse(found)


class _Values(dict[str, Any]):
    """The values of `hp`."""


def _defaults(draft: Draft) -> _Values:
    kinds: dict[str, Callable[..., Any]] = {"choice": lambda *o: Choice(o), "integer": Integer, "real": Real}
    values = _Values()
    for name, node in draft.tunables.items():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            arguments = [ast.literal_eval(argument) for argument in node.args]
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            values[name] = kinds[node.func.id](*arguments, **keywords).default
    return values


def size(source: str, flow: Flow, draft: Draft, space: SearchSpace) -> int | None:
    """The number that an expression of `__init__` gives at the default tunables."""
    interpreter = _Interpreter(draft, space)
    value = interpreter.value(ast.parse(source, mode="eval").body, interpreter.globals | flow.sizes)
    return value if isinstance(value, int) else None


def _single(value: Any) -> int | None:
    """A window or a stride, given as a number or as a tuple of one."""
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return 1 if value is None else value if isinstance(value, int) else None


def _plain_names(statement: ast.Assign) -> list[str]:
    return [target.id for target in statement.targets if isinstance(target, ast.Name)]


def _element(value: Any) -> Any:
    """What iterating gives: the common element, or unknown."""
    if isinstance(value, Many):
        return value.element
    if isinstance(value, tuple) and value and all(other == value[0] for other in value):
        return value[0]
    return None


def is_pointwise(body: list[ast.stmt]) -> bool:
    """Whether statements treat every position alike, so that they fit (B, D) as well as (B, T, D)."""
    aliases = {name: name for name in FACADE}
    for node in (node for statement in body for node in ast.walk(statement)):
        path = dotted(node, aliases)
        if path is not None and path not in MODULES and path.rpartition(".")[2] not in _POINTWISE:
            if path not in API:
                return False
        if isinstance(node, ast.Subscript) or isinstance(node, ast.Constant) and isinstance(node.value, str):
            return False
        if isinstance(node, ast.Attribute) and path is None and not _is_given(node.value):
            return False  # h.mean(...), h.shape
    return True


def _is_given(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "hp", "spec")
