"""What a candidate could reach on this machine: `python -m nas.admit --self-check` tries it, in seconds.

A sealed process, as candidates have one, asks which locks hold and then tries what they are for: files, network,
processes, limits. A process locked as a trainer on a CPU tries what such a one may not. Nothing that they try would do
harm if it succeeded.
"""

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from nas.execute import Event, Job, Unlocked, confine
from nas.execute.local import LocalExecutor

SECRET = "NAS_SELF_CHECK"
"""A variable of the coordinator's, which no job has."""
TRAINER = ("write a file", "reach the network", "send a packet", "start a process", "run a program",
           "signal this search", "see your variables")  # fmt: skip
"""What a trainer may not do either; it reads what it likes."""


def attempts_job(file: str, port: int, coordinator: int, only: Sequence[str] = ()) -> dict[str, str]:
    """Entry of a job that tries everything, or `only` some of it.

    Args:
      file: one of the coordinator's, open there, which a candidate has no business with.
      port: where the coordinator listens, on 127.0.0.1.
      coordinator: its process.
      only: names of attempts; all if there are none.
    Returns:
      For each attempt an empty text if it succeeded, else why it did not.
    """
    import mmap
    import resource

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    def use_descriptors() -> None:
        """Of 1,024, whether one is the file, by its length, which no other has."""
        for number in range(3, 1024):
            try:
                if os.pread(number, 99, 0).startswith(b"nobody's business"):
                    return
            except OSError:
                pass
        raise OSError(0, "there is none")

    def compute() -> None:
        if (most := resource.getrlimit(resource.RLIMIT_CPU)[0]) != resource.RLIM_INFINITY:
            raise OSError(0, f"at most {most:,} s")

    def fill_memory() -> None:
        if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            mmap.mmap(-1, limit).close()

    attempts: dict[str, Callable[[], object]] = {
        "read a file of yours": lambda: open(file).read(),
        "list a folder of yours": lambda: os.listdir(os.path.dirname(file)),
        "write a file": lambda: open(f"{file}.x", "w").close(),
        "change a file's rights": lambda: os.chmod(file, 0o600),
        "use a file that you have open": use_descriptors,
        "see your variables": lambda: os.environ[SECRET],
        "read this search's environment": lambda: open(f"/proc/{coordinator}/environ").read(),
        "see other processes": lambda: os.listdir("/proc"),
        "reach the network": lambda: socket.create_connection(("127.0.0.1", port), 2).close(),
        "send a packet": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", port)),
        "start a process": fork,
        "run a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signal this search": lambda: os.kill(coordinator, 0),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)),
        "take all memory": fill_memory,
        "compute for ever": compute,
    }
    found = {}
    for name, attempt in {name: attempts[name] for name in only or attempts}.items():
        try:
            attempt()
            found[name] = ""
        except KeyError:
            found[name] = "there are none"
        except (OSError, ValueError) as error:
            found[name] = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return found


def self_check(out: TextIO = sys.stdout) -> int:
    """Print which locks hold here and what a candidate could reach; returns 0 if that is nothing, else 1."""
    os.environ[SECRET] = "set"
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    with listener, tempfile.TemporaryDirectory(prefix="nas-self-check-") as folder:
        file = Path(folder) / "file"
        file.write_text("nobody's business", "utf-8")
        tried = {"file": str(file), "port": listener.getsockname()[1], "coordinator": os.getpid()}
        try:
            with _left_open(file), LocalExecutor(1, ("numpy",), sandbox="auto") as executor:
                missing = executor.missing_locks()
                candidate = _tried(executor, tried, sealed=True)
                (Path(folder) / "own").mkdir()
                trainer = _tried(executor, tried | {"only": list(TRAINER)}, writable=[str(Path(folder) / "own")])
        except Unlocked as error:
            print(f"nas.admit: {error}", file=sys.stderr)
            return 1
        finally:
            del os.environ[SECRET]
    for event in (candidate, trainer):
        if event.kind != "done":
            print(f"nas.admit: the attempts could not be made: {event.error or event.kind}", file=sys.stderr)
            return 1
    for layer in confine.LAYERS:
        print(f"{layer + ':':<34}{confine.sentence(layer, missing[layer]) if layer in missing else 'holds'}", file=out)
    reached = _print_attempts("A candidate that got out of Python could", candidate.result, out)
    reached += _print_attempts("A program that got out of XLA, in a trainer on a CPU, could", trainer.result, out)
    print(f"\n{reached} of these are open; SECURITY.md says what to do" if reached else "\nnone is open", file=out)
    return 1 if reached or missing else 0


@contextlib.contextmanager
def _left_open(file: Path) -> Iterator[None]:
    """A file that the programs which this process starts would inherit."""
    with file.open() as opened:
        os.set_inheritable(opened.fileno(), True)
        yield


def _tried(executor: LocalExecutor, payload: Mapping[str, Any], **locks: Any) -> Event:
    entry = f"{__name__}:{attempts_job.__name__}"
    executor.submit(Job(id=f"attempts {locks}", entry=entry, payload=payload, timeout_s=25, **locks))
    while not (events := executor.poll(1.0)):
        pass
    return events[0]


def _print_attempts(title: str, result: Mapping[str, str], out: TextIO) -> int:
    """Print a list of attempts; returns how many succeeded."""
    print(f"\n{title}", file=out)
    for name, why in result.items():
        print(f"  {name + ':':<32}{f'no ({why})' if why else 'YES'}", file=out)
    return sum(not why for why in result.values())
