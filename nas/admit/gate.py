"""The static gate: a candidate's source text goes in, `Gated` comes out, and nothing is executed.

It reads the syntax tree against allow-lists: of statements, of the names of the API, of attributes. What does not pass
comes back as failures that name the line, what was found and what to write instead, since a language model or a person
repairs the source from them. What passes has its docstring (the idea) and its `TUNABLES` read from the tree.

It is a filter for clear errors and not a wall: code that passes still runs in a confined process only. Whether the
candidate has the right shapes, sizes and costs is not decided here but on the traced program.
"""

import ast
import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

from nas.kernels import OFFERED
from nas.records import Choice, Failure, Integer, Real, Tunable, Value
from nas.space import Spec

SOURCE_BYTES = 20_000
SOURCE_LINES = 600
TREE_NODES = 12_000
TREE_DEPTH = 80
STRING_LENGTH = 2_000
INTEGER_SIZE = 2**31
REPORTED = 20
"""How many failures of one source are reported; more would not be read."""
_LONGEST_MISSPELT = 40
"""Characters of a name for which a better one is sought: the coordinator waits for that."""

FACADE = ("choice", "integer", "jax", "jnp", "lax", "layers", "nnx", "real")
"""What `nas.api` offers."""
MODULES = ("jax", "jnp", "lax", "layers", "nnx")
"""The names of `nas.api` that are modules."""

_ACTIVATIONS = """celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu log_sigmoid
    log_softmax logsumexp one_hot relu relu6 selu sigmoid silu soft_sign softmax softplus standardize swish tanh
    dot_product_attention"""
_INITIALIZERS = """constant delta_orthogonal glorot_normal glorot_uniform he_normal he_uniform kaiming_normal
    kaiming_uniform lecun_normal lecun_uniform normal ones orthogonal truncated_normal uniform variance_scaling
    xavier_normal xavier_uniform zeros"""

API: Mapping[str, frozenset[str]] = {
    module: frozenset(listed.split())
    for module, listed in {
        "jax": """Array checkpoint custom_jvp custom_vjp eval_shape grad jvp named_scope remat value_and_grad vjp
            vmap""",
        "jax.nn": _ACTIVATIONS + " log1mexp logmeanexp mish sparse_plus sparse_sigmoid squareplus",
        "jax.nn.initializers": _INITIALIZERS,
        "jax.random": """ball bernoulli beta bits categorical cauchy chisquare choice dirichlet exponential fold_in
            gamma generalized_normal geometric gumbel laplace loggamma logistic lognormal maxwell multivariate_normal
            normal orthogonal pareto permutation poisson rademacher randint rayleigh split t triangular
            truncated_normal uniform wald""",
        "jax.tree": "leaves map reduce",
        "jax.image": "resize",
        "jax.scipy.special": """betainc digamma entr erf erfc erfinv exp1 expi expit gammainc gammaln i0 i0e i1 i1e
            log_ndtr log_softmax logit logsumexp ndtr ndtri polygamma rel_entr softmax spence xlog1py xlogy""",
        "jnp": """abs absolute acos acosh add all allclose amax amin angle any append apply_along_axis arange arccos
            arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argpartition argsort array array_split asarray
            asin asinh astype atan atan2 atanh atleast_1d atleast_2d atleast_3d average bartlett bfloat16 bitwise_and
            bitwise_not bitwise_or bitwise_xor blackman block bool_ broadcast_arrays broadcast_shapes broadcast_to cbrt
            ceil choose clip column_stack complex64 concat concatenate conj conjugate convolve copysign correlate cos
            cosh count_nonzero cross cumprod cumsum cumulative_prod cumulative_sum deg2rad diag diag_indices diagflat
            diagonal diff digitize divide divmod dot dsplit dstack e einsum equal euler_gamma exp exp2 expand_dims
            expm1 eye fabs finfo flip fliplr flipud float16 float32 float_power floor floor_divide fmax fmin fmod full
            full_like geomspace gradient greater greater_equal hamming hanning heaviside hsplit hstack hypot i0
            identity iinfo imag indices inf inner int16 int32 int8 integer interp invert isclose isfinite isin
            isinf isnan issubdtype kaiser kron ldexp left_shift less less_equal linspace log log10 log1p log2 logaddexp
            logaddexp2 logical_and logical_not logical_or logical_xor logspace matmul matrix_transpose matvec max
            maximum mean median meshgrid min minimum mod moveaxis multiply nan nan_to_num nanmax nanmean nanmin nansum
            negative newaxis not_equal ones ones_like outer pad partition percentile permute_dims pi piecewise polyval
            positive pow power prod ptp put_along_axis quantile rad2deg radians ravel real reciprocal remainder repeat
            reshape result_type right_shift rint roll rollaxis rot90 round searchsorted select shape sign signbit sin
            sinc sinh size sort split sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan tanh
            tensordot tile trace transpose trapezoid tri tril tril_indices triu triu_indices true_divide trunc uint16
            uint32 uint8 unstack unwrap vander var vdot vecdot vecmat vectorize vsplit vstack where zeros
            zeros_like""",
        "jnp.fft": """fft fft2 fftfreq fftn fftshift hfft ifft ifft2 ifftn ifftshift ihfft irfft irfft2 irfftn rfft
            rfft2 rfftfreq rfftn""",
        "jnp.linalg": """cross diagonal matmul matrix_norm matrix_power matrix_transpose multi_dot norm outer tensordot
            trace vecdot vector_norm""",
        "lax": """Precision abs acos acosh add argmax argmin asin asinh associative_scan atan atan2 atanh batch_matmul
            bessel_i0e bessel_i1e bitwise_and bitwise_not bitwise_or bitwise_xor broadcast broadcast_in_dim
            broadcast_shapes broadcast_to_rank broadcasted_iota cbrt ceil clamp collapse complex concatenate cond conj
            conv conv_dimension_numbers conv_general_dilated conv_general_dilated_local conv_general_dilated_patches
            conv_transpose conv_with_general_padding convert_element_type cos cosh cumlogsumexp cummax cummin cumprod
            cumsum digamma div dot dot_general dynamic_index_in_dim dynamic_slice dynamic_slice_in_dim
            dynamic_update_index_in_dim dynamic_update_slice dynamic_update_slice_in_dim eq erf erf_inv erfc exp exp2
            expand_dims expm1 fft floor fori_loop full full_like gather ge gt imag index_in_dim index_take integer_pow
            iota is_finite le lgamma log log1p logistic lt map max min mul ne neg pad pow real reciprocal reduce
            reduce_and reduce_max reduce_min reduce_or reduce_precision reduce_prod reduce_sum reduce_window rem
            reshape rev round rsqrt scan scatter scatter_add scatter_max scatter_min scatter_mul select select_n
            shift_left shift_right_arithmetic shift_right_logical sign sin sinh slice slice_in_dim sort sort_key_val
            split sqrt square squeeze stop_gradient sub switch tan tanh tile top_k transpose while_loop""",
        "layers": """Attention Convolution DeltaRule GatedLinearAttention GatedMLP MLP Recurrence RoutedMLP
            SlidingWindow rotary""",
        "nnx": _ACTIVATIONS
        + """ BatchNorm BatchStat Bidirectional Cache Carry Conv ConvTranspose Dict Dropout Einsum Embed GRUCell
            GroupNorm InstanceNorm LSTMCell LayerNorm Linear LinearGeneral List LoRA LoRALinear Module
            MultiHeadAttention OptimizedLSTMCell PReLU Param RMSNorm RNN RNNCellBase Rngs Sequential SimpleCell
            SpectralNorm StateAxes Variable WeightNorm avg_pool combine_masks cond data fori_loop make_attention_mask
            make_causal_mask max_pool min_pool pool remat scan split_rngs static switch vmap while_loop""",
        "nnx.initializers": _INITIALIZERS + " ones_init zeros_init",
    }.items()
}
"""What a candidate may name, by module; `jax.numpy` and `jax.lax` count as `jnp` and `lax`."""

VALUE_ATTRIBUTES = frozenset(
    """T add all any append apply argmax argmin argsort astype at attend bias cell clip conj copy count cumprod cumsum
    defjvp defjvps defvjp default deterministic diagonal divide dot dropout dtype embedding eval extend features
    flatten fork get get_value imag in_features index initialize_carry insert items kernel keys mT max mean min mul
    multiply ndim noise num_features num_heads out_features params pop power prod ravel real repeat reshape round
    rngs scale set set_value shape size sort split squeeze std sum swapaxes take trace train transpose
    use_running_average value values var""".split()
)
"""Attributes of arrays, parameters, modules, key streams and containers; a candidate's own names come on top."""

BUILTINS = frozenset(
    """ArithmeticError AssertionError Ellipsis False IndexError KeyError None NotImplemented NotImplementedError True
    TypeError ValueError abs all any bool dict divmod enumerate filter float frozenset int isinstance len list map max
    min property range repr reversed round set slice sorted staticmethod str sum super tuple zip""".split()
)
"""Names of Python itself that a candidate may use."""

_DEFINABLE = ("__init__", "__call__", "__post_init__")
_SIGNATURES = {"__init__": "(self, spec, hp, *, rngs)", "__call__": "(self, x)"}
_SPEC_FIELDS = tuple(f.name for f in fields(Spec))

_NODES = frozenset(
    """Module ImportFrom alias FunctionDef Lambda ClassDef Return Assign AnnAssign AugAssign For If IfExp Raise Assert
    Expr Pass Break Continue BoolOp BinOp UnaryOp Compare Call Attribute Subscript Slice Starred Name Constant List
    Tuple Set Dict ListComp SetComp DictComp GeneratorExp comprehension arguments arg keyword JoinedStr FormattedValue
    Load Store And Or Not Invert UAdd USub Add Sub Mult Div FloorDiv Mod Pow MatMult LShift RShift BitOr BitAnd BitXor
    Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn""".split()
)
_INSTEAD_OF_NODE = {
    "While": "use a for loop over range(...), lax.fori_loop or lax.scan",
    "Try": "remove it; choose with if on shapes and on the fields of spec",
    "TryStar": "remove it; choose with if on shapes and on the fields of spec",
    "With": "remove it and keep what it holds; nothing in a candidate needs a context",
    "Delete": "remove it; nothing needs to be deleted",
    "Global": "pass the value as an argument",
    "Nonlocal": "return the value from the function, or carry it through lax.scan",
    "Yield": "return a list or a tuple",
    "YieldFrom": "return a list or a tuple",
    "Match": "use if and elif",
    "NamedExpr": "assign on a line of its own",
    "AsyncFunctionDef": "write a plain def",
    "Await": "write a plain call",
}
_INSTEAD_OF_MODULE = {
    "jax": "write `from nas.api import jax, jnp, lax`",
    "flax": "write `from nas.api import nnx`",
    "numpy": "write `from nas.api import jnp`",
    "math": "write jnp.sqrt, jnp.pi and the like, or 2 ** 0.5",
    "functools": "write a lambda instead of partial",
    "typing": "leave the annotation out, or use jax.Array, int, float, tuple",
    "dataclasses": "write an __init__",
    "__future__": "leave it out",
}
_INSTEAD_OF_NAME = {
    "jax.jit": "remove it; the whole program is compiled",
    "nnx.jit": "remove it; the whole program is compiled",
    "jax.debug": "remove it; a candidate prints nothing",
    "print": "remove it; a candidate prints nothing",
    "getattr": "write the attribute out, or keep modules in nnx.List",
    "setattr": "assign self.<name>, or keep modules in nnx.List",
    "hasattr": "set the attribute to None in __init__ and test that",
    "type": "use isinstance",
    "jax.random.key": "take keys from rngs, for instance rngs.params() in __init__",
    "jax.random.PRNGKey": "take keys from rngs, for instance rngs.params() in __init__",
    "jnp.empty": "write jnp.zeros",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """What the gate found in a source text.

    Attributes:
      failures: why it is rejected, in the order of the lines; empty if it is accepted.
      idea: its docstring.
      tunables: what its `TUNABLES` declares, by name.
    """

    failures: tuple[Failure, ...] = ()
    idea: str = ""
    tunables: Mapping[str, Tunable] = field(default_factory=dict)


def check(source: str, scope: str) -> Gated:
    """Read a candidate's source without running it.

    Args:
      source: the module's text.
      scope: name of the class that it must define: `Model`, `Block`, `Mixer` or `Stack`.
    Returns:
      The failures, each with stage `gate`, or none; the idea and the tunables as far as they can be read.
    """
    unreadable = _unreadable(source)
    if unreadable is not None:
        return Gated(failures=(unreadable,))
    try:
        tree = _parse(source)
    except SyntaxError as error:
        found = f"Python cannot read this: {error.msg}. Correct the line."
        return Gated(failures=(_failure("syntax", error.lineno, found),))
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        found = f"Python's parser gives up ({type(error).__name__}). Write shorter, less nested expressions."
        return Gated(failures=(_failure("nesting", None, found),))
    oversized = _oversized(tree)
    if oversized is not None:
        return Gated(failures=(oversized,))
    return _check_tree(tree, scope)


def _check_tree(tree: ast.Module, scope: str) -> Gated:
    failures: list[Failure] = []
    tunables = _read_tunables(tree, failures)
    idea = (ast.get_docstring(tree) or "").strip()
    if not idea:
        message = 'The module has no docstring. State the idea in one, as its first line: """What is new, and why."""'
        failures.append(_failure("docstring", 1, message))
    _check_unit(tree, scope, failures)
    reader = _Reader(tree, tunables)
    reader.visit(tree)
    failures += reader.failures
    if not failures:
        failures += _uncompilable(tree)
    failures.sort(key=lambda failure: failure.line or 0)
    first = {failure.message: failure for failure in reversed(failures)}  # what is said once need not be said again
    told = [failure for failure in failures if first[failure.message] is failure]
    return Gated(failures=tuple(told[:REPORTED]), idea=idea, tunables=tunables)


def dotted(node: ast.AST, aliases: Mapping[str, str]) -> str | None:
    """The path of a name that starts at a module of the API (`jax.nn.relu`), or None.

    Args:
      node: an expression.
      aliases: what the names that the source imports stand for, from `imported`.
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or aliases.get(node.id) not in MODULES:
        return None
    path = ".".join([aliases[node.id], *reversed(parts)])
    for long, short in (("jax.numpy", "jnp"), ("jax.lax", "lax")):
        if path == long or path.startswith(long + "."):
            path = short + path[len(long) :]
    return path


def imported(tree: ast.Module) -> dict[str, str]:
    """The names that a source imports at its top, and what each is called in `nas.api` or `nas.kernels`."""
    statements = [s for s in tree.body if isinstance(s, ast.ImportFrom)]
    return {alias.asname or alias.name: alias.name for s in statements for alias in s.names}


def _failure(rule: str, line: int | None, message: str) -> Failure:
    return Failure(stage="gate", rule=rule, line=line, message=message)


def _unreadable(source: str) -> Failure | None:
    """What is wrong with the text before it is parsed."""
    size, lines = len(source.encode("utf-8", "replace")), source.count("\n") + 1
    if size > SOURCE_BYTES or lines > SOURCE_LINES:
        found = f"The source has {size} bytes in {lines} lines, at most {SOURCE_BYTES} in {SOURCE_LINES} are allowed."
        return _failure("size", None, found + " Shorten it: loops and helper classes instead of repetition.")
    odd = re.search(r"[\x00-\x08\x0b\x0e-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", source)
    if odd:
        line = source.count("\n", 0, odd.start()) + 1
        return _failure("characters", line, f"There is an invisible character (U+{ord(odd[0]):04X}). Remove it.")
    cookie = re.match(r"(?:[ \t\f]*(?:#.*)?\n)?[ \t\f]*#.*?coding[:=]", source)
    if cookie:
        line = cookie[0].count("\n") + 1
        return _failure("characters", line, "The source declares an encoding. Remove the comment; it is UTF-8.")
    return None


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string is no reason to reject a candidate
        return ast.parse(source)


def _uncompilable(tree: ast.Module) -> Iterator[Failure]:
    """What the parser lets pass and the compiler does not: `return` outside a function, an argument named twice."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, "<candidate>", "exec", dont_inherit=True)
    except SyntaxError as error:
        yield _failure("syntax", error.lineno, f"Python cannot compile this: {error.msg}. Correct the line.")
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        yield _failure("nesting", None, f"Python cannot compile this ({type(error).__name__}). Write it more simply.")


def _oversized(tree: ast.Module) -> Failure | None:
    """Bound the tree before anything recursive walks it."""
    count, level = 0, [tree]
    for _ in range(TREE_DEPTH):
        count += len(level)
        if count > TREE_NODES:
            return _failure("size", None, "The source holds too many expressions. Write loops instead of repetition.")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return None
    line = next((line for node in level if (line := getattr(node, "lineno", None))), None)
    return _failure("nesting", line, "Expressions are nested too deeply. Assign parts of them to names.")


def _nearest(name: str, allowed: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The allowed name that is most like this one, if one is; of long names none, since that takes too long to find."""
    short = sorted(one for one in allowed if len(one) <= _LONGEST_MISSPELT)
    near = difflib.get_close_matches(name, short, n=1, cutoff=cutoff) if len(name) <= _LONGEST_MISSPELT else []
    return near[0] if near else None


def _read_tunables(tree: ast.Module, failures: list[Failure]) -> dict[str, Tunable]:
    """Parse the literal `TUNABLES`; report what is not literal."""
    assignments = [
        (s, t) for s in ast.walk(tree) if isinstance(s, ast.Assign | ast.AugAssign | ast.AnnAssign) for t in _targets(s)
    ]
    found = [s for s, target in assignments if isinstance(target, ast.Name) and target.id == "TUNABLES"]
    shown = 'Write it once, at the top level: TUNABLES = {"kernel": choice(3, 5, 7)}'
    for statement in found[1:]:
        failures.append(_failure("tunables", statement.lineno, f"TUNABLES is assigned twice. {shown}."))
    if not found:
        return {}
    statement = found[0]
    if statement not in tree.body or not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
        failures.append(_failure("tunables", statement.lineno, f"TUNABLES is not a plain dict literal. {shown}."))
        return {}
    tunables: dict[str, Tunable] = {}
    aliases = imported(tree)
    for key, value in zip(statement.value.keys, statement.value.values, strict=True):
        line = value.lineno
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or not key.value.isidentifier():
            failures.append(_failure("tunables", line, f"A key of TUNABLES is no name in quotes. {shown}."))
        elif key.value.startswith("_") or key.value in tunables:
            message = f"The key {key.value!r} of TUNABLES is given twice or starts with an underscore. Rename it."
            failures.append(_failure("tunables", line, message))
        else:
            try:
                tunables[key.value] = _read_tunable(value, aliases)
            except ValueError as error:
                failures.append(_failure("tunables", line, f"Tunable {key.value!r}: {error}."))
                tunables[key.value] = Choice((0,))  # so that hp.<name> is not reported as well
    return tunables


def _targets(statement: ast.Assign | ast.AugAssign | ast.AnnAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _read_tunable(node: ast.expr, aliases: Mapping[str, str]) -> Tunable:
    """Read `choice(...)`, `integer(low, high)` or `real(low, high)` with literal arguments, else raise ValueError."""
    allowed = "write choice(3, 5, 7), integer(1, 8) or real(0.1, 1.0, log=True), with numbers written out"
    kind = aliases.get(node.func.id, "") if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    if not isinstance(node, ast.Call) or kind not in ("choice", "integer", "real"):
        raise ValueError(f"it is neither choice, integer nor real of nas.api; {allowed}")
    options = [_literal(argument) for argument in node.args]
    keywords = {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if None in options or None in keywords.values():
        raise ValueError(f"its arguments are not literal; {allowed}")
    values = [value for value in options if value is not None]
    if kind == "choice":
        if keywords:
            raise ValueError("choice takes no keywords; write choice(3, 5, 7)")
        return Choice(tuple(values))
    log = keywords.pop("log", False)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if keywords or not isinstance(log, bool) or len(numbers) != 2 or len(values) != 2:
        raise ValueError(f"{kind} takes two numbers and log=True or False; {allowed}")
    low, high = numbers
    if kind == "real":
        return Real(float(low), float(high), log)
    if isinstance(low, float) or isinstance(high, float):
        raise ValueError("integer takes whole numbers; write integer(1, 8), or real(...)")
    return Integer(low, high, log)


def _literal(node: ast.expr) -> Value | None:
    """The value of a literal number, string or truth value, or None."""
    sign = -1 if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else 1
    inner = node.operand if sign < 0 and isinstance(node, ast.UnaryOp) else node
    if not isinstance(inner, ast.Constant) or not isinstance(inner.value, bool | int | float | str):
        return None
    if sign > 0:
        return inner.value
    return None if isinstance(inner.value, bool | str) else -inner.value


def _check_unit(tree: ast.Module, scope: str, failures: list[Failure]) -> None:
    """Exactly one class of the scope's name, with the methods that the tracer calls."""
    expected = f"class {scope}(nnx.Module) with __init__{_SIGNATURES['__init__']} and __call__{_SIGNATURES['__call__']}"
    units = [s for s in tree.body if isinstance(s, ast.ClassDef) and s.name == scope]
    if len(units) != 1:
        found = "There is no top-level class" if not units else "There are several top-level classes"
        line = units[1].lineno if units else None
        failures.append(_failure("class", line, f"{found} {scope}. Write one: {expected}."))
        return
    if not units[0].bases:
        failures.append(_failure("class", units[0].lineno, f"{scope} has no base class. Write {expected}."))
    methods = {s.name: s for s in units[0].body if isinstance(s, ast.FunctionDef)}
    for name, signature in _SIGNATURES.items():
        method = methods.get(name)
        if method is None:
            failures.append(
                _failure("signature", units[0].lineno, f"{scope} has no {name}. Add def {name}{signature}.")
            )
        elif (given := _signature(method.args)) != signature or method.decorator_list:
            message = f"{scope}.{name} is declared {given}. Write def {name}{signature}, without decorators."
            failures.append(_failure("signature", method.lineno, message))


def _signature(arguments: ast.arguments) -> str:
    """The signature as text, without annotations."""
    plain = [*arguments.posonlyargs, *arguments.args]
    given = dict(zip(reversed(plain), reversed(arguments.defaults), strict=False))
    given |= {arg: default for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default}
    star = [f"*{arguments.vararg.arg}"] if arguments.vararg else ["*"] if arguments.kwonlyargs else []
    parts = [*plain, *star, *arguments.kwonlyargs]
    names = [p if isinstance(p, str) else f"{p.arg}={ast.unparse(given[p])}" if p in given else p.arg for p in parts]
    return "(" + ", ".join(names + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])) + ")"


class _Reader(ast.NodeVisitor):
    """Walks the tree against the allow-lists and collects what does not pass."""

    def __init__(self, tree: ast.Module, tunables: Mapping[str, Tunable]) -> None:
        self.failures: list[Failure] = []
        self.top = tree.body
        self.aliases = imported(tree)
        self.tunables = tunables
        self.bound, defined = _bindings(tree)
        foreign = {
            a.asname or a.name.partition(".")[0] for s in ast.walk(tree) if isinstance(s, ast.Import) for a in s.names
        }
        self.bound |= foreign - set(FACADE)  # rejected once, where it is imported; its uses are not reported as well
        self.unimported = {n: "jnp" for n in foreign.union(MODULES) if n not in self.aliases}
        self.attributes = defined.union(tunables, _SPEC_FIELDS)
        self._sought = set[str]()

    def fail(self, node: ast.AST, rule: str, message: str) -> None:
        self.failures.append(_failure(rule, getattr(node, "lineno", None), message))

    def _meant(self, name: str, allowed: Iterable[str], before: str = "", cutoff: float = 0.7) -> str:
        """A sentence with the name that was meant, if one is near; sought for no more names than are reported."""
        self._sought.add(name)
        near = _nearest(name, allowed, cutoff) if len(self._sought) <= REPORTED else None
        return f" Did you mean {before}{near}?" if near else ""

    def generic_visit(self, node: ast.AST) -> None:
        if type(node).__name__ in _NODES:
            super().generic_visit(node)
            return
        name = type(node).__name__
        instead = _INSTEAD_OF_NODE.get(name.removeprefix("Async"), _INSTEAD_OF_NODE.get(name, "remove it"))
        self.fail(node, "statement", f"{name} is not allowed here; {instead}.")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._foreign(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level or module not in ("nas.api", "nas.kernels"):
            self._foreign(node, "." * node.level + module)
            return
        if node not in self.top:
            self.fail(
                node, "import", "There is an import inside a function or block. Move it to the top of the module."
            )
        offered = FACADE if module == "nas.api" else OFFERED
        for alias in node.names:
            if alias.name not in offered:
                near = self._meant(alias.name, offered)
                self.fail(node, "import", f"{module} has no {alias.name!r}; it has {', '.join(offered)}.{near}")

    def _foreign(self, node: ast.stmt, module: str) -> None:
        instead = _INSTEAD_OF_MODULE.get(module.partition(".")[0], "remove it, or write what it does in jnp and lax")
        self.fail(node, "import", f"{module!r} is imported; import only from nas.api and nas.kernels: {instead}.")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = dotted(node, self.aliases)
        if path is None:
            if dotted(node, self.unimported) is None:  # else the name at its root is reported, and that is enough
                self._value_attribute(node)
            self.visit(node.value)
            return
        if not isinstance(node.ctx, ast.Load):
            self.fail(
                node, "attribute", f"{path} is assigned to. The API cannot be changed; assign to a name of yours."
            )
            return
        module, _, rest = path.rpartition(".")
        while module and (module not in API or rest.partition(".")[0] not in API[module]):
            module, _, last = module.rpartition(".")
            rest = f"{last}.{rest}"
        if not module:
            self.fail(node, "name", f"{path} is not part of the API.{self._instead(path)}")
            return
        for name in rest.split(".")[1:]:  # jnp.pi.real: what follows the API's own name
            self._attribute_name(node, name)

    def _instead(self, path: str) -> str:
        """What to write for a path that is not in the API."""
        for prefix in (path, path.rpartition(".")[0], ".".join(path.split(".")[:2])):
            if prefix in _INSTEAD_OF_NAME:
                return f" Instead, {_INSTEAD_OF_NAME[prefix]}."
        module, _, name = path.rpartition(".")
        homes = [home for home in API if name in API[home]]
        if homes:
            return f" Did you mean {homes[0]}.{name}?"
        if path in API:
            return f" A module is used only as {path}.<name>."
        near = self._meant(name, API.get(module, ()), f"{module}.", cutoff=0.6)
        return near or " Write it with functions of jnp, lax, jax.nn and nnx."

    def _value_attribute(self, node: ast.Attribute) -> None:
        """An attribute of something that is not a module of the API."""
        base = node.value.id if isinstance(node.value, ast.Name) else None
        if base == "spec" and node.attr not in _SPEC_FIELDS:
            near = self._meant(node.attr, _SPEC_FIELDS)
            self.fail(node, "attribute", f"spec has no {node.attr!r}; it has {', '.join(_SPEC_FIELDS)}.{near}")
        elif base == "hp" and node.attr not in self.tunables:
            message = f"hp.{node.attr} is read, but TUNABLES does not declare it."
            near = self._meant(node.attr, self.tunables) or f' Add "{node.attr}": choice(...) to TUNABLES.'
            self.fail(node, "tunables", message + near)
        elif not isinstance(node.ctx, ast.Load) and base != "self" and node.attr != "value":
            self.fail(node, "attribute", f"{ast.unparse(node)[:60]} is assigned to. Assign only to self.<name>.")
        elif base not in ("spec", "hp"):
            if node.attr == "__init__" and isinstance(node.value, ast.Call) and _is_name(node.value.func, "super"):
                return
            self._attribute_name(node, node.attr)

    def _attribute_name(self, node: ast.AST, name: str) -> None:
        if name.startswith("__"):
            self.fail(node, "dunder", f"The attribute {name} is used. Of such names only super().__init__ is allowed.")
        elif name not in VALUE_ATTRIBUTES and name not in self.attributes:
            near = self._meant(name, VALUE_ATTRIBUTES | self.attributes)
            remedy = near or " Use a function of jnp, or assign self.<name> in __init__ before reading it."
            self.fail(node, "attribute", f"The attribute {name!r} is not known.{remedy}")

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name.startswith("__"):
            self.fail(node, "dunder", f"The name {name} is used. Choose one without the leading underscores.")
        elif isinstance(node.ctx, ast.Store):
            self._binding(node, name)
        elif self.aliases.get(name) in MODULES:
            self.fail(node, "name", f"The module {name} is used as a value. Use it only as {name}.<name>.")
        elif name in FACADE and name not in self.aliases and name not in self.bound:
            self.fail(node, "name", f"{name} is not imported. Add it to the line `from nas.api import ...`.")
        elif name not in self.bound and name not in self.aliases and name not in BUILTINS:
            known = f" Instead, {_INSTEAD_OF_NAME[name]}." if name in _INSTEAD_OF_NAME else ""
            near = known or self._meant(name, self.bound | set(self.aliases) | BUILTINS)
            remedy = near or " Assign it before, or write what it does with the API."
            self.fail(node, "name", f"The name {name!r} is not defined and not among the allowed built-ins.{remedy}")

    def _binding(self, node: ast.AST, name: str) -> None:
        if name in self.aliases or name == "super":
            self.fail(node, "name", f"{name!r} is bound again, but it is imported or built in. Choose another name.")

    def visit_Call(self, node: ast.Call) -> None:
        if dotted(node.func, self.aliases) == "nnx.Rngs":
            self.fail(
                node, "name", "nnx.Rngs is called; seeds are not the candidate's. Use the rngs __init__ receives."
            )
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name.startswith("__") and node.name not in _DEFINABLE:
            message = f"{node.name} is defined. Define only {', '.join(_DEFINABLE)} and methods of your own names."
            self.fail(node, "dunder", message)
        self._binding(node, node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._binding(node, node.name)
        if node.keywords or node.decorator_list:
            self.fail(node, "class", f"Class {node.name} has keywords or decorators. Remove them.")
        for statement in node.body:
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not text and not isinstance(statement, ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.Pass):
                message = f"The body of class {node.name} may hold only methods, assignments and a docstring."
                self.fail(statement, "class", message + " Move this into __init__.")
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        if node.arg.startswith("__"):
            self.fail(node, "dunder", f"The argument {node.arg} starts with two underscores. Rename it.")
        self._binding(node, node.arg)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bytes):
            self.fail(node, "literal", "There is a bytes literal. Compute constants with jnp.")
        elif isinstance(value, str) and len(value) > STRING_LENGTH:
            self.fail(node, "literal", f"A string has {len(value)} characters, at most {STRING_LENGTH} are allowed.")
        elif isinstance(value, int) and abs(value) > INTEGER_SIZE:
            self.fail(node, "literal", "A whole number is above 2**31. Write a smaller one, or a float such as 1e9.")


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _bindings(tree: ast.Module) -> tuple[frozenset[str], frozenset[str]]:
    """The names a source binds anywhere, and the attributes it defines."""
    names: set[str] = set()
    attributes: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_name(node.value, "self"):
            attributes.add(node.attr)
        if isinstance(node, ast.ClassDef):
            defined = [s for s in node.body if isinstance(s, ast.FunctionDef | ast.Assign | ast.AnnAssign)]
            for statement in defined:
                if isinstance(statement, ast.FunctionDef):
                    attributes.add(statement.name)
                else:
                    attributes.update(t.id for t in _targets(statement) if isinstance(t, ast.Name))
    return frozenset(names), frozenset(attributes)
