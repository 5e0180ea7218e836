"""From source text to an admitted program: gate, trace, check, run once. Rejection costs nothing and always says why.

`admit` is a *flow*: a generator that yields jobs for an executor and is sent their events, so that one piece of code
serves a search with many candidates in flight and a person with one file (`python -m nas.admit FILE`).
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nas.execute import Event, Executor, Job, Need
from nas.records import Cost, Failure, Value, hash_blobs

T = TypeVar("T")
Flow = Generator[Sequence[Job], Sequence[Event], T]
"""Yields jobs that may run at the same time, receives their events in the same order, returns what came of them."""

TRACE_TIMEOUT_S = 60.0
TRACE_MEMORY_BYTES = 4 << 30
LEAK_TIMEOUT_S = 600.0
"""A program for an accelerator is run here on one core, a few times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A program that passed.

    Attributes:
      blobs: its artifacts by name.
      facts: the rest as plain data: `digest`, `fingerprint`, `param_leaves`, `cost`, `traits`.
    """

    blobs: Mapping[str, bytes]
    facts: Mapping[str, Any]


def admit(
    space: str,
    source: str,
    values: Mapping[str, Value],
    *,
    platform: str = "cpu",
    tag: str = "admit",
    priority: int = 0,
) -> Flow[Admitted | Failure]:
    """Trace a candidate that passed the gate, check the program that comes back, and try what it depends on.

    Args:
      space: reference of the space.
      source: the candidate's text.
      values: one value for each of its tunables.
      platform: what to lower for.
      tag: prefix of the jobs' ids.
      priority: of the jobs.
    """
    payload = {"space": space, "source": source, "values": dict(values), "platform": platform}
    (traced,) = yield [_sealed(f"{tag}.trace", "nas.admit.trace:trace_job", payload, priority)]
    if traced.kind != "done":
        return _ended("trace", traced)
    told = traced.result if isinstance(traced.result, dict) else {}
    if not isinstance(told.get("blobs"), dict) or "param_leaves" not in told:
        return _refusal(told.get("failure"), "trace")
    blobs, leaves = told["blobs"], told["param_leaves"]
    payload = {"space": space, "blobs": blobs, "param_leaves": leaves, "platform": platform}
    (checked,) = yield [_sealed(f"{tag}.check", "nas.admit.program:check_job", payload, priority)]
    if checked.kind != "done":
        return _ended("program", checked)
    told = checked.result if isinstance(checked.result, dict) else {}
    facts = told.get("program")
    if not isinstance(facts, dict) or not _are_facts(facts):
        return _refusal(told.get("failure"), "program")
    if facts.get("digest") != hash_blobs(blobs):
        message = "the check answered about other bytes than it was given; write the candidate in plainer operations"
        return Failure(stage="program", rule="digest", message=message)
    payload |= {"flops": facts["cost"]["flops"]}
    (tried,) = yield [_sealed(f"{tag}.leaks", "nas.admit.leaks:leak_job", payload, priority, LEAK_TIMEOUT_S)]
    if tried.kind != "done":
        return _ended("leak", tried, LEAK_TIMEOUT_S)
    if tried.result != {"failure": None}:
        return _refusal(tried.result.get("failure") if isinstance(tried.result, dict) else None, "leak")
    return Admitted(blobs=blobs, facts=facts)


def _sealed(
    name: str, entry: str, payload: Mapping[str, Any], priority: int, timeout_s: float = TRACE_TIMEOUT_S
) -> Job:
    need = Need(memory_bytes=TRACE_MEMORY_BYTES)
    return Job(id=name, entry=entry, payload=payload, need=need, timeout_s=timeout_s, priority=priority, sealed=True)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32,64}", value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[a-z_]{1,40}", value) is not None


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) <= 1_000 and all(map(fits, value))


_FACTS: Mapping[str, Callable[[Any], bool]] = {
    "param_leaves": _is_count,
    "digest": _is_hash,
    "fingerprint": _is_hash,
    "cost": lambda cost: (
        isinstance(cost, dict)
        and {*cost} == {field.name for field in fields(Cost)}
        and all(_is_count(value) for value in cost.values())
    ),
    "traits": lambda traits: _is_list(traits, _is_name),
    "profile": lambda profile: (
        isinstance(profile, dict)
        and _is_list([*profile], _is_name)
        and all(isinstance(share, float | int) and 0 <= share <= 1 for share in profile.values())
    ),
    "sketch": lambda sketch: _is_list(sketch, _is_count),
}
"""What the facts of a program look like: who takes over the process that reads it shall not upset the search."""


def _are_facts(told: Any) -> bool:
    return isinstance(told, dict) and {*told} == {*_FACTS} and all(fits(told[name]) for name, fits in _FACTS.items())


def _refusal(told: Any, stage: Any) -> Failure:
    """Why a sealed job refuses a candidate: what it says is text from the other side, and blame is not its to say."""
    plain = told if isinstance(told, dict) else {}
    rule, message, line = plain.get("rule"), plain.get("message"), plain.get("line")
    if not isinstance(rule, str) or not isinstance(message, str):
        return Failure(stage=stage, rule="malformed", message="neither a program nor a reason came back; write it anew")
    rule, message = ("".join(ch for ch in text if ch.isprintable()) for text in (rule, message))
    return Failure(stage=stage, rule=rule[:40], message=message[:400], line=line if type(line) is int else None)


def _ended(stage: Any, event: Event, timeout_s: float = TRACE_TIMEOUT_S) -> Failure:
    """A job that brought no answer: what it was given made it hang, grow, crash or raise.

    Nothing that a candidate computes ends in SIGKILL: that is the kernel, out of memory, or a stranger, each time.
    """
    if event.kind == "lost" and event.error.startswith(("killed by SIGKILL", "its server died")):
        message = f"what read the candidate was ended from outside, again and again ({event.error})"
        return Failure(stage=stage, rule=event.kind, message=message, blame="machine")
    messages = {
        "timeout": f"took longer than {timeout_s:.0f} s; make the model smaller, or loop with lax.scan",
        "memory": f"took more than {TRACE_MEMORY_BYTES >> 30} GiB of memory; make the model smaller",
        "lost": f"ended the process that read it ({event.error}); write it in plainer operations",
        "error": f"could not be read: {event.error[:300]}",
        "cancelled": "was cancelled",
    }
    return Failure(stage=stage, rule=event.kind, message=f"the candidate {messages[event.kind]}")


def drive(executor: Executor, flow: Flow[T]) -> T:
    """Run one flow to its end, with nothing beside it."""
    return drive_all(executor, [flow])[0]


def drive_all(executor: Executor, flows: Sequence[Flow[T]], stopping: Callable[[], bool] = lambda: False) -> list[T]:
    """Run several flows to their ends, side by side; ids of jobs are unique over all of them.

    Args:
      executor: runs the jobs.
      flows: what is to be run.
      stopping: whether to stop; then the jobs are cancelled.
    Returns:
      What came of each flow.
    Raises:
      Stopped: it was asked to.
    """
    results: dict[int, T] = {}
    waiting: dict[int, Sequence[Job]] = {}
    owner: dict[str, int] = {}
    ended: dict[str, Event] = {}

    def advance(index: int, events: Sequence[Event] | None) -> None:
        try:
            jobs = next(flows[index]) if events is None else flows[index].send(events)
        except StopIteration as stop:
            results[index] = stop.value
            return
        waiting[index] = jobs
        for job in jobs:
            owner[job.id] = index
            executor.submit(job)

    for index in range(len(flows)):
        advance(index, None)
    while len(results) < len(flows):
        if stopping():
            for name in owner.keys() - ended.keys():
                executor.cancel(name)
            raise Stopped
        for event in executor.poll(0.5):
            if event.job_id not in owner:
                continue
            ended[event.job_id] = event
            jobs = waiting[owner[event.job_id]]
            if all(job.id in ended for job in jobs):
                advance(owner[event.job_id], [ended[job.id] for job in jobs])
    return [results[index] for index in range(len(flows))]


class Stopped(Exception):
    """Flows were left before their end, as was asked."""
