"""A model writes a candidate: ideas, one of them as a module, and repairs until it is admitted or given up.

In goes what may be shown to the model; out comes the candidate with its program, or the failure that it ended with,
and every draft and call on the way. Rejected drafts go back with the exact error, at most `repairs` times: they cost
nothing from the budget, and the same module is never tried twice. A refusal is an outcome: it is recorded and not
rephrased. What to show, and whether to ask at all, is decided elsewhere.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.admit.gate import check
from nas.admit.sketch import NEAR, similarity
from nas.flows import Asking, Outcome, Place, admission
from nas.history import failure_of_duplicate
from nas.llm import Reply, Request, Role
from nas.llm.desk import Answer
from nas.propose.prompt import (
    KINDS,
    Paused,
    Switches,
    View,
    direct_request,
    forecast_request,
    ideas_request,
    module_request,
    pick,
    repair_request,
)
from nas.propose.reply import BadReply, Proposal, parse_forecasts, parse_ideas, parse_proposal
from nas.records import Candidate, Failure, defaults, to_plain
from nas.space import SearchSpace

CUT_LENGTH = 500
"""Characters of a reply that was cut off that the model is shown again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """How a model is asked to write.

    Attributes:
      models: the model's id for each role.
      effort: of the models that take one; None is their own.
      repairs: how often a rejected draft goes back.
      switches: parts of the prompt.
    """

    models: Mapping[Role, str]
    effort: str | None = None
    repairs: int = 2
    switches: Switches = field(default_factory=Switches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Programs that a new one must differ from: candidate by fingerprint, and sketch by candidate."""

    fingerprints: Mapping[str, int] = field(default_factory=dict)
    sketches: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def too_near(self, facts: Mapping[str, Any]) -> Failure | None:
        """The rejection of a program that equals one of these, or differs in sizes alone."""
        if facts["fingerprint"] in self.fingerprints:
            return failure_of_duplicate(self.fingerprints[facts["fingerprint"]])
        found = [(similarity(facts["sketch"], other), candidate) for candidate, other in self.sketches.items()]
        nearest, candidate = max(found, key=lambda pair: (pair[0], -pair[1]), default=(0.0, 0))
        if nearest < NEAR:
            return None
        message = (
            f"{nearest:.0%} of its operations are those of candidate {candidate}: only sizes, constants or a detail "
            "differ, and numbers are tuned anyway; change what is computed"
        )
        return Failure(stage="duplicate", rule="near", message=message)


@dataclass(slots=True)
class _Record:
    """What happened so far."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    spent: list[dict[str, Any]] = field(default_factory=list)
    drafts: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, Failure] = field(default_factory=dict)


def write(
    place: Place, slot: int, draft: Candidate, view: View, author: Author, others: Others, rng: np.random.Generator,
    weights: Mapping[int, float],
) -> Asking[Outcome]:  # fmt: skip
    """Have a candidate written and admitted.

    Args:
      place: the run.
      slot: the task's place; it begins the ids of all requests and jobs.
      draft: the candidate without its source.
      view: what may be shown.
      author: how the model is asked.
      others: what the candidate must differ from, as far as it was known at the decision.
      rng: of this task alone.
      weights: what the search thinks of each design as a parent.
    """
    record = _Record()
    started = yield from _task(slot, draft, view, author, rng, weights, record)
    if isinstance(started, Failure):
        return _ended(record, started, draft)
    request, draft = started
    candidate = draft
    failure = Failure(stage="model", rule="reply", message="nothing was written")
    for attempt in range(author.repairs + 1):
        reply = yield from _ask(request, record)
        if reply.outcome not in ("ok", "cut"):
            return _ended(record, _not_answered(reply), candidate)
        proposal = _read(reply)
        if isinstance(proposal, Failure):
            failure, source = proposal, ""
            record.drafts.append({"source": "", "failure": to_plain(failure)})
        else:
            candidate = _candidate(draft, proposal, view)
            source = candidate.source
            outcome = yield from _admitted(place, slot, attempt, candidate, others, record)
            if outcome.failure is None:
                return dataclasses.replace(
                    outcome, candidate=_with_gate(candidate, view), claims=_claims(proposal), calls=record.calls,
                    drafts=record.drafts, spent=record.spent,
                )  # fmt: skip
            failure = outcome.failure
            record.drafts.append({"source": source, "failure": to_plain(failure)})
        said = reply.text[:CUT_LENGTH] if reply.outcome == "cut" else reply.text
        request = repair_request(
            request, said, failure, id=f"{slot}.repair{attempt + 1}", model=author.models["repair"], source=source
        )
    record.drafts.pop()  # the last one is the candidate's own
    return _ended(record, failure, _with_gate(candidate, view) if candidate.source else candidate)


def forecast(
    slot: int, paused: Sequence[Paused], space: SearchSpace, author: Author, rng: np.random.Generator
) -> Asking[Outcome]:
    """Have a model say of paused trials how likely each is to do well at its next rung."""
    record = _Record()
    request = forecast_request(
        paused, space, rng, id=f"{slot}.forecast", model=author.models["forecast"], switches=author.switches,
        effort=author.effort,
    )  # fmt: skip
    reply = yield from _ask(request, record)
    told: dict[int, Mapping[str, Any]] = {}
    failure = None if reply.outcome == "ok" else _not_answered(reply)
    if failure is None:
        try:
            found = parse_forecasts(reply.text, [one.id for one in paused])
            told = {trial: to_plain(one) for trial, one in found.items()}
        except BadReply as bad:
            failure = Failure(stage="model", rule="reply", message=str(bad))
    return Outcome(failure=failure, calls=record.calls, spent=record.spent, forecasts=told)


def _task(
    slot: int, draft: Candidate, view: View, author: Author, rng: np.random.Generator, weights: Mapping[int, float],
    record: _Record,
) -> Asking[tuple[Request, Candidate] | Failure]:  # fmt: skip
    """The request for a module, after ideas or at once; and the draft with what the idea says of it."""
    model, switches, effort = author.models["propose"], author.switches, author.effort
    direct = direct_request(view, id=f"{slot}.code", model=model, switches=switches, effort=effort)
    if not switches.ideas:
        return direct, draft
    asked = ideas_request(view, id=f"{slot}.ideas", model=model, switches=switches, effort=effort)
    reply = yield from _ask(asked, record)
    if reply.outcome == "cut":
        return direct, draft
    if reply.outcome != "ok":
        return _not_answered(reply)
    try:
        chosen = pick(parse_ideas(reply.text), rng, weights)
    except BadReply:
        return direct, draft
    start = next((one for one in view.front if one.id == chosen.parent), None)
    if start is not None:
        draft = dataclasses.replace(draft, parents=(start.id,))
        if start == view.parent or start in view.contrasts:
            start = None  # its source is in the conversation
    if chosen.kind in KINDS:
        draft = dataclasses.replace(draft, operator=chosen.kind)
    return module_request(asked, reply.text, chosen, id=f"{slot}.code", start=start), draft


def _ask(request: Request, record: _Record) -> Asking[Reply]:
    (event,) = yield [request]
    answer: Answer = event.result
    reply, usage = answer.reply, answer.reply.usage
    record.calls.append({
        "id": request.id, "role": request.role, "model": reply.model or request.model, "outcome": reply.outcome,
        "category": reply.category, "message": reply.message,
    })  # fmt: skip
    # Apart, since it depends on faults and on what was in the server's cache, and no decision may.
    record.spent.append({
        "role": request.role, "usd": answer.usd, "attempts": reply.attempts, "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cache_read_tokens, "output_tokens": usage.output_tokens,
        "seconds": round(reply.seconds, 3),
    })  # fmt: skip
    return reply


def _not_answered(reply: Reply) -> Failure:
    """A call that brought nothing is not held against a candidate: there is none."""
    return Failure(stage="model", rule=reply.outcome, message=reply.message or f"the call ended with {reply.outcome}")


def _read(reply: Reply) -> Proposal | Failure:
    if reply.outcome == "cut":
        text = "the reply was cut off at its limit of length; write a shorter module and less around it"
        return Failure(stage="model", rule="cut", message=text)
    try:
        return parse_proposal(reply.text)
    except BadReply as bad:
        return Failure(stage="model", rule="reply", message=str(bad))


def _candidate(draft: Candidate, proposal: Proposal, view: View) -> Candidate:
    """The draft with what was written; parents are those that it names and has seen, else the one it was given."""
    shown = {one.id for one in (*view.front, *view.contrasts, *view.baselines, *([view.parent] if view.parent else []))}
    parents = tuple(dict.fromkeys(parent for parent in proposal.parents if parent in shown)) or draft.parents
    source = proposal.source.encode("utf-8", "replace").decode()  # half a surrogate pair is in no file
    return dataclasses.replace(draft, source=source, parents=parents)


def _with_gate(candidate: Candidate, view: View) -> Candidate:
    gated = check(candidate.source, view.space.scope)
    return dataclasses.replace(candidate, idea=gated.idea, tunables=gated.tunables)


def _claims(proposal: Proposal) -> dict[str, str]:
    return {"hypothesis": proposal.hypothesis, "refutes": proposal.refutes}


def _admitted(
    place: Place, slot: int, attempt: int, candidate: Candidate, others: Others, record: _Record
) -> Asking[Outcome]:
    """Gate, trace, check and comparison of one draft."""
    gated = check(candidate.source, place.space.scope)
    text = hashlib.sha256(candidate.source.encode()).hexdigest()
    if text in record.seen:
        before = record.seen[text]
        message = f"this is the module that was sent before, and it is still rejected: {before.message}"
        return Outcome(failure=dataclasses.replace(before, message=message))
    if gated.failures:
        outcome = Outcome(failure=gated.failures[0])
    else:
        outcome = yield from admission(place, slot, candidate.source, defaults(gated.tunables), tag=f"{slot}.{attempt}")
        near = others.too_near(outcome.facts) if outcome.facts is not None else None
        if near is not None:
            outcome = Outcome(failure=near)
    if outcome.failure is not None:
        record.seen[text] = outcome.failure
    return outcome


def _ended(record: _Record, failure: Failure, candidate: Candidate) -> Outcome:
    return Outcome(failure=failure, candidate=candidate, calls=record.calls, drafts=record.drafts, spent=record.spent)
