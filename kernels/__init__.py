"""Fast operations that candidates may call by name; each is one file with its formula, reference and cases.

`from nas.kernels import rms_norm` gives the operation, an `op.Op`, and not the file of the same name. Nothing is
imported before it is asked for, so that whoever only needs the names stays light.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.kernels.op import Op

    attention: Op
    cross_entropy: Op
    delta_rule: Op
    gated_linear_attention: Op
    linear_recurrence: Op
    rms_norm: Op
    short_convolution: Op

OFFERED = (
    "attention",
    "delta_rule",
    "gated_linear_attention",
    "linear_recurrence",
    "rms_norm",
    "short_convolution",
)
"""What a candidate may import."""

TRUSTED = ("cross_entropy",)
"""What only the side that trains uses."""

NAMES = (*OFFERED, *TRUSTED)


def load(name: str) -> "Op":
    """The operation of this name, one of `NAMES`."""
    return importlib.import_module(f"{__name__}.{name}").OP


class _Package(ModuleType):
    """Importing a file sets its name in the package, which would hide the operation; this one looks it up first."""

    def __getattribute__(self, name: str) -> Any:
        return load(name) if name in NAMES else super().__getattribute__(name)


sys.modules[__name__].__class__ = _Package
