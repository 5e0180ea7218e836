"""When a trial of several tasks need not be trained on the rest of them.

In go the scores of a trial on the tasks so far and those of the trial that it would have to beat; out comes whether to
go on, by Optuna's Wilcoxon pruner, and, if not, the score that the tasks so far let expect. A paired test fits: tasks
differ in difficulty far more than trials do, and what is compared is the same for both.

Source: Wilcoxon, "Individual comparisons by ranking methods" (1945); `optuna.pruners.WilcoxonPruner`. With all of k
tasks worse, p is 2^-k: below `THRESHOLD` from four tasks on.
"""

import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean

THRESHOLD = 0.1
"""p below which a trial is left."""


def hopeless(scores: Sequence[float], bar: Sequence[float], *, maximize: bool) -> bool:
    """Whether a trial is worse than the bar, task for task, beyond chance.

    Args:
      scores: of the trial on the first tasks.
      bar: of the trial to beat, on all tasks.
      maximize: whether a higher score is better.
    """
    import optuna
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=THRESHOLD)
    direction, sampler = "maximize" if maximize else "minimize", optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=sampler)
    same = bar[: len(scores)]  # the pruner also compares means, which are of the same tasks only so
    study.add_trial(create_trial(value=fmean(same), intermediate_values=dict(enumerate(same))))
    trial = study.ask()
    for task, score in enumerate(scores):
        trial.report(score, task)
    return trial.should_prune()


def expected(scores: Mapping[str, float], bar: Mapping[str, float]) -> float:
    """The mean score over all tasks of a trial that was trained on some: the bar's, and the mean difference so far.

    It lies within what was scored on any task, so that a share stays one.
    """
    found = fmean(bar.values()) + fmean(score - bar[task] for task, score in scores.items())
    seen = [*bar.values(), *scores.values()]
    return min(max(found, min(seen)), max(seen))
