"""How many decisions are in flight, so that a model may take its time and the devices work meanwhile.

In go the times of the tasks that have ended, out comes a lookahead. While a proposal is written, decisions go on, and
what they decide must keep the workers busy until it is there: so many decisions as the workers take to finish in that
time. A search that asks no model needs none of this. Since times are no part of what a run can repeat, the search
stores every change, and a resumed or replayed run takes it from the record.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

ENOUGH = 4
"""Proposals that a model has written before its time is taken as known."""
RECENT = 24
"""Ended tasks that times are taken from."""
WORTH = 1.25
"""Least growth that is worth a record."""


class Pace:
    """Times of the tasks that have ended, as far as they are recent.

    Args:
      workers: jobs at once.
      most: the largest lookahead that may be wanted: decisions so far ahead know little of what came before.
    """

    def __init__(self, workers: int, most: int) -> None:
        self.workers, self.most = workers, most
        self._work_s: deque[float] = deque(maxlen=RECENT)
        self._asked_s: deque[float] = deque(maxlen=RECENT)

    def ended(self, kind: str, usage: Mapping[str, Any]) -> None:
        """Take in a task that has ended.

        Args:
          kind: of the task; baselines say nothing about what comes later.
          usage: as it is stored: `wall_s` of its jobs, and the `calls` that it made, with their `seconds`.
        """
        if kind == "baseline":
            return
        self._work_s.append(usage.get("wall_s", 0.0))
        asked_s = sum(call.get("seconds", 0.0) for call in usage.get("calls", ()))
        if asked_s > 0 and kind == "admit":
            self._asked_s.append(asked_s)

    def wanted(self, now: int) -> int:
        """The lookahead to go on with, never less than the one of now.

        Decisions are worth the mean of the recent tasks' work each, a written proposal takes the upper quartile of the
        recent ones' time.
        """
        if len(self._asked_s) < ENOUGH or now >= self.most:
            return now
        work_s = statistics.fmean(self._work_s)
        asked_s = statistics.quantiles(self._asked_s, n=4, method="inclusive")[-1]
        needed = (
            math.ceil(self.workers * asked_s / work_s) if work_s * self.most > self.workers * asked_s else self.most
        )
        return needed if needed >= WORTH * now or needed == self.most else now
