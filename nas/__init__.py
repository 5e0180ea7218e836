"""Search for neural architectures written as source code, and believe what is found.

    space ──► propose ──► admit ──► train ──► judge ──► store ──► confirm ──► leaderboard
              Claude      gate      rungs     halving   SQLite    seeds       page
              evolution   trace     resume    Optuna              test split  export
              random      check               Claude
              tune
                ▲                                │ promote · expand
                └────────────────────────────────┘

What a candidate imports is `nas.api`; what a space imports is here, and `open_door`, by which another program proposes
to a running search. What to do next is decided in `nas.strategy` and done in `nas.loop`; the commands are
`python -m nas.search`, `nas.leaderboard`, `nas.report`, `nas.export`, `nas.submit`, `nas.steer`, `nas.admit`,
`nas.testing`, `nas.store` and `nas.mcp`.
"""

import sys
from typing import Any

if sys.platform == "win32":
    raise ImportError("nas needs Linux or macOS, whose processes it locks; on Windows run it in WSL")

from nas.records import Choice as Choice
from nas.records import Integer as Integer
from nas.records import Real as Real
from nas.space import Contract as Contract
from nas.space import Grammar as Grammar
from nas.space import Ladder as Ladder
from nas.space import Primitive as Primitive
from nas.space import Recipe as Recipe
from nas.space import SearchSpace as SearchSpace
from nas.space import Spec as Spec
from nas.space import Split as Split
from nas.space import Task as Task
from nas.space import load as load
from nas.space import read_sources as read_sources


def __getattr__(name: str) -> Any:
    """`open_door`, when it is asked for: trainers and tracers import this package and need no database."""
    if name == "open_door":
        from nas.door import open_door

        return open_door
    raise AttributeError(f"module 'nas' has no attribute '{name}'")
