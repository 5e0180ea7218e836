"""What a model is asked: records of the search go in, requests come out, the same ones for the same records.

The system prompt is a frozen block (task, limits, API page, what is slow, the other arms' primitives, the baselines'
source, the form of a reply), equal byte for byte in every request of a run that proposes, so that it is read from the
server's cache, and a block that changes slowly (results of the baselines, the front). What changes with each call, the
parent, contrasts, what was tried, notes, the kind of change, is the user's turn. Proposing takes two turns: ideas with
probabilities, of which `pick` takes one, and then the module.

The texts are the files in `prompts/`; `shown` writes designs out. Nothing of the test split, no time, path or name of a
run is in a prompt. Which parents, which front, and whose results may be known at a decision is the caller's to say.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nas.llm import Request
from nas.propose.reply import Idea, plain
from nas.propose.shown import (
    ALL,
    FOLDER,
    LINE_LENGTH,
    SOURCE_LENGTH,
    Paused,
    Shown,
    Switches,
    Tried,
    bullets,
    clean,
    described,
    example,
    fenced,
    filled,
    paused_trial,
    quoted,
    text_of,
    tried,
)
from nas.records import Failure
from nas.space import Primitive, SearchSpace

__all__ = ["ALL", "Paused", "Shown", "Switches", "Tried"]  # of `shown`, for whoever builds views

IDEAS = 5
"""How many ideas are asked for."""
EXAMPLES = 3
"""Sources beside the baselines', the parent's included; with more, models were found to do worse."""
FRONT = 8
"""Most designs of the front that are shown."""
TRIED = 10
"""Most lines of what was tried."""
NOTES = 5
"""Most notes, the newest."""
NOTE_LENGTH = 500
"""Most characters of a note."""
CARDS = 2
"""Cards of the literature in a prompt."""
PAUSED = 40
"""Most trials in a request for forecasts."""
PROBLEM_LENGTH = 1_500
"""Most characters of the reason why a module is sent back."""
REPLY_LENGTH = 40_000
"""Most characters of an earlier reply that a conversation repeats."""

KINDS: Mapping[str, str] = {
    "mixer": "A new mixer: another way in which positions hear of each other than any design shown here has.",
    "normalisation": "Another normalisation: what is scaled, centred or gated, along which axis, where, and by what.",
    "connectivity": "Other connectivity: skips, branches, shared weights, several scales, where resolution is lost.",
    "recombination": "A recombination: join two of the designs shown so that each does what it is good at.",
    "simplification": "A simplification: take away what does not earn its cost, and spend the FLOPs where they count.",
    "free": "Free: whatever you think most likely to be better.",
}
"""What a proposal may be asked to change, by name."""

STRUCTURAL = ("mixer", "connectivity", "normalisation")
"""Kinds that lead away from what is there; one of them is asked for when the search has stalled."""

DIRECTIONS = (
    "",
    "Begin from local filters: few weights, used at many places, and how what they find is collected.",
    "Begin from a state that is carried along the positions: what it keeps, forgets, corrects.",
    "Begin from comparing positions with each other: which pairs matter, and how that can be found out cheaply.",
    "Begin from fixed transforms (differences, sums, Fourier, averages at several scales) with few weights after them.",
    "Begin from products: gates, multiplied branches, features that scale other features.",
)
"""Where parallel streams begin, so that they do not meet in the same ideas; the first is free."""

_FORECAST = {"id": {"type": "integer"}, "why": {"type": "string"}, "probability": {"type": "number"}}
_ENTRY = {"type": "object", "properties": _FORECAST, "required": [*_FORECAST], "additionalProperties": False}
FORECASTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"forecasts": {"type": "array", "items": _ENTRY}},
    "required": ["forecasts"],
    "additionalProperties": False,
}
"""Schema of a reply with forecasts: one for all calls, since a server compiles each new one; ids are checked after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What may be shown to a model that proposes.

    Attributes:
      space: the space; its data and its functions are not touched.
      sigma: standard deviation of a baseline's score between seeds, or None while it is not known.
      baselines: the baselines with their results so far.
      front: designs that no other is both better and cheaper than, best first.
      parent: the design to start from.
      contrasts: designs that differ from the parent in cost or kind; two are shown.
      tried: the lines most worth knowing, chosen by the caller; the first `TRIED` are shown.
      kind: name of the kind of change, one of `KINDS`.
      notes: from people, the newest last.
      stream: which of the parallel streams asks, from 0.
      number: how many proposals the stream has asked for before; the cards rotate by it.
      stalled: whether the search has stalled.
    """

    space: SearchSpace
    sigma: float | None = None
    baselines: Sequence[Shown] = ()
    front: Sequence[Shown] = ()
    parent: Shown | None = None
    contrasts: Sequence[Shown] = ()
    tried: Sequence[Tried] = ()
    kind: str = "free"
    notes: Sequence[str] = ()
    stream: int = 0
    number: int = 0
    stalled: bool = False


# ---- requests


def ideas_request(
    view: View,
    *,
    id: str,
    model: str,
    switches: Switches = ALL,
    max_tokens: int = 16_000,
    effort: str | None = None,
) -> Request:
    """Ask for ideas; the reply is read by `parse_ideas`."""
    return _proposing(view, filled("ideas", count=IDEAS), switches, id, model, max_tokens, effort)


def direct_request(
    view: View,
    *,
    id: str,
    model: str,
    switches: Switches = ALL,
    max_tokens: int = 32_000,
    effort: str | None = None,
) -> Request:
    """Ask for a module without ideas before it; the reply is read by `parse_proposal`."""
    return _proposing(view, text_of("direct"), switches, id, model, max_tokens, effort)


def module_request(
    asked: Request, reply: str, chosen: Idea, *, id: str, start: Shown | None = None, max_tokens: int = 32_000
) -> Request:
    """Ask for the module of one of the ideas, in the same conversation; the reply is read by `parse_proposal`.

    Args:
      asked: what the ideas were asked with, so that both turns show the same, whatever was learnt since.
      reply: the text that came.
      chosen: which idea.
      id: the new request's.
      start: the design that the idea wants to start from, if its source has not been shown.
      max_tokens: of the reply.
    """
    wished = f"It starts from design #{start.id}:\n\n{fenced(start.source, SOURCE_LENGTH)}" if start else ""
    turn = filled("module", idea=plain(chosen.text, LINE_LENGTH), start=wished)
    return replace(asked, id=id, messages=_continued(asked, reply, turn), max_tokens=max_tokens)


def repair_request(
    asked: Request, reply: str, problem: Failure | str, *, id: str, model: str, source: str = ""
) -> Request:
    """Send a reply back with what is wrong with it, in the same conversation.

    Args:
      asked: what the reply answers: a request for a module or ideas, or an earlier repair.
      reply: the text that came, whole.
      problem: why the module was rejected, or why the reply could not be read (stage `model`, or the text alone).
      id: the new request's.
      model: which model repairs.
      source: the module, if it could be read; the line that a failure names is quoted from it.
    """
    if isinstance(problem, str) or problem.stage == "model":
        said = problem if isinstance(problem, str) else problem.message
        turn = filled("unreadable", problem=plain(said, PROBLEM_LENGTH))
    elif problem.stage == "duplicate":
        turn = filled("duplicate", problem=plain(str(problem), PROBLEM_LENGTH))
    else:
        place = quoted(source, problem.line)
        turn = filled("repair", problem=plain(str(problem), PROBLEM_LENGTH), place=place)
    return replace(asked, id=id, role="repair", model=model, messages=_continued(asked, reply, turn))


def forecast_request(
    paused: Sequence[Paused],
    space: SearchSpace,
    rng: np.random.Generator,
    *,
    id: str,
    model: str,
    switches: Switches = ALL,
    max_tokens: int = 16_000,
    effort: str | None = None,
) -> Request:
    """Ask how likely each paused trial is to do well at its next rung; the reply is read by `parse_forecasts`.

    Args:
      paused: at least one trial, at most `PAUSED`, none at the last rung; the prompt shows them in random order.
      space: the space.
      rng: of this request alone.
      id: the request's.
      model: which model forecasts.
      switches: `differences`, `curves` and `profile` matter here.
      max_tokens: of the reply.
      effort: of the model.
    Raises:
      ValueError: there are no trials or too many, or one has not reached a rung below the last.
    """
    if not 1 <= len(paused) <= PAUSED:
        raise ValueError(
            f"forecast_request() got {len(paused)} trials; give 1 to {PAUSED}, the rest in another request"
        )
    for one in paused:
        if one.shown.rung is None or one.shown.rung >= space.ladder.top:
            at = "at no rung" if one.shown.rung is None else f"at the last rung, {one.shown.rung}"
            raise ValueError(f"trial {one.id} is {at}; give trials that wait below rung {space.ladder.top}")
    order = [paused[int(index)] for index in rng.permutation(len(paused))]
    trials = "\n\n".join(paused_trial(one, space, switches) for one in order)
    ids = ", ".join(str(one.id) for one in order)
    return Request(
        id=id, role="forecast", model=model, system=(filled("forecast", **_about(space)),), schema=FORECASTS,
        messages=(("user", filled("paused", trials=trials, ids=ids)),), max_tokens=max_tokens, effort=effort,
    )  # fmt: skip


def _proposing(
    view: View, ask: str, switches: Switches, id: str, model: str, max_tokens: int, effort: str | None
) -> Request:
    blocks = [frozen(view.space, switches)]
    if not switches.no_history and (view.baselines or view.front):
        blocks.append(_state(view, switches))
    return Request(
        id=id, role="propose", model=model, system=tuple(blocks), max_tokens=max_tokens, effort=effort,
        messages=(("user", f"{_evidence(view, switches)}\n\n{ask}"),),
    )  # fmt: skip


def _continued(asked: Request, reply: str, turn: str) -> tuple[tuple[Literal["user", "assistant"], str], ...]:
    """The conversation with the reply and one more turn; a server takes no empty one."""
    said = clean(reply, REPLY_LENGTH).strip() or "(no text)"
    return (*asked.messages, ("assistant", said), ("user", turn))


# ---- choices


def kind_for(number: int, *, stream: int = 0, stalled: bool = False, asked: str | None = None) -> str:
    """Choose the kind of change for a proposal.

    The kinds rotate, and parallel streams are at different ones; a stalled search gets structural ones only.

    Args:
      number: how many proposals the stream has asked for before.
      stream: which of the parallel streams, from 0.
      stalled: whether the search has stalled.
      asked: what a person asked for; it has precedence.
    Raises:
      ValueError: there is no such kind.
    """
    if asked is not None:
        return _known(asked)
    names = STRUCTURAL if stalled else tuple(KINDS)
    return names[(number + stream) % len(names)]


def pick(ideas: Sequence[Idea], rng: np.random.Generator, parents: Mapping[int, float] | None = None) -> Idea:
    """Draw an idea with a probability proportional to 1 / sqrt(p), so that rarer ones are drawn more often.

    What a model calls likely is what it would answer every time, in the next call and in the other streams too; the
    diversity for which several ideas are asked lies in the rest. The root keeps the likeliest in play: an idea of
    probability .05 is drawn three times as often as one of .45.

    An idea that names the design it wants to start from is weighted further by what the search thinks of that design
    as a parent, over the mean of all; one that names none, or one unknown, is not. So the model's wish and the search's
    scores are pooled as odds are.

    Args:
      ideas: at least one.
      rng: of this draw alone.
      parents: the search's weight of each design that may be a parent.

    Source: sampling from the tail of a verbalised distribution, Zhang et al., arXiv 2510.01171; our change: weights
    instead of a threshold.
    """
    if not ideas:
        raise ValueError("pick() got no ideas; give at least one")
    known = parents or {}
    mean = sum(known.values()) / len(known) if known else 1.0
    wishes = [known.get(idea.parent, mean) / mean if idea.parent is not None and mean else 1.0 for idea in ideas]
    weights = np.array([max(idea.probability, 1e-3) ** -0.5 * wish for idea, wish in zip(ideas, wishes, strict=True)])
    if not weights.any():
        weights = np.ones(len(ideas))
    return ideas[int(rng.choice(len(ideas), p=weights / weights.sum()))]


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind '{plain(kind, 40)}' is not known; give one of {', '.join(KINDS)}")
    return kind


# ---- the system prompt


def frozen(space: SearchSpace, switches: Switches = ALL) -> str:
    """The first block of the system prompt of every request that proposes: a function of the space and the switches."""
    form: dict[str, object] = {"parents": [], "kind": "mixer"}
    fields = "`parents` lists the numbers (#) of the designs that it goes back to; `kind` is the kind of change."
    if switches.hypothesis:
        form = {"hypothesis": "why it should be better", "refutes": "what result would show that it is not"} | form
        fields = f"The hypothesis is one sentence, and so is a result of training that would refute it. {fields}"
    baselines = (
        f"## {plain(name, LINE_LENGTH)}\n{fenced(text, SOURCE_LENGTH)}" for name, text in space.baselines.items()
    )
    return filled(
        "task",
        **_about(space),
        api=text_of("candidate"),
        slow=text_of("slow"),
        primitives=_primitives(space),
        baselines="\n\n".join(baselines),
        rules=filled("rules", form=json.dumps(form), fields=fields),
    )


def _about(space: SearchSpace) -> dict[str, str]:
    """Task, limits and training of a space, for whoever proposes or forecasts."""
    return {
        "guidance": space.guidance.strip(),
        "limits": bullets(_limits(space)),
        "training": bullets(_training(space)),
    }


def _limits(space: SearchSpace) -> list[str]:
    spec, contract = space.spec, space.contract
    lines = [
        f"The class is `{space.scope}`. An example is {contract.input_dtype} of shape {contract.input_shape}; its "
        f"output is float32 of shape {contract.output_shape}.",
        f"`spec`: length {spec.length}, channels {spec.channels}, vocab {spec.vocab}, classes {spec.classes}, width "
        f"{spec.width}, depth {spec.depth}, heads {spec.heads}.",
        f"Parameters: {_at_most(contract.max_params)}. FLOPs of one inference on one example: "
        f"{_at_most(contract.max_flops)}. What the skeleton adds counts too.",
        f"Memory of a training step: {_at_most(contract.max_memory_bytes)} bytes.",
    ]
    return [*lines, "Causal: output t may depend on inputs up to t only."] if contract.causal else lines


def _at_most(limit: int | None) -> str:
    return "no limit" if limit is None else f"at most {limit:,}"


def _training(space: SearchSpace) -> list[str]:
    recipe, ladder, task = space.recipe, space.ladder, space.task
    steps = ", ".join(f"{count:,}" for count in ladder.steps)
    return [
        f"Scored by {task.metric} on validation examples; {'higher' if task.maximize else 'lower'} is better.",
        f"Schedule-free AdamW for every design alike, batches of {recipe.batch}, {recipe.warmup} steps of warmup. The "
        f"learning rate, from {recipe.lr.low:g} to {recipe.lr.high:g}, and the weight decay, from {recipe.wd.low:g} to "
        f"{recipe.wd.high:g}, are drawn for each trial.",
        f"Rungs, in steps: {steps}. A trial is scored and paused at each, and one in {ladder.eta} is trained on. So a "
        "design must learn fast enough to get on, and its last score is what counts.",
    ]


def _primitives(space: SearchSpace) -> str:
    places = {"First": space.grammar.stem, "Between": space.grammar.body, "Last": space.grammar.head}
    return "\n\n".join(f"{place}:\n{bullets(map(_primitive, found))}" for place, found in places.items() if found)


def _primitive(primitive: Primitive) -> str:
    return f"{primitive.name}: `{'; '.join(primitive.call.splitlines())}`"


def _state(view: View, switches: Switches) -> str:
    metric, front = view.space.task.metric, list(view.front)
    if not switches.front:
        front = sorted(front, key=lambda shown: _merit(shown, view.space.task.maximize), reverse=True)[:1]
    sigma = "not known yet" if view.sigma is None else f"{view.sigma:.2g}"
    return filled(
        "state",
        metric=metric,
        sigma=sigma,
        baselines=bullets(described(shown, view.space, switches) for shown in view.baselines),
        front=bullets(described(shown, view.space, switches) for shown in front[:FRONT]),
    )


def _merit(shown: Shown, maximize: bool) -> float:
    if shown.score is None or not math.isfinite(shown.score):
        return -math.inf
    return shown.score if maximize else -shown.score


# ---- the user's turn


def _evidence(view: View, switches: Switches) -> str:
    kind = KINDS[_known(view.kind)] if switches.kinds else KINDS["free"]
    known = View(space=view.space) if switches.no_history else view
    contrasts = known.contrasts[: EXAMPLES - 1] if switches.examples else ()
    return filled(
        "evidence",
        parent=example(known.parent, view.space, switches) if known.parent else "",
        contrasts="\n\n".join(example(shown, view.space, switches) for shown in contrasts),
        tried=bullets(map(tried, known.tried[:TRIED])) if switches.tried else "",
        notes=bullets(plain(note, NOTE_LENGTH) for note in known.notes[-NOTES:]) if switches.notes else "",
        cards="\n\n".join(_cards(view)) if switches.cards else "",
        direction=DIRECTIONS[view.stream % len(DIRECTIONS)] if switches.streams else "",
        kind=kind,
        stalled=text_of("stalled") if known.stalled else "",
    )


def _cards(view: View) -> list[str]:
    """The next cards in turn; parallel streams are at different ones."""
    names = card_names()
    start = CARDS * (view.number + view.stream)
    return [text_of(f"cards/{names[(start + i) % len(names)]}") for i in range(min(CARDS, len(names)))]


@functools.cache
def card_names() -> tuple[str, ...]:
    """Names of the cards of the literature."""
    return tuple(sorted(path.stem for path in (FOLDER / "cards").glob("*.md")))
