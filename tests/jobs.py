"""What the jobs of `test_execute.py` run. Each function is called in a process of its own, by name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def echo(value: Any = None) -> Any:
    return value


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def fail(count: str) -> None:
    with open(count, "a") as file:
        file.write("x")
    raise ValueError("shape (3,) does not match (4,)")


def leave() -> None:
    sys.exit(0)


def die(signal_number: int = signal.SIGKILL, count: str = "", survive: int = 1 << 30) -> int:
    """Die by a signal, until this has been tried `survive` times; then return how often."""
    before = len(Path(count).read_text()) if count and os.path.exists(count) else 0
    if count:
        Path(count).write_text("x" * (before + 1))
    if before < survive:
        os.kill(os.getpid(), signal_number)
    return before


def abort(last_words: str) -> None:
    os.write(2, f"some warning\n{last_words}\n".encode())
    os.abort()


def hang(pids: str, new_session: bool = False) -> None:
    """Ignore every polite signal, have a child that does so too, and never return."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    script = "trap '' TERM INT HUP; echo; exec sleep 600"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=new_session)
    assert child.stdout is not None
    child.stdout.readline()
    write_pids(pids, os.getpid(), child.pid)
    time.sleep(600)


def leave_child_behind(pids: str, new_session: bool) -> str:
    child = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
    write_pids(pids, os.getpid(), child.pid)
    return "done"


def write_pids(path: str, *pids: int) -> None:
    Path(path + ".part").write_text(" ".join(map(str, pids)))
    os.replace(path + ".part", path)


def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def wait_for_file(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def hold(size: int, in_child: bool = False) -> None:
    """Hold that much resident memory, and hang."""
    if in_child and os.fork():
        time.sleep(600)
    memory = bytearray(size)
    memory[:: os.sysconf("SC_PAGE_SIZE")] = bytes(len(memory[:: os.sysconf("SC_PAGE_SIZE")]))
    time.sleep(600)


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def environment() -> dict[str, str]:
    return dict(os.environ)


def everything_readable() -> str:
    """Every environment that this process can read from here up to the server that it was forked from."""
    own, server = Path("/proc/self/environ").read_bytes(), Path(f"/proc/{os.getppid()}/environ").read_bytes()
    return repr(dict(os.environ)) + (own + server).decode(errors="replace")


def descriptors() -> list[str]:
    """What each open descriptor leads to, without the one that lists them."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            pass
    return found


def surroundings() -> dict[str, Any]:
    import resource

    kinds = {name: getattr(resource, f"RLIMIT_{name}") for name in ("AS", "CPU", "CORE", "FSIZE", "NOFILE")}
    limits = {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}
    return {"folder": os.getcwd(), "session": os.getsid(0) == os.getpid(), "limits": limits}


def allocate(size: int) -> int:
    return len(bytearray(size))


def return_object() -> Any:
    return object()


def forge(answer: bytes) -> None:
    """Write an answer of its own making on every descriptor, and leave."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, answer)
        except OSError:
            pass
    os._exit(0)


def forge_without_end(answer: bytes) -> None:
    """The same, and never stop writing."""
    channel = next(fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}"))
    while True:
        os.write(channel, answer)


def write_errors(size: int) -> str:
    while size > 0:
        size -= os.write(2, b"noise\n" * 1000)
    return "done"


def server_state() -> dict[str, Any]:
    """What this process inherited from the server, and how many threads that has."""
    from jax._src import xla_bridge

    threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
    return {"backend": xla_bridge.backends_are_initialized(), "threads": threads, "server": os.getppid()}


def compute(size: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    value = jax.jit(lambda x: (x @ x.T).sum())(jnp.ones((size, size)))
    return {"value": float(value), "platform": jax.default_backend(), "when": time.monotonic()}


def find_in_memory(disguised: bytes, held: bytes = b"") -> int:
    """How often some bytes, given in complement so that the argument is no hit, are in this process's memory."""
    wanted = bytes(255 - letter for letter in disguised)
    hits = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            bounds, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            low, high = (int(part, 16) for part in bounds.split("-"))
            memory.seek(low)
            try:
                hits += memory.read(high - low).count(wanted)
            except OSError:
                continue
    return hits
