"""Search for neural architectures written as source code, and believe what is found.

    space ──► propose ──► admit ──► train ──► judge ──► store ──► leaderboard
              evolution   gate      rungs     halving   SQLite
              random      trace     resume    Optuna
              tune        check
                ▲                                │ promote · expand
                └────────────────────────────────┘

What a candidate imports is `nas.api`; what a space imports is here. The loop is `nas.loop`, the commands are
`python -m nas.search`, `nas.leaderboard`, `nas.admit`, `nas.testing` and `nas.store`.
"""

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
