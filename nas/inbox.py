"""The door for people and other programs: messages to a running search, as files in its folder.

In goes a message from any process (`put`); out come the messages that have arrived, in their order (`take`). The search
stores each in its record at the slot where it first counts, so a resumed or repeated run hears it at the same place.
Nobody else writes to the run's database. What a message does is the strategy's business.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from nas.records import to_plain
from nas.store import write_file

Kind = Literal["note", "pin", "unpin", "veto", "unveto", "kind", "proposal", "model", "lookahead", "sandbox"]
"""What a message asks for: a sentence for the next prompts, a candidate to be promoted as soon as there is room or no
more, one that is no parent and not promoted or again, a kind of change, a candidate, that the model is asked or not;
and, from the search itself only, that decisions wait for fewer tasks, and which locks candidates lack from here on."""

PARENTS = 8
"""Most parents that a proposal names."""
SIZE_LIMIT = 1 << 20
"""Largest message [bytes]; a larger file is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to a search.

    Attributes:
      id: unique; whoever sent it finds what came of it by this.
      kind: what is asked for.
      author: who sent it.
      time: when, UTC, ISO 8601.
      content: of a note and of a kind `text`, of a pin and a veto `candidate`, of a proposal `source`, `parents` and
        `text`, of a model the `text` "on" or "off" and, from who resumes a run, new limits `max_usd` and `max_calls`,
        of a lookahead its `count`, of a sandbox its `mode` and what is `missing`.
    """

    id: str
    kind: Kind
    author: str
    time: str
    content: Mapping[str, Any] = field(default_factory=dict)


def message(kind: Kind, author: str, **content: Any) -> Message:
    """Make a message that is sent now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Message(id=secrets.token_hex(4), kind=kind, author=author, time=now, content=content)


def put(run: Path, message: Message) -> None:
    """Leave a message for the search in this folder, whether it runs or is resumed later.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = run / "inbox"
    folder.mkdir(exist_ok=True)
    content = json.dumps(to_plain(message)).encode()
    if len(content) > SIZE_LIMIT:
        raise ValueError(f"the message has {len(content):,} bytes; at most {SIZE_LIMIT:,} are read")
    write_file(folder / f"{time.time_ns():020d}-{message.id}.json", content)


def take(run: Path, store: Callable[[Message], None], said: Callable[[str], None]) -> list[Message]:
    """Hand the messages that have arrived to `store`, in order, and remove their files after that.

    A file that is no message is removed and said.

    Args:
      run: the run's folder.
      store: keeps a message for good; may be given the same one again after a crash.
      said: is told of what could not be read.
    """
    folder, taken = run / "inbox", []
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name.endswith(".json"))
    except OSError:
        return []
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = _read(path)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            said(f"the message in {path.name} cannot be read ({type(error).__name__}) and is dropped")
        else:
            store(found)
            taken.append(found)
        with contextlib.suppress(OSError):
            path.unlink()
    return taken


def _read(path: Path) -> Message:
    if path.stat().st_size > SIZE_LIMIT:
        raise ValueError("too large")
    plain = json.loads(path.read_bytes())
    json.dumps(plain, ensure_ascii=False).encode()  # half of a surrogate pair is in no database and in no file
    found = Message(**plain)
    texts = [getattr(found, name.name) for name in dataclasses.fields(found) if name.name != "content"]
    if not all(isinstance(text, str) for text in texts) or found.kind not in get_args(Kind):
        raise ValueError("no message")
    switched = found.kind != "model" or found.content in ({"text": "on"}, {"text": "off"})
    if found.kind in ("lookahead", "sandbox") or not switched:
        raise ValueError("not to be had by a message")
    expected: dict[str, type] = {"note": str, "kind": str, "proposal": str, "model": str}
    key = {"proposal": "source", "note": "text", "kind": "text", "model": "text"}.get(found.kind, "candidate")
    if not isinstance(found.content, dict) or type(found.content.get(key)) is not expected.get(found.kind, int):
        raise ValueError("no message")
    parents = found.content.get("parents", [])
    if not (isinstance(parents, list) and len(parents) <= PARENTS and all(type(parent) is int for parent in parents)):
        raise ValueError("no message")
    return found
