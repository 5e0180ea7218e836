"""Recall: one mixer, block or stack of a small model that looks up, copies, compresses and memorises.

    python -m nas.search --space recall --budget 100              the mixer of a block; the skeleton has the rest
    python -m nas.search --space recall:block --budget 100        one whole block, which is stacked
    python -m nas.search --space recall:stack --budget 100        the whole middle: a pattern of named primitives
    python -m benchmarks.recall                                   known mixers on each task beside published scores

A candidate learns each of the six tasks of `data` by itself, with parameters of its own, and is scored by the mean.
Sizes, limits and what they were measured on: `README.md` beside this file.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from nas.records import Real
from nas.search_spaces import sequence
from nas.search_spaces.recall import data
from nas.search_spaces.sequence.grammar import grammar
from nas.space import Contract, Ladder, Recipe, Scope, SearchSpace, Spec, Task

MARGIN = 1.2
"""Parameters and FLOPs that a candidate may have, as a multiple of attention's of the same spec."""


def loss(outputs: Any, targets: Any) -> Any:
    """Cross entropy [nats] of an example's answers in the mean: outputs (B, P, V) are logits, targets (B, P) or -1."""
    import jax
    import jax.numpy as jnp

    asked = targets >= 0
    chosen = jnp.take_along_axis(outputs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return _mean(jax.nn.logsumexp(outputs, axis=-1) - chosen, asked)


def score(outputs: Any, targets: Any) -> Any:
    """Share of an example's answers that are right."""
    return _mean(outputs.argmax(axis=-1) == targets, targets >= 0)


def _mean(values: Any, asked: Any) -> Any:
    """Mean of values (B, P) over the places of an example at which something is asked; 0 where nothing is."""
    import jax.numpy as jnp

    return jnp.where(asked, values, 0.0).sum(axis=-1) / jnp.maximum(asked.sum(axis=-1), 1)


# ---- limits: those of attention with room to spare, so that nothing wins by being bigger ----


def _layers(spec: Spec) -> int:
    """Weights of attention and SwiGLU in all layers."""
    return spec.depth * (4 * spec.width**2 + 24 * spec.width * round(spec.width / 3))


def params(spec: Spec) -> int:
    """Parameters of the attention baseline of a spec: tied embedding, layers, norms, and the decoder."""
    decoder = 4 * spec.width**2 + (3 + 2 * data.DECODED) * spec.width
    return spec.vocab * spec.width + _layers(spec) + (2 * spec.depth + 1) * spec.width + decoder


def flops(spec: Spec) -> int:
    """FLOPs of its inference on one example: two for each weight where it is used, and what all pairs cost."""
    answers = 2 * (spec.length + data.DECODED) * spec.vocab * spec.width + 4 * (1 + data.DECODED) * spec.width**2
    return 2 * spec.length * _layers(spec) + 4 * spec.length**2 * spec.width * spec.depth + answers


def memory_bytes(spec: Spec, batch: int) -> int:
    """Optimiser and residuals of a training step: 60 arrays of a layer's stream, and 8 of all pairs of each head."""
    layer = 60 * spec.length * spec.width + 8 * spec.heads * spec.length**2
    answers = 4 * (spec.length + data.DECODED) * spec.vocab
    return round(16 * MARGIN * params(spec)) + 4 * batch * (spec.depth * layer + answers)


def _contract(spec: Spec, batch: int) -> Contract:
    return Contract(
        input_shape=(spec.length,),
        input_dtype="int32",
        output_shape=(spec.length + data.DECODED, spec.vocab),
        causal=True,
        max_params=round(MARGIN * params(spec)),
        max_flops=round(MARGIN * flops(spec)),
        max_memory_bytes=memory_bytes(spec, batch),
    )


# ---- scale: what `nas.scale` makes larger. Tasks, validation, test and every source stay as they are. ----


def _sized(space: SearchSpace, **spec: int) -> SearchSpace:
    """The space with another spec, and the limits that follow."""
    larger = dataclasses.replace(space.spec, **spec)
    return dataclasses.replace(space, spec=larger, contract=_contract(larger, space.recipe.microbatch))


def wider(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the features, in as many more heads of the same size."""
    return _sized(space, width=factor * space.spec.width, heads=factor * space.spec.heads)


def deeper(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the layers."""
    return _sized(space, depth=factor * space.spec.depth)


def more_data(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the training examples of each task, in as many steps: each is seen that much less often."""
    split: Any = space.task.split
    more = functools.partial(data.together, times=factor * split.keywords["times"])
    return dataclasses.replace(space, task=dataclasses.replace(space.task, split=more))


def more_steps(space: SearchSpace, factor: int) -> SearchSpace:
    """Every rung `factor` times as far."""
    steps = tuple(factor * step for step in space.ladder.steps)
    return dataclasses.replace(space, ladder=dataclasses.replace(space.ladder, steps=steps))


_TASKS = """\
Six tasks on T = {T} tokens of a vocabulary of {V}, each learnt from nothing by a model of its own, with your mixing in
it. Score: the share of right answers, the mean over the six.

- recall: a stream of pairs, key and value, {keys} keys of {half} in each example. Asked at every key that came before:
  its value. It takes matching of a key with all that came before, and a place for {keys} values.
- noisy_recall: the same with fewer keys and a fifth of the pairs noise, which must not be kept.
- fuzzy_recall: keys and values of one to {longest} tokens. What is matched is a run of tokens, so what a position knows
  of the few before it must be part of its key; and each token of a value is asked after the last.
- selective_copying: {copied} tokens among blanks, then a marker, then blanks at which they are asked in their order. It
  takes counting, or a pointer that moves, or a state into which only tokens are written, and exactly.
- compression: {n} tokens at the end, all to be told from the state of the last position alone; each place has an
  alphabet of its own, so what counts is how much is gathered in one state without interference, not the order.
- memorisation: keys of two tokens whose values no input holds: a fixed table of {facts:,}. Parameters must hold it, and
  two neighbours must be read as one. A mixer that leaves the feed-forward half a clean stream does well.

"""

_KNOWN = """\
What is scarce: steps, {first} at the first rung and {last} at the last, of {batch} examples. A look-up in two layers
(one copies a key to its value's place, one matches) is found late and suddenly; a mixer that has the neighbours of a
position at hand from the start (short convolution, token shift) needs one layer for it. Then the learning rate: mixers
with a state learn in a narrow window of it, so leave scales well behaved (norms on keys and queries, gates that start
open for writing and slow to forget). Parameters, FLOPs and memory may be a fifth above attention's; what is saved in
one place may be spent in another. A state of keys times values has few numbers here: (D / heads)^2 for each head.

Everything is causal: output t may depend on inputs up to t only, in training too, and an example on itself alone. No
position is given: a mixer that needs to know where it is brings it (`layers.rotary` on queries and keys, decay, a
convolution).

What is fast on a CPU: matrix products, and the ops of nas.kernels, which are replaced by the device's fastest
implementation: attention(q, k, v, window=None, softcap=None), gated_linear_attention(q, k, v, log_decay),
delta_rule(q, k, v, beta, log_decay), linear_recurrence(a, b), short_convolution(x, weights), rms_norm(x, scale), with
q, k, v of shape (B, T, H, K). A lax.scan over T of your own is slower, and one step of it should do much.
"""


def guidance(scope: Scope, spec: Spec, recipe: Recipe, ladder: Ladder) -> str:
    """What a writer of candidates is told."""
    stream, memorised = data.Recall(), data.Memorisation()
    numbers = {
        "T": spec.length, "V": spec.vocab, "n": data.DECODED, "keys": stream.keys, "half": stream.half,
        "longest": data.FuzzyRecall().longest, "copied": data.SelectiveCopying().tokens,
        "facts": memorised.half**memorised.key_length, "depth": spec.depth, "layers": 2 * spec.depth,
        "first": ladder.steps[0], "last": ladder.steps[-1], "batch": recipe.batch,
    }  # fmt: skip
    return (sequence.ASKED[scope] + _TASKS + _KNOWN).format(**numbers)


def space(*, scope: Scope = "Mixer") -> SearchSpace:
    """Make the space of a scope: `Mixer`, `Block` or `Stack`."""
    spec = Spec(length=data.LENGTH, vocab=data.VOCAB, classes=data.VOCAB, width=32, depth=2, heads=2)
    recipe = Recipe(batch=32, eval_batch=64, warmup=50, lr=Real(2e-3, 5e-2, log=True), wd=Real(1e-4, 1e-1, log=True))
    ladder = Ladder(steps=(125, 500), eta=4)
    scale: dict[str, Callable[[SearchSpace, int], SearchSpace]] = {}
    scale |= {"width": wider, "data": more_data, "steps": more_steps}
    scale |= {"depth": deeper} if scope != "Stack" else {}  # a stack says itself how many layers it has
    return SearchSpace(
        name="recall" if scope == "Mixer" else f"recall:{scope.lower()}",
        version=1,
        scope=scope,
        spec=spec,
        task=Task(
            split=functools.partial(data.together, times=1),
            loss=loss,
            score=score,
            metric="accuracy",
            parts=tuple(data.TASKS),
        ),
        contract=_contract(spec, recipe.microbatch),
        recipe=recipe,
        ladder=ladder,
        grammar=grammar(scope, depth=spec.depth),
        baselines=sequence.baselines(scope),
        guidance=guidance(scope, spec, recipe, ladder),
        skeleton=functools.partial(sequence.language_model, scope=scope, decoded=data.DECODED),
        baseline_seeds=2,
        credible_gain=0.5,
        scale=scale,
        options={"remat": sequence.with_remat},
    )


SPACE = space()

VARIANTS = {"mixer": SPACE, "block": space(scope="Block"), "stack": space(scope="Stack")}
