"""Language models as a source of text: requests go in, replies come out, money is counted, every call is a file.

    price.py       what tokens cost; one dated table
    ledger.py      reserves the worst case before a call and settles after it, so that a limit is never exceeded
    transcript.py  every call as a file, read again by a resumed run and by a replay
    client.py      alone imports the SDK: one reply for every request, whatever went wrong
    desk.py        these together behind the executor's protocol: calls are submitted and polled like jobs

This module holds the nouns only. A request is plain data and a function of what the search knows, so its meaning can be
hashed; a reply says what happened in one of six words and never raises.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["propose", "repair", "forecast"]
"""What a call is for; each may have its own model."""

Outcome = Literal["ok", "refused", "cut", "again", "stop", "halt"]
"""How a call ended.

`ok`: there is text, and it is whole. `refused`: the model declined. `cut`: it ran into a limit of length, and what is
there must not be used. `again`: nothing usable came within the attempts and the deadline; another time it may.
`stop`: this request is wrong and will be wrong again. `halt`: no call will do (key, permission, money).
"""


class LlmError(ValueError):
    """A model cannot be used as asked: the message has one line, says what is missing, and how to set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model.

    Attributes:
      id: unique within a run and the same in a repeated run, for instance `17.code`.
      role: what it is for.
      model: the model's id, as its server knows it.
      system: blocks of the system prompt, from what changes least to what changes most; each ends a prefix that may be
        read from the server's cache, so the first blocks are equal byte for byte in all requests of a run.
      messages: turns as (`user` or `assistant`, text), beginning and ending with `user`.
      max_tokens: most tokens of the reply, thinking included.
      effort: `low` to `max`, or None for the model's own.
      schema: JSON schema that the reply's text must satisfy, or None for free text.
    """

    id: str
    role: Role
    model: str
    system: Sequence[str]
    messages: Sequence[tuple[Literal["user", "assistant"], str]]
    max_tokens: int
    effort: str | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a call, as the server billed them.

    Attributes:
      input_tokens: neither written to nor read from the cache.
      cache_write_tokens: written to the cache for five minutes.
      cache_write_1h_tokens: written to the cache for an hour.
      cache_read_tokens: read from the cache.
      output_tokens: of the reply, thinking included.
      estimated: whether the server did not say, and these are bounds.
    """

    input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    @property
    def prompt_tokens(self) -> int:
        """All tokens that went in."""
        return self.input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens + self.cache_read_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a request.

    Attributes:
      outcome: see `Outcome`.
      text: the text blocks joined; empty unless the outcome is `ok` or `cut`.
      usage: of all attempts together.
      model: which model answered; the one that was asked if none did.
      stop_reason: as the server gave it, or None.
      category: of a refusal, or None.
      message: one sentence for a person, if the outcome is not `ok`.
      request_id: the server's, of the last attempt that has one.
      attempts: how many times it was sent.
      seconds: from the first attempt to the end; no decision may depend on it.
    """

    outcome: Outcome
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    stop_reason: str | None = None
    category: str | None = None
    message: str = ""
    request_id: str | None = None
    attempts: int = 0
    seconds: float = 0.0


def meaning(request: Request) -> str:
    """Hash of everything that a reply may depend on, and of nothing else: 24 hexadecimal digits.

    The request's id is not in it, so that a replay finds the answer to the same question wherever it is asked.
    """
    core = {
        "role": request.role, "model": request.model, "system": list(request.system),
        "messages": [list(turn) for turn in request.messages], "max_tokens": request.max_tokens,
        "effort": request.effort, "schema": request.schema,
    }  # fmt: skip
    text = json.dumps(core, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
