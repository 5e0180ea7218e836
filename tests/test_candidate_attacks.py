"""Attacks by source text: the gate refuses them with a line and a remedy, and without it they get nothing either."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attacks
import pytest
from attack_corpus import STEALING, STOPPING
from candidate_attacks import ALL, Text
from prey import Prey, attacked

from nas.admit import gate
from nas.admit.facade import namespaces
from nas.execute.local import LocalExecutor

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's locks are Linux's")
PRELOAD = ("numpy", "jax", "jax.numpy", "flax.nnx", "nas.api")
CANDIDATE = '''"""An idea."""
from nas.api import choice, integer, jax, jnp, lax, nnx, real

{code}


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.head = nnx.Linear(spec.length, spec.classes, rngs=rngs)

    def __call__(self, x):
        return self.head(x[..., 0])
'''


@pytest.fixture(scope="module")
def strict(prey: Prey) -> Iterator[LocalExecutor]:
    with LocalExecutor(1, PRELOAD, sandbox="strict") as executor:
        yield executor


GIVEN = "SECRET LABELS FOLDER SITE TCP UDP SOCKET ABSTRACT COORDINATOR VICTIM KEY".split()
"""What an attack is told, which a candidate would have to find out: not knowing it is no refusal."""
REMEDY = re.compile(
    r"[.;:] (assign|choose|compute|define|did you mean|instead|of such|remove|rename|use|write)\b", re.IGNORECASE
)


def test_gate_refuses_nine_in_ten_with_a_line_and_a_remedy() -> None:
    told, passed = "".join(f"{name} = 'known'\n" for name in GIVEN), []
    for attack in (*ALL, *STEALING, *STOPPING):
        source = attack.code if attack.name == "encoding" else CANDIDATE.format(code=told + attack.code)
        failures = gate.check(source, "Model").failures
        if not any(failure.line and REMEDY.search(failure.message) for failure in failures):
            passed.append(attack.name)
    assert len(passed) <= (len(ALL) + len(STEALING) + len(STOPPING)) // 10, passed


@linux
@pytest.mark.parametrize("text", ALL, ids=lambda t: f"{t.group}-{t.name}")
def test_attack_gets_nothing_without_gate_and_facade(strict: LocalExecutor, prey: Prey, text: Text) -> None:
    assert [loot for loot in attacked(strict, prey, text.code, f"attacks:{attacks.attempt_text.__name__}", 5)] == []


@linux
@pytest.mark.parametrize("entry", [attacks.attempt_text, attacks.attempt_behind_facade])
def test_what_is_no_attack_runs(strict: LocalExecutor, prey: Prey, entry: Callable[..., str]) -> None:
    """So that an attack which gets nothing was tried."""
    code = "result = 'loot' * int(jnp.ones(1).sum())"
    assert attacked(strict, prey, code, f"attacks:{entry.__name__}", 20) == ["loot"]


@linux
def test_attacks_are_alive_where_nothing_is_locked(prey: Prey) -> None:
    tried = [
        text for text in ALL if "trick" not in text.code
    ]  # what steals nothing anywhere is not written all the same
    entry = f"attacks:{attacks.attempt_text.__name__}"
    with LocalExecutor(1, PRELOAD, sandbox="off") as executor:
        failed = [text.name for text in tried if not attacked(executor, prey, text.code, entry, 5)]
    assert len(failed) <= 0.4 * len(tried), failed


@linux
def test_attack_gets_nothing_behind_the_facade_alone(strict: LocalExecutor, prey: Prey) -> None:
    entry = f"attacks:{attacks.attempt_behind_facade.__name__}"
    got = {text.name: loot for text in ALL if (loot := attacked(strict, prey, text.code, entry, 5))}
    assert got == {}


def test_namespaces_have_what_is_listed_and_nothing_else() -> None:
    found = namespaces()
    for path, listed in gate.API.items():
        place = found["nas.api"]
        for part in path.split("."):
            place = getattr(place, part)
        for name in listed:
            getattr(place, name)  # raises if it is not there
    jax = found["nas.api"].jax
    assert jax.numpy is found["nas.api"].jnp and jax.lax is found["nas.api"].lax
    for name in ("version", "__dict__", "__class__", "__loader__", "jit", "config"):
        with pytest.raises(AttributeError, match=f"jax has no '{name}' for candidates"):
            getattr(jax, name)
    with pytest.raises(AttributeError, match="cannot be changed"):
        jax.nn.relu = None
    with pytest.raises(AttributeError, match="cannot be changed"):
        del jax.nn.relu


GOLDEN = Path(__file__).parent / "golden" / "api.txt"


def described(path: str, name: str, value: object) -> str:
    """A line for a listed name: what it is, and its arguments, an equal sign for a default."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    try:
        known = inspect.signature(value).parameters.values() if callable(value) else ()
    except ValueError:
        return f"{path}.{name}(?)"
    taken = [stars.get(one.kind, "") + one.name + "=" * (one.default is not inspect.Parameter.empty) for one in known]
    kind = "class " if inspect.isclass(value) else ""
    return f"{kind}{path}.{name}({', '.join(taken)})" if callable(value) else f"{path}.{name}"


def test_listed_names_are_called_as_when_they_were_read() -> None:
    """An upgrade of JAX or Flax that changes what a candidate sees is to be read: `NAS_GOLDEN=write` accepts it."""
    lines = []
    for path, listed in sorted(gate.API.items()):
        place = namespaces()["nas.api"]
        for part in path.split("."):
            place = getattr(place, part)
        lines += [described(path, name, getattr(place, name)) for name in sorted(listed)]
    found = "\n".join(lines) + "\n"
    if os.environ.get("NAS_GOLDEN") == "write":
        GOLDEN.write_text(found, "utf-8")
    assert found == GOLDEN.read_text("utf-8")
