"""Byte-level language models: one mixer, block or stack of a small model that says the next byte of real text.

    python -m nas.search --space byte_lm --budget 100             the mixer of a block; the skeleton has the rest
    python -m nas.search --space byte_lm:block --budget 100       one whole block, which is stacked
    python -m nas.search --space byte_lm:stack --budget 100       the whole middle: a pattern of named primitives
    python -m nas.search --space 'byte_lm?data=FILE' --budget 100   another text, or tokens (*.bin); &limit=UNITS
    python -m nas.search --space 'byte_lm?size=gpu' --budget 10     about ten million parameters

The text is by default the sources of the Python library that runs this; its digest is part of what a score belongs to.
Sizes, limits and what they were measured on: `README.md` beside this file.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nas.records import Real
from nas.search_spaces import sequence
from nas.search_spaces.byte_lm import corpus, data
from nas.search_spaces.sequence.grammar import grammar
from nas.space import Contract, Ladder, Recipe, Scope, SearchSpace, Spec, Split, Task, with_options

MARGIN = 1.2
"""Parameters and FLOPs that a candidate may have, as a multiple of the transformer's of the same spec."""


def loss(outputs: Any, targets: Any) -> Any:
    """Cross entropy [nats] of an example's units in the mean: outputs (B, T, V) are logits, targets (B, T)."""
    import jax
    import jax.numpy as jnp

    chosen = jnp.take_along_axis(outputs, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(outputs, axis=-1) - chosen).mean(axis=-1)


def score(outputs: Any, targets: Any) -> Any:
    """The same in bits."""
    import jax.numpy as jnp

    return loss(outputs, targets) / jnp.log(2.0)


def identity(*, reference: str, length: int, path: Path | None, vocab: int, limit: int | None) -> str:
    """Hash of the documents that are trained and scored on; reads them, and says if they have no room for windows.

    How much of a given text is used, or of the library by a given limit, is told on stderr.

    Raises:
      ValueError: there is no text, or it is too short; one line.
    """
    found = _corpus(reference, length, path, vocab, limit)
    data.check(found, length)
    if path is not None or limit is not None:
        _tell(data.told(found, path, _limit(length, path, limit)))
    return found.digest


@functools.cache
def _tell(line: str) -> None:
    """Print a line, once in a process, however often a run asks for the identity."""
    print(line, file=sys.stderr, flush=True)


def _split(
    name: str, *, reference: str, length: int, times: int, path: Path | None, vocab: int, limit: int | None
) -> Split:
    """The examples of a split, as `data.split` has them."""
    _corpus(reference, length, path, vocab, limit)  # read once; here for what it says if it cannot be
    limit = _limit(length, path, limit)
    return data.split(name, path=path, length=length, times=times, limit=limit, vocab=vocab)


def _corpus(reference: str, length: int, path: Path | None, vocab: int, limit: int | None) -> corpus.Corpus:
    """The text, or how the space that was asked for is asked for right."""
    try:
        return data.corpus(path, _limit(length, path, limit), vocab)
    except corpus.VocabularyError as error:
        plain, at, factors = reference.partition("@")
        plain, _, options = plain.partition("?")
        kept = [option for option in options.split("&") if option and not option.startswith("vocab=")]
        right = f"{plain}?{'&'.join([*kept, 'vocab=65536'])}{at}{factors}"
        raise corpus.VocabularyError(f"{error}: --space '{right}'") from error


def _limit(length: int, path: Path | None, limit: int | None) -> int:
    """Most units that are read: as chosen, or of a given text what its size says."""
    usual = next((size.limit for size in SIZES.values() if size.spec.length == length), corpus.LIMIT)
    return limit or (corpus.LIMIT if path is None else usual)


LOGITS_BYTES = 1 << 29
"""Most that the logits of a part of a batch may take."""
GAIN = 0.5
"""What is believed at once of a gain over the best baseline [bits per byte]; baselines lie .3 apart."""


# ---- limits: those of the transformer with room to spare, so that nothing wins by being bigger ----


def params(spec: Spec) -> int:
    """Parameters of the transformer of a spec, its tied embedding included."""
    return spec.vocab * spec.width + spec.depth * 12 * spec.width**2


def flops(spec: Spec) -> int:
    """FLOPs of its inference on one example: two for each parameter and position, and what all pairs cost."""
    pairs = 4 * spec.length**2 * spec.width * spec.depth
    return 2 * spec.length * params(spec) + pairs


def memory_bytes(spec: Spec, batch: int) -> int:
    """Optimiser and residuals of a training step: 40 arrays of a layer's stream, 8 of all pairs of each head.

    Logits of more than bytes count too.
    """
    layer = 40 * spec.length * spec.width + 8 * spec.heads * spec.length**2
    each = 2 if spec.dtype == "bfloat16" else 4
    logits = (
        3 * 4 * batch * spec.length * spec.vocab if spec.vocab > corpus.BYTES else 0
    )  # themselves, twice for a loss
    return round(16 * MARGIN * params(spec)) + each * batch * spec.depth * layer + logits


def _in_parts(recipe: Recipe, spec: Spec) -> Recipe:
    """The recipe with parts of a batch so small that the logits of a large vocabulary fit."""
    rows = max(1, LOGITS_BYTES // (4 * spec.length * spec.vocab))
    rows = 1 << rows.bit_length() - 1
    if rows >= max(recipe.microbatch, recipe.eval_batch):
        return recipe
    part = min(rows, recipe.microbatch)
    return dataclasses.replace(recipe, accumulate=recipe.batch // part, eval_batch=min(rows, recipe.eval_batch))


def _contract(spec: Spec, batch: int) -> Contract:
    return Contract(
        input_shape=(spec.length,),
        input_dtype="int32",
        output_shape=(spec.length, spec.vocab),
        causal=True,
        max_params=round(MARGIN * params(spec)),
        max_flops=round(MARGIN * flops(spec)),
        max_memory_bytes=memory_bytes(spec, batch),
    )


def _task(
    *,
    reference: str,
    length: int,
    path: Path | None = None,
    vocab: int = corpus.GPT2,
    limit: int | None = None,
    times: int = 1,
) -> Task:
    """The task over a text.

    Args:
      reference: how the space was asked for, which messages say.
      length: T.
      path: of the text.
      vocab: tokens that a `.bin` file may have.
      limit: most units; None is what is usual.
      times: so many times the training windows.
    """
    text = {"reference": reference, "length": length, "path": path, "vocab": vocab, "limit": limit}
    tokens = path is not None and path.suffix == ".bin"
    return Task(
        split=functools.partial(_split, times=times, **text),
        loss=loss,
        score=score,
        metric="bits_per_token" if tokens else "bits_per_byte",
        maximize=False,
        identity=functools.partial(identity, **text),
        bound=0.5 if path is None else None,  # on the default text our baselines have 2 bits; other texts may repeat
    )


def _fitted(space: SearchSpace, *, spec: Spec | None = None, **text: Any) -> SearchSpace:
    """The space with another spec or other text, and with the shapes and limits that follow."""
    split: Any = space.task.split
    text = split.keywords | text | {"length": (spec or space.spec).length}
    tokens = text["path"] is not None and text["path"].suffix == ".bin"
    vocab = text["vocab"] if tokens else corpus.BYTES
    spec = dataclasses.replace(spec or space.spec, vocab=vocab, classes=vocab)
    task = space.task if text == split.keywords else _task(**text)
    gain = 4 * GAIN if tokens else GAIN  # a token of GPT-2's is about four bytes
    own = next(size.recipe for size in SIZES.values() if size.spec.length == spec.length)
    recipe = dataclasses.replace(space.recipe, accumulate=own.accumulate, eval_batch=own.eval_batch)
    recipe = _in_parts(recipe, spec)
    return dataclasses.replace(
        space, spec=spec, task=task, recipe=recipe, contract=_contract(spec, recipe.microbatch), credible_gain=gain
    )


def _chosen(space: SearchSpace, told: str, *, option: str, make: Callable[..., SearchSpace]) -> SearchSpace:
    """What an option makes of a space, which then knows that it was asked for so."""
    made = make(space, told)
    split: Any = made.task.split
    task = _task(**split.keywords | {"reference": with_options(split.keywords["reference"], {option: told})})
    return dataclasses.replace(made, task=task)


def _larger(space: SearchSpace, factor: int, *, axis: str, make: Callable[..., SearchSpace]) -> SearchSpace:
    """The same for an axis; examples that stay the same stay the same object, since others ask that."""
    made = make(space, factor)
    before: Any = space.task.identity
    after: Any = made.task.identity
    named = functools.partial(after, reference=f"{before.keywords['reference']}@{axis}={factor}")
    return dataclasses.replace(made, task=dataclasses.replace(made.task, identity=named))


# ---- scale: what `nas.scale` makes larger. Validation, test and every source stay as they are. ----


def wider(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the features, in as many more heads of the same size."""
    spec = space.spec
    return _fitted(space, spec=dataclasses.replace(spec, width=factor * spec.width, heads=factor * spec.heads))


def deeper(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the layers."""
    return _fitted(space, spec=dataclasses.replace(space.spec, depth=factor * space.spec.depth))


def more_data(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the training windows, in as many steps: each is seen that much less often."""
    split: Any = space.task.split
    return _fitted(space, times=factor * split.keywords["times"])


def more_steps(space: SearchSpace, factor: int) -> SearchSpace:
    """Every rung `factor` times as far: so many times the tokens."""
    steps = tuple(factor * step for step in space.ladder.steps)
    return dataclasses.replace(space, ladder=dataclasses.replace(space.ladder, steps=steps))


# ---- options: what is chosen with `?data=…&limit=…&vocab=…&size=…&remat=…` ----


def with_data(space: SearchSpace, path: str) -> SearchSpace:
    """Train on another text: a file, a folder, or a `.bin` file of uint16 tokens; see `corpus.read`.

    Raises:
      ValueError: there is no such file or folder.
    """
    if not Path(path).exists():
        known = f" Or fetch that text: python -m nas.search_spaces.byte_lm.data {path}" if path in data.PUBLIC else ""
        raise ValueError(f"there is no such file or folder. Give text, a folder with text, or tokens (*.bin).{known}")
    return _fitted(space, path=Path(path))


def with_vocab(space: SearchSpace, vocab: str) -> SearchSpace:
    """Say how many tokens a `.bin` file may have, where it is not GPT-2's 50,257.

    Raises:
      ValueError: it is no number from 2 to 65,536.
    """
    if not vocab.isdigit() or not 2 <= int(vocab) <= 1 << 16:
        raise ValueError(f"{vocab} is no number of tokens; give one from 2 to 65536.")
    return _fitted(space, vocab=int(vocab))


def with_limit(space: SearchSpace, limit: str) -> SearchSpace:
    """Say how many bytes or tokens of the text are used at most, where it is not as many as its size says.

    Raises:
      ValueError: it is no whole number from 1.
    """
    if not limit.isdecimal() or int(limit) < 1:
        raise ValueError(f"{limit} is no number of bytes or tokens; give a whole number from 1.")
    return _fitted(space, limit=int(limit))


def with_size(space: SearchSpace, size: str) -> SearchSpace:
    """Take the sizes for `cpu`, which a space has unless told otherwise, or for one accelerator, `gpu`.

    Raises:
      ValueError: it is neither.
    """
    if size not in SIZES:
        raise ValueError(f"there is no size '{size}'; there are {', '.join(SIZES)}. Name one of them.")
    spec, recipe, ladder, times, _ = SIZES[size]
    made = grammar(space.scope, depth=spec.depth)
    told = guidance(space.scope, spec)
    sized = dataclasses.replace(space, recipe=recipe, ladder=ladder, grammar=made, guidance=told)
    return _fitted(sized, spec=dataclasses.replace(spec, remat=space.spec.remat), times=times)


class Size(NamedTuple):
    """What a size is.

    Attributes:
      spec: of the space.
      recipe: likewise.
      ladder: likewise.
      times: how many times `data.COUNTS` windows are trained on.
      limit: most units of a given text; of the library there are `corpus.LIMIT` at every size.
    """

    spec: Spec
    recipe: Recipe
    ladder: Ladder
    times: int
    limit: int


SIZES = {
    "cpu": Size(
        Spec(length=128, vocab=corpus.BYTES, classes=corpus.BYTES, width=64, depth=2, heads=4),
        Recipe(batch=16, eval_batch=64, warmup=50, lr=Real(3e-3, 1e-1, log=True), wd=Real(1e-4, 1e-1, log=True)),
        Ladder(steps=(100, 400, 1_600), eta=4),
        2,
        corpus.LIMIT,
    ),
    "gpu": Size(
        Spec(
            length=1_024,
            vocab=corpus.BYTES,
            classes=corpus.BYTES,
            width=384,
            depth=6,
            heads=6,
            dtype="bfloat16",
        ),
        Recipe(
            batch=32,
            accumulate=2,
            eval_batch=16,
            warmup=100,
            lr=Real(5e-4, 2e-2, log=True),
            wd=Real(1e-4, 1e-1, log=True),
        ),
        Ladder(steps=(250, 1_000, 4_000), eta=4),
        4,
        1 << 27,  # all of enwik8 and text8
    ),
}

_TEXT = """\
The next byte of real text, by default of the Python library's sources: identifiers that come back after hundreds of
bytes, indentation, brackets and quotes to be closed, English in comments and docstrings. A window has {T} bytes
and nothing is known of what came before it. Scored in bits per byte, the mean over all positions: the
first bytes of a window count as much as the last, so what is learnt from few bytes (bigrams, words, indentation) weighs
most at the first rungs, and what looks far back pays later.

Everything is causal: output t may depend on inputs up to t only, in training too, and an example on itself alone. No
position is given: a mixer that needs to know where it is brings it (`layers.rotary` on queries and keys, decay, a
convolution). Parameters, FLOPs and memory may be a fifth above the transformer's of the same width and depth; what is
saved in one place may be spent in another.

What is fast: matrix products, and the operations of nas.kernels (attention, gated_linear_attention, delta_rule,
linear_recurrence, short_convolution, rms_norm). A lax.scan over T of your own is slower, and its state at every
position counts as memory; one step of it should do much.

What is known: the learning rate decides as much as the design in so few steps, so leave scales well behaved (norms,
residuals, products of gates that start near a half). Short convolutions or token shifts before a mixer help nearly
every design. A fixed state forgets and attention does not, but at these lengths states of a few thousand numbers hold
nearly all there is. Decays want a spread: some features that keep two bytes, some that keep a hundred.
"""


def guidance(scope: Scope, spec: Spec) -> str:
    """The page for whoever writes candidates of a scope and a size."""
    return (sequence.ASKED[scope] + _TEXT).format(T=spec.length, depth=spec.depth, layers=2 * spec.depth)


def space(*, scope: Scope = "Mixer", size: str = "cpu") -> SearchSpace:
    """Make the space of a scope and a size over the Python library's sources; nothing is read.

    Args:
      scope: `Mixer`, `Block` or `Stack`.
      size: one of `SIZES`.
    """
    spec, recipe, ladder, times, _ = SIZES[size]
    scale: dict[str, Callable[[SearchSpace, int], SearchSpace]] = {}
    scale |= {"width": wider, "data": more_data, "steps": more_steps}
    scale |= {"depth": deeper} if scope != "Stack" else {}  # a stack says itself how many layers it has
    options = {
        "data": with_data, "limit": with_limit, "vocab": with_vocab, "size": with_size, "remat": sequence.with_remat,
    }  # fmt: skip
    name = "byte_lm" if scope == "Mixer" else f"byte_lm:{scope.lower()}"
    return SearchSpace(
        name=name,
        version=1,
        scope=scope,
        spec=spec,
        task=_task(reference=name, length=spec.length, times=times),
        contract=_contract(spec, recipe.microbatch),
        recipe=recipe,
        ladder=ladder,
        grammar=grammar(scope, depth=spec.depth),
        baselines=sequence.baselines(scope),
        guidance=guidance(scope, spec),
        skeleton=functools.partial(sequence.language_model, scope=scope),
        baseline_seeds=2,
        credible_gain=GAIN,
        scale={axis: functools.partial(_larger, axis=axis, make=make) for axis, make in scale.items()},
        options={option: functools.partial(_chosen, option=option, make=make) for option, make in options.items()},
    )


SPACE = space()

VARIANTS = {"mixer": SPACE, "block": space(scope="Block"), "stack": space(scope="Stack")}
