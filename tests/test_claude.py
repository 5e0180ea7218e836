"""A search that asks a model: the whole loop on a real server, with faults, killed, replayed, refused, directed."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import asking, inbox, steer
from nas.admit.sketch import similarity
from nas.leaderboard import main as leaderboard
from nas.llm.transcript import read_call
from nas.propose.claude import Others
from nas.search import main
from nas.space import load
from nas.spending import lines as spending_lines
from nas.standings import board, read
from nas.store import Store, StoreError, dump
from tests.messages_server import TRANSIENT, Answer, Chance, MessagesServer, Request
from tests.scripted import Scripted

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
BUDGET = "20"


def command(folder: Path, name: str, *more: str) -> list[str]:
    chosen = [
        "--space",
        RINGS,
        "--confirm",
        "0",
        "--budget",
        BUDGET,
        "--lookahead",
        "6",
        "--price",
        "2/10",
        "--blind-control",
        "--seed",
        "2",
    ]
    return [*chosen, "--results", str(folder), "--name", name, *more]


def reach(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have searches of this process ask the server, and not be patient."""
    monkeypatch.setenv("NAS_BASE_URL", server.url)
    monkeypatch.setenv("NAS_API_KEY", "any")
    monkeypatch.setattr(asking, "DEADLINE_S", 4.0)
    monkeypatch.setattr(asking, "BACKOFF_S", 0.01)


class Interrupting:
    """A scripted model whose user presses Ctrl-C when it is asked for the n-th time."""

    def __init__(self, count: int) -> None:
        self.scripted, self.left = Scripted(load(RINGS)), count

    def __call__(self, request: Request) -> Answer:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.scripted(request)


def interrupt_when_given_up(run: Path) -> None:
    """Press Ctrl-C when a search has said that its model is asked no more."""
    for _ in range(1200):
        with contextlib.suppress(StoreError):
            if any("asked no more" in note for note in Store(run).notes()):
                os.kill(os.getpid(), signal.SIGINT)
                return
        time.sleep(0.1)


def lines(run: Path) -> list[str]:
    store = Store(run)
    try:
        return [re.sub(r"127\.0\.0\.1:\d+", "server", line) for line in dump(store)]
    finally:
        store.close()


def calls(run: Path) -> list[dict[str, Any]]:
    return [call for task in Store(run).tasks() for call in (task.outcome or {}).get("calls", ())]


def spent(run: Path, key: str) -> Any:
    return sum(call[key] for task in Store(run).tasks() for call in (task.usage or {}).get("calls", ()))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, MessagesServer]]:
    """A search that a scripted model took part in."""
    folder = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as monkeypatch, MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        assert main(command(folder, "whole")) == 0
        yield folder / "whole", server


def test_what_the_model_wrote_is_trained_and_its_drafts_are_kept(asked: tuple[Path, MessagesServer]) -> None:
    run, _ = asked
    records = read(Store(run))
    written = [e for e in records.entries if e.candidate.arm in ("claude", "claude_blind") and e.program is not None]
    assert {e.candidate.arm for e in written} == {"claude", "claude_blind"}
    assert all("class Model" in e.candidate.source and e.candidate.idea for e in written)
    assert {t.candidate for t in records.trials} >= {e.candidate.id for e in written}
    drafts = [d for task in records.tasks for d in (task.outcome or {}).get("drafts", ())]
    assert drafts and all(
        d["failure"]["message"] for d in drafts
    )  # which rules they break depends on the prompts' text
    found = board(records).spending
    assert found is not None and found.drafts == len(drafts) and found.candidates == len(written)


def test_one_candidate_is_shown_with_what_its_writer_claimed(
    asked: tuple[Path, MessagesServer], capsys: pytest.CaptureFixture[str]
) -> None:
    repaired = next(
        task
        for task in Store(asked[0]).tasks()
        if (task.outcome or {}).get("drafts") and (task.outcome or {}).get("facts")
    )
    assert leaderboard([str(asked[0]), "--show", str(repaired.candidate)]) == 0
    shown = capsys.readouterr().out
    assert "hypothesis: it learns faster" in shown and "sent back: " in shown and "calls for $0." in shown


def test_tokens_and_dollars_are_those_that_the_server_billed(asked: tuple[Path, MessagesServer]) -> None:
    run, server = asked
    billed = server.account.billed()["claude-sonnet-5-5"]
    prompt = billed["input_tokens"] + billed["cache_creation_input_tokens"] + billed["cache_read_input_tokens"]
    found = board(read(Store(run))).spending
    assert found is not None and (found.prompt_tokens, found.output_tokens) == (prompt, billed["output_tokens"])
    assert found.total_usd == (2 * prompt + 10 * billed["output_tokens"]) / Decimal(1_000_000)
    checks = len([r for r in server.requests if r.body.get("max_tokens") == 1])
    assert spent(run, "output_tokens") == billed["output_tokens"] - checks and checks == 1


def test_forecasts_are_asked_once_for_a_trial_and_take_part(asked: tuple[Path, MessagesServer]) -> None:
    tasks = Store(asked[0]).tasks()
    rounds = [task for task in tasks if task.kind == "forecast"]
    assert rounds and all((task.outcome or {})["forecasts"] for task in rounds)
    for rung in (0, 1):
        about = [trial for task in rounds if task.decision["rung"] == rung for trial in task.decision["trials"]]
        assert len(about) == len(set(about))
    promotions = [task.decision for task in tasks if task.kind == "promote"]
    assert any(decision["choice"]["x"] is not None for decision in promotions)
    # How good they were and what they weighed is in the store at every step, and in the table at the end.
    resolved = [decision["weights"]["resolved"] for decision in promotions]
    assert resolved == sorted(resolved) and resolved[-1] > 0
    last = rounds[-1].decision
    assert last["calibration"]["resolved"] == last["weights"]["resolved"] > 0
    found = board(read(Store(asked[0]))).spending
    assert found is not None and found.calibration is not None and len(found.weights) == len(promotions)
    assert found.calibration.resolved >= last["calibration"]["resolved"]
    assert any("resolved, Brier score" in line for line in spending_lines(found))


def test_frozen_part_of_the_prompt_is_the_same_bytes_in_every_proposal(asked: tuple[Path, MessagesServer]) -> None:
    requests = [read_call(path).request for path in sorted((asked[0] / "transcript").glob("[0-9]*.json"))]
    assert len({request.system[0] for request in requests if request.role != "forecast"}) == 1
    assert len({request.system[0] for request in requests if request.role == "forecast"}) == 1


def test_blind_arm_is_told_no_results(asked: tuple[Path, MessagesServer]) -> None:
    run, _ = asked
    blind = {task.slot for task in Store(run).tasks() if task.decision.get("arm") == "claude_blind"}
    told = [read_call(path).request for path in (run / "transcript").glob("[0-9]*.json")]
    mine = [request for request in told if int(request.id.split(".")[0]) in blind]
    others = [request for request in told if request not in mine and request.role == "propose"]
    assert mine and all(len(request.system) == 1 and "The parent" not in request.messages[0][1] for request in mine)
    assert any(len(request.system) == 2 for request in others)


@pytest.mark.slow
def test_faults_in_a_fifth_of_the_calls_change_nothing(
    asked: tuple[Path, MessagesServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in TRANSIENT if name not in ("hang", "stall")]
    with MessagesServer(Scripted(load(RINGS)), chance=Chance(0.2, seed=3, names=names)) as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "faulty")) == 0
        billed = server.account.billed()["claude-sonnet-5-5"]
        assert len(server.requests) > len(asked[1].requests)
    assert lines(tmp_path / "faulty") == lines(asked[0])
    assert spent(tmp_path / "faulty", "output_tokens") >= billed["output_tokens"] - 5


@pytest.mark.slow
def test_replay_needs_no_server_and_gives_the_same_store(
    asked: tuple[Path, MessagesServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NAS_BASE_URL", raising=False)
    assert main(["--proposer", f"replay:{asked[0]}", "--results", str(tmp_path), "--name", "again"]) == 0
    assert lines(tmp_path / "again") == lines(asked[0])


@pytest.mark.slow
def test_killed_and_resumed_run_asks_nothing_twice_and_ends_the_same(
    asked: tuple[Path, MessagesServer], tmp_path: Path
) -> None:
    with MessagesServer(Scripted(load(RINGS))) as server:
        environment = {**os.environ, "NAS_BASE_URL": server.url, "NAS_API_KEY": "any"}
        start = [sys.executable, "-m", "nas.search", *command(tmp_path, "killed")]
        run = tmp_path / "killed"
        answered: set[str] = set()
        for count in (4, 9, None):
            process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while count is not None and process.poll() is None and len(answered) < count:
                time.sleep(0.02)
                answered = {path.name for path in (run / "transcript").glob("[0-9]*.json")}
            if count is not None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
            start = [sys.executable, "-m", "nas.search", "--resume", str(run)]
        assert process.returncode == 0
        # Asked again is only what had no answer yet when the run was killed.
        again = [path for path in (run / "transcript").glob("[0-9]*.2.json")]
        assert not any(path.with_name(path.name.replace(".2.json", ".json")).exists() for path in again)
        assert len(answered) >= 9
    assert lines(run) == lines(asked[0])


@pytest.mark.slow
def test_a_model_that_declines_is_given_up_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MessagesServer(Scripted(load(RINGS), refused=True)) as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "declined")) == 0
    run = tmp_path / "declined"
    assert {call["outcome"] for call in calls(run)} == {"refused"}
    assert len(calls(run)) < 20
    (said,) = [note for note in Store(run).notes() if "asked no more" in note]
    assert "declined" in said and "frontier_llm" in said
    assert "refused" in capsys.readouterr().out
    assert len([e for e in Store(run).entries() if e.program is not None]) == int(BUDGET) + 2


@pytest.mark.slow
def test_limit_of_dollars_ends_the_model_and_not_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "poor", "--max-usd", "0.45")) == 0
        billed = server.account.billed()["claude-sonnet-5-5"]
    assert Decimal(2 * billed["input_tokens"] + 10 * billed["output_tokens"]) / 1_000_000 <= Decimal("0.45")
    assert any("asked no more" in note and "$0.45" in note for note in Store(tmp_path / "poor").notes())


@pytest.mark.slow
def test_run_without_money_is_resumed_with_more_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "poor"
    with MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        watching = threading.Thread(target=interrupt_when_given_up, args=[run])
        watching.start()
        assert main(command(tmp_path, "poor", "--max-usd", "0.3")) == 130
        watching.join()
        assert main(["--resume", str(run), "--budget", "30"]) == 2
        assert "--budget belongs to the run" in capsys.readouterr().err
        before = len(server.requests)
        assert main(["--resume", str(run), "--max-usd", "2"]) == 0
        assert "at most $2)" in capsys.readouterr().err
        assert len(server.requests) > before + 10
    assert len([note for note in Store(run).notes() if "asked no more" in note]) == 1
    assert main(["--proposer", f"replay:{run}", "--results", str(tmp_path), "--name", "again"]) == 0
    assert lines(tmp_path / "again") == lines(run)


@pytest.mark.slow
def test_run_goes_on_without_its_model_and_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "orphan"
    with MessagesServer(Interrupting(12), keys=["any"]) as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "orphan")) == 130
        monkeypatch.setenv("NAS_API_KEY", "lost")
        capsys.readouterr()
        assert main(["--resume", str(run)]) == 2
        assert "--proposer evolution goes on without it" in capsys.readouterr().err
    monkeypatch.delenv("NAS_API_KEY")
    monkeypatch.delenv("NAS_BASE_URL")
    assert main(["--resume", str(run), "--proposer", "evolution"]) == 0
    assert "the model is asked no more" in capsys.readouterr().err
    assert len([e for e in Store(run).entries() if e.program is not None]) == int(BUDGET) + 2
    assert main(["--proposer", f"replay:{run}", "--results", str(tmp_path), "--name", "again"]) == 0
    assert lines(tmp_path / "again") == lines(run)


def test_bad_key_is_one_line_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MessagesServer(keys=["right"]) as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "never")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "NAS_API_KEY" in error
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-usd", "nothing"], "--max-usd nothing"),
        (["--max-usd", "-1"], "--max-usd -1"),
        (["--price", "cheap"], "'cheap' is no price"),
        (["--proposer", "oracle"], "--proposer 'oracle'"),
        (["--proposer", "replay:/nowhere"], "holds no run"),
        (["--max-calls", "0"], "--max-calls 0"),
        (["--model", "forecast="], "--model 'forecast='"),
        (["--model", "judge=some-model"], "'judge' is no role"),
    ],
)
def test_nonsense_about_the_model_is_one_line(
    more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MessagesServer() as server:
        reach(server, monkeypatch)
        assert main(command(tmp_path, "never", *more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_model_without_a_price_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MessagesServer() as server:
        reach(server, monkeypatch)
        assert main(["--space", RINGS, "--results", str(tmp_path), "--model", "my-llama"]) == 2
    assert "--price" in capsys.readouterr().err


@pytest.mark.slow
def test_roles_have_models_of_their_own_and_the_key_may_be_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MessagesServer(Interrupting(4), keys=["mine"]) as server:
        reach(server, monkeypatch)
        monkeypatch.delenv("NAS_API_KEY")
        models = ["--model", "large", "--model", "repair=small", "--api-key", "mine"]
        assert main(command(tmp_path, "roles", *models)) == 130
        assert {request.body["model"] for request in server.requests[:2]} == {"large", "small"}
    config = (tmp_path / "roles" / "run.json").read_text()
    assert json.loads(config)["model"]["models"] == {"propose": "large", "forecast": "large", "repair": "small"}
    assert "mine" not in config


@pytest.mark.slow
def test_people_direct_and_a_replay_hears_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "steered"
    with MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        main(command(tmp_path, "steered", "--max-hours", "0.0012"))
        known = [e.candidate.id for e in Store(run).entries() if e.candidate.arm == "random"]
        assert steer.main([str(run), "--note", "try gates", "--author", "Ada"]) == 0
        assert steer.main([str(run), "--kind", "simplification"]) == 0
        assert steer.main([str(run), "--veto", str(known[0])]) == 0
        source = next(iter(load(RINGS).baselines.values())).replace("spec.length", "spec.length + 0")
        guest = inbox.message("proposal", "a program", source=source.replace("reshape", "astype('float32').reshape"))
        inbox.put(run, guest)
        assert main(["--resume", str(run)]) == 0
        later = [json.dumps(request.body) for request in server.requests]
    assert any("try gates" in body for body in later)
    store = Store(run)
    assert [(m["kind"], m["author"]) for m in store.messages()][0] == ("note", "Ada")
    promoted = [t.candidate for t in store.tasks() if t.kind == "promote" and t.decision["rung"] == 2]
    assert known[0] not in promoted
    assert any(t.decision.get("asked") and t.decision["kind"] == "simplification" for t in store.tasks())
    capsys.readouterr()
    assert leaderboard([str(run)]) == 0
    assert "Ada: note try gates" in capsys.readouterr().out
    (candidate,) = [e for e in store.entries() if e.candidate.arm == "guest"]
    assert candidate.candidate.operator == f"guest {guest.id}"
    assert main(["--proposer", f"replay:{run}", "--results", str(tmp_path), "--name", "again"]) == 0
    assert lines(tmp_path / "again") == lines(run)


def test_steering_of_what_is_not_there_is_one_line(
    asked: tuple[Path, MessagesServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steer.main([str(tmp_path), "--note", "hello"]) == 2
    assert steer.main([str(asked[0]), "--veto", "999"]) == 2
    assert steer.main([str(asked[0]), "--note", " "]) == 2
    shutil.copytree(asked[0], tmp_path / "torn")
    (tmp_path / "torn" / "run.json").write_text("[]")
    assert steer.main([str(tmp_path / "torn"), "--note", "hello"]) == 2
    assert capsys.readouterr().err.count("\n") == 4


def test_a_program_that_differs_in_sizes_alone_is_too_near() -> None:
    others = Others(fingerprints={"a": 3}, sketches={3: (1, 2, 3, 4), 4: tuple(range(100, 200))})
    assert others.too_near({"fingerprint": "b", "sketch": (1, 2, 3, 9)}) is None
    near = others.too_near({"fingerprint": "b", "sketch": tuple(range(100, 200))})
    assert near is not None and near.rule == "near" and "candidate 4" in near.message
    same = others.too_near({"fingerprint": "a", "sketch": ()})
    assert same is not None and same.rule == "duplicate"
    assert similarity((1, 2, 3), (1, 2, 4)) == 0.5


class Repetitive(Scripted):
    """A scripted model that always writes the same network, each time with another width."""

    def _module(self, rng: np.random.Generator) -> str:
        source = self.space.baselines["mlp"].replace("jnp.tanh", "jnp.sin")
        return source.replace("hp.hidden", f"(hp.hidden + {int(rng.integers(1, 9))})")


@pytest.mark.slow
def test_parallel_streams_that_write_the_same_structure_keep_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MessagesServer(Repetitive(load(RINGS), wrong=0.0, garbled=0.0)) as server:
        reach(server, monkeypatch)
        assert main([*command(tmp_path, "same", "--no-forecasts", "--lookahead", "16")]) == 0
    tasks = {task.candidate: task for task in Store(tmp_path / "same").tasks() if task.kind == "admit"}
    written = [e for e in Store(tmp_path / "same").entries() if e.candidate.arm in ("claude", "claude_blind")]
    assert len([e for e in written if e.program is not None]) == 1
    rules = {e.candidate.id: e.failure.rule for e in written if e.failure is not None}
    assert set(rules.values()) <= {"near", "duplicate"}
    # Some had been admitted by their own task, which could not know of the other stream yet.
    assert any((tasks[candidate].outcome or {})["facts"] for candidate in rules)


def test_messages_that_make_no_sense_are_dropped_and_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    good = {"id": "a", "kind": "note", "author": "Ada", "time": "now", "content": {"text": "hello"}}
    wrong = [
        b"{", b"[]", b'"text"', json.dumps(good | {"kind": "order"}).encode(),
        json.dumps(good | {"content": {}}).encode(), json.dumps(good | {"author": "\ud800"}).encode(),
        json.dumps(good | {"kind": "pin", "content": {"candidate": "7"}}).encode(),
        json.dumps(good | {"kind": "proposal", "content": {"source": "x", "parents": [[1]]}}).encode(),
        json.dumps(good | {"content": {"text": "x" * (1 << 20)}}).encode(),
    ]  # fmt: skip
    for number, content in enumerate(wrong):
        (folder / f"{number}.json").write_bytes(content)
    (folder / "97.json").mkdir()
    (folder / "98.json").write_bytes(json.dumps(good).encode())
    said: list[str] = []
    stored: list[inbox.Message] = []
    taken = inbox.take(tmp_path, stored.append, said.append)
    assert [message.id for message in taken] == ["a"] and taken == stored
    assert len(said) == len(wrong)
    assert [path.name for path in folder.iterdir()] == ["97.json"]


@pytest.mark.slow
def test_message_heard_while_nothing_is_decided_counts_once_in_every_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "drained"
    with MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        main(command(tmp_path, "drained", "--max-hours", "0.001"))
        store = Store(run, write=True)
        last = store.tasks()[-1].slot
        for number, kind in enumerate(("simplification", "mixer")):
            late = inbox.message("kind", "Ada", text=kind)
            store.hear(
                last + 3 + number, {key: getattr(late, key) for key in ("id", "kind", "author", "time", "content")}
            )
        store.close()
        main(["--resume", str(run), "--max-hours", "0.003"])
        assert main(["--resume", str(run)]) == 0
    asked = [task.decision["kind"] for task in Store(run).tasks() if task.decision.get("asked")]
    assert asked == ["simplification", "mixer"]
