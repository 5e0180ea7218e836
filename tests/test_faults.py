"""Whole searches on a line to the model that is not sound: whatever goes wrong, they end, and the ledger is right.

Each fault of the stand-in strikes a fifth of the requests of a search of its own. Which ones depends on what is asked
and not on when it arrives, so a failure here can be repeated. A fault that passes strikes a request at its first
arrivals, as often as the client's patience allows, and then lets it through: the search must be the one that was never
disturbed. A fault that another attempt does not cure strikes its requests whenever they come: the search must go on
without their answers. In further searches all faults that pass strike a fifth of the arrivals at random.

The server is reached like a gateway to Anthropic's API, so that prompts are cached and the ledger has every kind of
token to get right. What a job computes is a function of its payload; so that fifty searches take no longer than a few,
a job that an earlier search has had is answered as it was answered then.
"""

import hashlib
import itertools
import json
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest

from nas import asking
from nas.execute import Event, Job, Need
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.llm import Request, Usage
from nas.llm.client import Settings, resolve
from nas.llm.price import cost, read_price, worst_usage
from nas.llm.transcript import Call, Transcript, read_call
from nas.propose import mixture
from nas.search import main
from nas.space import load
from nas.standings import board, read
from nas.store import Store
from tests.messages_server import FAULTS, TRANSIENT, Answer, Body, Broken, Json, MessagesServer, Reply, Status
from tests.messages_server import Request as Arrived
from tests.scripted import Scripted
from tests.test_claude import lines
from tests.test_client import ENDINGS, SENT_ONCE

pytestmark = pytest.mark.slow

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
BUDGET, PRICE, SEED = 12, "2/10", "2"
PASSING = sorted(set(FAULTS) - SENT_ONCE)
"""Faults that another attempt cures."""
SILENT = ("hang", "stall")
DEADLINE_S = 4.0
"""For one call; silence of half of it ends an attempt."""
HANGS_S = 600
"""A search that takes longer than this hangs; on two cores with nothing else to do, the longest takes a twentieth."""
ROLES = {"propose", "repair", "forecast"}


# ---- searches


class Remembered:
    """The executor of one search, which computes nothing that an earlier search has computed.

    Files are not remembered: data are made again, and a trial whose checkpoint is missing is trained from the start,
    which gives the same bits.

    Args:
      executor: of all searches.
      known: answers of all searches, by what was asked.
      run: the folder of this one.
    """

    def __init__(self, executor: LocalExecutor, known: dict[str, Event], run: Path) -> None:
        self.executor, self.known, self.run = executor, known, run
        self._asked: dict[str, tuple[str, str]] = {}
        self._ready: list[Event] = []

    def __enter__(self) -> "Remembered":
        return self

    def __exit__(self, *error: object) -> None: ...

    def capacity(self) -> Need:
        return self.executor.capacity()

    def missing_locks(self) -> dict[str, str]:
        return {}

    def submit(self, job: Job) -> None:
        asked = repr((job.entry, job.payload)).replace(str(self.run), "")
        asked = hashlib.sha256(asked.encode()).hexdigest()
        if asked in self.known:
            self._ready.append(replace(self.known[asked], job_id=job.id))
            return
        name = f"{self.run.name} {job.id}"
        self._asked[name] = job.id, asked
        self.executor.submit(replace(job, id=name))

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        events, self._ready = self._ready, []
        for event in self.executor.poll(0.0 if events else timeout_s):
            job_id, asked = self._asked.pop(event.job_id)
            events.append(replace(event, job_id=job_id))
            if event.kind == "done" and not job_id.startswith("prepare"):
                self.known[asked] = event
        return events

    def cancel(self, job_id: str) -> None:
        self.executor.cancel(f"{self.run.name} {job_id}")

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Searched:
    """A search that has ended: its folder, the server that it asked, and its exit status."""

    run: Path
    server: MessagesServer
    status: int

    def calls(self) -> list[Call]:
        """Every call of the transcript, the check of the credentials included."""
        return [read_call(path) for path in sorted((self.run / "transcript").glob("*.json"))]

    def asked(self) -> list[Call]:
        """Those that the search itself made."""
        return [call for call in self.calls() if call.request.max_tokens > 1]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where searches are made, one after another."""

    folder: Path
    executor: LocalExecutor
    known: dict[str, Event] = field(default_factory=dict)

    def search(
        self, name: str, handler: Callable[[Arrived], Reply], *, kind: Any = None, anew: bool = False
    ) -> Searched:
        """Search with what `handler` answers.

        Args:
          name: of the run.
          handler: of the server.
          kind: of the SDK's client by which the server is reached; None reaches it by its address.
          anew: compute everything again.
        """
        run = self.folder / name
        with pytest.MonkeyPatch.context() as patch, MessagesServer(handler) as server, within(HANGS_S):
            client = kind(base_url=server.url, api_key="any") if kind else None
            if client is None:
                patch.setenv("NAS_BASE_URL", server.url)
                patch.setenv("NAS_API_KEY", "any")
                patch.setattr(asking, "resolve", gateway)
            patch.setattr(asking, "DEADLINE_S", DEADLINE_S)
            patch.setattr(asking, "BACKOFF_S", 0.01)
            patch.setattr(mixture, "opening", lambda *_: 4)  # so that a small budget gets to the model
            if not anew:
                remembered = Remembered(self.executor, self.known, run)
                patch.setattr("nas.workplace.LocalExecutor", lambda *_, **__: remembered)
            chosen = [
                "--space",
                RINGS,
                "--budget",
                str(BUDGET),
                "--lookahead",
                "6",
                "--price",
                PRICE,
                "--seed",
                SEED,
                "--confirm",
                "0",
            ]
            where = ["--blind-control", "--results", str(self.folder), "--name", name]
            return Searched(run, server, main([*chosen, *where], client))


def gateway(**chosen: Any) -> Settings:
    """The settings for a server that takes cache marks and schemas."""
    found = resolve(**chosen)
    assert found is not None
    return replace(found, local=False)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail, and do not wait for ever, if what is inside hangs."""

    def late(*_: object) -> None:
        raise AssertionError(f"the search hangs: it has not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with LocalExecutor(preload=preload(load(RINGS))) as executor:
        yield Bench(tmp_path_factory.mktemp("faults"), executor)


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> Searched:
    """The search that the others are compared with; everything in it is computed."""
    return bench.search("undisturbed", Line(never))


@pytest.fixture(scope="module")
def salt(undisturbed: Searched) -> int:
    """With which a fifth of the requests of the undisturbed search is struck, and at least one of every role."""
    requests = [call.request for call in undisturbed.asked()]

    def fits(salt: int) -> bool:
        hit = [request.role for request in requests if struck(salt, key_of(request))]
        return set(hit) == ROLES and len(hit) == round(len(requests) / 5)

    return next(salt for salt in itertools.count() if fits(salt))


# ---- lines that are not sound

Plan = Callable[[str, int, Arrived], Reply | None]
"""The fault that strikes a request: by its key, how often it arrived before, and itself."""


@dataclass
class Line:
    """A handler for the server: a scripted model, and a line to it with faults.

    Attributes:
      plan: of the faults.
      model: who answers.
      said: all replies, by the request's key, in the order of its arrivals.
    """

    plan: Plan
    model: Scripted = field(default_factory=lambda: Scripted(load(RINGS), wrong=0.4))
    said: dict[str, list[Reply]] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, request: Arrived) -> Reply:
        key = key_in(request.body)
        with self.lock:
            said = self.said.setdefault(key, [])
            check = request.body["max_tokens"] == 1  # of the credentials, before the search
            fault = None if check else self.plan(key, len(said), request)
            said.append(fault or self.model(request))
            return said[-1]


def key_of(request: Request) -> str:
    """What is asked, without the name under which it is asked."""
    return _key(request.system, request.messages)


def key_in(body: Json) -> str:
    """The same of what has arrived."""
    return _key([block["text"] for block in body.get("system", [])],
                [(turn["role"], turn["content"]) for turn in body["messages"]])  # fmt: skip


def _key(system: Sequence[str], turns: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps([list(system), [list(turn) for turn in turns]]).encode()).hexdigest()


def struck(salt: int, key: str) -> bool:
    return random.Random(f"{salt} {key}").random() < 0.2


def never(key: str, before: int, request: Arrived) -> None:
    """No fault."""


def alone(name: str, salt: int) -> Plan:
    """One fault: always, or if it passes, one to three times, since a client sends four times and outlasts one silence.

    That is as persistent as it may be without the call failing, and less: a client that gave up sooner is found out.
    """

    def plan(key: str, before: int, request: Arrived) -> Reply | None:
        most = 1 if name in SILENT else random.Random(f"times {key}").randint(1, 3)
        return FAULTS[name] if struck(salt, key) and (name in SENT_ONCE or before < most) else None

    return plan


def mixed(salt: int) -> Plan:
    """All faults that pass, each arrival by a draw of its own, but no call four times, and silence at first only."""

    def plan(key: str, before: int, request: Arrived) -> Reply | None:
        rng = random.Random(f"{salt} {key} {before}")
        names = [name for name in sorted(TRANSIENT) if before == 0 or name not in SILENT]
        return FAULTS[rng.choice(names)] if rng.random() < 0.2 and before < 3 else None

    return plan


# ---- what must be so


def check_patience(searched: Searched) -> None:
    assert max(call.reply.seconds for call in searched.calls()) < DEADLINE_S + 1


def check_ledger(searched: Searched, line: Line) -> None:
    """The ledger against the server's own count, call by call; nothing was billed to anybody else."""
    billed: dict[str, list[Usage]] = {}
    for body, usage in searched.server.account.charges:
        billed.setdefault(key_in(body), []).append(usage_of(usage))
    settled = {entry.request: entry for entry in Transcript(searched.run / "transcript").settled()}
    price = read_price(PRICE)
    for key, calls in by_key(searched.calls()).items():
        entries, bills, said = [settled.pop(call.request.id) for call in calls], billed.pop(key, []), line.said[key]
        assert [entry.usage for entry in entries] == [call.reply.usage for call in calls]
        counted, theirs = total([call.reply.usage for call in calls]), total(bills)
        usd = sum((entry.usd or Decimal(0) for entry in entries), Decimal(0))
        assert usd == cost(counted, price)
        broken = [reply for reply in said if not isinstance(reply, Answer | Status)]
        if not broken:
            assert counted == theirs
            continue
        sent = [reply for reply in said if not isinstance(reply, Status | Body)]
        whole = total([bill for reply, bill in zip(sent, bills, strict=True) if isinstance(reply, Answer)])
        worst, count = worst_usage(calls[0].request), len(broken)
        assert theirs.prompt_tokens <= counted.prompt_tokens <= whole.prompt_tokens + count * worst.prompt_tokens
        assert theirs.output_tokens <= counted.output_tokens <= whole.output_tokens + count * worst.output_tokens
        assert cost(theirs, price) <= usd <= cost(whole, price) + count * cost(worst, price)
        if all(has_begun(reply) for reply in broken):
            assert replace(counted, output_tokens=0, estimated=False) == replace(theirs, output_tokens=0)
    assert not settled and not billed


def check_sums(searched: Searched) -> None:
    """What the table says is what the ledger counted, and never less than was billed."""
    settled = Transcript(searched.run / "transcript").settled()
    sums, table = total([entry.usage for entry in settled if entry.usage]), board(read(Store(searched.run))).spending
    assert table is not None
    assert (table.prompt_tokens, table.output_tokens) == (sums.prompt_tokens, sums.output_tokens)
    assert table.total_usd == sum((entry.usd or Decimal(0) for entry in settled), Decimal(0))
    (theirs,) = searched.server.account.billed().values()
    assert sums.prompt_tokens >= usage_of(theirs).prompt_tokens and sums.output_tokens >= theirs["output_tokens"]


def by_key(calls: Sequence[Call]) -> dict[str, list[Call]]:
    """Calls by what they ask: before there are results, two arms may ask the same."""
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(key_of(call.request), []).append(call)
    return found


def has_begun(reply: Reply) -> bool:
    """Whether a broken reply got as far as to say what the prompt had cost."""
    return isinstance(reply, Broken) and reply.after > 0 and reply.how not in ("nameless", "empty")


def usage_of(told: Mapping[str, Any]) -> Usage:
    """What the API's `usage` says, in our words."""
    return Usage(
        input_tokens=told["input_tokens"],
        cache_write_tokens=told["cache_creation_input_tokens"],
        cache_read_tokens=told["cache_read_input_tokens"],
        output_tokens=told["output_tokens"],
    )


def total(usages: Sequence[Usage]) -> Usage:
    names = ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens", "output_tokens")
    sums = {name: sum(getattr(usage, name) for usage in usages) for name in names}
    return Usage(**sums, estimated=any(usage.estimated for usage in usages))


# ---- tests


def test_undisturbed_search_asks_for_everything(undisturbed: Searched) -> None:
    assert undisturbed.status == 0
    assert {call.request.role for call in undisturbed.asked()} == ROLES
    assert {(call.reply.outcome, call.reply.attempts) for call in undisturbed.asked()} == {("ok", 1)}


@pytest.mark.parametrize("name", PASSING)
def test_fault_that_passes_changes_nothing(name: str, bench: Bench, undisturbed: Searched, salt: int) -> None:
    line = Line(alone(name, salt))
    searched = bench.search(re.sub(r"\W+", "-", name), line)
    assert searched.status == 0 and lines(searched.run) == lines(undisturbed.run)
    again = [call for call in searched.asked() if call.reply.attempts > 1]
    assert {call.request.role for call in again} == ROLES
    for key, calls in by_key(searched.asked()).items():
        assert {call.reply.outcome for call in calls} == {"ok"}
        assert sum(call.reply.attempts for call in calls) == len(line.said[key])
    check_patience(searched)
    check_ledger(searched, line)
    check_sums(searched)


@pytest.mark.parametrize("name", sorted(SENT_ONCE))
def test_fault_that_does_not_pass_ends_its_calls_and_not_the_search(name: str, bench: Bench, salt: int) -> None:
    line = Line(alone(name, salt))
    searched = bench.search(re.sub(r"\W+", "-", name), line)
    store = Store(searched.run)
    admitted = [entry for entry in store.entries() if entry.program is not None and entry.candidate.arm != "baseline"]
    assert searched.status == 0 and len(admitted) == BUDGET
    hit = [call for call in searched.asked() if struck(salt, key_of(call.request))]
    assert hit and {(call.reply.outcome, call.reply.attempts) for call in hit} == {(ENDINGS[name], 1)}
    assert {call.reply.outcome for call in searched.asked() if call not in hit} <= {"ok"}
    given_up = [note for note in map(json.loads, lines(searched.run)) if "asked no more:" in note.get("text", "")]
    assert len(given_up) == (ENDINGS[name] == "halt")
    for note in given_up:
        assert any(call.reply.message in note["text"] for call in hit)
        asked = [int(call.request.id.split(".")[0]) for call in searched.asked()]
        assert max(asked) < note["slot"]
    check_patience(searched)
    check_ledger(searched, line)
    check_sums(searched)


def test_reply_that_drips_and_arrives_in_time_changes_nothing(bench: Bench, undisturbed: Searched, salt: int) -> None:
    def drip(key: str, before: int, request: Arrived) -> Reply | None:
        return Broken("drip", pause_s=0.01, answer=line.model(request)) if struck(salt, key) else None

    line = Line(drip)
    searched = bench.search("drip-in-time", line)
    assert lines(searched.run) == lines(undisturbed.run)
    assert {(call.reply.attempts, call.reply.usage.estimated) for call in searched.asked()} == {(1, False)}
    check_ledger(searched, line)


@pytest.mark.parametrize("turn", range(6))
def test_all_faults_that_pass_mixed_at_random_change_nothing(turn: int, bench: Bench, undisturbed: Searched) -> None:
    requests = [call.request for call in undisturbed.asked()]

    def fits(salt: int) -> bool:
        first = [mixed(salt)(key_of(request), 0, Arrived("", "", {}, {})) for request in requests]
        silent = {name for name in SILENT if FAULTS[name] in first}
        return len(silent) == len(SILENT) and sum(fault is not None for fault in first) == round(len(requests) / 5)

    seed = next(itertools.islice((seed for seed in itertools.count() if fits(seed)), turn, None))
    line = Line(mixed(seed))
    searched = bench.search(f"mixed-{turn}", line, anew=turn == 0)
    assert searched.status == 0 and lines(searched.run) == lines(undisturbed.run)
    assert {call.reply.outcome for call in searched.asked()} == {"ok"}
    check_patience(searched)
    check_ledger(searched, line)
    check_sums(searched)


@pytest.mark.parametrize("kind", [anthropic.AsyncAnthropic, anthropic.Anthropic])
def test_frozen_part_of_the_prompt_is_read_from_the_cache(
    kind: type, bench: Bench, undisturbed: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line(never)
    searched = bench.search(f"cached-{kind.__name__}", line, kind=kind)
    assert searched.status == 0 and len(searched.asked()) == len(undisturbed.asked())
    frozen: dict[bool, set[str]] = {False: set(), True: set()}
    for body, _ in searched.server.account.charges:
        if body["max_tokens"] > 1:
            block = body["system"][0]
            assert block["cache_control"] == {"type": "ephemeral"}
            frozen["format" in body.get("output_config", {})].add(block["text"])
    assert [len(texts) for texts in frozen.values()] == [1, 1]  # for candidates, and for forecasts
    check_ledger(searched, line)
    check_sums(searched)
    (billed,) = searched.server.account.billed().values()
    theirs, table = usage_of(billed), board(read(Store(searched.run))).spending
    assert table is not None and table.cached_tokens == theirs.cache_read_tokens
    share = theirs.cache_read_tokens / theirs.prompt_tokens
    assert share > 0.5
    caption = " ".join(capsys.readouterr().out.split())
    assert re.findall(r"tokens in \((\d+)% from the cache\)", caption) == [f"{share:.0%}"[:-1]]
