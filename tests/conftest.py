"""No test knows of a model or a key that whoever runs the tests has set; threads parse Python one at a time.

A test that interrupts a program does so wherever the tests run: what a shell starts in the background ignores SIGINT.
"""

import ast
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "NAS_")) and name != "NAS_GOLDEN"]:
    del os.environ[name]
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["NO_PROXY"] = "127.0.0.1"
os.environ["JAX_PLATFORMS"] = "cpu"  # the compiler for TPUs, which tests use, is also a driver that looks for one

_parse, _parsing = ast.parse, threading.RLock()


def _parse_alone(*arguments: Any, **options: Any) -> Any:
    """Python 3.11 counts the depth of a syntax tree in one place for all threads, and fails if two of them parse.

    Scripted models write modules in a thread of the process that searches (python/cpython, issue 106905).
    """
    with _parsing:
        return _parse(*arguments, **options)


ast.parse = _parse_alone


@pytest.fixture(scope="module")
def prey() -> Iterator[Any]:
    """What there is to attack, see `prey.Prey`."""
    from prey import KEY, Prey

    # Not in pytest's own folder, which is closed to everybody else: permissions alone should stop nobody.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="prey-") as folder:
        patch.setenv(KEY, "loot of the environment")
        found = Prey(Path(folder))
        yield found
        found.close()
