"""The order of the house: imports point down only, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import nas

ROOT = Path(nas.__file__).parent

LAYERS = [
    {"nas.records", "nas.machine", "nas.files"},
    {"nas.api", "nas.layers", "nas.space", "nas.declared", "nas.execute", "nas.llm"},
    {
        "nas.store",
        "nas.judge",
        "nas.judge.*",
        "nas.execute.*",
        "nas.llm.*",
        "nas.progress",
        "nas.lookahead",
        "nas.tables",
    },
    {"nas.admit", "nas.admit.*", "nas.train", "nas.train.*", "nas.propose"},
    {"nas.propose.*", "nas.standings", "nas.costs", "nas.spending", "nas.inbox"},
    {"nas.dossier", "nas.sizes", "nas.scaled", "nas.confirmed", "nas.control", "nas.submitted", "nas.improvements"},
    {"nas.flows", "nas.history", "nas.showing", "nas.propose.claude"},
    {"nas.strategy", "nas.asking"},
    {"nas.loop", "nas.store.*", "nas.testing", "nas.door", "nas.workplace"},
    {"nas.confirm"},
    {"nas.leaderboard", "nas.scale", "nas.estimate", "nas.submit", "nas.across"},
    {"nas.report", "nas.report.*", "nas.export", "nas.export.*", "nas.ablate", "nas.ablated"},
    {"nas.search", "nas.steer", "nas.admit.__main__", "nas.mcp"},
]
"""Lowest first; a module may import from its own layer and those below."""


def layer(module: str) -> int:
    """The layer that names the module, exactly or by its package."""
    for exact in (True, False):
        for index, names in enumerate(LAYERS):
            if module in names if exact else f"{module.rpartition('.')[0]}.*" in names:
                return index
    raise AssertionError(f"{module} is in no layer; give it a place in LAYERS")


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[1] not in ("kernels", "search_spaces") and parts != ("nas", "__init__"):
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> set[str]:
    """Modules of `nas` that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nas":
            known = modules()
            names |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "nas"}
    return names


def test_imports_point_down() -> None:
    known = modules()
    wrong = [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in sorted(imported(path) & set(known))
        if layer(other) > layer(module)
    ]
    assert wrong == []


def test_engine_names_no_space() -> None:
    spaces = [path.parent.name for path in (ROOT / "search_spaces").glob("*/space.py")]
    assert spaces
    for module, path in modules().items():
        for other in imported(path):
            assert not any(f"search_spaces.{space}" in other for space in spaces), f"{module} imports {other}"


def test_nothing_imports_the_bare_names_of_the_links() -> None:
    for path in [*ROOT.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"kernels", "search_spaces"}, path


def test_coordinator_loads_neither_jax_nor_flax() -> None:
    script = "import sys, nas.search, nas.leaderboard; print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
