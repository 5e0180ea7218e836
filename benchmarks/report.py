"""What the benchmarks share when they report: a table for people, a file for programs, a median with its spread."""

import importlib.metadata
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas.files import write_file

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "optuna", "numpy")


class Spread(NamedTuple):
    """A median with the lowest and the highest of what was measured."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lines of text: the first column to the left, the others to the right, floats with two digits."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([first.lstrip().ljust(widths[0]), *others]).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write(path: Path, benchmark: str, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, with what they depend on beside the code."""
    from nas.search import machine

    content = {
        "benchmark": benchmark,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings),
        "figures": dict(figures),
    }
    write_file(path, json.dumps(content, indent=2).encode() + b"\n")


def versions() -> dict[str, str]:
    """Of the libraries that figures depend on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
