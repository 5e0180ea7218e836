"""The transcript: every call is a file, read again by a run that is resumed and by one that replays it.

In go requests and replies; out come replies that were paid for already. A folder holds two files a call, both written
once and never changed: `<id>-<meaning>.begun`, before it is sent, with the most that it may cost, and
`<id>-<meaning>.json` when it has ended: request, reply, cost, and when. A call that is made once more, because the
first had no answer to keep, has `.2` before the ending. What is not done here: asking anybody anything.

What a resumed run may take from its transcript decides whether it ends like one that was never interrupted. `ok`,
`refused`, `cut` and `stop` are answers to the question and final: they are taken, whatever they say, and are not paid
for again. `again` and `halt` say something about a moment (a network, a key, a limit) and are asked again, as is what
never ended. What the search has acted upon is in its store, and nobody asks for it any more, so asking again can only
change what had no consequence yet. A call that was given up should be recorded as `again`. A replay takes the last
reply of each call, final or not: that is the one which the search acted upon.

Files hold the fields of requests and replies and nothing else, so no key and no header.
"""

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote

from nas.llm import LlmError, Outcome, Reply, Request, Role, meaning
from nas.llm.ledger import Settled
from nas.llm.price import dollars
from nas.records import to_plain
from nas.store import write_file

FINAL: frozenset[Outcome] = frozenset({"ok", "refused", "cut", "stop"})
"""Outcomes that a resumed run takes as they are."""

_NAME = re.compile(r"(?P<call>(?P<id>.*)-[0-9a-f]{24})(\.(?P<number>[0-9]+))?\.(json|begun)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as its file has it.

    Attributes:
      request: what was asked.
      reply: what came of it.
      usd: what it cost in dollars, as a decimal number in a string; None if there is no price.
      began: when it was first sent, UTC, ISO 8601.
      ended: when its reply was there.
    """

    request: Request
    reply: Reply
    usd: str | None = None
    began: str = ""
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    request: str
    role: Role
    model: str
    worst_usd: str | None
    began: str


class Transcript:
    """The calls of a run. Any thread may use it, but only one process at a time.

    Args:
      folder: where the files are; made when there is one to write.
      clock: seconds since 1970.

    Attributes:
      damaged: one sentence for each file that could not be read so far.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.damaged = folder, list[str]()
        self._clock, self._lock = clock, threading.Lock()
        self._open: dict[str, tuple[Path, _Begun]] = {}

    def find(self, request: Request) -> Call | None:
        """The final reply to a request with the same id and the same meaning, if there is one on file."""
        name = _call_name(request)
        with self._lock:
            for stem in self._stems(f"{name}*"):
                found = self._read(_ending(stem, "json"), _read_named)
                if found is not None and found.reply.outcome in FINAL:
                    return found
        return None

    def begin(self, request: Request, worst: Decimal | None) -> None:
        """Note that a call is about to be sent, so that a run killed before its end knows what it may have cost.

        To be called before the first attempt with the worst case of all, or before each with that of each: the amounts
        of a call add up.

        Args:
          worst: the most that it may cost [$]; None if there is no price.
        Raises:
          LlmError: the file cannot be written; the call must not be sent.
        """
        name = _call_name(request)
        with self._lock:
            path, before = self._open.get(name) or (_ending(self._new_stem(name), "begun"), None)
            if before is not None and worst is not None and before.worst_usd is not None:
                worst += Decimal(before.worst_usd)
            begun = _Begun(
                request=request.id, role=request.role, model=request.model,
                worst_usd=None if worst is None else dollars(worst), began=before.began if before else self._now(),
            )  # fmt: skip
            _write(path, begun)
            self._open[name] = path, begun

    def record(self, request: Request, reply: Reply, usd: Decimal | str | None) -> None:
        """Keep what came of a call, and what it cost [$]; None if there is no price.

        Raises:
          LlmError: the file cannot be written.
        """
        name = _call_name(request)
        amount = dollars(usd) if isinstance(usd, Decimal) else usd
        with self._lock:
            now = self._now()
            if name in self._open:
                path, begun = self._open[name]
                stem, began = path.with_suffix(""), begun.began
            else:
                stem, began = self._new_stem(name), now
            call = Call(request=request, reply=reply, usd=amount, began=began, ended=now)
            _write(_ending(stem, "json"), call)
            self._open.pop(name, None)

    def settled(self) -> list[Settled]:
        """What the calls on file cost, for `Ledger.restore`, in the order of their ids.

        A call that was begun and whose end is not on file, or not readable, counts with its worst case: it may have
        been billed. One that was never sent (no attempts) counts nothing.

        Raises:
          LlmError: no file says what a call may have cost.
        """
        with self._lock:
            entries = [self._settled(stem) for stem in self._stems("*")]
        return [entry for entry in entries if entry is not None]

    def _settled(self, stem: Path) -> Settled | None:
        call = self._read(_ending(stem, "json"), read_call)
        if call is not None:
            if call.reply.attempts == 0:
                return None
            request = call.request
            return Settled(
                request=request.id, role=request.role, model=request.model, usage=call.reply.usage,
                usd=None if call.usd is None else Decimal(call.usd),
            )  # fmt: skip
        begun = self._read(_ending(stem, "begun"), _read_begun)
        if begun is None:
            raise LlmError(
                f"neither '{_ending(stem, 'json')}' nor the file that ends in .begun can be read, so what that call "
                "cost is not known; restore one of them, or remove both to count nothing for it"
            )
        usd = None if begun.worst_usd is None else Decimal(begun.worst_usd)
        return Settled(request=begun.request, role=begun.role, model=begun.model, usage=None, usd=usd)

    def _stems(self, pattern: str) -> list[Path]:
        """Paths of calls without their endings, in the order of the ids, a repeated call after the one before."""
        named = [path for path in self.folder.glob(pattern) if _NAME.fullmatch(path.name)]
        return sorted({path.with_suffix("") for path in named}, key=_order)

    def _new_stem(self, name: str) -> Path:
        taken = [_number(stem) for stem in self._stems(f"{name}*")]
        return self.folder / (f"{name}.{max(taken) + 1}" if taken else name)

    def _read(self, path: Path, read: Callable[[Path], Any]) -> Any:
        if not path.exists():
            return None
        try:
            return read(path)
        except LlmError as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
            return None

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")


class Replay:
    """Answers from the transcript of another run, by what is asked and not by who asks.

    If a question was asked several times, whoever asks under the id of then gets the reply of then. Any other asker
    gets the replies in the order of the ids, each once, so that several askers get several opinions; which of them
    gets which then depends on who asks first. The same request always gets the same reply.

    Args:
      folder: a transcript.
    Raises:
      LlmError: there is no call in it, or a file of it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._calls: dict[str, dict[str, Call]] = {}
        self._given: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        paths = sorted(folder.glob("*.json"), key=lambda path: _order(path.with_suffix("")))
        if not paths:
            raise LlmError(f"'{folder}' holds no call to a model; name the transcript of a run that made some")
        for path in paths:
            call = read_call(path)
            # Of several files of one call the last is kept: the replayed search acted upon no other.
            self._calls.setdefault(meaning(call.request), {})[call.request.id] = call

    def answer(self, request: Request) -> Call:
        """What the replayed run was told; an outcome of `stop` if it never asked this, or not as often."""
        key = meaning(request)
        calls = self._calls.get(key, {})
        if request.id in calls:
            return calls[request.id]
        with self._lock:
            given = self._given.setdefault(key, [])
            if request.id not in given:
                given.append(request.id)
            turn = given.index(request.id)
        if turn < len(calls):
            return list(calls.values())[turn]
        why = f"asked this only as often as {', '.join(calls)}" if calls else "never asked this"
        message = (
            f"'{request.id}' was asked, but the run that is replayed {why}: this search is not the same as that one"
        )
        return Call(request=request, reply=Reply(outcome="stop", model=request.model, message=message))


def read_call(path: Path) -> Call:
    """Read the file of a call.

    Raises:
      LlmError: it is damaged; the message has its name.
    """
    return _load(path, from_plain)


def from_plain(plain: Any) -> Call:
    """Read back what `nas.records.to_plain` made of a call; the sequences of a request come back as tuples.

    Raises:
      ValueError: it is no call.
    """
    call = _typed(Call, plain)
    _check_amount(call.usd)
    return call


def _read_named(path: Path) -> Call:
    call = read_call(path)
    if not path.name.startswith(_call_name(call.request) + "."):
        raise LlmError(f"'{path}' is damaged (its name is not that of the request in it)")
    return call


def _read_begun(path: Path) -> _Begun:
    def read(plain: Any) -> _Begun:
        begun = _typed(_Begun, plain)
        _check_amount(begun.worst_usd)
        return begun

    return _load(path, read)


def _load(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        # Text of a model or of a candidate may hold half of a surrogate pair, which plain UTF-8 refuses.
        return read(json.loads(path.read_bytes().decode("utf-8", "surrogatepass")))
    except (OSError, ValueError, RecursionError) as error:
        raise LlmError(f"'{path}' is damaged ({type(error).__name__}: {error})") from error


def _write(path: Path, record: Call | _Begun) -> None:
    # Not escaped: a person reads it, and two halves of a pair written as escapes would come back as one character.
    content = json.dumps(to_plain(record), indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise LlmError(f"'{path}' cannot be written ({error.strerror}); make room, then resume the run") from error


def _typed(hint: Any, plain: Any) -> Any:
    """Make what an annotation says of plain data; raises ValueError if it is something else."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(plain, dict):
        fields, hints = {field.name: field for field in dataclasses.fields(hint)}, get_type_hints(hint)
        needed = {name for name, field in fields.items() if field.default is field.default_factory is MISSING}
        if needed <= set(plain) <= set(fields):
            return hint(**{name: _typed(hints[name], value) for name, value in plain.items()})
    elif origin is UnionType:
        return None if plain is None and NoneType in arguments else _typed(arguments[0], plain)
    elif origin is Literal and isinstance(plain, str) and plain in arguments:
        return plain
    elif origin is Sequence and isinstance(plain, list):
        return tuple(_typed(arguments[0], value) for value in plain)
    elif origin is tuple and isinstance(plain, list) and len(plain) == len(arguments):
        return tuple(_typed(argument, value) for argument, value in zip(arguments, plain, strict=True))
    elif origin is Mapping and isinstance(plain, dict):
        return plain
    elif hint is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    elif type(plain) is hint:
        return plain
    raise ValueError(f"{str(plain)[:60]!r} stands where {getattr(hint, '__name__', hint)} should")


def _check_amount(text: str | None) -> None:
    try:
        fine = text is None or Decimal(text).is_finite() and Decimal(text) >= 0
    except InvalidOperation:
        fine = False
    if not fine:
        raise ValueError(f"'{text}' is no amount of dollars")


def _call_name(request: Request) -> str:
    """Of a file: an id like `17.code` stays as it is, and what no file can be called is escaped as in an address."""
    return f"{quote(request.id, safe='', errors='surrogatepass')}-{meaning(request)}"


def _ending(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")


def _number(stem: Path) -> int:
    """How many-th time a call was made: 1 if its name does not say."""
    named = _NAME.fullmatch(f"{stem.name}.json")
    return int(named["number"] or 1) if named else 1


def _order(stem: Path) -> tuple[list[str | int], str, int]:
    """Sorts `9.code` before `17.code`, and a call before its repetitions."""
    named = _NAME.fullmatch(f"{stem.name}.json")
    parts = re.split(r"([0-9]+)", named["id"] if named else stem.name)
    return [int(part) if part.isdigit() else part for part in parts], named["call"] if named else "", _number(stem)
