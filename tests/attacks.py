"""Entries of the sealed jobs of `test_confine.py`: plain Python where a candidate would run."""

import ctypes
import os
from typing import Any

from nas.execute import confine


def attempt(code: str, names: dict[str, Any]) -> str:
    """What the code stole, as text."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p

    def call(number: int, *arguments: Any) -> int:
        return libc.syscall(ctypes.c_long(number), *arguments)

    known: dict[str, Any] = {"os": os, "ctypes": ctypes, "libc": libc, "call": call, **names}
    exec(code, known)
    result = known.get("result", "")
    return str(result(*known["given"]()) if callable(result) else result)


def attempt_as(
    code: str, names: dict[str, Any], readable: list[str], *, user: int = 0, landlock: int | None = None,
    locked: bool = True,
) -> list[Any]:  # fmt: skip
    """The same under locks that it puts on itself, as another user or by an older interface, and which are missing."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if landlock:
        confine.landlock_version = lambda: landlock
    missing = [layer for layer, why in confine.confine(readable).items() if why] if locked else []
    try:
        return [missing, attempt(code, names)]
    except Exception:
        return [missing, ""]


def attempt_text(code: str, names: dict[str, Any]) -> str:
    """The same of a piece of a candidate, with all of Python and the real modules: no gate and no facade."""
    from nas import api

    return attempt(code, {**names, **{name: getattr(api, name) for name in api.__all__}, "given": _given})


def _given() -> tuple[Any, ...]:
    """What a candidate's constructor is called with."""
    from types import SimpleNamespace

    from flax import nnx

    from nas.space import Spec

    return Spec(length=8, channels=1, classes=2, width=8, depth=1), SimpleNamespace(kernel=3), nnx.Rngs(0)


def attempt_behind_facade(code: str, names: dict[str, Any]) -> str:
    """The same with what a candidate is given, by way of the function that runs candidates."""
    from nas.admit.trace import execute

    said = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    source = f"from nas.api import choice, integer, jax, jnp, lax, nnx, real\n{said}{code}\n"
    found = execute(source + "\nclass Model: result = [result]\n", "Model").result[0]
    return str(found(*_given()) if callable(found) else found)
