"""What a candidate could reach on this machine: `python -m nas.admit --self-check` tries it, in seconds.

A sealed process, as candidates have one, asks which locks hold and then tries what they are for: files, network,
processes. Nothing that it tries would do harm if it succeeded.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nas.execute import Job, Unlocked, confine
from nas.execute.local import LocalExecutor


def attempts_job(file: str, port: int, coordinator: int) -> dict[str, str]:
    """Entry of the sealed job: tries everything.

    Args:
      file: one of the coordinator's, which a candidate has no business with.
      port: where the coordinator listens, on 127.0.0.1.
      coordinator: its process.
    Returns:
      For each attempt an empty text if it succeeded, else why it did not.
    """
    import resource

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    attempts: dict[str, Callable[[], object]] = {
        "read a file of yours": lambda: open(file).read(),
        "list a folder of yours": lambda: os.listdir(os.path.dirname(file)),
        "write a file": lambda: open(f"{file}.x", "w").close(),
        "change a file's rights": lambda: os.chmod(file, 0o600),
        "read this search's environment": lambda: open(f"/proc/{coordinator}/environ").read(),
        "see other processes": lambda: os.listdir("/proc"),
        "reach the network": lambda: socket.create_connection(("127.0.0.1", port), 2).close(),
        "send a packet": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", port)),
        "start a process": fork,
        "run a program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signal this search": lambda: os.kill(coordinator, 0),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = ""
        except (OSError, ValueError) as error:
            found[name] = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return found


def self_check(out: TextIO = sys.stdout) -> int:
    """Print which locks hold here and what a candidate could reach; returns 0 if that is nothing, else 1."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    with listener, tempfile.TemporaryDirectory(prefix="nas-self-check-") as folder:
        file = Path(folder) / "file"
        file.write_text("nobody's business", "utf-8")
        try:
            with LocalExecutor(1, ("numpy",), sandbox="auto") as executor:
                missing = executor.missing_locks()
                payload = {"file": str(file), "port": listener.getsockname()[1], "coordinator": os.getpid()}
                entry = f"{__name__}:{attempts_job.__name__}"
                executor.submit(Job(id="attempts", entry=entry, payload=payload, sealed=True, timeout_s=60))
                while not (events := executor.poll(1.0)):
                    pass
        except Unlocked as error:
            print(f"nas.admit: {error}", file=sys.stderr)
            return 1
    if events[0].kind != "done":
        print(f"nas.admit: the attempts could not be made: {events[0].error or events[0].kind}", file=sys.stderr)
        return 1
    for layer in confine.LAYERS:
        print(f"{layer + ':':<34}{confine.sentence(layer, missing[layer]) if layer in missing else 'holds'}", file=out)
    print("\nA candidate that got out of Python could", file=out)
    for name, why in events[0].result.items():
        print(f"  {name + ':':<32}{f'no ({why})' if why else 'YES'}", file=out)
    reached = [name for name, why in events[0].result.items() if not why]
    print(
        "\n" + (f"{len(reached)} of these are open; SECURITY.md says what to do" if reached else "none is open"),
        file=out,
    )
    return 1 if reached or missing else 0
