import contextlib
import dataclasses
import html
import http.client
import itertools
import json
import math
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import sqlalchemy as sa

from nas.leaderboard import summary
from nas.progress import one_line
from nas.report import figures
from nas.report.__main__ import look, main
from nas.report.page import embedded, policy, render
from nas.report.server import Server
from nas.report.snapshot import SOURCES_BYTES, snapshot, thinned
from nas.standings import Records, board, by_rung, rank, read
from nas.store import Score, Store
from tests.report_runs import DIVERGED, HOSTILE, REJECTED, RunWriter, write_confirmation, write_search

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]")


def records_of(folder: Path) -> Records:
    with contextlib.closing(Store(folder)) as store:
        return read(store)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    write_search(folder, 24).close()
    return folder


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return records_of(run)


@pytest.fixture(scope="module")
def plain(records: Records) -> dict[str, Any]:
    return snapshot(records)


def data_of(page: str) -> dict[str, Any]:
    """The data block as a browser reads it: all up to the first end tag."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


# ---- figures


def test_progress_is_in_the_order_of_decisions_and_without_baselines(records: Records) -> None:
    steps = figures.progress(records)
    slots = {(s.trial, s.rung): s.slot for s in records.scores}
    order = [slots[step.trial, step.rung] for step in steps]
    baselines = {e.candidate.id for e in records.entries if e.candidate.arm == "baseline"}
    assert order == sorted(order) and not baselines & {step.candidate for step in steps}
    assert len(steps) == sum(s.point is not None and s.slot > 15 for s in records.scores)


def test_records_are_better_than_all_before_at_their_rung(records: Records) -> None:
    best = dict.fromkeys(range(3), -math.inf)
    for step in figures.progress(records):
        assert step.record == (step.score > best[step.rung])
        best[step.rung] = max(best[step.rung], step.score)
    assert len([v for v in best.values() if v > 0]) == 3


def ahead_of(records: Records, rung: int) -> list[int]:
    return next(list(one.candidates) for one in board(records).front if (one.rung, one.measure) == (rung, "params"))


def test_lower_is_better_turns_records_and_front(records: Records) -> None:
    turned = dataclasses.replace(records, config={**records.config, "maximize": False})
    steps = figures.progress(turned)
    assert (
        min(step.score for step in steps if step.rung == 0) == [s.score for s in steps if s.rung == 0 and s.record][-1]
    )
    scores = by_rung(turned)
    ahead = ahead_of(turned, 0)
    assert scores[ahead[-1]][0] == min(score for of in scores.values() if (score := of[0]) is not None)


def test_front_holds_exactly_those_that_nobody_beats(records: Records) -> None:
    scores = by_rung(records)
    sizes = {e.candidate.id: e.program["cost"]["params"] for e in records.entries if e.program}
    known = {c: (sizes[c], of[0]) for c, of in scores.items() if of[0] is not None}
    free = [
        c for c, (size, score) in known.items()
        if not any(s <= size and at >= score and (s, at) != (size, score) for s, at in known.values())
    ]  # fmt: skip
    assert ahead_of(records, 0) == sorted(free, key=lambda c: known[c])


def test_baseline_stands_by_the_mean_of_its_seeds_at_every_rung(records: Records) -> None:
    scores = by_rung(records)
    for rung in range(3):
        mine = [s.point.score for s in records.scores if s.rung == rung and s.trial in (1, 2, 3) and s.point]
        assert scores[1][rung] == pytest.approx(fmean(mine)) and len(mine) == 3


def test_ladder_counts_what_was_scored_failed_and_promoted(records: Records) -> None:
    levels = figures.ladder(records)
    assert levels[0].scored + levels[0].failed == 24 * 3
    assert [level.promoted for level in levels[:-1]] == [upper.scored + upper.failed for upper in levels[1:]]
    assert all(level.running == 0 for level in levels)


def test_dollars_add_up_to_the_total(records: Records, plain: dict[str, Any]) -> None:
    over = figures.dollars(records)
    found = board(records).spending
    assert found is not None and over[-1][1] == found.total_usd > 0
    assert [slot for slot, _ in over] == sorted({slot for slot, _ in over})
    assert plain["cost"]["over"][-1][1] == pytest.approx(float(plain["cost"]["total_usd"]))


def test_stages_count_a_trainers_second_once(records: Records) -> None:
    trained = sum((t.usage or {})["stages"].get("trainer", 0) for t in records.tasks)
    spent = figures.stages(records)
    assert "trainer" not in spent
    assert sum(spent[k] for k in ("compile", "train", "evaluate", "other")) == pytest.approx(trained)


# ---- the snapshot


def test_rows_are_those_of_the_leaderboard(records: Records, plain: dict[str, Any]) -> None:
    rows = rank(records)
    assert [(r["rank"], r["candidate"]) for r in plain["rows"]] == [(r.rank, r.candidate) for r in rows]
    assert [r["score"] for r in plain["rows"]] == pytest.approx([r.score for r in rows], rel=1e-5)
    keys = {column["key"] for column in plain["columns"]}
    assert all(keys <= row.keys() for row in plain["rows"])


def test_every_pair_of_rungs_is_there_with_its_verdict(records: Records, plain: dict[str, Any]) -> None:
    assert [(one["lower"], one["upper"]) for one in plain["proxies"]] == [(0, 1), (0, 2), (1, 2)]
    for one, told in zip(plain["proxies"], board(records).proxy, strict=True):
        assert one["verdict"] == told.verdict and (one["sentence"] is None) == (told.upper - told.lower > 1)


def test_area_of_a_front_never_shrinks_and_is_that_of_the_board(records: Records, plain: dict[str, Any]) -> None:
    for one, told in zip(plain["areas"], board(records).front, strict=True):
        areas = [one["baselines"], *(area for _, _, area in one["growth"])]
        assert areas == sorted(areas) and areas[-1] == pytest.approx(told.hypervolume, rel=1e-5)
        assert plain["fronts"][one["rung"]][one["measure"]] == list(told.candidates)


def test_confirmation_has_its_columns_and_says_what_is_confirmed(tmp_path: Path, plain: dict[str, Any]) -> None:
    store = write_search(tmp_path / "confirmed", 24)
    write_confirmation(store, finalists=1)
    again = snapshot(read(store))
    fresh = [c["key"] for c in again["columns"] if c not in plain["columns"]]
    assert fresh == ["claim", "test", "places", "fresh", "fresh_seeds", "luck", "reuse", "match", "inference_us"]
    told = [row for row in again["rows"] if "test" in row]
    assert len(told) == 5 and all(row["fresh_seeds"] >= 5 and len(row["test"]) == 2 for row in told)
    assert all(row["match"] and row["inference_us"] == 0.2 for row in told if row["arm"] != "baseline")
    best = again["confirmed"]["best"]
    assert best["test"] == next(row["test"] for row in told if row["candidate"] == best["candidate"])
    assert again["confirmed"]["baseline"]["name"] in ("cnn", "gru", "mlp", "linear")
    assert "1 candidate and 4 baselines were trained again" in again["state"]["label"]
    assert plain["confirmed"] is None and not any("test" in row for row in plain["rows"])


def test_confirmation_without_its_baselines_is_called_unfinished(tmp_path: Path) -> None:
    store = write_search(tmp_path / "unfinished", 24)
    write_confirmation(store, finalists=2)
    records = read(store)
    own = {e.candidate.id for e in records.entries if e.candidate.arm == "baseline"}
    rest = [row for row in records.retrainings if row.candidate not in own]
    assert summary(board(dataclasses.replace(records, retrainings=rest))).startswith("no claim yet: the confirmation")


def test_scores_are_called_unconfirmed(records: Records, plain: dict[str, Any]) -> None:
    assert plain["state"]["label"] == "search score, unconfirmed"
    assert plain["state"]["summary"] == summary(board(records)) and "unconfirmed" in plain["state"]["summary"]
    (column,) = [column for column in plain["columns"] if column["key"] == "score"]
    assert "unconfirmed" in column["title"]


def test_calibration_is_that_of_the_judge(records: Records, plain: dict[str, Any]) -> None:
    found = board(records).spending
    assert found is not None and found.calibration is not None
    overall = plain["forecasts"]["calibration"][0]
    assert overall["rung"] is None and overall["resolved"] == found.calibration.resolved > 5
    assert overall["brier"] == pytest.approx(found.calibration.brier, rel=1e-5)


def test_lift_is_shown_where_its_interval_leaves_out_zero(plain: dict[str, Any]) -> None:
    lifts = [arm["lift"] for arm in plain["arms"] if arm["lift"]]
    assert len(lifts) >= 2 and all(lift["shown"] == (lift["low"] > 0 or lift["high"] < 0) for lift in lifts)


def test_candidates_carry_trials_curves_failures_and_claims(plain: dict[str, Any]) -> None:
    by = {c["status"] for c in plain["candidates"]}
    assert by == {"scored", "rejected"}
    trials = [trial for c in plain["candidates"] for trial in c["trials"]]
    assert any(t["failure"] and t["failure"]["reason"] == "train/diverged" for t in trials)
    assert any(len(t["points"]) == 3 and len(t["losses"]) == 3 for t in trials)
    assert any(t["promoted"] and t["forecasts"] for t in trials)
    assert any(c["claims"] and c["drafts"] and c["usd"] == "0.0204" for c in plain["candidates"])
    shape = next(c for c in plain["candidates"] if c["failure"] and c["failure"]["line"] == 7)
    assert shape["failure"]["reason"] == "trace/shape"


def test_scores_of_tasks_are_on_the_candidates_page_and_those_left_out_are_missing(records: Records) -> None:
    def parted(score: Score) -> Score:
        whole = {"recall": 0.25, "copying\x1b[31m": 0.75}
        parts = whole if score.rung else {"recall": 0.125}
        return dataclasses.replace(score, point=score.point and dataclasses.replace(score.point, parts=parts))

    config = dict(records.config) | {"parts": ["recall", "copying\x1b[31m"]}
    changed = dataclasses.replace(records, config=config, scores=[parted(score) for score in records.scores])
    found = snapshot(changed)
    assert found["run"]["tasks"] == ["recall", one_line("copying\x1b[31m")]
    trial = next(t for c in found["candidates"] for t in c["trials"] if len(t["points"]) == 3)
    told = {"recall": 0.25, one_line("copying\x1b[31m"): 0.75}
    assert trial["tasks"] == [[0, {"recall": 0.125}], [1, told], [2, told]]
    assert not any(t["tasks"] for c in snapshot(records)["candidates"] for t in c["trials"])


def test_losses_are_thinned_to_means_of_neighbours() -> None:
    assert thinned([1.0, 2.0, 3.0], 3) == [1.0, 2.0, 3.0]
    assert thinned([float(i) for i in range(10)], 5) == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert len(thinned([0.0] * 1000, 48)) == 48


def test_text_of_the_run_has_no_control_or_invisible_characters(plain: dict[str, Any]) -> None:
    text = json.dumps(plain, ensure_ascii=False).replace("\\n", " ")
    assert "onerror=alert(1)" in text
    assert CONTROL.search(text) is None and "\\u0000" not in text and "\\u001b" not in text


def test_numbers_that_json_cannot_hold_are_missing(records: Records) -> None:
    def broken(score: Any) -> Any:
        return dataclasses.replace(score, losses=(math.nan, math.inf, 1.0)) if score.point else score

    found = snapshot(dataclasses.replace(records, scores=[broken(score) for score in records.scores]))
    assert "NaN" not in embedded(found)
    losses = next(t["losses"] for c in found["candidates"] for t in c["trials"] if t["losses"])
    assert losses[0][2] == [None, None, 1.0]


def test_sources_that_do_not_fit_are_left_out_last_first(records: Records) -> None:
    best = rank(records)[0].candidate
    entries = [
        dataclasses.replace(e, candidate=dataclasses.replace(e.candidate, source="x" * (SOURCES_BYTES // 10)))
        for e in records.entries
    ]
    kept = snapshot(dataclasses.replace(records, entries=entries))["sources"]
    assert len(kept) == 10 and str(best) in kept


# ---- the page


def test_same_store_gives_the_same_bytes(run: Path) -> None:
    first = render(look(run))
    again = subprocess.run(
        [sys.executable, "-m", "nas.report", str(run), "--out", str(run.parent / "again.html")],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "PATH": ""},
    )  # fmt: skip
    assert (run.parent / "again.html").read_bytes() == first.encode() and "again.html" in again.stdout


def test_page_holds_the_snapshot_and_text_cannot_end_its_element(plain: dict[str, Any]) -> None:
    page = render(plain)
    assert "alert(1)" in json.dumps(plain) and data_of(page) == json.loads(json.dumps(plain))
    assert "<" not in embedded(plain)
    assert page.count("<script") == 3 and page.count("</script>") == 3 and page.count("<img") == 0


def test_name_of_a_run_is_escaped_in_the_title(plain: dict[str, Any]) -> None:
    named = plain | {"run": plain["run"] | {"name": HOSTILE}}
    title = re.search(r"<title>(.*?)</title>", render(named), re.DOTALL)
    assert title and "<" not in title.group(1) and "&lt;/script&gt;" in title.group(1)


def test_policy_allows_the_pages_own_scripts_and_no_network(plain: dict[str, Any]) -> None:
    page = render(plain)
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found
    said = html.unescape(found.group(1))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(scripts) == 2 and style
    assert said == policy((scripts[0], scripts[1]), style.group(1), live=False)
    assert "unsafe" not in said and "connect-src 'none'" in said and "default-src 'none'" in said
    assert "connect-src 'self'" in html.unescape(render(plain, live="abc"))


def test_page_names_no_address_but_those_of_xml(plain: dict[str, Any]) -> None:
    empty = plain | {"sources": {}, "candidates": [], "rejected": [], "rows": []}
    page = re.sub(r'<template id="licenses">.*?</template>', "", render(empty), flags=re.DOTALL)
    assert set(re.findall(r"https?://[\w.-]+", page)) == {"http://www.w3.org"}
    assert not re.search(r"""(src|href)\s*=\s*["']?(//|http)""", page)


def test_every_package_of_the_chart_library_has_its_licence_on_the_page(plain: dict[str, Any]) -> None:
    static = Path(figures.__file__).parent / "static"
    licences = (static / "charts.licenses.txt").read_text("utf-8")
    package = json.loads((Path(__file__).parent.parent / "web" / "package.json").read_text("utf-8"))
    for name, version in package["dependencies"].items():
        assert f"{name} {version} (ISC)" in licences
    assert html.escape(licences, quote=False) in render(plain)


def test_no_script_of_the_page_makes_markup_of_text() -> None:
    static = Path(figures.__file__).parent / "static"
    for path in sorted(static.glob("*.js")):
        if path.name != "charts.js":
            text = path.read_text("utf-8")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), path


# ---- odd runs


def odd(folder: Path, name: str) -> Path:
    rng = random.Random(1)
    writer = RunWriter(folder / name)
    if name not in ("empty", "one"):
        writer.baseline("cnn", 0.8, rng)
    if name == "rejected":
        for failure in REJECTED:
            writer.propose("random", failure=failure)
    if name == "failures":
        writer.draw(writer.propose("random"), "random", [DIVERGED] * 3)
    if name == "one":
        writer.draw(writer.propose("random"), "random", [0.5])
    if name == "running":
        first = writer.propose("random")
        trials = writer.draw(first, "random", [0.5, 0.6, 0.7])
        writer.promote(trials[2], first, 1, None)
        writer.draw(writer.propose("evolution", parents=(first,)), "evolution", [None, None, None])
        writer.propose("claude", verdict=False)
    writer.store.close()
    return folder / name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "decided nothing yet"),
        ("rejected", "Each of the 4 proposals was rejected"),
        ("failures", "all 3 that ended failed"),
        ("one", "One trial of a candidate has finished"),
        ("running", "Not finished: 3 tasks are running or cut off"),
    ],
)
def test_odd_run_has_a_page_that_says_so(tmp_path: Path, name: str, said: str) -> None:
    found = look(odd(tmp_path, name))
    assert any(said in notice for notice in found["state"]["notices"])
    assert data_of(render(found))["state"] == found["state"]


def test_whole_run_has_nothing_to_say_beforehand(plain: dict[str, Any]) -> None:
    assert plain["state"]["notices"] == [] and plain["state"]["open_tasks"] == 0


def test_running_tasks_are_counted_by_rung(tmp_path: Path) -> None:
    found = look(odd(tmp_path, "running"))
    assert [level["running"] for level in found["ladder"]] == [3, 1, 0]
    assert [c["status"] for c in found["candidates"]] == ["scored", "scored", "waiting", "pending"]


def test_run_of_another_version_gives_a_page_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = odd(tmp_path, "one")
    engine = sa.create_engine(f"sqlite:///{folder / 'run.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE nas_run SET schema = 1")
    engine.dispose()
    assert main([str(folder)]) == 2
    told = capsys.readouterr()
    assert "was written by schema 1" in told.err and told.err.count("\n") == 1
    page = data_of((folder / "report.html").read_text("utf-8"))
    assert page["state"]["unreadable"] and "was written by schema 1" in page["state"]["notices"][0]


def test_damaged_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = odd(tmp_path, "one")
    (folder / "run.json").write_text("{")
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (folder / "report.html").exists()


@pytest.mark.parametrize("arguments", [["no-such-run"], ["--port", "70000"], ["--port", "x"], ["--what"]])
def test_bad_arguments_are_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main([*arguments, "--results", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    assert code == 2 and told.err.startswith("nas.report: ") and told.err.count("\n") == 1


def test_page_that_cannot_be_written_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--out", str(run / "run.json" / "x.html")]) == 2
    assert "give --out a place" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_folder_in_place_of_a_page_is_one_line(run: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--out", out]) == 2
    error = capsys.readouterr().err
    assert "give --out the name of a file" in error and error.count("\n") == 1


# ---- the server


def test_store_that_changes_all_the_time_is_read_a_share_of_the_time(
    run: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, reads = itertools.count(), list[int]()
    monkeypatch.setattr("nas.report.server._stamp", lambda _: (next(clock), 0))

    def make() -> dict[str, Any]:
        reads.append(1)
        time.sleep(0.05)
        return plain

    with Server(run, make, 0) as server:
        for _ in range(20):
            server.latest.get()
    assert len(reads) == 1


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    with Server(run, lambda: look(run), 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()


def test_server_shows_the_page_and_the_snapshot(server: Server, plain: dict[str, Any]) -> None:
    page, text = ask(server, "/")
    assert page.status == 200 and data_of(text.decode()) == json.loads(json.dumps(plain))
    answer, content = ask(server, "/snapshot.json")
    assert answer.status == 200 and json.loads(content) == json.loads(json.dumps(plain))
    tag = answer.headers["ETag"]
    assert f"data-live={tag}" in text.decode()
    assert ask(server, "/snapshot.json", If_None_Match=tag)[0].status == 304


def test_command_serves_until_it_is_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "nas.report", str(run), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert address
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=20)) as connection:
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_port_that_is_taken_is_one_line(server: Server, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--serve", "--port", str(server.server_port)]) == 2
    told = capsys.readouterr().err
    assert "give another with --port" in told and told.count("\n") == 1


def test_server_listens_on_the_loopback_only(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example:8765", ""])
def test_server_refuses_other_names(server: Server, host: str) -> None:
    for path in ("/", "/snapshot.json"):
        answer, content = ask(server, path, Host=host)
        assert answer.status == 421 and b"answers to" in content and b"candidate" not in content


def test_server_answers_to_localhost(server: Server) -> None:
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_server_cannot_be_written_to(server: Server, run: Path, method: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert ask(server, "/snapshot.json", method)[0].status == 501
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("path", ["/run.db", "/../run.json", "//run.json", "/candidates/0001.py"])
def test_server_has_no_files(server: Server, path: str) -> None:
    assert ask(server, path)[0].status == 404


def test_answers_may_be_neither_framed_nor_sniffed_nor_read_elsewhere(server: Server) -> None:
    headers = ask(server, "/", "HEAD")[0].headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


def test_server_shows_what_a_search_writes_meanwhile(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "growing", hurry=True)
    with Server(tmp_path / "growing", lambda: look(tmp_path / "growing"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            before, content = ask(server, "/snapshot.json")
            assert json.loads(content)["candidates"] == []
            writer.propose("random")
            deadline, status = time.monotonic() + 30, 304
            while status == 304 and time.monotonic() < deadline:  # it reads again after a while only
                time.sleep(0.05)
                after, content = ask(server, "/snapshot.json", If_None_Match=before.headers["ETag"])
                status = after.status
            assert status == 200 and [c["id"] for c in json.loads(content)["candidates"]] == [1]
        finally:
            server.shutdown()
            thread.join()
            writer.store.close()
