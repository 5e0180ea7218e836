"""What is wrong with what a space declares, before anything of it runs.

Each check takes a space and returns one sentence, what is wrong and what to change, or None. A search asks all of them
before it begins; `python -m nas.testing` goes on from there to the space's data, functions and programs.
"""

import ast
import inspect
import re
import reprlib
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from nas.space import Primitive, SearchSpace, SpaceError

_DTYPES = ("float32", "float16", "int32", "int16", "int8", "uint32", "uint16", "uint8", "bool")
"""What inputs may be: dtypes that a file of numpy holds and JAX does not narrow."""


def must_hold(space: SearchSpace, reference: str) -> None:
    """Raise what is wrong with a space's declarations.

    Raises:
      SpaceError: the first problem, in one line.
    """
    for check in DECLARATIONS.values():
        try:
            problem = check(space)
        except Exception as error:  # a field may be of any type
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if problem is not None:
            raise SpaceError(f"space '{reference}': {problem}. `python -m nas.testing '{reference}'` checks all of it.")


def misfit(space: SearchSpace, name: str, examples: int) -> str | None:
    """What is wrong with how many examples a split has, as a check says it.

    Args:
      space: whose recipe they are for.
      name: of the split.
      examples: of all tasks together.
    """
    recipe, tasks = space.recipe, len(space.task.parts) or 1
    if examples % tasks:
        return f"{examples} examples of {tasks} tasks; make as many of each, one task after the other"
    each = examples // tasks
    if name == "train" and each < recipe.batch:
        return f"{each} examples do not fill a batch of {recipe.batch}; make more, or a smaller recipe.batch"
    if name != "train" and (each == 0 or each % recipe.eval_batch):
        return f"recipe.eval_batch={recipe.eval_batch} does not divide {each} examples; choose a divisor"
    return None


def _types(space: SearchSpace) -> str | None:
    return _mistyped(space, SearchSpace, "")


def _mistyped(value: Any, hint: Any, path: str) -> str | None:
    """Says of the first value that is not of its annotated type what it must be; looks into records and containers."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        fits = any(_mistyped(value, one, path) is None for one in inner)
        parts: list[tuple[Any, Any, str]] = []
    elif is_dataclass(hint):
        fits, hints = isinstance(value, hint), get_type_hints(hint)  # type: ignore[arg-type]
        names = [f.name for f in fields(hint)] if fits else []
        parts = [(getattr(value, name), hints[name], f"{path}.{name}" if path else name) for name in names]
    elif origin is Mapping:
        fits = isinstance(value, Mapping)
        items = list(value.items()) if fits else []
        parts = [(key, inner[0], f"a key of {path}") for key, _ in items]
        parts += [(one, inner[1], f"{path}[{key!r}]") for key, one in items]
    elif origin in (tuple, Sequence):
        fits = isinstance(value, origin) and not isinstance(value, str)
        ended = origin is tuple and inner[-1] is not ...
        fits = fits and (not ended or len(value) == len(inner))
        parts = [(one, inner[i if ended else 0], f"{path}[{i}]") for i, one in enumerate(value if fits else ())]
    else:
        fits, parts = _is_plain(value, hint), []
    if not fits:
        wanted = re.sub(r"\b(?:\w+\.)+", "", inspect.formatannotation(hint)).replace("Literal", "one of ")
        return f"{path} is {' '.join(reprlib.repr(value).split())}; it must be {wanted}"
    return next(filter(None, (_mistyped(*part) for part in parts)), None)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Callable:
        return callable(value)
    if hint in (int, float):  # True is no number here
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def _identity(space: SearchSpace) -> str | None:
    plain = re.split("[?@]", space.name)[0].replace(":", "_")  # of what was chosen or made larger: name?size=gpu@axis=2
    if not (plain.isidentifier() and plain == plain.lower()):
        return f"name {space.name!r} is not lower-case letters, digits and _; rename it, with :variant for a variant"
    if space.version < 1:
        return f"version is {space.version!r}; count from 1 and raise it when anything changes that scores depend on"
    if space.credible_gain is not None and not space.credible_gain > 0:
        return f"credible_gain is {space.credible_gain}; give what a discovery may gain at most, or None to believe all"
    digits = space.task.decimals
    return (
        None if 0 <= digits <= 15 else f"task.decimals is {digits}; give 0 to 15, the digits of a score that are shown"
    )


def _baselines(space: SearchSpace) -> str | None:
    if not space.baselines:
        return "there is no baseline; give at least one known architecture to compare with"
    if space.baseline_seeds < 1:
        return f"baseline_seeds is {space.baseline_seeds}; a baseline needs at least one seed"
    for name, source in space.baselines.items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            return f"the name of baseline {name!r} is not letters, digits, _, - and . alone; rename it"
        try:
            classes = [statement.name for statement in _parse(source).body if isinstance(statement, ast.ClassDef)]
        except (SyntaxError, ValueError) as error:
            return f"baseline '{name}' is no Python ({error}); mend it"
        if classes.count(space.scope) != 1:
            found = f"defines {', '.join(classes) or 'no class'} while scope is {space.scope}"
            return f"baseline '{name}' {found}; give it one class {space.scope}, or choose another scope"
    return None


def _parse(text: str, mode: str = "exec") -> Any:
    with warnings.catch_warnings():  # of the parser, about literals
        warnings.simplefilter("ignore")
        return ast.parse(text, mode=mode)


def _grammar(space: SearchSpace) -> str | None:
    fewest, most = space.grammar.blocks
    if not 0 <= fewest <= most:
        return f"grammar.blocks is {space.grammar.blocks}; give the fewest and the most blocks, such as (1, 5)"
    for part in ("stem", "body", "head"):
        primitives = getattr(space.grammar, part)
        if not primitives and (part != "body" or most):
            return f"grammar.{part} is empty; give at least one primitive"
        names = [primitive.name for primitive in primitives]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            return f"grammar.{part} has two primitives '{twice[0]}'; names must differ"
        problems = (_primitive(primitive, is_head=part == "head") for primitive in primitives)
        if problem := next(filter(None, problems), None):
            return f"grammar.{part}: {problem}"
    return None


def _primitive(primitive: Primitive, *, is_head: bool) -> str | None:
    """Tries each value of its choices, not each combination of them."""
    values = {key: one for key, one in primitive.choices.items() if isinstance(one, Sequence)}
    if empty := [key for key, one in values.items() if not one]:
        return f"'{primitive.name}' has no value to choose for '{empty[0]}'; give at least one"
    tuned = {key: f"hp.{key}" for key in primitive.choices}
    for index in range(max(map(len, values.values()), default=1)):
        filled = {"name": "part", "width": "spec.width"} | tuned
        filled |= {key: str(one[index % len(one)]) for key, one in values.items()}
        for field, mode in (("init", "exec"), ("out", "eval"), ("call", "exec")):
            text = _filled(getattr(primitive, field), filled)
            try:
                tree = _parse(text.strip() if mode == "eval" else text, mode)
            except (SyntaxError, ValueError) as error:
                return f"{field} of '{primitive.name}' is no Python, {' '.join(text.split())!r} ({error}); mend it"
        if not tree.body:
            return f"call of '{primitive.name}' is empty; give it a statement that assigns h, or returns"
        if is_head and not isinstance(tree.body[-1], ast.Return):
            return f"call of '{primitive.name}' does not end in a return statement; add one"
    return None


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), text)


def _spec(space: SearchSpace) -> str | None:
    spec = space.spec
    small = [n for n in ("length", "classes", "width", "depth", "heads") if getattr(spec, n) < 1]
    if small:
        return f"spec.{small[0]} is {getattr(spec, small[0])}; it must be at least 1"
    if (spec.channels > 0) == (spec.vocab > 0):
        return f"spec has channels={spec.channels} and vocab={spec.vocab}; exactly one of them is above 0"
    if spec.width % spec.heads:
        return f"spec.heads={spec.heads} does not divide spec.width={spec.width}; choose a divisor"
    return None


def _contract(space: SearchSpace) -> str | None:
    spec, contract = space.spec, space.contract
    expected = (spec.length,) if spec.vocab else (spec.length, spec.channels)
    if contract.input_dtype not in _DTYPES:
        return f"contract.input_dtype is {contract.input_dtype!r}; choose one of {', '.join(_DTYPES)}"
    if spec.vocab and not np.issubdtype(contract.input_dtype, np.integer):
        return f"contract.input_dtype is {contract.input_dtype} while spec.vocab={spec.vocab}; token ids are int32"
    if space.scope != "Model" and contract.input_shape != expected:
        return f"contract.input_shape is {contract.input_shape}; the skeleton takes {expected}, from spec"
    if contract.output_shape[-1:] != (spec.classes,):
        return f"contract.output_shape is {contract.output_shape}; its last axis must be spec.classes={spec.classes}"
    if contract.causal and len(contract.output_shape) < 2:
        return "contract.causal is set, but an output has no axis of positions; unset it, or predict at every position"
    limits = {name: getattr(contract, name) for name in ("max_params", "max_flops", "max_memory_bytes")}
    wrong = [name for name, limit in limits.items() if limit is not None and limit <= 0]
    if not wrong:
        return None
    remedy = "give a positive number" + (", or None for no limit" if wrong[0] != "max_memory_bytes" else "")
    return f"contract.{wrong[0]} is {limits[wrong[0]]}; {remedy}"


def _recipe(space: SearchSpace) -> str | None:
    recipe = space.recipe
    for name, least in (("batch", 1), ("eval_batch", 1), ("warmup", 0)):
        if getattr(recipe, name) < least:
            return f"recipe.{name} is {getattr(recipe, name)}; it must be at least {least}"
    for name in ("lr", "wd"):
        if getattr(recipe, name).low < 0:
            return f"recipe.{name} begins at {getattr(recipe, name).low}; it must not be negative"
    return None


def _ladder(space: SearchSpace) -> str | None:
    ladder = space.ladder
    if (
        not ladder.steps
        or ladder.steps[0] < 1
        or any(b <= a for a, b in zip(ladder.steps, ladder.steps[1:], strict=False))
    ):
        return f"ladder.steps is {ladder.steps}; give positive numbers, each larger than the one before"
    if ladder.eta < 1:
        return f"ladder.eta is {ladder.eta}; one of eta trials is promoted, so give 2 or more, or 1 to promote them all"
    return None if ladder.draws >= 1 else f"ladder.draws is {ladder.draws}; a candidate needs at least one draw"


DECLARATIONS: dict[str, Callable[[SearchSpace], str | None]] = {
    "types": _types,
    "name and version": _identity,
    "spec": _spec,
    "contract": _contract,
    "recipe": _recipe,
    "ladder": _ladder,
    "baselines": _baselines,
    "grammar": _grammar,
}
"""The checks by what they look at; of what has another type than it must, those after the first say nothing."""
