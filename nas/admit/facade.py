"""What a candidate sees of JAX and Flax: frozen namespaces with the names of `gate.API`, and nothing else in them.

The gate reads names in the text; here a name that is not listed is not there, however it is spelled. So what the
modules of JAX hold besides (the operating system, three attributes away) is out of reach of code that got past the
gate by a trick of syntax. What it can still reach are attributes of the listed functions and classes themselves;
the boundary is the process, see `nas.execute.confine`.
"""

import functools
from collections.abc import Mapping
from typing import Any

from nas.admit.gate import API, FACADE, MODULES
from nas.kernels import OFFERED

_SECOND = {"numpy": "jnp", "lax": "lax"}
"""Modules that are found in `jax` too."""


@functools.cache
def namespaces() -> Mapping[str, Any]:
    """What `from nas.api import …` and `from nas.kernels import …` find, by the module's name."""
    from nas import api, kernels

    members: dict[str, dict[str, Any]] = {"jax.scipy": {}}
    for path, listed in API.items():
        head, *inner = path.split(".")
        module = functools.reduce(getattr, inner, getattr(api, head))
        members[path] = {name: getattr(module, name) for name in listed}
    frozen: dict[str, Any] = {}
    for path in sorted(members, key=lambda path: (-path.count("."), path == "jax")):  # what lies inside is made before
        inside = {
            inner.rpartition(".")[2]: found for inner, found in frozen.items() if inner.rpartition(".")[0] == path
        }
        if path == "jax":
            inside |= {name: frozen[short] for name, short in _SECOND.items()}
        frozen[path] = namespace(path, members[path] | inside)
    offered = {name: frozen[name] if name in MODULES else getattr(api, name) for name in FACADE}
    ops = {name: getattr(kernels, name) for name in OFFERED}
    return {"nas.api": namespace("nas.api", offered), "nas.kernels": namespace("nas.kernels", ops)}


def namespace(path: str, members: Mapping[str, Any]) -> Any:
    """An object that has these attributes, for reading, and no others, not even those that every object has."""
    known = dict(members)

    def read(_: Any, name: str) -> Any:
        if name in known:
            return known[name]
        raise AttributeError(f"{path} has no '{name}' for candidates")

    def refuse(_: Any, name: str, *value: Any) -> None:
        raise AttributeError(f"{path}.{name} cannot be changed")

    slots = {"__slots__": (), "__getattribute__": read, "__setattr__": refuse, "__delattr__": refuse}
    return type("Namespace", (), slots)()
