"""The door for agents and programs, from Python, in process and over stdio, to a search that stops and is resumed."""

import contextlib
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from nas import door as door_module
from nas import mcp
from nas.door import Door, Rejected, open_door
from nas.execute import Unlocked
from nas.execute.local import LocalExecutor
from nas.loop import Search
from nas.search import main
from nas.space import load
from nas.store import Store, StoreError, dump
from tests.report_runs import HOSTILE, UNPRINTABLE, with_hostile_names
from tests.test_architecture import ROOT

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
PAGE = (ROOT.parent / "docs" / "mcp.md").read_text("utf-8")
ASK, WAIT = re.findall(r"(?s)```python\n(.*?)```", PAGE)

MLP = load(RINGS).baselines["mlp"]
GATED = MLP.replace("from nas.api", "import os\nfrom nas.api")
MISSHAPEN = MLP.replace("self.down(jnp.tanh(self.up(h)))", "self.up(h)")
SQUARED = MLP.replace("jnp.tanh(self.up(h))", "self.up(h) ** 2")
SINE = MLP.replace("jnp.tanh", "jnp.sin")


@dataclass(frozen=True)
class Told:
    """A run that was resumed after proposals had been left, and what they were."""

    run: Path
    documented: dict[str, Any]
    proposed: str
    misshapen: str
    duplicate: str


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that stopped after its baselines and a candidate of its own."""
    folder = tmp_path_factory.mktemp("stopped")
    chosen = [
        "--space",
        RINGS,
        "--budget",
        "4",
        "--lookahead",
        "2",
        "--proposer",
        "evolution",
        "--name",
        "NAME",
        "--confirm",
        "0",
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Search, "_late", lambda search: search.strategy.next_candidate > 3)
        assert main([*chosen, "--results", str(folder)]) == 0
    return folder / "NAME"


@pytest.fixture(scope="module")
def resumed(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The same, resumed after proposals had been left: as the page says, by an agent's tool, and two of no use."""
    folder = tmp_path_factory.mktemp("resumed")
    run = folder / "results" / "runs" / "NAME"
    shutil.copytree(stopped, run)
    (folder / "candidate.py").write_text(SQUARED)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        documented: dict[str, Any] = {}
        exec(ASK, documented)
        proposed = call(run, "propose", source=SINE, parents=[2])["ticket"]
        misshapen = open_door(run).tell(MISSHAPEN, author="Ada", text="to be rejected")
        duplicate = open_door(run).tell(MLP.replace("hidden layer", "layer"), author="Ada")
        assert main(["--resume", str(run)]) == 0
        yield Told(run, documented, proposed, misshapen, duplicate)


def calls(server: Any, *asked: tuple[str, dict[str, Any]]) -> list[tuple[bool, Any]]:
    """Call tools of a server, in process or over stdio: whether each failed, and what it said."""

    async def ask() -> list[tuple[bool, Any]]:
        async with Client(server) as client:
            answers = [await client.call_tool(name, arguments) for name, arguments in asked]
        return [
            (bool(a.is_error), getattr(a.content[0], "text", "") if a.is_error else a.structured_content)
            for a in answers
        ]

    return anyio.run(ask)


def call(run: Path, name: str, **arguments: Any) -> Any:
    ((failed, said),) = calls(mcp.make_server(open_door(run)), (name, arguments))
    assert not failed, said
    return said


def refused(run: Path, name: str, **arguments: Any) -> str:
    ((failed, said),) = calls(mcp.make_server(open_door(run)), (name, arguments))
    assert failed, said
    return said


def lines(run: Path) -> list[str]:
    store = Store(run)
    try:
        return list(dump(store))
    finally:
        store.close()


# ---- what is known


def test_task_says_what_is_searched_and_how_to_write_it(stopped: Path) -> None:
    said = call(stopped, "task")
    assert said["scope"] == "Model" and said["contract"]["max_params"] == 400 and said["ladder"]["steps"][-1] == 120
    assert "TUNABLES" in said["api"] and said["takes"] and said["left"] == 3


def test_board_shows_baselines_and_how_much_is_left(stopped: Path) -> None:
    said = call(stopped, "board", top=1)
    assert {row["name"] for row in said["baselines"]} == {"linear", "mlp"}
    assert said["left"] == 3 and said["budget"] == 4
    assert "1 to 50" in refused(stopped, "board", top=10**9)


def test_candidate_shows_source_cost_and_curves(stopped: Path) -> None:
    said = call(stopped, "candidate", id=2)
    assert said["source"] == MLP and said["facts"]["cost"]["params"] == 90
    assert [len(trial["curve"]) for trial in said["trials"]] == [3, 3, 1]
    assert "it has 1 to 3" in refused(stopped, "candidate", id=99)


def test_what_is_asked_of_a_model_and_said_by_people_is_told(stopped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    store = Store(run, write=True)
    for number, (kind, text) in enumerate([("kind", "mixer"), ("note", "try\x1b[31m gates"), ("kind", "free")]):
        told = {"id": f"{number}", "kind": kind, "author": "Ada", "time": "now", "content": {"text": text}}
        store.hear(3, told)
    store.close()
    said = call(run, "task")
    assert said["kind"] == "free" and "Free" in said["kind_means"] and said["notes"] == ["try gates"]


def test_everything_that_is_handed_out_is_bounded(resumed: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOURCE_LENGTH", "LINE_LENGTH", "MESSAGE_LENGTH"):
        monkeypatch.setattr(door_module, name, 20)
    monkeypatch.setattr(door_module, "TRIALS", 1)
    found = open_door(resumed.run).design(2)
    assert len(found.source) == len(found.idea) == 20 and len(found.trials) == 1
    failure = open_door(resumed.run).result(resumed.misshapen).failure
    assert failure is not None and len(failure.message) == 20
    assert all(len(row.name) <= 20 for row in open_door(resumed.run).ask().best)


def test_what_hostile_candidates_say_is_handed_out_without_control_characters(stopped: Path, tmp_path: Path) -> None:
    run = with_hostile_names(stopped, tmp_path / "run")
    with contextlib.closing(sqlite3.connect(run / "run.db")) as connection, connection:
        failure = json.dumps({"stage": "trace", "rule": HOSTILE, "line": 1, "message": HOSTILE})
        connection.execute("UPDATE nas_candidate SET source = source || ?, failure = ?", (f"# {HOSTILE}", failure))
    designs = [call(run, "candidate", id=number) for number in (1, 3)]
    assert all("<script>" in design["idea"] and design["source"].count("\n") > 3 for design in designs)
    for said in (*designs, call(run, "board"), call(run, "task")):
        assert not UNPRINTABLE.search("".join(texts(said)).replace("\n", ""))


def texts(plain: Any) -> Iterator[str]:
    """Every text in a plain value, names included."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, list | dict):
        for part in plain.items() if isinstance(plain, dict) else enumerate(plain):
            for one in part:
                yield from texts(one)


# ---- what to try


@pytest.mark.parametrize("source", [GATED, "def broken(:\n"])
def test_rejected_module_names_line_and_remedy_and_is_not_sent(stopped: Path, source: str) -> None:
    said = refused(stopped, "propose", source=source)
    checked = call(stopped, "admit", source=source)
    assert "line " in said and ("import only from nas.api" in said or "Correct the line" in said)
    assert not checked["admitted"] and checked["failures"][0]["line"] in (1, 2)
    with pytest.raises(Rejected) as rejected:
        open_door(stopped).tell(source, author="Ada")
    assert rejected.value.failures and not (stopped / "inbox").exists()


def test_machine_without_the_locks_of_the_run_is_no_fault_of_the_module(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing_locks(self: LocalExecutor) -> dict[str, str]:
        raise Unlocked("the kernel has no Landlock")

    monkeypatch.setattr(LocalExecutor, "missing_locks", missing_locks)
    with pytest.raises(StoreError, match="no Landlock"):
        open_door(stopped).admit(SINE)


def test_oversized_source_is_refused_in_few_words(stopped: Path) -> None:
    said = refused(stopped, "propose", source=MLP + "# x\n" * 500_000)
    assert "gate/size" in said and len(said) < 400 and not (stopped / "inbox").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"parents": [77]}, "[77]"),
        ({"parents": [2] * 9}, "at most 8"),
        ({"text": "x" * 3_000}, "at most 2,000"),
        ({"author": " \n"}, "names nobody"),
    ],
)
def test_proposal_of_no_use_says_why(stopped: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        open_door(stopped).tell(MLP, **{"author": "Ada", **more})
    assert not (stopped / "inbox").exists()


def test_unknown_ticket_is_an_error(stopped: Path) -> None:
    for ticket in ("abcdef01", "../../run", "", "x" * 10_000):
        said = refused(stopped, "wait", ticket=ticket)
        assert "not known" in said and len(said) < 200


def test_wait_ends_in_time_while_the_search_is_stopped(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    monkeypatch.setattr(mcp, "LONGEST_WAIT_S", 0.2)
    door = open_door(tmp_path / "run")
    before = lines(door.run)
    ticket = door.tell(MLP, author="Ada")
    assert call(door.run, "wait", ticket=ticket, seconds=1e9)["status"] == "waiting"
    assert door.wait(ticket, timeout_s=0).status == "waiting"
    assert lines(door.run) == before
    monkeypatch.setattr(door_module, "WAITING", 1)
    with pytest.raises(ValueError, match="1 messages wait"):
        door.tell(MLP, author="Ada")


# ---- what became of it


def test_proposal_left_while_the_search_is_stopped_is_taken_up_when_it_is_resumed(resumed: Told) -> None:
    said = call(resumed.run, "wait", ticket=resumed.proposed)
    assert said["status"] == "admitted" and said["settled"] and said["scores"][0][0] == 20 and said["rank"] >= 1
    found = call(resumed.run, "candidate", id=said["candidate"])
    assert found["source"] == SINE and found["arm"] == "guest" and found["parents"] == [2]
    assert said["candidate"] in call(resumed.run, "candidate", id=2)["children"]


def test_rejected_proposals_say_why_and_give_their_places_back(resumed: Told) -> None:
    door = open_door(resumed.run)
    misshapen, duplicate = door.result(resumed.misshapen), door.wait(resumed.duplicate, timeout_s=0)
    assert misshapen.status == duplicate.status == "rejected" and misshapen.settled
    assert misshapen.failure is not None and misshapen.failure.rule == "shape"
    assert duplicate.failure is not None and "candidate 2" in duplicate.failure.message
    store = Store(resumed.run)
    ours = [e for e in store.entries() if e.program is not None and e.candidate.arm != "baseline"]
    store.close()
    assert len(ours) == 4


def test_page_about_the_door_does_what_it_says(resumed: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed.documented["checked"].admitted
    exec(WAIT, resumed.documented)
    result = resumed.documented["result"]
    assert result.status == "admitted" and result.scores and str(result.candidate) in capsys.readouterr().out
    with_source = open_door(resumed.run).design(result.candidate)
    assert with_source.source == SQUARED


def test_search_that_has_spent_its_budget_takes_no_proposal(resumed: Told) -> None:
    said = call(resumed.run, "board")
    assert said["best"] and not said["takes"] and said["left"] == 0
    assert "budget of 4" in refused(resumed.run, "propose", source=SQUARED)


# ---- the server


def test_server_over_stdio_as_the_page_starts_it_needs_no_key(resumed: Told) -> None:
    (command,) = re.findall(r"claude mcp add .* -- (.*)", PAGE)
    (configured,) = json.loads(re.findall(r"(?s)```json\n(.*?)```", PAGE)[0])["mcpServers"].values()
    assert [configured["command"], *configured["args"]] == command.split()
    environment = {"PYTHONPATH": str(ROOT.parent)}
    folder = resumed.run.parents[2]
    server = StdioServerParameters(command=sys.executable, args=configured["args"], cwd=folder, env=environment)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("board", {}),
        ("admit", {"source": SINE.replace("jnp.sin", "jnp.cos")}),
        ("admit", {"source": SINE}),
        ("candidate", {"id": 99}),
        ("wait", {"ticket": resumed.proposed}),
    ]
    board, fresh, known, missing, waited = calls(server, *asked)
    assert not board[0] and board[1]["best"]
    assert fresh[1]["admitted"] and fresh[1]["facts"]["cost"]["params"] == 90
    assert known[1]["failures"][0]["rule"] == "duplicate"
    assert missing[0] and "no candidate 99" in missing[1]
    assert waited[1]["status"] == "admitted"


def test_page_names_every_tool_and_the_resource(stopped: Path) -> None:
    async def ask() -> tuple[list[str], list[str], str]:
        async with Client(mcp.make_server(open_door(stopped))) as client:
            tools, resources = (await client.list_tools()).tools, (await client.list_resources()).resources
            content = (await client.read_resource(resources[0].uri)).contents[0]
            return [tool.name for tool in tools], [str(r.uri) for r in resources], getattr(content, "text", "")

    tools, resources, page = anyio.run(ask)
    assert re.findall(r"(?m)^\| `(\w+)` \|", PAGE) == tools
    assert resources == ["nas://api"] and "nas://api" in PAGE and "TUNABLES" in page


def test_error_that_nobody_foresaw_tells_nothing(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("/home/ada/secret")

    monkeypatch.setattr(Door, "ask", broken)
    assert refused(stopped, "board") == "Error executing tool board"


def test_run_that_vanishes_is_said(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    server = mcp.make_server(open_door(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run")
    ((failed, said),) = calls(server, ("board", {}))
    assert failed and "holds no run" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda run: [], "no run is named"),
        (lambda run: ["/nowhere"], "holds no run"),
        (lambda run: ["--run", "/nowhere"], "holds no run"),
        (lambda run: [str(run), "--author", " "], "--author"),
    ],
)
def test_arguments_of_no_use_are_one_line(
    arguments: Callable[[Path], list[str]], said: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mcp.main(arguments(stopped)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_missing_package_is_one_line_with_the_remedy(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mcp"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert mcp.main([str(stopped)]) == 2
    error = capsys.readouterr().err
    assert ".[mcp]" in error and error.count("\n") == 1


def test_folder_that_cannot_be_written_is_said(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "inbox").write_text("a file where a folder should be")
    assert "cannot be used" in refused(tmp_path / "run", "propose", source=MLP)
