"""What a researcher writes to have a space of architectures searched, and how it is found.

A space is one Python file that binds `SPACE` to a `SearchSpace` (and, optionally, `VARIANTS` to a dict of further
ones). It says what is trained (task), what a candidate must look like (scope, spec, contract), how it is trained
(recipe, ladder), what it is compared with (baselines), what evolution may combine (grammar) and, optionally, how it is
made larger (scale). Loading a space must not import JAX: the loss and the score import it when they are called, in the
trainer.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from nas.records import Real, Tunable

GROUP = "nas.search_spaces"
"""Entry-point group under which installed packages offer spaces."""

Scope = Literal["Model", "Block", "Mixer", "Stack"]


class SpaceError(ValueError):
    """A space that cannot be found or loaded; the message says what was received and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the space fixes and a candidate reads: the same names in every space.

    Attributes:
      length: T, positions in an example.
      channels: C, features of an input position; 0 if the input is token ids.
      vocab: number of token ids; 0 if the input is features.
      classes: number of outputs a prediction has.
      width: D, features inside the network.
      depth: how many blocks the skeleton stacks, or a `Model` or `Stack` is asked for.
      heads: H, for what has heads; divides `width`.
      dtype: `float32` or `bfloat16`, in which layers compute; parameters and outputs are float32 in either case.
      remat: whether a layer's inner values are computed anew for the gradients, which saves memory and costs time.
      scan: whether equal layers are one loop instead of a row, for what compiles long; None is by the device: on a CPU
        a loop is slower by a quarter, on a TPU it compiled in 26 s what took 90 s in a row.
    """

    length: int
    channels: int = 0
    vocab: int = 0
    classes: int
    width: int
    depth: int
    heads: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    scan: bool | None = None


class Split(NamedTuple):
    """Examples of one split: inputs [N, ...] and targets [N, ...]."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt and how it is scored. No part of it ever reaches a candidate.

    Attributes:
      split: makes the examples of "train", "validation" or "test"; a pure function of its argument.
      loss: (outputs [B, ...], targets [B, ...]) -> loss [B] that training minimises, in jnp.
      score: (outputs, targets) -> score [B] whose mean over a split is the score, in jnp.
      metric: the score's name, for instance `accuracy`.
      maximize: whether a higher score is better.
      decimals: digits that mean something when the score is printed.
      parts: names of tasks that every candidate learns, each with parameters of its own on one program. A split then
        holds as many examples of each, one task after the other, and the score is the mean over the tasks.
      identity: hash of data that the space's own code does not fix, for instance of a corpus on this machine. It is
        part of the space's digest, so nothing that was measured on other data is taken for the same.
      bound: the best score that is credible at all, for instance by the data's entropy; what is better is trained
        again, with other data, before it is believed. None knows none.
    """

    split: Callable[[str], Split]
    loss: Callable[[Any, Any], Any]
    score: Callable[[Any, Any], Any]
    metric: str
    maximize: bool = True
    decimals: int = 4
    parts: tuple[str, ...] = ()
    identity: Callable[[], str] | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a candidate must satisfy before a second of training is spent on it.

    Attributes:
      input_shape: shape of one example.
      input_dtype: its dtype.
      output_shape: shape of one example's outputs; they are float32.
      causal: whether the output at position t may depend on inputs up to t only.
      max_params: most trainable numbers; None is no limit.
      max_flops: most floating-point operations of one inference on one example; None is no limit.
      max_memory_bytes: most memory of one training step: parameters, optimiser and residuals [bytes].
    """

    input_shape: tuple[int, ...]
    input_dtype: str = "float32"
    output_shape: tuple[int, ...]
    causal: bool = False
    max_params: int | None = None
    max_flops: int | None = None
    max_memory_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How every candidate is trained: schedule-free AdamW (Defazio et al., arXiv 2405.15682) after a linear warmup.

    With `muon`, matrices are updated by Muon (Jordan et al. 2024) with the step size of AdamW (Liu et al., arXiv
    2502.16982, section 2.2), and everything else, what has a side of the vocabulary or the classes included, by AdamW.

    Attributes:
      batch: examples in a training step.
      accumulate: in how many parts a step goes through its batch, adding up gradients; divides `batch`. The program
        sees one part at a time (`microbatch` examples), so memory is that of a part.
      optimizer: `adamw` or `muon`.
      eval_batch: examples in an evaluation call; divides the size of the validation and of the test split.
      warmup: steps over which the learning rate rises.
      lr: range of the learning rate, sampled by Optuna for every trial.
      wd: range of the decoupled weight decay, likewise.
      max_auxiliary: bound on a candidate's auxiliary loss; above it, it has no gradient.
    """

    batch: int
    eval_batch: int
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: int = 50
    lr: Real = Real(1e-3, 1e-1, log=True)
    wd: Real = Real(1e-4, 1e-1, log=True)
    max_auxiliary: float = 1.0

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ValueError(
                f"Recipe(accumulate={self.accumulate}): it must be 1 or more and divide batch={self.batch}; change it"
            )
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"Recipe(optimizer='{self.optimizer}'): it is adamw or muon; name one of them")

    @property
    def microbatch(self) -> int:
        """Examples that a program sees at once in training."""
        return self.batch // self.accumulate

    @property
    def tunables(self) -> dict[str, Tunable]:
        """The training tunables by name."""
        return {"lr": self.lr, "wd": self.wd}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The rungs: training steps at which trials are scored, paused and perhaps promoted.

    Attributes:
      steps: total steps at each rung, ascending.
      eta: of n trials in a rung, floor(n / eta) are promoted; 1 promotes all, for whoever wants to see what early
        rungs say of the last.
      draws: draws of hyperparameters that a new candidate gets at the first rung, on one compiled program.
    """

    steps: tuple[int, ...]
    eta: int = 4
    draws: int = 1

    @property
    def top(self) -> int:
        """Index of the last rung."""
        return len(self.steps) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """A building block that evolution and the random arm place, as source text with placeholders.

    Placeholders: `{name}` is an attribute name of its own, `{width}` the source of the number of features of `h`
    before it, and every key of `choices`. An entry of `choices` is a tuple of values, of which the writer picks one,
    or a tunable, which is then declared in `TUNABLES` and written as `hp.<name>`.

    Attributes:
      name: short and unique in the grammar.
      init: statements for `__init__`, one a line; empty if it has no parameters.
      call: statements for `__call__`, one a line, that read and assign `h` (a stem also reads `x`).
      out: source of the number of features of `h` after it.
      choices: values for further placeholders.
      residual: whether it adds what went in to what comes out, so that nobody has to.
    """

    name: str
    init: str = ""
    call: str
    out: str = "{width}"
    choices: Mapping[str, Sequence[Any] | Tunable] = field(default_factory=dict)
    residual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What the random arm samples afresh and evolution inserts: a stem, some of the body, a head.

    Attributes:
      stem: ways to make `h` from `x`.
      body: blocks from h (B, T, D) to h (B, T, D').
      head: ways to make what `__call__` returns; their `call` ends in a `return` statement.
      blocks: fewest and most body blocks in a random candidate.
    """

    stem: Sequence[Primitive]
    body: Sequence[Primitive]
    head: Sequence[Primitive]
    blocks: tuple[int, int] = (1, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """A space of architectures over one task. See the module's docstring.

    Attributes:
      name: lower-case identifier, with `:variant` for a variant.
      version: raised when anything changes that scores depend on; results of two versions never share a table.
      scope: which class a candidate defines.
      skeleton: what lies around a candidate that is not a `Model`: a function (unit, spec, hp, *, rngs) -> nnx.Module,
        where `unit(spec, hp, rngs=rngs)` makes one candidate module; None takes the one in `nas.admit.skeleton`.
      baselines: source text of known architectures by name, in the order in which they are trained.
      guidance: a page of text on the task, for whoever writes candidates.
      baseline_seeds: seeds with which each baseline's best draw is trained to the top rung.
      credible_gain: by how much a score may be better than the best baseline's at the same rung and be believed at
        once; what gains more is trained again, with other data. Choose it larger than what a discovery brings: None
        believes every gain.
      scale: how the space is made larger, by axis (`width`, `depth`, `data`, `steps`, …): a function of the space and a
        whole factor. Candidates stay as they are, validation and test split too; limits grow along, or go. No score of
        the space itself depends on it. `load("name@width=2")` gives what it makes.
      options: what a person may choose of the space (`data`, `size`, …): a function of the space and a text, by name.
        `load("name?size=gpu")` gives what it makes. One that changes the data has to give the task an `identity`; a
        `data` is a path, if there is a file or folder of that name.
    """

    name: str
    version: int
    scope: Scope
    spec: Spec
    task: Task
    contract: Contract
    recipe: Recipe
    ladder: Ladder
    grammar: Grammar
    baselines: Mapping[str, str]
    guidance: str = ""
    skeleton: Callable[..., Any] | None = None
    baseline_seeds: int = 3
    credible_gain: float | None = None
    scale: "Mapping[str, Callable[[SearchSpace, int], SearchSpace]]" = field(default_factory=dict)
    options: "Mapping[str, Callable[[SearchSpace, str], SearchSpace]]" = field(default_factory=dict)


def read_sources(folder: Path) -> dict[str, str]:
    """The `*.py` files of a folder by stem, in the order of their names; a leading `1_` orders and is dropped."""
    files = sorted(folder.glob("[!_]*.py"))
    return {f.stem.split("_", 1)[-1] if f.stem[0].isdigit() else f.stem: f.read_text("utf-8") for f in files}


_LATER = ("accumulate", "optimizer", "dtype", "remat", "scan")
"""Fields that came after the first results were published: at their defaults they leave digests as they were."""


def laid_out(space: SearchSpace, platform: str) -> SearchSpace:
    """A space that says of equal layers whether they are one loop, as its spec does or the platform asks for."""
    if space.spec.scan is not None:
        return space
    # Muon knows a matrix by its two axes, and stacked layers have one more.
    stacked = platform != "cpu" and space.recipe.optimizer != "muon"
    return replace(space, spec=replace(space.spec, scan=stacked))


def digest(space: SearchSpace) -> str:
    """Short hash of everything a score depends on that can be hashed, for the run's record.

    Raises:
      SpaceError: data that it is part of cannot be read, or told apart; one line.
    """
    records = [space.spec, space.contract, space.recipe, space.ladder]
    parts: list[Any] = [space.name, space.version, space.scope, *map(_Stated, records)]
    parts += [sorted(space.baselines.items()), space.baseline_seeds]
    parts += [space.task.parts] if space.task.parts else []
    parts += _code(space)
    parts += [_data_of(space, space.task.identity)] if space.task.identity else []
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _code(space: SearchSpace) -> list[str]:
    """Hashes of the files that a space of one's own is written in: nobody raises a version at every edit.

    Built-in spaces have their versions. Modules that such a file imports are not seen; what they change of the data is.
    """
    functions = [space.task.split, space.task.loss, space.task.score, space.skeleton]
    modules = {getattr(inspect.unwrap(getattr(f, "func", f)), "__module__", None) for f in functions if f is not None}
    own = {name for name in modules if name and name.partition(".")[0] != __package__}
    files = {file for name in own if (file := getattr(sys.modules.get(name), "__file__", None))}
    return sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if Path(file).is_file())


def _data_of(space: SearchSpace, identity: Callable[[], str]) -> str:
    try:
        found = identity()
    except (ValueError, OSError) as error:
        raise SpaceError(f"space '{space.name}' has no data: {' '.join(str(error).split())}") from error
    except (Exception, SystemExit) as error:
        raise SpaceError(f"space '{space.name}': task.identity fails: {_told(error)}. Mend it.") from error
    if not isinstance(found, str):
        raise SpaceError(
            f"space '{space.name}': task.identity returns {type(found).__name__}; return a text, for instance a hash."
        )
    return found


def _told(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@dataclass(frozen=True, slots=True, repr=False)
class _Stated:
    """A record whose text leaves out what `_LATER` says."""

    record: Any

    def __repr__(self) -> str:
        said = [f for f in fields(self.record) if f.name not in _LATER or getattr(self.record, f.name) != f.default]
        return f"{type(self.record).__name__}({', '.join(f'{f.name}={getattr(self.record, f.name)!r}' for f in said)})"


def file_name(name: str) -> str:
    """A space's name as part of a file's or a folder's."""
    return re.sub(r"[^\w.@-]+", "-", name)


def names() -> list[str]:
    """Names of the spaces that are installed."""
    found = {entry.name for entry in entry_points(group=GROUP)}
    built_in = Path(__file__).parent / "search_spaces"
    found |= {path.parent.name for path in built_in.glob("*/space.py")}
    return sorted(found)


def load(reference: str) -> SearchSpace:
    """Find a space.

    Args:
      reference: a name (`mnist1d`), a name with a variant (`mnist1d:shuffled`), a file (`my_space.py`, optionally with
        `:variant`), or an object of a module (`package.module:SPACE`); each of them with `?option=text&…` after it
        for what may be chosen of it (`byte_lm?size=gpu`), and with `@axis=factor` after that for the same space made
        larger (`mnist1d:block@depth=4`). Its name then ends so too: its scores are not the space's.
    Raises:
      SpaceError: there is no such space, its file fails, or it cannot be made larger so; the message has one line.
    """
    reference, axis, factor = _parts(reference)
    if axis:
        return _scaled(load(reference), reference, axis, factor)
    plain, chosen = _choices(reference)
    space = _find(plain)
    for option, text in chosen:
        space = _chosen(space, plain, option, text)
    return space


def with_options(reference: str, options: Mapping[str, str]) -> str:
    """A reference with options added to those that it names.

    Raises:
      SpaceError: the reference is of a space made larger, which cannot be chosen from any more.
    """
    _, axis, _ = _parts(reference)
    if axis and options:
        raise SpaceError(f"space '{reference}' is given larger already; write options before '@{axis}'")
    written = "&".join(f"{name}={quote(text, safe='/')}" for name, text in options.items())
    return f"{reference}{'&' if '?' in reference else '?'}{written}" if written else reference


def canonical(reference: str) -> str:
    """The reference in a form that finds the same space from any working directory."""
    plain, axis, factor = _parts(reference)
    if axis:
        return f"{canonical(plain)}@{axis}={factor}"
    plain, chosen = _choices(reference)
    head, colon, variant = plain.partition(":")
    plain = f"{Path(head).resolve()}{colon}{variant}" if head.endswith(".py") or "/" in head else plain
    return with_options(plain, {name: _absolute(name, text) for name, text in chosen})


def _absolute(option: str, text: str) -> str:
    return str(Path(text).resolve()) if option == "data" and Path(text).exists() else text


def _choices(reference: str) -> tuple[str, list[tuple[str, str]]]:
    """A reference without what follows its `?`, and that as names and texts."""
    plain, _, query = reference.partition("?")
    chosen = [part.partition("=") for part in query.split("&")] if query else []
    return plain, [(name, unquote(text)) for name, _, text in chosen]


def _chosen(space: SearchSpace, reference: str, option: str, text: str) -> SearchSpace:
    """What a space makes of an option."""
    options = _named(space, "options", reference)
    if option not in options:
        known = ", ".join(sorted(options)) or "none"
        raise SpaceError(
            f"space '{reference}' has no option '{option}'; it has {known}. Leave it out, or name another."
        )
    try:
        made = options[option](space, text)
    except (ValueError, OSError) as error:  # by which an option says what it cannot take
        raise SpaceError(f"space '{reference}', {option}={text}: {' '.join(str(error).split())}") from error
    except (Exception, SystemExit) as error:
        raise SpaceError(
            f"space '{reference}': options['{option}'] fails at {text}: {_told(error)}. Mend it."
        ) from error
    _must_be_space(made, f"space '{reference}': options['{option}'] returns", text)
    known = getattr(made.task, "identity", None)  # it tells which file it was; what a task is, is not checked yet
    shown = text if known is None else Path(text).resolve().name
    return replace(made, name=f"{space.name}{'&' if '?' in space.name else '?'}{option}={shown}")


def _parts(reference: str) -> tuple[str, str, int]:
    """A reference without its last `@axis=factor`, the axis and the factor; "" and 1 if there is none."""
    found = re.fullmatch(r"(.+)@([^@=/:]*)=([^@=/]*)", reference)
    if found is None:
        return reference, "", 1
    plain, axis, factor = found.groups()
    if not axis.isidentifier() or not re.fullmatch(r"[1-9][0-9]{0,5}", factor):
        raise SpaceError(
            f"space '{reference}': '{axis}={factor}' is no axis and whole factor from 1; write it as {plain}@width=2"
        )
    return plain, axis, int(factor)


def _scaled(space: SearchSpace, reference: str, axis: str, factor: int) -> SearchSpace:
    """The space made larger along an axis; by a factor of 1 the space itself."""
    scale = _named(space, "scale", reference)
    if axis not in scale:
        known = ", ".join(sorted(scale)) or "no axis at all"
        raise SpaceError(
            f"space '{reference}' does not say how its {axis} grows; its scale has {known}. Name an axis that it has, "
            f"or add '{axis}' to it."
        )
    if factor == 1:
        return space
    try:
        made = scale[axis](space, factor)
    except (Exception, SystemExit) as error:
        raise SpaceError(f"space '{reference}': scale['{axis}'] fails at {factor}: {_told(error)}. Mend it.") from error
    _must_be_space(made, f"space '{reference}': scale['{axis}'] returns", factor)
    return replace(made, name=f"{space.name}@{axis}={factor}")


def _named(space: SearchSpace, field: str, reference: str) -> Mapping[str, Callable[..., Any]]:
    """Functions of a space by name; asked before anything has looked at what a space declares."""
    found = getattr(space, field)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise SpaceError(
            f"space '{reference}': {field} is no mapping of names to functions; give one, or leave {field} out."
        )
    return found


def _must_be_space(made: Any, returns: str, given: Any) -> None:
    if not isinstance(made, SearchSpace):
        raise SpaceError(
            f"{returns} {type(made).__name__} at {given}; return a SearchSpace, for instance "
            "dataclasses.replace(space, ...)."
        )


def _find(reference: str) -> SearchSpace:
    head, _, variant = reference.partition(":")
    if head.endswith(".py") or "/" in head:
        return _pick(_import_file(Path(head), reference), variant, reference)
    for entry in entry_points(group=GROUP):
        if entry.name == head:
            return _pick(_import(entry.value.partition(":")[0], reference), variant, reference)
    if head.isidentifier() and (Path(__file__).parent / "search_spaces" / head / "space.py").exists():
        return _pick(_import(f"{__package__}.search_spaces.{head}.space", reference), variant, reference)
    if "." in head and variant:
        return _pick(_import(head, reference), variant, reference)
    _must_be_no_folder(Path(head), reference)
    raise SpaceError(
        f"space '{reference}' is not known; installed are {', '.join(names()) or 'none'}. "
        "Give one of them, a file (my_space.py) or an object (package.module:SPACE)."
    )


def _must_be_no_folder(path: Path, reference: str) -> None:
    if path.is_dir():
        raise SpaceError(f"space '{reference}' is a folder. Give its file, for instance --space {path / 'space.py'}.")


def _import(module: str, reference: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise SpaceError(_failed(reference, error)) from error


def _import_file(path: Path, reference: str) -> Any:
    _must_be_no_folder(path, reference)
    if not path.is_file():
        raise SpaceError(f"space '{reference}': there is no file {path}. Give a file that exists, or one of {names()}.")
    name = "nas_space_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path.resolve())
    if found is None or found.loader is None:
        raise SpaceError(f"space '{reference}': {path} is not a Python file. Its name must end in .py.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpaceError(_failed(reference, error, path.resolve())) from error
    return module


def _failed(reference: str, error: BaseException, path: Path | None = None) -> str:
    lines = [f.lineno for f in inspect.trace() if path is not None and f.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    where = f" line {line}" if line else ""
    return f"space '{reference}' cannot be loaded:{where} {_told(error)}. Mend the file and try again."


def _pick(module: Any, variant: str, reference: str) -> SearchSpace:
    """`SPACE`, or what `variant` names: a key of `VARIANTS`, or an attribute."""
    variants = getattr(module, "VARIANTS", {})
    if not isinstance(variants, Mapping):
        raise SpaceError(
            f"space '{reference}': VARIANTS is {type(variants).__name__}; make it a dict of names to SearchSpaces, or "
            "leave it out."
        )
    space = variants.get(variant) or getattr(module, variant or "SPACE", None)
    if not isinstance(space, SearchSpace):
        allowed = ", ".join(sorted(map(str, variants))) or "none"
        raise SpaceError(
            f"space '{reference}': the module binds no SearchSpace to '{variant or 'SPACE'}' (variants: {allowed}). "
            "Bind SPACE = SearchSpace(...) at its top level, or name a variant that it has."
        )
    return space
