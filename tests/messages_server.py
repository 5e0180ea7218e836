"""A stand-in for the Messages API on the loopback: real HTTP, real sockets, no key and no cost.

    with MessagesServer() as server:
        server.push(Status(429, headers={"retry-after": "1"}), Answer("hello"))
        client = anthropic.Anthropic(base_url=server.url, api_key="any")

Replies come from a queue, then from a function of the request; faults are pushed by name, or strike a share of the
calls. It refuses what the API refuses and is known to tempt (sampling parameters, prefilled answers, empty blocks), and
keeps its own count of what it billed, with the cache worked out from the bytes of the prompt. Whatever it took on is
billed, delivered or not, so that a ledger that trusts a broken connection is found out. Not done: tools, batches,
counting tokens, the lifetime of cache entries.

    python -m tests.messages_server --port 8123 --faults 0.2

starts it by hand, to develop prompts against: it answers with what it was sent.
"""

import argparse
import contextlib
import hashlib
import json
import math
import random
import socket
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole message.

    Attributes:
      text: of its only text block; None for a message without content.
      stop_reason: why the model stopped.
      category: of a refusal.
      thinking: of a block before the text, if any.
      output_tokens: as billed; None for a quarter of the bytes.
      delay_s: before the first byte.
    """

    text: str | None = "ok"
    stop_reason: str = "end_turn"
    category: str | None = None
    thinking: str = ""
    output_tokens: int | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP status that says no; nothing is billed.

    Attributes:
      status: the number.
      code: `error.details.error_code`.
      headers: further headers.
      page: an HTML page instead of the API's JSON.
    """

    status: int
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """Status 200 with a body that is no message of this API; nothing is billed."""

    text: str
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Reset:
    """RST instead of an answer."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Silence instead of an answer [s]."""

    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Broken:
    """An answer that does not arrive as it should.

    Attributes:
      how: `cut` closes the connection in the midst, `end` ends the body early as if it were whole, `error` sends an
        error event, `garbage` malformed JSON, `stall` goes silent, `drip` pauses after every event, `nameless` leaves
        out the names of the events, `empty` sends no event.
      after: events that arrive before.
      error: type of the error event.
      pause_s: of `drip`, after every event.
      answer: what would have been said.
    """

    how: Literal["cut", "end", "error", "garbage", "stall", "drip", "nameless", "empty"]
    after: int = 8
    error: str = "overloaded_error"
    pause_s: float = 0.1
    answer: Answer = Answer("word " * 400)


Reply = Answer | Status | Body | Reset | Hang | Broken

_OPENAI = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}
_PAGE = "<!doctype html><title>Please sign in</title><p>This network asks you to sign in."

FAULTS: Mapping[str, Reply] = {
    "429": Status(429),
    "429 retry-after": Status(429, headers={"retry-after": "0.1"}),
    "429 retry-after-ms": Status(429, headers={"retry-after-ms": "50"}),
    "429 retry-after a date": Status(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 retry-after 49 days": Status(429, headers={"retry-after": "4294967"}),
    "429 do not retry": Status(429, headers={"x-should-retry": "false"}),
    "429 enforced spend limit": Status(429, code="enforced_spend_limit_reached"),
    "429 contract spend limit": Status(429, code="contract_spend_limit_reached"),
    "529": Status(529),
    "500": Status(500),
    "502 html": Status(502, page=True),
    "503": Status(503),
    "409": Status(409),
    "400": Status(400),
    "400 do retry": Status(400, headers={"x-should-retry": "true"}),
    "401": Status(401),
    "402": Status(402),
    "402 linked spend limit": Status(402, code="linked_organization_spend_limit_reached"),
    "403": Status(403),
    "404": Status(404),
    "413": Status(413),
    "reset": Reset(),
    "hang": Hang(),
    "drip": Broken("drip"),
    "stall": Broken("stall"),
    "cut": Broken("cut"),
    "cut at once": Broken("cut", after=0),
    "clean end": Broken("end"),
    "error event": Broken("error"),
    "error event first": Broken("error", after=0),
    "error event about billing": Broken("error", error="billing_error"),
    "malformed json": Broken("garbage"),
    "nameless events": Broken("nameless"),
    "no events": Broken("empty"),
    "max_tokens": Answer("def half(", stop_reason="max_tokens"),
    "context window": Answer("def half(", stop_reason="model_context_window_exceeded"),
    "pause_turn": Answer("wait", stop_reason="pause_turn"),
    "unknown stop reason": Answer("well", stop_reason="tea_time"),
    "refusal": Answer(None, stop_reason="refusal", category="frontier_llm"),
    "refusal with text": Answer("I cannot help with that.", stop_reason="refusal"),
    "empty content": Answer(None),
    "blank text": Answer(" \n"),
    "200 html": Body(_PAGE, "text/html"),
    "200 {}": Body("{}"),
    "200 openai": Body(json.dumps(_OPENAI)),
}
"""Every way in which a call can fail, by name."""

TRANSIENT = (
    "429", "429 retry-after", "429 retry-after-ms", "429 retry-after a date", "529", "500", "502 html", "503", "409",
    "400 do retry", "reset", "hang", "stall", "cut", "cut at once", "clean end", "error event", "error event first",
    "malformed json", "no events", "empty content",
)  # fmt: skip
"""Faults after which the same request, sent again, may be answered."""

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error",
    529: "overloaded_error",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived.

    Attributes:
      method: `GET` or `POST`.
      path: without the query.
      headers: by name in lower case.
      body: the JSON, or {}.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Json


@dataclass(frozen=True, slots=True)
class Chance:
    """Faults that strike a share of the calls for a message, drawn from a seed and the number of the call."""

    share: float
    seed: int = 0
    names: Collection[str] = TRANSIENT

    def draw(self, number: int) -> Reply | None:
        """The fault of a call, or None."""
        rng = random.Random(f"{self.seed} {number}")
        return FAULTS[rng.choice(sorted(self.names))] if rng.random() < self.share else None


def echo(request: Request) -> Answer:
    """Say what was asked; where a schema is asked for, the plainest value that has its shape."""
    schema = request.body.get("output_config", {}).get("format", {}).get("schema")
    if schema is not None:
        return Answer(json.dumps(plainest(schema)))
    return Answer(f"You said:\n{_text_of(request.body['messages'][-1]['content'])}")


def plainest(schema: Json) -> Any:
    """A value of a schema's shape: the first of an enumeration, one element of an array, the middle of [0, 1]."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: plainest(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [plainest(schema.get("items", {}))]
    return {"string": "text", "number": 0.5, "integer": 1, "boolean": True, "null": None}[kind]


class Account:
    """Counts what was billed, and knows which prefixes of prompts are in the cache.

    Attributes:
      charges: every request that was billed, and what it was billed, in order.
    """

    def __init__(self) -> None:
        self.charges: list[tuple[Json, Json]] = []
        self._lock = threading.Lock()
        self._billed: dict[str, Counter[str]] = {}
        self._cached: set[str] = set()

    def billed(self) -> dict[str, dict[str, int]]:
        """Tokens by model and kind, and the number of `calls`."""
        with self._lock:
            return {model: dict(counts) for model, counts in self._billed.items()}

    def charge(self, body: Json, output_tokens: int) -> Json:
        """Bill a request, and say what a message's `usage` says."""
        with self._lock:
            usage = {**self._prompt(body), "output_tokens": output_tokens}
            counts = self._billed.setdefault(body["model"], Counter())
            counts.update({name: count for name, count in usage.items() if isinstance(count, int)})
            counts.update(usage["cache_creation"], calls=1)
            self.charges.append((body, usage))
            return {**usage, "service_tier": "standard"}

    def _prompt(self, body: Json) -> Json:
        system = body.get("system") or []
        blocks: list[Json] = [{"text": system}] if isinstance(system, str) else system
        marks = [index for index, block in enumerate(blocks) if block.get("cache_control")]
        texts = [block["text"].encode() for block in blocks]
        whole = _tokens(b"".join(texts) + "".join(_text_of(m["content"]) for m in body["messages"]).encode())
        # By index of a block: the name of the prefix that ends there, and its tokens.
        names = [
            hashlib.sha256(json.dumps([body["model"], *(t.decode() for t in texts[: i + 1])]).encode()).hexdigest()
            for i in range(len(texts))
        ]
        tokens = [_tokens(b"".join(texts[: i + 1])) for i in range(len(texts))]
        last = marks[-1] if marks else -1
        read = max((tokens[i] for i in range(last + 1) if names[i] in self._cached), default=0)
        written = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        reached = read
        for index in marks:
            life = blocks[index]["cache_control"].get("ttl", "5m")
            written[f"ephemeral_{life}_input_tokens"] += max(0, tokens[index] - reached)
            reached = max(reached, tokens[index])
            self._cached.add(names[index])
        return {
            "input_tokens": whole - reached,
            "cache_creation_input_tokens": reached - read,
            "cache_read_input_tokens": read,
            "cache_creation": written,
        }


class MessagesServer:
    """See the module's docstring.

    Args:
      handler: computes the reply to a request when nothing is pushed.
      chance: faults that strike at random; they leave what is pushed for the next call.
      keys: what is taken as a key; None takes anything.
      models: the models that exist; None takes any name.
      port: 0 for one that is free.

    Attributes:
      url: for a client's `base_url`.
      requests: what arrived so far, in order.
      account: what was billed.
    """

    def __init__(
        self,
        handler: Callable[[Request], Reply] = echo,
        *,
        chance: Chance | None = None,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        port: int = 0,
    ) -> None:
        self.handler, self.chance, self.keys, self.models = handler, chance, keys, models
        self.requests: list[Request] = []
        self.account = Account()
        self.stopping = threading.Event()
        self._pushed: deque[Reply] = deque()
        self._lock = threading.Lock()
        self._calls = 0
        self._http = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "MessagesServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def push(self, *replies: Reply | str) -> None:
        """Queue replies for the next calls; a string is the name of a fault, or else the text of an answer."""
        with self._lock:
            self._pushed.extend((FAULTS.get(r) or Answer(r)) if isinstance(r, str) else r for r in replies)

    def reply_to(self, request: Request) -> Reply:
        """Decide on the answer to a request that is well-formed."""
        with self._lock:
            self._calls += 1
            fault = self.chance.draw(self._calls) if self.chance else None
            if fault is not None:
                return fault
            if self._pushed:
                return self._pushed.popleft()
        return self.handler(request)

    def record(self, request: Request) -> str:
        """Keep what arrived; returns the request's id."""
        with self._lock:
            self.requests.append(request)
            return f"req_{len(self.requests):06d}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: MessagesServer) -> None:
        self.owner = owner
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here; a defect of the stand-in is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._take({})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            self._take(json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._deny(400, f"malformed request: {error!r}")

    def _take(self, body: Json) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path.split("?")[0], headers, body)
        self.id = owner.record(request)
        key = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        _, _, model = request.path.partition("/v1/models/")
        model = body.get("model", model)
        if not key or owner.keys is not None and key not in owner.keys:
            self._deny(401, "invalid bearer token")
        elif request.path != "/v1/messages" and not request.path.startswith("/v1/models/"):
            self._deny(404, f"no route {request.path}")
        elif owner.models is not None and model not in owner.models:
            self._deny(404, f"model: {model}")
        elif request.method == "GET":
            self._json(200, {"type": "model", "id": model, "display_name": model, "created_at": "2026-01-01T00:00:00Z"})
        elif wrong := complaint(body):
            self._deny(400, wrong)
        else:
            self._send(request, owner.reply_to(request))

    def _send(self, request: Request, reply: Reply) -> None:
        match reply:
            case Status():
                text = _PAGE if reply.page else json.dumps(self._error(reply.status, "as told", reply.code))
                kind = "text/html" if reply.page else "application/json"
                self._whole(reply.status, text, kind, reply.headers)
            case Body():
                self._whole(200, reply.text, reply.content_type)
            case Reset():
                self._charge(request.body, Broken("cut").answer)
                self._reset()
            case Hang():
                self._charge(request.body, Broken("cut").answer)
                self.server.owner.stopping.wait(reply.seconds)
                self.close_connection = True
            case Answer():
                self.server.owner.stopping.wait(reply.delay_s)
                self._say(request, reply, None)
            case Broken():
                self._say(request, reply.answer, reply)

    def _say(self, request: Request, answer: Answer, broken: Broken | None) -> None:
        message = self._message(request.body, answer)
        if request.body.get("stream"):
            self._stream(message, broken)
        else:
            self._in_one(json.dumps(message), broken)

    def _stream(self, message: Json, broken: Broken | None) -> None:
        self._head(200, "text/event-stream; charset=utf-8", {"transfer-encoding": "chunked"})
        how = broken.how if broken else None
        for index, event in enumerate(events_of(message)):
            if broken and index >= broken.after and how in ("cut", "end", "error", "garbage", "stall"):
                self._break_off(broken)
                return
            if how != "empty":
                self._chunk(_event(event, named=how != "nameless"))
            if broken and how == "drip":
                self.server.owner.stopping.wait(broken.pause_s)
        self._chunk(b"")

    def _break_off(self, broken: Broken) -> None:
        if broken.how == "error":
            error = {"type": broken.error, "message": "as told"}
            self._chunk(_event({"type": "error", "error": error}))
        elif broken.how == "garbage":
            self._chunk(b'event: content_block_delta\ndata: {"type": "content_block_delta", "ind\n\n')
        elif broken.how == "stall":
            self.server.owner.stopping.wait(3600.0)
        if broken.how in ("cut", "stall"):
            self.close_connection = True
        else:
            self._chunk(b"")

    def _in_one(self, text: str, broken: Broken | None) -> None:
        how = broken.how if broken else None
        if how == "garbage":
            text = text[: len(text) // 2]
        if how in ("error", "empty"):
            self._whole(200, json.dumps(self._error(529, "as told")) if how == "error" else "", "application/json")
            return
        if broken is None or how not in ("cut", "end", "stall", "drip"):
            self._whole(200, text, "application/json")
            return
        self._head(200, "application/json", {"content-length": str(len(text.encode()))})
        for start in range(0, len(text), 64):
            if how != "drip" and start >= len(text) // 2:
                self.server.owner.stopping.wait(3600.0 if how == "stall" else 0.0)
                self.close_connection = True
                return
            self.wfile.write(text[start : start + 64].encode())
            self.server.owner.stopping.wait(broken.pause_s if how == "drip" else 0.0)

    def _charge(self, body: Json, answer: Answer) -> Json:
        told = answer.output_tokens
        said = _tokens((answer.thinking + (answer.text or "")).encode()) if told is None else told
        return self.server.owner.account.charge(body, min(said, body["max_tokens"]))

    def _message(self, body: Json, answer: Answer) -> Json:
        if answer.text and answer.output_tokens is None and _tokens(answer.text.encode()) > body["max_tokens"]:
            kept = answer.text.encode()[: 4 * body["max_tokens"]].decode(errors="ignore")
            answer = replace(answer, text=kept, stop_reason="max_tokens")
        content: list[Json] = [{"type": "text", "text": answer.text}] if answer.text is not None else []
        if answer.thinking:
            content.insert(0, {"type": "thinking", "thinking": answer.thinking, "signature": "signed"})
        details = {"type": "refusal", "category": answer.category, "explanation": None}
        return {
            "id": f"msg_{self.id}", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": answer.stop_reason, "stop_sequence": None,
            "stop_details": details if answer.stop_reason == "refusal" else None,
            "usage": self._charge(body, answer),
        }  # fmt: skip

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _deny(self, status: int, message: str) -> None:
        self._json(status, self._error(status, message))

    def _error(self, status: int, message: str, code: str | None = None) -> Json:
        error: Json = {"type": _TYPES.get(status, "api_error"), "message": message}
        if code:
            error["details"] = {"error_code": code}
        return {"type": "error", "error": error, "request_id": self.id}

    def _json(self, status: int, value: Json) -> None:
        self._whole(status, json.dumps(value), "application/json")

    def _whole(self, status: int, text: str, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, kind, {"content-length": str(len(text.encode())), **(headers or {})})
        self.wfile.write(text.encode())

    def _head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "request-id": self.id, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        """Send a chunk; the empty one ends the body."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def complaint(body: Json) -> str | None:
    """Why the API would refuse a request, or None."""
    missing = [name for name in ("model", "max_tokens", "messages") if not body.get(name)]
    if missing:
        return f"{missing[0]}: field required"
    if unsupported := {"temperature", "top_p", "top_k"} & body.keys():
        return f"{sorted(unsupported)[0]} is not supported"
    if body["messages"][-1]["role"] == "assistant":
        return "messages: an answer cannot be begun for the model"
    system = body.get("system") or []
    blocks = [] if isinstance(system, str) else system
    texts = [block["text"] for block in blocks] + [_text_of(message["content"]) for message in body["messages"]]
    if not all(text.strip() for text in texts):
        return "text content blocks must contain non-whitespace text"
    if sum("cache_control" in block for block in blocks) > 4:
        return "a maximum of 4 blocks with cache_control may be provided"
    schema = body.get("output_config", {}).get("format", {}).get("schema")
    if schema is not None and not _closed(schema):
        return "output_config.format.schema: 'additionalProperties' must be explicitly set to false"
    return None


def events_of(message: Json) -> Iterator[Json]:
    """The events of a streamed message."""
    usage = message["usage"]
    start = {"content": [], "stop_reason": None, "stop_details": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": {**message, **start}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        empty = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
        yield {"type": "content_block_start", "index": index, "content_block": {"type": kind, **empty}}
        for start in range(0, len(block[kind]), 20):
            delta = {"type": f"{kind}_delta", kind: block[kind][start : start + 20]}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}


def _event(event: Json, *, named: bool = True) -> bytes:
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _closed(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(_closed(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return False
    return all(_closed(part) for part in schema.values())


def _text_of(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _tokens(text: bytes) -> int:
    return math.ceil(len(text) / 4)


def main() -> None:
    """Serve until interrupted, with one line per call."""
    parser = argparse.ArgumentParser(description="A stand-in for the Messages API that answers with what it was sent.")
    parser.add_argument("--port", type=int, default=8123, help="port on 127.0.0.1 (default 8123)")
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls that fail (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default 0)")
    chosen = parser.parse_args()

    def told(request: Request) -> Reply:
        body = request.body
        prompt = _text_of(body.get("system") or "") + "".join(_text_of(m["content"]) for m in body["messages"])
        print(f"{body['model']}: prompt of {len(prompt.encode())} bytes, max_tokens {body['max_tokens']}", flush=True)
        return echo(request)

    chance = Chance(chosen.faults, chosen.seed) if chosen.faults else None
    with MessagesServer(told, chance=chance, port=chosen.port) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"listening; for a search: NAS_BASE_URL={server.url} NAS_API_KEY=any python -m nas.search", flush=True)
        threading.Event().wait()
    print(json.dumps(server.account.billed(), indent=2))


if __name__ == "__main__":
    main()
