"""Every call is a file: read again by a resumed run, which pays for no call twice, and by a replay."""

import itertools
import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from nas.llm import LlmError, Outcome, Reply, Request, Usage, meaning
from nas.llm.ledger import Ledger
from nas.llm.price import TABLE, cost, worst_usage
from nas.llm.transcript import FINAL, Call, Replay, Transcript, from_plain, read_call
from nas.records import to_plain

MODEL = "claude-sonnet-5-5"

HOSTILE = [
    "",
    "\x00\x01\x1f\x7f\u2028\u2029\ufeff",
    "half of a pair: \ud83d, both halves apart: \ud83d\ude00, together: \U0001f600",
    'quotes " \\ \\u0041 \\ud83d </code> ```',
    "line\r\nline\rline\n\n",
    "é́ 漢字 עברית",
    "x" * 100_000,
]


def ask(id: str = "1.code", text: str = "write") -> Request:
    return Request(
        id=id, role="propose", model=MODEL, system=("rules", "facts"), messages=(("user", text),), max_tokens=500,
        effort="medium", schema={"type": "object", "properties": {"é": {"enum": [1, None, True, 0.1]}}},
    )  # fmt: skip


def say(text: str = "done", outcome: Outcome = "ok") -> Reply:
    return Reply(
        outcome=outcome, text=text, usage=Usage(input_tokens=10, cache_read_tokens=5, output_tokens=20), model=MODEL,
        stop_reason="end_turn", request_id="req_1", attempts=2, seconds=1.25,
    )  # fmt: skip


def keep(transcript: Transcript, request: Request, reply: Reply, usd: str | None = "0.01") -> None:
    transcript.begin(request, Decimal("0.5"))
    transcript.record(request, reply, usd)


def files(folder: Path, kind: str = "json") -> list[Path]:
    return sorted(folder.glob(f"*.{kind}"))


# ---- to and from plain data


@pytest.mark.parametrize("text", HOSTILE)
def test_a_call_comes_back_as_it_was(text: str) -> None:
    request = Request(
        id=text, role="repair", model=text, system=(text, text), messages=(("user", text), ("assistant", text)),
        max_tokens=7, schema={text: [text, 0.1, None, {"a": [[]]}]},
    )  # fmt: skip
    reply = Reply(outcome="refused", text=text, message=text, category=text, stop_reason=text, seconds=0.1 + 0.2)
    call = Call(request=request, reply=reply, usd="0.0000001", began="a", ended="b")
    plain = json.loads(json.dumps(to_plain(call), ensure_ascii=False))
    assert from_plain(plain) == call
    assert from_plain(to_plain(call)) == call


@pytest.mark.parametrize("text", HOSTILE)
def test_a_file_holds_hostile_text(tmp_path: Path, text: str) -> None:
    request = ask(text=text.encode("utf-8", "replace").decode())
    keep(Transcript(tmp_path), request, say(text), usd=None)
    found = Transcript(tmp_path).find(request)
    assert found is not None
    assert (found.request, found.reply, found.usd) == (request, say(text), None)


@pytest.mark.parametrize(
    "id", ["17.code", "check.qwen3:8b", "../../x", "a/b", "*?[!", "\x00", "", "-", "9.a-" + "0" * 24]
)
def test_any_id_names_a_file(tmp_path: Path, id: str) -> None:
    keep(Transcript(tmp_path / "calls"), ask(id), say())
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "calls"]
    found = Transcript(tmp_path / "calls").find(ask(id))
    assert found is not None and found.request.id == id
    assert [entry.request for entry in Transcript(tmp_path / "calls").settled()] == [id]


def test_a_file_has_what_was_asked_said_and_paid_and_no_more(tmp_path: Path) -> None:
    times = iter([100.0, 160.5])
    keep(Transcript(tmp_path, clock=lambda: next(times)), ask(), say())
    (path,) = files(tmp_path)
    assert path.name == f"1.code-{meaning(ask())}.json"
    plain = json.loads(path.read_text("utf-8"))
    assert set(plain) == {"request", "reply", "usd", "began", "ended"}
    assert set(plain["request"]) == {"id", "role", "model", "system", "messages", "max_tokens", "effort", "schema"}
    assert plain["usd"] == "0.01"
    assert (plain["began"], plain["ended"]) == ("1970-01-01T00:01:40.000+00:00", "1970-01-01T00:02:40.500+00:00")


def test_a_file_of_fewer_fields_is_read(tmp_path: Path) -> None:
    """As a person writes it, or a version that knew less."""
    plain = to_plain(Call(request=ask(), reply=say()))
    for name in ("usage", "seconds", "request_id"):
        del plain["reply"][name]
    for name in ("usd", "began", "ended"):
        del plain[name]
    (tmp_path / "by hand.json").write_text(json.dumps(plain))
    assert read_call(tmp_path / "by hand.json").reply.text == "done"
    assert Replay(tmp_path).answer(ask("9.code")).reply.usage == Usage()


# ---- a resumed run


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_only_what_is_final_is_found(tmp_path: Path, outcome: Outcome) -> None:
    keep(Transcript(tmp_path), ask(), say(outcome=outcome))
    found = Transcript(tmp_path).find(ask())
    assert (found is not None) is (outcome in FINAL) is (outcome in ("ok", "refused", "cut", "stop"))


def test_another_question_or_another_id_is_not_found(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    assert transcript.find(ask()) is None
    keep(transcript, ask(), say())
    assert transcript.find(ask()) is not None
    assert transcript.find(ask(text="write!")) is None
    assert transcript.find(ask("11.code")) is None
    assert transcript.find(ask("1.cod")) is None


def test_a_call_asked_again_gets_a_file_of_its_own(tmp_path: Path) -> None:
    keep(Transcript(tmp_path), ask(), say("", "again"), "0.1")
    keep(Transcript(tmp_path), ask(), say("", "halt"), "0.2")
    keep(Transcript(tmp_path), ask(), say("at last"), "0.3")
    found = Transcript(tmp_path).find(ask())
    assert found is not None and found.reply.text == "at last"
    stem = f"1.code-{meaning(ask())}"
    assert {path.name for path in files(tmp_path)} == {f"{stem}.json", f"{stem}.2.json", f"{stem}.3.json"}
    assert [entry.usd for entry in Transcript(tmp_path).settled()] == [Decimal(n) / 10 for n in (1, 2, 3)]


KILLED = """
import os, signal, sys
from decimal import Decimal
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_transcript import ask, keep, say
from nas.llm.transcript import Transcript
transcript = Transcript(Path({folder!r}))
keep(transcript, ask("1.code"), say())
transcript.begin(ask("2.code"), Decimal("0.25"))
transcript.begin(ask("2.code"), Decimal("0.25"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_call_counts_with_its_worst_case_and_is_asked_again(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    transcript = Transcript(tmp_path)
    assert transcript.find(ask("1.code")) is not None
    assert transcript.find(ask("2.code")) is None
    assert [(entry.request, entry.usd) for entry in transcript.settled()] == [
        ("1.code", Decimal("0.01")),
        ("2.code", Decimal("0.5")),
    ]
    keep(transcript, ask("2.code"), say())
    assert [(entry.request, entry.usd) for entry in Transcript(tmp_path).settled()] == [
        ("1.code", Decimal("0.01")),
        ("2.code", Decimal("0.5")),
        ("2.code", Decimal("0.01")),
    ]
    assert Transcript(tmp_path).find(ask("2.code")) is not None


@pytest.mark.parametrize("moment", range(1, 13))
def test_a_kill_at_any_write_loses_no_money_and_no_answer(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends the run at one of its six renames, as a kill would: before it at odd moments, after it at even ones."""
    turns = itertools.count(1)
    rename = os.replace

    def fail(source: str, target: str) -> None:
        turn = next(turns)
        if turn == (moment + 1) // 2:
            if moment % 2 == 0:
                rename(source, target)
            raise KeyboardInterrupt
        rename(source, target)

    asked, told = [], []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", fail)
        transcript = Transcript(tmp_path)
        for n in (1, 2, 3):
            transcript.begin(ask(f"{n}.code"), Decimal(10**n))
            asked.append(f"{n}.code")
            transcript.record(ask(f"{n}.code"), say(), Decimal(n))
            told.append(f"{n}.code")
    resumed = Transcript(tmp_path)
    counted = {entry.request: entry.usd for entry in resumed.settled()}
    assert set(asked) <= set(counted) and resumed.damaged == []
    for id in told:
        assert counted[id] == int(id[0]) and resumed.find(ask(id)) is not None


def test_the_ledger_takes_what_the_transcript_kept(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    ledger = Ledger(Decimal(1), before=transcript.begin)
    for n in range(12):
        request = ask(f"{n}.code")
        ticket = ledger.reserve(request, MODEL)
        assert ticket is not None
        usage = Usage(input_tokens=100 * n, output_tokens=500)
        ledger.settle(ticket, usage)
        reply = Reply(outcome="ok", text="x", usage=usage, model=MODEL, attempts=1)
        transcript.record(request, reply, ledger.cost(request, reply))
    assert ledger.reserve(ask("12.code"), MODEL) is not None
    transcript.record(ask("13.code"), Reply(outcome="halt"), "0")
    resumed = Ledger(Decimal(1))
    resumed.restore(Transcript(tmp_path).settled())
    assert resumed.spent == ledger.spent + cost(worst_usage(ask("12.code")), TABLE[MODEL])
    assert resumed.settled[:12] == ledger.settled
    assert resumed.calls == ledger.calls == 13


def test_calls_are_settled_in_the_order_of_their_ids(tmp_path: Path) -> None:
    ids = ["0.ideas", "2.code", "2.repair1", "2.repair2", "2.repair10", "10.code", "100.code"]
    for id in reversed(ids):
        keep(Transcript(tmp_path), ask(id), say())
    assert [entry.request for entry in Transcript(tmp_path).settled()] == ids


# ---- damage

DAMAGE = {
    "empty": b"",
    "cut": b'{"request": {"id": "1.code", "ro',
    "no json": b"\xff\xfe\x00",
    "another thing": b"[1, 2]",
    "a number as text": None,
    "an outcome that is none": None,
    "a field too many": None,
    "a field too few": None,
    "an amount that is none": None,
}


def damage(path: Path, kind: str) -> None:
    content = DAMAGE[kind]
    if content is None:
        plain = json.loads(path.read_text("utf-8"))
        if kind == "a number as text":
            plain["reply"]["usage"]["input_tokens"] = "10"
        elif kind == "an outcome that is none":
            plain["reply"]["outcome"] = "fine"
        elif kind == "a field too many":
            plain["request"]["temperature"] = 1
        elif kind == "a field too few":
            del plain["request"]["messages"]
        else:
            plain["usd"] = "NaN"
        content = json.dumps(plain).encode()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_reported_and_counts_as_absent(tmp_path: Path, kind: str) -> None:
    keep(Transcript(tmp_path), ask(), say())
    keep(Transcript(tmp_path), ask("2.code", "else"), say())
    damage(files(tmp_path)[0], kind)
    transcript = Transcript(tmp_path)
    assert transcript.find(ask()) is None and transcript.find(ask()) is None
    assert transcript.find(ask("2.code", "else")) is not None
    assert [entry.usd for entry in transcript.settled()] == [Decimal("0.5"), Decimal("0.01")]
    assert len(transcript.damaged) == 1 and files(tmp_path)[0].name in transcript.damaged[0]
    keep(transcript, ask(), say("once more"))
    found = Transcript(tmp_path).find(ask())
    assert found is not None and found.reply.text == "once more"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_replay_of_a_damaged_file_does_not_start(tmp_path: Path, kind: str) -> None:
    keep(Transcript(tmp_path), ask(), say())
    damage(files(tmp_path)[0], kind)
    with pytest.raises(LlmError, match=r"1\.code-.*\.json' is damaged"):
        Replay(tmp_path)


def test_a_file_with_another_request_than_its_name_says_is_damaged(tmp_path: Path) -> None:
    keep(Transcript(tmp_path), ask("2.code"), say())
    files(tmp_path)[0].rename(tmp_path / f"1.code-{meaning(ask())}.json")
    transcript = Transcript(tmp_path)
    assert transcript.find(ask("1.code")) is None
    assert "its name is not that of the request" in transcript.damaged[0]


def test_money_that_no_file_tells_stops_a_resumed_run(tmp_path: Path) -> None:
    Transcript(tmp_path).begin(ask(), Decimal(1))
    files(tmp_path, "begun")[0].write_bytes(b"")
    transcript = Transcript(tmp_path)
    with pytest.raises(LlmError, match="not known; restore one of them, or remove both"):
        transcript.settled()
    files(tmp_path, "begun")[0].unlink()
    assert transcript.settled() == []


def test_what_cannot_be_written_is_said_before_the_call(tmp_path: Path) -> None:
    (tmp_path / "calls").write_text("in the way")
    with pytest.raises(LlmError, match="cannot be written"):
        Transcript(tmp_path / "calls").begin(ask(), None)


# ---- replay


def test_a_replay_answers_by_meaning(tmp_path: Path) -> None:
    keep(Transcript(tmp_path), ask("1.code", "one"), say("first"))
    keep(Transcript(tmp_path), ask("2.code", "two"), say("second", "refused"))
    replay = Replay(tmp_path)
    assert replay.answer(ask("77.code", "two")).reply == say("second", "refused")
    assert replay.answer(ask("78.x", "one")).reply == say("first")
    assert replay.answer(ask("78.x", "one")).usd == "0.01"


def test_a_replay_says_what_was_never_asked(tmp_path: Path) -> None:
    keep(Transcript(tmp_path), ask(), say())
    reply = Replay(tmp_path).answer(ask("5.code", "unheard of")).reply
    assert (reply.outcome, reply.attempts, reply.text, reply.model) == ("stop", 0, "", MODEL)
    assert "'5.code'" in reply.message and "never asked this" in reply.message


def test_a_question_asked_several_times_is_answered_by_id_and_then_in_order(tmp_path: Path) -> None:
    for id in ("17.code", "9.code", "30.code"):
        keep(Transcript(tmp_path), ask(id), say(f"told to {id}"))
    replay = Replay(tmp_path)
    assert [replay.answer(ask(id)).reply.text[8:] for id in ("30.code", "9.code", "17.code")] == [
        "30.code",
        "9.code",
        "17.code",
    ]
    others = ["5.code", "1.code", "5.code", "99.code", "1.code"]
    told = [replay.answer(ask(id)).reply.text[8:] for id in others]
    assert told == ["9.code", "17.code", "9.code", "30.code", "17.code"]
    left_over = replay.answer(ask("100.code")).reply
    assert left_over.outcome == "stop" and "only as often as 9.code, 17.code, 30.code" in left_over.message


def test_a_replay_gives_the_last_reply_of_a_call(tmp_path: Path) -> None:
    """The resumed run acted upon it, and a run that ended with `halt` acted upon that."""
    for n in range(11):
        keep(Transcript(tmp_path), ask(), say(str(n), "again"))
    keep(Transcript(tmp_path), ask("2.code", "else"), say("", "halt"))
    replay = Replay(tmp_path)
    assert replay.answer(ask()).reply.text == replay.answer(ask("3.code")).reply.text == "10"
    assert replay.answer(ask("4.code")).reply.outcome == "stop"
    assert replay.answer(ask("2.code", "else")).reply.outcome == "halt"


@pytest.mark.parametrize("begun", [False, True])
def test_a_replay_of_nothing_does_not_start(tmp_path: Path, begun: bool) -> None:
    if begun:
        Transcript(tmp_path).begin(ask(), None)
    with pytest.raises(LlmError, match="holds no call"):
        Replay(tmp_path if begun else tmp_path / "nowhere")
