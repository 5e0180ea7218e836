"""What this machine is: what bits and seconds depend on beside the versions of packages."""

import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """What bits depend on beside the versions: processor, its vector instructions, system."""
    flags: list[str] = []
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags" and not flags:
                flags = sorted(f for f in value.split() if f.startswith(("avx", "amx", "fma", "sse4")))
            elif key.strip() == "model name":
                model = value.strip()
    except OSError:
        pass
    return {
        "processor": model,
        "instructions": flags,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "nproc_per_trial": 1,
    }


def device_name(kind: str) -> str:
    """A device's name for people: an accelerator's own, and of a CPU, which JAX calls `cpu`, the processor's."""
    return (machine()["processor"] or kind) if kind == "cpu" else kind
