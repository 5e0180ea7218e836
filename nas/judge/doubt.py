"""Which scores are too good to be believed at once, and what a second training has to show.

A search rewards whatever raises the score, so a leak or an error in a trainer looks like a discovery. A space may say
how far above its best baseline a score is still credible, and what no honest model reaches. What is beyond is trained
again, in another process, without compiled code of others, with another seed and with data that has changed places
(`nas.train.job.other_data_of`): what only the first circumstances gave does not come again. What is not found so is an
error of the data itself, which both trainings share. Pure arithmetic; the flow of a task (`nas.flows`) does it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """From where on a score at a rung is doubted.

    Attributes:
      beyond: a better score than this is not believed at once.
      enough: what it has to be at least when it is trained again, for the first score to be believed.
      maximize: whether a higher score is better.
    """

    beyond: float
    enough: float
    maximize: bool

    def strikes(self, score: float) -> bool:
        """Whether a score has to be repeated."""
        return score > self.beyond if self.maximize else score < self.beyond

    def settled(self, again: float) -> bool:
        """Whether the score of the second training is good enough for the first to be believed."""
        return again >= self.enough if self.maximize else again <= self.enough


def doubt(
    baselines: Iterable[Sequence[float]], *, bound: float | None, gain: float | None, maximize: bool
) -> Doubt | None:
    """What is doubted at a rung; None if nothing is.

    Half of the gain over the best baseline has to come again: that is far more than seeds scatter by.

    Args:
      baselines: scores of each baseline at the rung, by seed; the best mean is compared with.
      bound: the best score that is credible on the task at all, see `nas.space.Task`; None knows none.
      gain: by how much more than the best baseline is credible, see `nas.space.SearchSpace`; None is any.
      maximize: whether a higher score is better.
    """
    sign = 1 if maximize else -1
    limits = [sign * bound] if bound is not None else []
    best = max((sign * fmean(scores) for scores in baselines if scores), default=None)
    if gain is not None and best is not None:
        limits.append(best + gain)
    if not limits:
        return None
    enough = min(limits) if best is None else min(min(limits), (min(limits) + best) / 2)
    return Doubt(beyond=sign * min(limits), enough=sign * enough, maximize=maximize)
