"""A battery that every executor must pass, then what is particular to the local one; without the kernel's locks.

Jobs look into `/proc` here to see what they were left; `test_confine.py` has the locks. Another backend is run
through the battery by adding a line to `BACKENDS`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nas.execute import Event, Executor, Job, Need, NoServer, launch, local
from nas.execute.attempt import ENTRIES_LIMIT, decode
from nas.execute.local import LocalExecutor
from nas.execute.server import FRAME_LIMIT_BYTES, HEADER, to_frame

BACKENDS: dict[str, Callable[[], Executor]] = {
    "local": lambda: LocalExecutor(workers=2, preload=(), sandbox="off"),
}
GONE_S = 2.0
"""Nothing of a job is left so long after its deadline [s]."""
SECRET = "canary-of-the-coordinator"


@pytest.fixture(params=BACKENDS)
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    executor = BACKENDS[request.param]()
    yield executor
    executor.close()


def job(name: str, **fields: Any) -> Job:
    payload = fields.pop("payload", {})
    return Job(id=fields.pop("id", name), entry=f"jobs:{name}", payload=payload, **fields)


def collect(executor: Executor, count: int = 1, within_s: float = 60) -> list[Event]:
    """The next events, `count` of them."""
    events: list[Event] = []
    end = time.monotonic() + within_s
    while len(events) < count and time.monotonic() < end:
        events += executor.poll(1)
    assert len(events) == count, events
    return events


def run(executor: Executor, job: Job) -> Event:
    executor.submit(job)
    return collect(executor)[0]


def wait_for(condition: Callable[[], Any], executor: Executor | None = None, within_s: float = 20) -> Any:
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, "did not happen in time"
        if executor is not None:
            assert not executor.poll(0.02)
        else:
            time.sleep(0.02)
    return value


def read_pids(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pids: list[int]) -> None:
    wait_for(lambda: not any(map(alive, pids)), within_s=5)


# The battery.


def test_result_of_a_job_is_returned(executor: Executor) -> None:
    event = run(executor, job("echo", payload={"value": 21}))
    assert (event.job_id, event.kind, event.result, event.attempt) == ("echo", "done", 21, 1)


def test_plain_data_makes_the_round_trip(executor: Executor) -> None:
    value = {"a": [None, True, -(2**63), 1.5, float("inf"), "Ω\n"], "b": {"c": bytes(range(256)), "d": {}}, "e": []}
    assert run(executor, job("echo", payload={"value": value})).result == value


def test_large_payload_and_result_arrive_whole(executor: Executor) -> None:
    value = os.urandom(8 << 20)
    assert run(executor, job("echo", payload={"value": value})).result == value


def test_exception_is_an_error_and_not_retried(executor: Executor, tmp_path: Path) -> None:
    event = run(executor, job("fail", payload={"count": str(tmp_path / "count")}, attempts=3))
    assert event.kind == "error" and event.attempt == 1
    assert event.error.startswith("ValueError: shape (3,) does not match (4,) (jobs.py:")
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize("entry", ["jobs:no_such_function", "no_such_module:echo", "jobs", ":", ""])
def test_unknown_entry_is_an_error(executor: Executor, entry: str) -> None:
    event = run(executor, Job(id="unknown", entry=entry, payload={}))
    assert event.kind == "error" and event.error


@pytest.mark.parametrize("name", ["leave", "return_object"])
def test_exit_and_results_that_are_not_plain_are_errors(executor: Executor, name: str) -> None:
    event = run(executor, job(name))
    assert event.kind == "error" and event.error


def test_job_that_dies_once_is_run_again(executor: Executor, tmp_path: Path) -> None:
    event = run(executor, job("die", payload={"count": str(tmp_path / "count"), "survive": 1}))
    assert (event.kind, event.result, event.attempt) == ("done", 1, 2)


def test_job_that_always_dies_is_lost_after_its_attempts(executor: Executor, tmp_path: Path) -> None:
    fields = {"count": str(tmp_path / "count"), "signal_number": int(signal.SIGSEGV)}
    event = run(executor, job("die", payload=fields, attempts=3))
    assert (event.kind, event.attempt) == ("lost", 3) and "SIGSEGV" in event.error
    assert (tmp_path / "count").read_text() == "xxx"


def test_lost_event_says_what_the_process_wrote_last(executor: Executor) -> None:
    event = run(executor, job("abort", payload={"last_words": "F0000 check failed: n > 0"}, attempts=1))
    assert event.kind == "lost" and event.error == "killed by SIGABRT: F0000 check failed: n > 0"


@pytest.mark.parametrize("new_session", [False, True])
def test_hung_job_times_out_and_nothing_of_it_is_left(executor: Executor, tmp_path: Path, new_session: bool) -> None:
    fields = {"pids": str(tmp_path / "pids"), "new_session": new_session}
    for timeout_s in (0.5, 4.0, 30.0):  # on a busy machine the job may take long to begin to hang
        event = run(executor, job("hang", id=f"hang {timeout_s}", payload=fields, timeout_s=timeout_s))
        assert (event.kind, event.attempt) == ("timeout", 1)
        if pids := read_pids(tmp_path / "pids"):
            break
    assert len(pids) == 2
    began = (tmp_path / "pids").stat().st_mtime  # or a little before
    wait_for(lambda: not any(map(alive, pids)), within_s=began + timeout_s + GONE_S - time.time())


@pytest.mark.parametrize("new_session", [False, True])
def test_hung_job_is_cancelled_and_nothing_of_it_is_left(executor: Executor, tmp_path: Path, new_session: bool) -> None:
    executor.submit(job("hang", payload={"pids": str(tmp_path / "pids"), "new_session": new_session}))
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), executor)
    executor.cancel("hang")
    assert collect(executor)[0].kind == "cancelled"
    assert_gone(pids)


@pytest.mark.parametrize("new_session", [False, True])
def test_job_that_ends_leaves_no_process_behind(executor: Executor, tmp_path: Path, new_session: bool) -> None:
    fields = {"pids": str(tmp_path / "pids"), "new_session": new_session}
    assert run(executor, job("leave_child_behind", payload=fields)).kind == "done"
    assert_gone(read_pids(tmp_path / "pids"))


def test_waiting_job_is_cancelled_and_never_runs(executor: Executor, tmp_path: Path) -> None:
    for name in ("a", "b"):
        executor.submit(job("sleep", id=name, payload={"seconds": 0.3}))
    executor.submit(job("append", id="c", payload={"path": str(tmp_path / "ran"), "text": "c"}))
    executor.poll(0)
    executor.cancel("c")
    assert {event.job_id: event.kind for event in collect(executor, 3)} == {"a": "done", "b": "done", "c": "cancelled"}
    assert not (tmp_path / "ran").exists()


def test_cancelling_what_is_unknown_or_has_ended_changes_nothing(executor: Executor) -> None:
    executor.cancel("nobody")
    assert run(executor, job("echo")).kind == "done"
    executor.cancel("echo")
    assert not executor.poll(0.1)


def test_jobs_start_by_priority_and_then_by_arrival(executor: Executor, tmp_path: Path) -> None:
    whole = Need(cpus=executor.capacity().cpus)
    for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -1), ("e", 0)):
        payload = {"path": str(tmp_path / "order"), "text": name}
        executor.submit(job("append", id=name, priority=priority, need=whole, payload=payload))
    collect(executor, 5)
    assert (tmp_path / "order").read_text() == "dbeac"


def test_job_that_needs_all_cores_is_not_overtaken(executor: Executor, tmp_path: Path) -> None:
    path = str(tmp_path / "order")
    executor.submit(job("sleep", payload={"seconds": 0.3}))
    executor.submit(
        job("append", id="wide", need=Need(cpus=executor.capacity().cpus), payload={"path": path, "text": "w"})
    )
    executor.submit(job("append", id="narrow", payload={"path": path, "text": "n"}))
    collect(executor, 3)
    assert (tmp_path / "order").read_text() == "wn"


@pytest.mark.parametrize("in_child", [False, True])
def test_job_above_its_memory_limit_is_ended(executor: Executor, in_child: bool) -> None:
    need = Need(memory_bytes=150 << 20)
    event = run(executor, job("hold", need=need, payload={"size": 300 << 20, "in_child": in_child}))
    assert event.kind == "memory" and "150 MiB" in event.error


def test_secret_of_the_coordinator_is_in_no_environment_of_a_job(executor: Executor) -> None:
    for sealed in (False, True):
        event = run(executor, job("everything_readable", id=f"sealed {sealed}", sealed=sealed))
        assert event.kind == "done" and SECRET not in event.result and "PATH" in event.result


def test_sealed_job_sees_the_short_environment_only(executor: Executor) -> None:
    event = run(executor, job("environment", sealed=True))
    assert set(event.result) == {"PATH", "HOME", "JAX_PLATFORMS", "PYTHONHASHSEED", "NPROC"}
    assert event.result["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("sealed", [False, True])
def test_job_inherits_no_descriptor_but_its_own(executor: Executor, sealed: bool) -> None:
    executor.submit(job("sleep", payload={"seconds": 0.2}))  # its descriptors must not turn up in the other one
    executor.submit(job("descriptors", sealed=sealed))
    found = {event.job_id: event.result for event in collect(executor, 2)}["descriptors"]
    assert found == ["/dev/null", "/dev/null", "pipe", "socket"]


def test_sealed_job_is_limited_and_away_from_home(executor: Executor) -> None:
    found = run(executor, job("surroundings", sealed=True, timeout_s=20, need=Need(memory_bytes=1 << 30))).result
    assert found["folder"] == "/" and found["session"]
    assert found["limits"]["CORE"] == 0 and found["limits"]["NOFILE"] == 256 and found["limits"]["FSIZE"] == 1 << 20
    assert 1 << 30 < found["limits"]["AS"] <= 8 << 30 and 20 < found["limits"]["CPU"] < 60


def test_sealed_job_that_asks_for_too_much_address_space_is_an_error(executor: Executor) -> None:
    event = run(executor, job("allocate", sealed=True, payload={"size": 32 << 30}))
    assert event.kind == "error" and "MemoryError" in event.error


def test_every_job_runs_with_one_thread_of_xla(executor: Executor) -> None:
    assert run(executor, job("environment")).result["NPROC"] == "1"


def test_many_small_jobs_are_all_done(executor: Executor) -> None:
    for index in range(50):
        executor.submit(job("echo", id=str(index), payload={"value": index}))
    assert {int(event.job_id): event.result for event in collect(executor, 50)} == {i: i for i in range(50)}


def test_usage_of_a_job_is_reported(executor: Executor) -> None:
    usage = run(executor, job("spin", payload={"seconds": 0.3})).usage
    assert 0.3 <= usage.cpu_s < 5 and usage.wall_s >= 0.3 and usage.peak_bytes > 1 << 20


def test_id_that_is_known_is_refused(executor: Executor) -> None:
    assert run(executor, job("echo")).kind == "done"
    with pytest.raises(ValueError, match="id of its own"):
        executor.submit(job("echo"))


@pytest.mark.parametrize(
    "fields",
    [
        {"need": Need(cpus=1000)},
        {"need": Need(accelerators=1)},
        {"payload": {"value": object()}},
        {"payload": {"value": 2**70}},
        {"attempts": 0},
    ],
)
def test_job_that_cannot_be_run_is_refused(executor: Executor, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="job 'echo'"):
        executor.submit(job("echo", **fields))


def test_closing_twice_ends_every_process(executor: Executor, tmp_path: Path) -> None:
    executor.submit(job("hang", payload={"pids": str(tmp_path / "pids")}))
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), executor)
    executor.close()
    executor.close()
    assert_gone(pids)


# Answers of a job that does not play fair.


def framed(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


FORGED = {
    "no frame": b"garbage!" * 100,
    "longer than allowed": HEADER.pack(FRAME_LIMIT_BYTES + 1) + bytes(100),
    "bytes that are no message": framed(b"\xc1\xc1\xc1\xc1"),
    "empty": framed(b""),
    "no map": to_frame([1, 2]),
    "neither result nor error": to_frame({"okay": 1}),
    "error that is no text": to_frame({"error": [1]}),
    "extension type": to_frame({"ok": msgpack.ExtType(5, b"xyz")}),
    "time stamp": to_frame({"ok": [msgpack.Timestamp(1)]}),
    "key that cannot be hashed": framed(b"\x81\xa2ok\x81\x90\x01"),
    "text that is not UTF-8": framed(b"\x81\xa2ok\xa1\xff"),
    "deep": framed(b"\x81\xa2ok" + b"\x91" * 5000),
    "array that claims more than it has": framed(b"\x81\xa2ok\xdd\x00\x0f\xff\xff"),
}


@pytest.mark.parametrize("answer", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("name", ["forge", "forge_without_end"])
def test_forged_answer_is_an_error(executor: Executor, name: str, answer: bytes) -> None:
    event = run(executor, job(name, payload={"answer": answer}, timeout_s=20))
    assert event.kind == "error" and len(event.error) < 3000
    assert run(executor, job("echo")).kind == "done"


def test_answer_cut_short_is_a_lost_job(executor: Executor) -> None:
    assert run(executor, job("forge", payload={"answer": to_frame({"ok": 1})[:-1]}, attempts=1)).kind == "lost"


def test_answer_that_would_fill_memory_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="more than"):
        decode(b"\x92" + 2 * (b"\xdd" + (ENTRIES_LIMIT - 1).to_bytes(4, "big") + b"\xc0" * (ENTRIES_LIMIT - 1)))


def test_text_of_an_error_carries_no_control_characters(executor: Executor) -> None:
    event = run(executor, job("forge", payload={"answer": to_frame({"error": "\x1b[2Jclear" + "x" * 10_000})}))
    assert event.kind == "error" and event.error.startswith("?[2Jclear") and len(event.error) <= 2000


def test_much_on_stderr_is_read_and_too_much_ends_the_job(executor: Executor) -> None:
    assert run(executor, job("write_errors", payload={"size": 1 << 20})).kind == "done"
    event = run(executor, job("write_errors", id="flood", payload={"size": 1 << 34}))
    assert event.kind == "error" and "stderr" in event.error


# The local executor.


def server_pid(executor: LocalExecutor) -> int:
    assert executor._server is not None
    return executor._server.process.pid


@pytest.fixture
def local_executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(workers=2, preload=(), sandbox="off") as executor:
        yield executor


def test_server_with_jax_has_one_thread_and_no_backend_and_jobs_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")  # not for jobs
    with LocalExecutor(workers=1, sandbox="off") as executor:
        state = run(executor, job("server_state")).result
        assert (state["backend"], state["threads"]) == (False, 1)
        computed = run(executor, job("compute", payload={"size": 8})).result
        assert (computed["value"], computed["platform"]) == (512.0, "cpu")
        assert run(executor, job("compute", id="sealed", sealed=True, payload={"size": 8})).result["value"] == 512.0


def test_killed_server_is_replaced_and_its_jobs_run_again(local_executor: LocalExecutor, tmp_path: Path) -> None:
    first = server_pid(local_executor)
    for name in ("a", "b"):
        local_executor.submit(job("hang", id=name, payload={"pids": str(tmp_path / name)}))
    pids = [wait_for(lambda name=name: read_pids(tmp_path / name), local_executor) for name in ("a", "b")]
    os.kill(first, signal.SIGKILL)
    assert_gone([job_and_child[0] for job_and_child in pids])  # by the kernel: nobody has polled yet
    for name in ("a", "b"):
        (tmp_path / name).unlink()
    again = [wait_for(lambda name=name: read_pids(tmp_path / name), local_executor) for name in ("a", "b")]
    assert_gone(sum(pids, []))
    assert server_pid(local_executor) != first and all(map(alive, sum(again, [])))
    for name in ("a", "b"):
        local_executor.cancel(name)
    assert [(event.kind, event.attempt) for event in collect(local_executor, 2)] == [("cancelled", 2)] * 2


def test_job_whose_every_server_dies_is_lost(
    local_executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SERVERS", 1)
    local_executor.submit(job("hang", payload={"pids": str(tmp_path / "pids")}, attempts=1))
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), local_executor)
    os.kill(server_pid(local_executor), signal.SIGKILL)
    event = collect(local_executor)[0]
    assert (event.kind, event.attempt) == ("lost", 1) and "server" in event.error
    assert_gone(pids)
    assert run(local_executor, job("echo")).kind == "done"


def test_server_that_dies_costs_its_jobs_no_attempt(local_executor: LocalExecutor, tmp_path: Path) -> None:
    payload = {"pids": str(tmp_path / "pids")}
    local_executor.submit(job("hang", payload=payload, attempts=1, timeout_s=120))
    for _ in range(3):
        wait_for(lambda: read_pids(tmp_path / "pids"), local_executor)
        (tmp_path / "pids").unlink()
        os.kill(server_pid(local_executor), signal.SIGKILL)
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), local_executor)
    local_executor.cancel("hang")
    assert [(event.kind, event.attempt) for event in collect(local_executor)] == [("cancelled", 4)]
    assert_gone(pids)


def test_server_killed_while_it_imports_is_replaced() -> None:
    with LocalExecutor(workers=1, sandbox="off") as executor:
        executor.submit(job("echo"))
        for _ in range(3):
            first = wait_for(lambda: executor._server and executor._server.process.pid, executor)
            os.kill(first, signal.SIGKILL)
            wait_for(lambda first=first: executor._server and executor._server.process.pid != first, executor)
        assert collect(executor)[0].kind == "done"


def test_server_that_is_killed_whenever_it_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SERVERS", 3)
    with LocalExecutor(workers=1, sandbox="off") as executor:
        executor.submit(job("echo"))
        with pytest.raises(NoServer, match="did not start"):
            while True:
                if executor._server is not None:
                    os.kill(server_pid(executor), signal.SIGKILL)
                executor.poll(0.05)


def test_jobs_die_at_once_and_the_server_is_replaced_when_it_hangs(
    local_executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_executor.submit(job("hang", payload={"pids": str(tmp_path / "pids")}))
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), local_executor)
    os.kill(server_pid(local_executor), signal.SIGSTOP)
    local_executor.cancel("hang")
    assert_gone(pids)
    with monkeypatch.context() as impatient:
        impatient.setattr(local, "_PATIENCE_S", 0.1)
        assert collect(local_executor)[0].kind == "cancelled"
    assert run(local_executor, job("echo")).kind == "done"


COORDINATOR = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored
from nas.execute import Job
from nas.execute.local import LocalExecutor
executor = LocalExecutor(workers=2, preload=(), sandbox="off")
for index in range(2):
    payload = {"pids": sys.argv[1 + index], "new_session": bool(index)}
    executor.submit(Job(id=str(index), entry="jobs:hang", payload=payload))
holder = 0
if sys.argv[3] == "forked" and not (holder := os.fork()):
    time.sleep(60)  # holds a copy of the socket by whose end the server knows that the coordinator is gone
    os._exit(0)
print(executor._server.process.pid, holder, flush=True)
while True:
    executor.poll(10)
"""


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGKILL, "plain"), (signal.SIGINT, "plain"), (signal.SIGKILL, "forked")]
)
def test_nothing_is_left_when_the_coordinator_is_killed(tmp_path: Path, number: signal.Signals, how: str) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    coordinator = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, *map(str, paths), how],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert coordinator.stdout is not None
    with coordinator.stdout:
        server, holder = map(int, coordinator.stdout.readline().split())
    try:
        pids = [server, *(pid for path in paths for pid in wait_for(lambda path=path: read_pids(path)))]
        assert len(pids) == 5 and os.getsid(server) == server
        coordinator.send_signal(number)
        coordinator.wait()
        assert_gone(pids)
    finally:
        coordinator.kill()
        if holder:
            os.kill(holder, signal.SIGKILL)


def test_data_of_a_job_is_not_in_the_memory_of_a_later_one(local_executor: LocalExecutor) -> None:
    labels = os.urandom(64)
    many, disguised = labels * 1000, bytes(255 - letter for letter in labels)
    assert run(local_executor, job("echo", payload={"value": many})).result == many
    hits = run(local_executor, job("find_in_memory", sealed=True, payload={"disguised": disguised})).result
    payload = {"disguised": disguised, "held": many}
    control = run(local_executor, job("find_in_memory", id="control", sealed=True, payload=payload)).result
    assert hits < 100 and control >= 1000


def test_sealed_job_that_uses_too_much_processor_time_times_out_unwatched(
    local_executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SPARE_CPU_S", -59)
    event = run(local_executor, job("spin", sealed=True, timeout_s=60, payload={"seconds": 30}))
    assert event.kind == "timeout" and "processor time" in event.error


def test_each_job_sees_the_accelerators_that_it_was_given() -> None:
    with LocalExecutor(workers=4, preload=(), accelerators=["cuda:0", "cuda:3"]) as executor:
        assert executor.capacity() == Need(cpus=4, accelerators=2)
        for name, count in (("one", 1), ("other", 1), ("none", 0), ("both", 2)):
            executor.submit(job("environment", id=name, need=Need(accelerators=count)))
        seen = {event.job_id: event.result for event in collect(executor, 4)}
    visible = {name: found["CUDA_VISIBLE_DEVICES"] for name, found in seen.items()}
    assert {visible["one"], visible["other"]} <= {"0", "3"}
    assert sorted(visible["both"].split(",")) == ["0", "3"] and visible["none"] == ""
    assert seen["one"]["JAX_PLATFORMS"] == "cuda,cpu" and seen["none"]["JAX_PLATFORMS"] == "cpu"


def test_job_without_accelerator_passes_those_that_wait_for_one(tmp_path: Path) -> None:
    with LocalExecutor(workers=2, preload=(), accelerators=["tpu:0"]) as executor:
        path = str(tmp_path / "file")
        for name in ("holds it", "waits for it"):  # the first holds it until the third, which needs none, has run
            executor.submit(job("wait_for_file", id=name, need=Need(accelerators=1), payload={"path": path}))
        executor.submit(job("append", id="needs none", payload={"path": path, "text": "x"}))
        assert [event.kind for event in collect(executor, 3)] == ["done"] * 3


@pytest.mark.parametrize("names", [["gpu:0"], ["cuda"], ["cuda:0", "tpu:0"]])
def test_accelerators_of_unknown_kind_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="cuda:0"):
        LocalExecutor(workers=1, preload=(), accelerators=names)


def test_sealed_job_is_refused_an_accelerator() -> None:
    with LocalExecutor(workers=1, preload=(), accelerators=["cuda:0"]) as executor:
        with pytest.raises(ValueError, match="sealed"):
            executor.submit(job("echo", sealed=True, need=Need(accelerators=1)))


def test_server_that_cannot_import_says_so() -> None:
    with LocalExecutor(workers=1, preload=("no_such_module_at_all",)) as executor:
        with pytest.raises(RuntimeError, match="No module named 'no_such_module_at_all'"):
            executor.poll(20)


def test_environment_of_the_server_is_built_from_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "XLA_FLAGS", "JAX_ENABLE_X64"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    assert SECRET not in launch._environment("cpu").values()
    assert launch._environment("cuda")["CUDA_HOME"] == "/opt/cuda"
    assert "ANTHROPIC_API_KEY" not in launch._environment("cuda")
    for name in ("NVIDIA_API_KEY", "NVIDIA_ngc_token", "TPU_PASSWORD", "JAX_SECRETS"):
        monkeypatch.setenv(name, SECRET)
        assert name not in launch._environment("cuda")


def test_share_of_a_devices_memory_is_set_and_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert 0 < float(launch._environment("cuda")["XLA_PYTHON_CLIENT_MEM_FRACTION"]) < 1
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")
    assert launch._environment("cuda")["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.4"


def test_waiting_costs_no_processor_time(local_executor: LocalExecutor) -> None:
    local_executor.submit(job("sleep", payload={"seconds": 1.0}))
    rounds = 0
    select = local_executor._selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal rounds
        rounds += 1
        return select(timeout)

    local_executor._selector.select = counted  # type: ignore[method-assign]
    collect(local_executor)
    assert rounds < 30


@pytest.mark.parametrize(("failures", "kind"), [(1, "done"), (2, "lost")])
def test_fork_that_fails_is_tried_again_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, kind: str
) -> None:
    """As where there are too many processes: the server stands, and the job is the machine's loss."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "few_processes.py").write_text(
        f"import errno, os\nfork, left = os.fork, [None] * {failures}\n"
        "def failing():\n    if left:\n        left.pop()\n        raise BlockingIOError(errno.EAGAIN, 'no more')\n"
        "    return fork()\nos.fork = failing\n"
    )
    with LocalExecutor(workers=1, preload=("few_processes",)) as executor:
        first = run(executor, job("echo", id="first", payload={"value": 1}, attempts=2))
        assert first.kind == kind and (kind == "done" or "cannot fork" in first.error)
        assert run(executor, job("echo", id="second", payload={"value": 2})).result == 2


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
IN_A_GROUP = """
import sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text("0")
from nas.execute import Job
from nas.execute.local import LocalExecutor
with LocalExecutor(workers=1, preload=(), sandbox="off") as executor:
    for name, entry, payload in (("large", "hold", {"size": 600 << 20}), ("small", "echo", {"value": 1})):
        executor.submit(Job(id=name, entry=f"jobs:{entry}", payload=payload, attempts=2, timeout_s=60))
        while not (events := executor.poll(1)):
            pass
        print(name, events[0].kind, events[0].attempt, events[0].error)
"""


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group whose processes have 300 MiB together."""
    group = MEMORY_GROUPS / f"nas-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    limit = next((path for name in ("memory.limit_in_bytes", "memory.max") if (path := group / name).exists()), None)
    if limit is None:
        group.rmdir()
        pytest.skip("control groups have no limit of memory here")
    limit.write_text(str(300 << 20))
    for name, swap in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", 300 << 20)):
        if (group / name).exists():
            (group / name).write_text(str(swap))
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_job_that_the_kernel_ends_for_memory_is_lost_alone(memory_group: Path) -> None:
    """In a container with little memory the kernel ends what is largest; the search goes on."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_GROUP, str(memory_group)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    large, small = ended.stdout.splitlines()
    assert large.startswith("large lost 2 killed by SIGKILL") and small.startswith("small done 1"), ended
