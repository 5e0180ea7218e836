"""The client: one reply for every request, whatever went wrong on the way; the only module that imports the SDK.

In goes a `Request`, out comes a future of a `Reply` that says in one word how it ended. Calls are streamed, so that a
long reply keeps its connection; the deadline is over everything, the waits between attempts included, since the SDK's
timeout is one per read and a stream that drips never meets it. The SDK's own retries are switched off: it obeys any
Retry-After, and repeats nothing once a stream has begun. Every attempt is announced to a `Purse` before it is sent and
settled after it. Not done here: what to ask, counting money (`ledger.py`), keeping what was said (`transcript.py`).
"""

import asyncio
import concurrent.futures
import contextlib
import inspect
import json
import os
import random
import re
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, get_args
from urllib.parse import urlsplit

from nas.llm import LlmError, Outcome, Reply, Request, Role, Usage
from nas.llm.price import worst_usage

DEFAULT_MODEL = "claude-sonnet-5-5"

ANTHROPIC_URL = "https://api.anthropic.com"

HOW_TO_SET_A_KEY = "set ANTHROPIC_API_KEY, or NAS_BASE_URL for a server of your own"
"""The end of a sentence that says that there is no model."""

EFFORTS = ("low", "medium", "high", "xhigh", "max")

CACHE_MARKS = 4
"""Prefixes of a prompt that the API keeps in its cache; a fifth mark is an error."""

# Nothing in an address that two parsers could read differently: no user, no query, no backslash, no other alphabet.
_ADDRESS = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[A-Za-z0-9._~%/-]*)?")

# What the server says counts, where HTTP's status does not: in the midst of a stream, or for a spent budget.
_SPENT = re.compile(r"\w*spend_limit_reached|organization_on_hold")
_OUTCOME_OF_TYPE: Mapping[str, Outcome] = {
    "authentication_error": "halt", "billing_error": "halt", "permission_error": "halt",
    "invalid_request_error": "stop", "not_found_error": "stop", "request_too_large": "stop",
}  # fmt: skip
_OUTCOME_OF_STATUS: Mapping[int, Outcome] = {
    401: "halt",
    402: "halt",
    403: "halt",
    408: "again",
    409: "again",
    429: "again",
}

# Fields of the API's `usage`, and of the `cache_creation` in it.
_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_COUNTS_BY_LIFE = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")

_LOOK_UP_S = 30.0
_SETTLE_S = 0.01  # before everything is cancelled: what is to connect does so, or a library under us would complain
_ROOM_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which models answer, and where.

    Attributes:
      models: the model's id for each role.
      base_url: the server, without `/v1`; None for Anthropic's, or if there is a `client`.
      key: what is sent as the key.
      local: whether the server may know no more than the simplest request: model, messages, system prompt as plain
        text, length, stream. True for every host that is not Anthropic's; a gateway to Anthropic's API that takes
        cache marks and schemas is reached with `dataclasses.replace(settings, local=False)`.
      client: a client object of the SDK, ready to be used (Bedrock, Vertex, Foundry, AWS), or None. It is handed over:
        an asynchronous one must not have been used in another event loop, and `Client.close` closes it.
    """

    models: Mapping[Role, str]
    base_url: str | None = None
    key: str = field(default="", repr=False)
    local: bool = False
    client: Any = field(default=None, repr=False)


def resolve(
    *,
    model: str | None = None,
    base_url: str | None = None,
    key: str | None = None,
    roles: Mapping[Role, str] | None = None,
    client: Any = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings | None:
    """Find out which models to use: arguments, then our variables, then those of Anthropic's tools, then the default.

    The variables are `NAS_MODEL` (for one role `NAS_PROPOSE_MODEL`, `NAS_FORECAST_MODEL`, `NAS_REPAIR_MODEL`),
    `NAS_BASE_URL`, `NAS_API_KEY`; then `ANTHROPIC_MODEL`, `ANTHROPIC_BASE_URL`, `ANTHROPIC_API_KEY` or
    `ANTHROPIC_AUTH_TOKEN`. A key from the last two goes to Anthropic's hosts alone: another host is sent `key`,
    `NAS_API_KEY`, or the word `local`.

    Args:
      model: for all roles that `roles` does not name.
      base_url: of the server; a `/v1` at its end is dropped.
      key: for that server.
      roles: models by role.
      client: a client object of the SDK; then there is neither an address nor a key to find.
      environ: the variables.
    Returns:
      The settings, or None if there is no key, no address and no client, so that a search goes without a model.
    Raises:
      LlmError: what was given cannot be used.
    """

    def first(*names: str) -> str | None:
        return next((value for name in names if (value := environ.get(name, "").strip())), None)

    known: tuple[Role, ...] = get_args(Role)
    if strange := set(roles or {}) - set(known):
        raise LlmError(f"'{sorted(strange)[0]}' is no role of a model; roles are {', '.join(known)}")
    models: dict[Role, str] = {
        role: (roles or {}).get(role) or model or first(f"NAS_{role.upper()}_MODEL", "NAS_MODEL", "ANTHROPIC_MODEL")
        or DEFAULT_MODEL
        for role in known
    }  # fmt: skip
    if client is not None:
        if base_url or key:
            raise LlmError("a client object has its own address and key; give either the client or base_url and key")
        return Settings(models=models, client=client)
    address = base_url or first("NAS_BASE_URL", "ANTHROPIC_BASE_URL")
    address = None if address is None else _checked_address(address)
    foreign = address is not None and not is_anthropic(address)
    key = key or first("NAS_API_KEY") or ("local" if foreign else first("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"))
    if key is None:
        if address is None:
            return None
        raise LlmError(f"there is no key for {address}; set ANTHROPIC_API_KEY")
    if not (key := key.strip()).isascii() or not key.isprintable() or " " in key:
        raise LlmError("the key has characters that no key has; copy it again, without spaces or quotes around it")
    return Settings(models=models, base_url=address, key=key, local=foreign)


def is_anthropic(base_url: str) -> bool:
    """Whether a checked address is one of Anthropic's, by which a key cannot be read on its way."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and (host == "anthropic.com" or host.endswith(".anthropic.com"))


def _checked_address(base_url: str) -> str:
    address = base_url.strip().rstrip("/")
    address = address.removesuffix("/v1").rstrip("/")
    try:
        sound = _ADDRESS.fullmatch(address) is not None and urlsplit(address).port != 0
    except ValueError:  # a port or an IPv6 address that is none
        sound = False
    if not sound:
        shown = re.sub(r"//.*@", "//***@", base_url)  # a password may stand there
        raise LlmError(f"'{shown}' is no address of a server; give one like http://127.0.0.1:11434, without a user")
    if address.lower().startswith("http://") and is_anthropic("https" + address[4:]):
        raise LlmError(f"'{base_url}' would send the key where everybody can read it; write https://")
    return address


class Purse(Protocol):
    """Who allows an attempt to be sent. Everything is called in the client's thread, never two at a time."""

    def reserve(self, request: Request, model: str) -> int | None:
        """Set aside the most that one attempt can cost; returns a ticket, or None if that does not fit."""
        ...

    def settle(self, ticket: int, usage: Usage | None) -> None:
        """Replace what was set aside by what was used; None if certainly nothing was billed.

        Where the server did not say, usage is `estimated`, and at most `nas.llm.price.worst_usage`.
        """
        ...

    def would_fit(self, request: Request, model: str) -> bool:
        """Whether an attempt would fit if nothing were in flight, so that it is worth to wait."""
        ...

    def why_not(self, request: Request, model: str) -> str:
        """Why an attempt does not fit, in a sentence."""
        ...


class Client:
    """Sends requests from a thread of its own.

    Args:
      settings: which server.
      deadline_s: for one request, over all attempts and the waits between them [s]. Silence of half of it ends an
        attempt, so that one server that hangs leaves time for another attempt.
      attempts: how often a request is sent at most.
      longest_wait_s: longest wait between attempts [s]; a server that asks for more is not waited for.
      backoff_s: first wait, where the server asks for none [s]; it doubles with every attempt.
      purse: allows attempts and hears what they used; None for as many as there are. It may be given later.
    Attributes:
      tried: messages that `check` has sent, with their replies; they may be billed.
    Raises:
      LlmError: the SDK is missing, or the client object is none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        deadline_s: float = 600.0,
        attempts: int = 4,
        longest_wait_s: float = 60.0,
        backoff_s: float = 2.0,
        purse: Purse | None = None,
    ) -> None:
        if deadline_s <= 0 or attempts < 1 or longest_wait_s < 0 or backoff_s < 0:
            raise ValueError(
                f"Client(deadline_s={deadline_s}, attempts={attempts}, longest_wait_s={longest_wait_s}, "
                f"backoff_s={backoff_s}): the deadline is above 0, attempts is at least 1, and no wait is below 0"
            )
        self.settings = settings
        self._deadline_s, self._attempts = deadline_s, attempts
        self._longest_wait_s, self._backoff_s = longest_wait_s, backoff_s
        self.purse = purse
        self.tried: list[tuple[Request, Reply]] = []
        self._sdk = _connect(settings, deadline_s / 2)
        self._loop = asyncio.new_event_loop()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="language model", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> "concurrent.futures.Future[Reply]":
        """Begin to answer a request; the future is cancelled by `close` and never raises anything else."""
        return self._begin(self._answer(_Call(request, self.purse, self._deadline_s), self._say))

    def check(self) -> None:
        """Make sure that every model would answer, before anything depends on it.

        Anthropic's server is asked whether it knows the model, which costs nothing; others are sent a message with a
        reply of one token, since not all of them know that question.

        Raises:
          LlmError: the key is not accepted, a model is unknown, or the server cannot be reached: one line.
        """
        look_up = self.settings.client is None and not self.settings.local
        roles: dict[str, Role] = {model: role for role, model in self.settings.models.items()}
        requests = [
            Request(id=f"check.{model}", role=role, model=model, system=(), messages=(("user", "Hi"),), max_tokens=1)
            for model, role in roles.items()
        ]
        asked = []
        for request in requests:
            call = _Call(request, None, min(self._deadline_s, _LOOK_UP_S)) if look_up else None
            asked.append(self._begin(self._answer(call, self._look_up)) if call else self.submit(request))
        replies = [future.result() for future in asked]
        for reply in replies:
            if reply.outcome != "ok" and reply.stop_reason is None:
                raise LlmError(self._remedy(reply))
        self.tried += [] if look_up else list(zip(requests, replies, strict=True))

    def close(self) -> None:
        """Cancel what is under way and end the thread; what was sent and not answered is settled as an estimate."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _begin(self, answer: Any) -> "concurrent.futures.Future[Reply]":
        with self._closing:
            if self._closed:
                answer.close()
                raise RuntimeError("this client is closed; make another one")
            return asyncio.run_coroutine_threadsafe(answer, self._loop)

    async def _finish(self) -> None:
        await asyncio.sleep(_SETTLE_S)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
        with contextlib.suppress(Exception):
            if inspect.isawaitable(closed := self._sdk.close()):
                await closed
        await self._loop.shutdown_asyncgens()
        self._loop.call_soon(self._loop.stop)

    async def _answer(self, call: "_Call", ask: "_Ask") -> Reply:
        """One reply, whatever happens."""
        try:
            if wrong := _wrong(call.request):
                return call.reply(_Ending("stop", wrong))
            async with asyncio.timeout(call.deadline_s):
                ending = await self._attempt_until_done(call, ask)
        except TimeoutError:
            ending = _Ending("again", f"no whole reply came within {call.deadline_s:g} s {call.trouble}")
        except Exception as error:  # of a purse, or a defect of this module; either would spoil the next call too
            ending = _Ending("halt", f"the client failed: {type(error).__name__}: {error}")
        return call.reply(ending, hide=self.settings.key)

    async def _attempt_until_done(self, call: "_Call", ask: "_Ask") -> "_Ending":
        for number in range(self._attempts):
            ending = await self._attempt(call, ask)
            if not ending.retry or number == self._attempts - 1:
                return ending
            call.trouble = ending.message
            wait_s = ending.wait_s
            if wait_s is None:
                wait_s = min(self._longest_wait_s, self._backoff_s * 2**number) * random.uniform(0.75, 1.0)
            if wait_s > min(self._longest_wait_s, call.left_s()):
                return _Ending(ending.outcome, f"{ending.message}; a wait of {wait_s:.0f} s would be too long")
            await asyncio.sleep(wait_s)
        raise AssertionError("there is at least one attempt")

    async def _attempt(self, call: "_Call", ask: "_Ask") -> "_Ending":
        ticket = None
        if call.purse is not None:
            model = call.request.model
            while (ticket := call.purse.reserve(call.request, model)) is None:
                if not call.purse.would_fit(call.request, model):
                    why = call.purse.why_not(call.request, model)
                    return _Ending("halt", why or "the limit leaves no room for this call")
                await asyncio.sleep(_ROOM_S)  # what is in flight holds the money, and will cost less than it may
        call.attempts += 1
        heard = call.heard = _Heard()
        try:
            try:
                return await ask(call.request, heard)
            except Exception as error:
                return _ending_of(error, heard)
        finally:  # also when the deadline or a cancellation comes
            usage = heard.usage(call.request)
            call.usages += [usage] if usage else []
            if call.purse is not None and ticket is not None:
                call.purse.settle(ticket, usage)

    async def _say(self, request: Request, heard: "_Heard") -> "_Ending":
        """Send a message and listen to the end of the reply."""
        arguments = _arguments(request, local=self.settings.local)
        async with contextlib.aclosing(_events(self._sdk, arguments, heard)) as events:
            async for event in events:
                heard.take(event)
                if event.type == "message_stop":  # whatever a server sends after it
                    break
        return heard.ending()

    async def _look_up(self, request: Request, heard: "_Heard") -> "_Ending":
        """Ask whether the server knows the model; nothing is billed."""
        heard.billable = False
        model = await self._sdk.models.retrieve(request.model)
        if getattr(model, "id", None):
            return _Ending("ok")
        return _Ending("again", "the server's answer is not of this API")

    def _remedy(self, reply: Reply) -> str:
        place = self.settings.base_url or ("the client's server" if self.settings.client else ANTHROPIC_URL)
        remedy = {
            "halt": "check the key: NAS_API_KEY; one in ANTHROPIC_API_KEY is sent to Anthropic's hosts alone",
            "stop": "name a model that this server has, for instance with NAS_MODEL",
        }.get(reply.outcome, "check that it runs and that NAS_BASE_URL is its address")
        return f"{reply.model} at {place} does not answer: {reply.message}; {remedy}"


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an attempt ended; `wait_s` is what the server asked for."""

    outcome: Outcome
    message: str = ""
    retry: bool = False
    wait_s: float | None = None


_Ask = Callable[[Request, "_Heard"], Awaitable[_Ending]]


class _Call:
    """A request on its way."""

    def __init__(self, request: Request, purse: Purse | None, deadline_s: float) -> None:
        self.request, self.purse, self.deadline_s = request, purse, deadline_s
        self.attempts = 0
        self.usages: list[Usage] = []
        self.heard = _Heard()
        self.trouble = ""
        self._began = time.monotonic()

    def left_s(self) -> float:
        return self.deadline_s - (time.monotonic() - self._began)

    def reply(self, ending: _Ending, *, hide: str = "") -> Reply:
        """What is handed out; a server that repeats the key in its message does not get it into a file."""
        message = ending.message.replace(hide, "***") if len(hide) >= 8 else ending.message
        return Reply(
            outcome=ending.outcome,
            text=self.heard.text() if ending.outcome in ("ok", "cut") else "",
            usage=_total(self.usages),
            model=self.heard.model or self.request.model,
            stop_reason=self.heard.stop_reason,
            category=self.heard.category,
            message=_printed(" ".join(message.split())[:500]),
            request_id=self.heard.request_id,
            attempts=self.attempts,
            seconds=time.monotonic() - self._began,
        )


class _Heard:
    """What has arrived of one attempt, event by event."""

    def __init__(self) -> None:
        self.response: Any = None
        self.billable = True
        self.model = ""
        self.request_id: str | None = None
        self.stop_reason: str | None = None
        self.category: str | None = None
        self._started = False
        self._explanation = ""
        self._texts: dict[int, list[str]] = {}
        self._told: dict[str, int] = {}

    def open(self, response: Any) -> None:
        """The server has begun to answer."""
        self.response = response
        self.request_id = response.headers.get("request-id")

    def take(self, event: Any) -> None:
        """Add an event. Raises one of many errors if it has not the form of this API's."""
        if event.type == "message_start":
            self._started = True
            self.model = _printed(event.message.model)
            self._count(event.message.usage)
            self._told.pop("output_tokens", None)  # of the beginning
        elif event.type == "content_block_start" and event.content_block.type == "text":
            self._texts[int(event.index)] = [str(event.content_block.text or "")]
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            self._texts.setdefault(int(event.index), []).append(str(event.delta.text or ""))
        elif event.type == "message_delta":
            self.stop_reason = _printed(event.delta.stop_reason) or None
            if details := event.delta.stop_details:
                self.category, self._explanation = _printed(details.category) or None, _printed(details.explanation)
            self._count(event.usage)

    def text(self) -> str:
        return _printed("".join(part for _, parts in sorted(self._texts.items()) for part in parts))

    def usage(self, request: Request) -> Usage | None:
        """What was used, or at most was; None if certainly nothing was billed."""
        if not self.billable:
            return None
        if "input_tokens" not in self._told:
            return worst_usage(request)
        whole = self.stop_reason is not None and "output_tokens" in self._told
        hour = self._told.get("ephemeral_1h_input_tokens", 0)
        minutes = self._told.get("ephemeral_5m_input_tokens", 0)
        return Usage(
            input_tokens=self._told["input_tokens"],
            cache_write_tokens=max(minutes, self._told.get("cache_creation_input_tokens", 0) - hour),
            cache_write_1h_tokens=hour,
            cache_read_tokens=self._told.get("cache_read_input_tokens", 0),
            output_tokens=self._told["output_tokens"] if whole else request.max_tokens,
            estimated=not whole,
        )

    def ending(self) -> _Ending:
        """What a stream that ended without an error amounts to."""
        if not self._started:
            kind = self.response.headers.get("content-type", "nothing") if self.response is not None else "nothing"
            return _Ending("again", f"the server sent {kind} without a message in it", retry=True)
        if self.stop_reason is None:
            return _Ending("again", "the reply broke off", retry=True)
        if self.stop_reason == "refusal":
            about = f" (category {self.category})" if self.category else ""
            return _Ending("refused", f"the model declined{about} {self._explanation}".strip())
        if self.stop_reason not in ("end_turn", "stop_sequence"):
            # A reason that we do not know, too: what it cut short may look whole, and another attempt costs as much.
            return _Ending("cut", f"the reply is not whole: {self.stop_reason}")
        if not self.text().strip():
            return _Ending("again", "the reply has no text", retry=True)
        return _Ending("ok")

    def _count(self, usage: Any) -> None:
        # Counts in later events are totals; what a later event leaves out stands.
        for part, names in ((usage, _COUNTS), (getattr(usage, "cache_creation", None), _COUNTS_BY_LIFE)):
            counts = {name: getattr(part, name, None) for name in names}
            self._told |= {name: count for name, count in counts.items() if isinstance(count, int) and count >= 0}


def _connect(settings: Settings, silence_s: float) -> Any:
    try:
        import anthropic
    except ImportError as error:
        raise LlmError(f"the SDK is missing ({error}); install it with: pip install 'anthropic>=2.11,<3'") from None
    timeout = anthropic.Timeout(silence_s, connect=min(10.0, silence_s))
    if settings.client is not None:
        try:
            return settings.client.with_options(timeout=timeout, max_retries=0)
        except AttributeError:
            kind = type(settings.client).__name__
            raise LlmError(
                f"a {kind} is no client of the SDK; give one like anthropic.AsyncAnthropicVertex()"
            ) from None
    address = settings.base_url or ANTHROPIC_URL
    headers: dict[str, Any] = {}
    if not is_anthropic(address):
        # The SDK sends these variables' headers to every host, and one of them may be a key.
        lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
        headers = {line.partition(":")[0].strip(): anthropic.Omit() for line in lines if ":" in line}
        headers["Authorization"] = f"Bearer {settings.key}"
    return anthropic.AsyncAnthropic(
        api_key=settings.key, base_url=address, timeout=timeout, max_retries=0, default_headers=headers
    )


def _arguments(request: Request, *, local: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": role, "content": text} for role, text in request.messages],
        "stream": True,
    }
    if local:
        return arguments | ({"system": "\n\n".join(request.system)} if request.system else {})
    if request.system:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in request.system]
        for block in blocks[:CACHE_MARKS]:
            block["cache_control"] = {"type": "ephemeral"}
        arguments["system"] = blocks
    output: dict[str, Any] = {"effort": request.effort} if request.effort else {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": request.schema}
    return arguments | ({"output_config": output} if output else {})


async def _events(sdk: Any, arguments: dict[str, Any], heard: _Heard) -> AsyncGenerator[Any, None]:
    """The events of a stream, from a client of either kind."""
    from anthropic.resources import Messages

    if isinstance(sdk.messages, Messages):
        async with contextlib.aclosing(_events_of_thread(sdk, arguments, heard)) as events:
            async for event in events:
                yield event
        return
    async with await sdk.messages.create(**arguments) as stream:
        heard.open(stream.response)
        async for event in stream:
            yield event


async def _events_of_thread(sdk: Any, arguments: dict[str, Any], heard: _Heard) -> AsyncGenerator[Any, None]:
    """The same from a client that blocks; its thread is left to end by itself if nobody listens any more."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    unheard = threading.Event()

    def post(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def pump() -> None:
        try:
            with sdk.messages.create(**arguments) as stream:
                heard.open(stream.response)
                for event in stream:
                    if unheard.is_set():
                        return
                    post(event)
            post(None)
        except Exception as error:
            post(error)

    threading.Thread(target=pump, name="language model, one call", daemon=True).start()
    try:
        while (item := await arrived.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        unheard.set()


def _ending_of(error: Exception, heard: _Heard) -> _Ending:
    """What an exception means, of this SDK or of a library under it."""
    import anthropic
    import httpx2

    said = f"{type(error).__name__}: {error}"
    if heard.stop_reason is not None:  # only the end of the stream is missing, and nothing of the message
        return heard.ending()
    if isinstance(error, anthropic.APIStatusError):
        return _ending_of_status(error, heard)
    if isinstance(error, anthropic.APIConnectionError):
        never_sent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, RuntimeError)
        heard.billable = not isinstance(error.__cause__, never_sent)
        return _Ending("again", f"{said} ({error.__cause__})" if error.__cause__ else said, retry=True)
    if heard.response is not None:  # a stream that broke off or has another form, of which many kinds of error tell
        return _Ending("again", said, retry=True)
    heard.billable = False  # raised by the SDK, or by a platform's library for credentials, before anything was sent
    if isinstance(error, anthropic.CredentialsError) or "authentication" in said:
        return _Ending("halt", said)
    if isinstance(error, TypeError | AttributeError | NameError | LookupError):
        return _Ending("stop", said)  # our arguments, and so it would be the next time
    return _Ending("again", said, retry=True)


def _ending_of_status(error: Any, heard: _Heard) -> _Ending:
    """What a status of HTTP means, or an error event in a stream, whose status is that of success."""
    status, headers = error.status_code, error.response.headers
    heard.request_id = error.request_id
    heard.billable = status < 400
    outcome: Outcome = "again"
    if _SPENT.fullmatch(error.error_code or ""):
        outcome = "halt"
    elif 400 <= status < 500:
        outcome = _OUTCOME_OF_STATUS.get(status, "stop")
    if status < 500 and outcome != "halt":
        outcome = _OUTCOME_OF_TYPE.get(str(error.type), outcome)
    told = {"true": True, "false": False}.get(headers.get("x-should-retry", "")) if status >= 400 else None
    said = error.api_message or error.message
    return _Ending(
        outcome,
        f"{error.error_code or error.type or type(error).__name__} (status {status}): {said}",
        retry=(outcome == "again") if told is None else told,
        wait_s=_asked_wait_s(headers),
    )


def _asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """What a server asks to be waited for [s], in any of the three ways in which it may; None if it does not."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            wait_s = float(headers.get(name, "")) * unit_s
            return wait_s if wait_s >= 0 else None  # NaN, too, is none
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None


def _wrong(request: Request) -> str | None:
    """Why a request cannot be sent, or None: what the server would refuse is not worth an attempt."""
    texts = [*request.system, *(text for _, text in request.messages)]
    roles = [role for role, _ in request.messages]
    if isinstance(request.system, str) or not all(isinstance(text, str) and text.strip() for text in texts):
        return "a block of the prompt is empty or no text; leave it out"
    if not roles or roles[0] != "user" or roles[-1] != "user" or set(roles) - {"user", "assistant"}:
        return f"the turns are {roles}; they begin and end with 'user'"
    if not isinstance(request.max_tokens, int) or request.max_tokens < 1:
        return f"max_tokens is {request.max_tokens!r}; it is at least 1"
    if not isinstance(request.model, str) or not request.model.strip():
        return f"the model is {request.model!r}; name one"
    if request.effort is not None and request.effort not in EFFORTS:
        return f"the effort is {request.effort!r}; it is None or one of {', '.join(EFFORTS)}"
    try:
        json.dumps([*texts, request.schema], ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:  # lone surrogates, and schemas that are no JSON
        return f"the prompt or its schema cannot be written as JSON: {error}"
    return None


def _printed(value: Any) -> str:
    """Text that can be written as UTF-8, whatever came over the wire; the halves of a pair of surrogates are joined."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _total(usages: Sequence[Usage]) -> Usage:
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in usages),
        cache_write_1h_tokens=sum(usage.cache_write_1h_tokens for usage in usages),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        estimated=any(usage.estimated for usage in usages),
    )
