"""How often the leak checks refuse a program that leaks nothing: `python -m benchmarks.false_alarms`.

Candidates are drawn as a search draws them, without a score to choose parents by: half are samples of a space's
grammar, half are one to three mutations of a baseline or of an earlier candidate; until so many have come as far as the
leak check. With every baseline of every space they go through gate, trace, check of the program and leak check at their
defaults, in this process. One in a few is then trained for some steps and asked again with its trained parameters, with
each cut tried once.

A causal space's grammar and baselines have causal pieces only, and none mixes examples. So whatever is refused for
time, batch or differing outputs is an alarm, which is written out with its text, to be looked at: it is false unless a
mutation has really built a leak. One that does so is known and counted on its own: it puts BatchNorm in the place of
RMSNorm, which looks ahead in training. So is a network of random pieces that is dead: its outputs are always the same.
"""

import argparse
import itertools
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from nas.admit import gate, leaks
from nas.admit.program import check
from nas.admit.trace import trace
from nas.propose import evolution, grammar
from nas.records import Failure, Program, Value, defaults
from nas.space import SearchSpace, Split, load
from nas.train.engine import Engine, plan

SPACES = (
    "mnist1d", "mnist1d:block", "recall:mixer", "recall:block", "recall:stack",
    "byte_lm:mixer", "byte_lm:block", "byte_lm:stack",
)  # fmt: skip
MOST_MUTATIONS = 3
MOST_DRAWN = 20
"""Candidates that are drawn at most for each that is wanted at the leak check."""
DEAD = "constant"
"""The rule that is no alarm."""
LEAKING = "nnx.BatchNorm("
"""What really leaks in training, where all is causal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one candidate.

    Attributes:
      space: reference.
      origin: `baseline`, `sample` or `mutation`.
      source: its text.
      failure: why it was not admitted.
      trained: what its trained parameters showed: a failure, `clean`, or empty if that was not asked.
    """

    space: str
    origin: str
    source: str
    failure: Failure | None = None
    trained: Failure | str = ""

    @property
    def asked(self) -> bool:
        """Whether it came as far as the leak check."""
        return self.failure is None or self.failure.stage == "leak"

    @property
    def alarm(self) -> Failure | None:
        """The leak that it is said to have."""
        found = self.trained if isinstance(self.trained, Failure) else self.failure
        return found if found is not None and found.stage == "leak" and found.rule != DEAD else None

    @property
    def leaks(self) -> bool:
        """Whether the alarm is right, as far as is known."""
        found = self.alarm
        training = found is not None and found.rule == "time" and found.message.startswith("in training")
        return training and LEAKING in self.source


class Asked:
    """A space and what its candidates are trained on.

    Args:
      reference: of the space.
      steps: of the short training.
    """

    def __init__(self, reference: str, steps: int) -> None:
        self.reference, self.space, self.steps = reference, load(reference), steps
        self._data: tuple[Split, Split] | None = None

    def drawn(self, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        """Origin and text of every baseline, then of random candidates without end."""
        known = list(self.space.baselines.values())
        yield from (("baseline", source) for source in known)
        for number in itertools.count():
            source = grammar.sample(self.space, rng)
            if number % 2:
                source = known[int(rng.integers(len(known)))]
                for _ in range(int(rng.integers(1, MOST_MUTATIONS + 1))):
                    source = _mutated(source, self.space, rng)
            known.append(source)
            yield ("mutation" if number % 2 else "sample"), source

    def verdict(self, origin: str, source: str, *, train: bool) -> Verdict:
        """Send a candidate through the door, and train it a little if it is admitted and that is asked."""
        gated = gate.check(source, self.space.scope)
        found = gated.failures[0] if gated.failures else self._admitted(source, defaults(gated.tunables))
        if isinstance(found, Failure):
            return Verdict(space=self.reference, origin=origin, source=source, failure=found)
        trained = self._trained(*found) if train else ""
        return Verdict(space=self.reference, origin=origin, source=source, trained=trained)

    def _admitted(self, source: str, values: dict[str, Value]) -> Failure | tuple[dict[str, bytes], int, Program]:
        traced = trace(self.space, source, values)
        if isinstance(traced, Failure):
            return traced
        checked = check(*traced, self.space.contract, self.space.recipe, "cpu")
        if isinstance(checked, Failure):
            return checked
        found = leaks.check(self.space, *traced, flops=checked.cost.flops)
        return found if found is not None else (*traced, checked)

    def _trained(self, blobs: dict[str, bytes], param_leaves: int, program: Program) -> Failure | str:
        """What the trainer's check says after a few steps at the recipe's default learning rate."""
        if self._data is None:
            self._data = self.space.task.split("train"), self.space.task.split("validation")
        train, validation = self._data
        how = plan(program.traits, program.cost.flops, self.space, len(validation.inputs), "cpu")
        engine = Engine(self.space, blobs, param_leaves, train, validation, how)
        recipe, steps = self.space.recipe, -(-self.steps // how.chunk) * how.chunk
        carry = engine.placed([(*engine.init(0), np.uint32(0))])[0]
        trial = {"lr": float(recipe.lr.default), "wd": float(recipe.wd.default), "seed": 0}
        carry, _ = engine.train(trial, 0, steps, carry)
        settled = engine.settled(carry)
        scored = engine.score(settled)
        calls = engine.leak_calls(0, 1 << 40)  # as many as are of use
        leak = engine.leak(settled, scored.first, calls, (0, steps, 0))
        return "clean" if leak is None else leaks.failure(leak, f"after {steps} steps")


def _mutated(source: str, space: SearchSpace, rng: np.random.Generator) -> str:
    try:
        return evolution.mutate(source, space, rng).source
    except evolution.NoChild:
        return source


def measure(
    references: Sequence[str], candidates: int, every: int, steps: int, seed: int, workers: int = 1
) -> list[Verdict]:
    """Verdicts on the baselines of each space, and on random ones over all spaces.

    Args:
      references: of spaces.
      candidates: random ones that come as far as the leak check, spread evenly.
      every: one in so many is trained, and every baseline.
      steps: of that training.
      seed: of the drawing.
      workers: processes, each with a space at a time.
    """
    counts = [len(range(index, candidates, len(references))) for index in range(len(references))]
    tasks = [
        (name, own, every, steps, (seed, index))
        for index, (name, own) in enumerate(zip(references, counts, strict=True))
    ]
    if workers == 1:
        return [verdict for task in tasks for verdict in _of_space(*task)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ended = [pool.submit(_of_space, *task) for task in tasks]
        return [verdict for one in ended for verdict in one.result()]


def _of_space(reference: str, candidates: int, every: int, steps: int, seed: tuple[int, int]) -> list[Verdict]:
    asked, found, wanted = Asked(reference, steps), list[Verdict](), candidates
    for number, (origin, source) in enumerate(asked.drawn(np.random.default_rng(seed))):
        random = origin != "baseline"
        if random and (wanted <= 0 or number >= MOST_DRAWN * candidates):
            break
        found.append(asked.verdict(origin, source, train=not random or number % every == 0))
        wanted -= random and found[-1].asked
        _say(found[-1], len(found))
    return found


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Counts, and every alarm with its text."""
    refused = Counter(f"{v.failure.stage}/{v.failure.rule}" for v in verdicts if v.failure is not None)
    asked = [v for v in verdicts if v.asked]
    alarms = [v for v in verdicts if v.alarm is not None and not v.leaks]
    return {
        "candidates": len(verdicts),
        "by_origin": dict(Counter(v.origin for v in verdicts)),
        "refused": dict(refused.most_common()),
        "asked_at_admission": len(asked),
        "random_asked_at_admission": sum(v.origin != "baseline" for v in asked),
        "asked_with_trained_parameters": sum(v.trained != "" for v in verdicts),
        "dead": sum(v.failure is not None and v.failure.rule == DEAD for v in verdicts),
        "leaks_by_batch_norm": sum(v.leaks for v in verdicts),
        "alarms": [{"space": v.space, "origin": v.origin, "failure": str(v.alarm), "source": v.source} for v in alarms],
    }


def _say(verdict: Verdict, number: int) -> None:
    told = verdict.failure or verdict.trained or "admitted"
    print(f"{number} {verdict.space} {verdict.origin}: {str(told)[:160]}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if there was an alarm."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.false_alarms", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--spaces", nargs="+", default=list(SPACES), metavar="SPACE", help="references (all that are built in)")
    add("--candidates", type=int, default=200, metavar="N", help="random ones that come as far as the leak check (200)")
    add("--every", type=int, default=5, metavar="N", help="one in so many is trained, and every baseline (5)")
    add("--steps", type=int, default=50, metavar="N", help="steps of that training (50)")
    add("--workers", type=int, default=1, metavar="N", help="processes (1)")
    add("--seed", type=int, default=0, metavar="N", help="of the drawing (0)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    parsed = parser.parse_args(arguments)
    verdicts = measure(parsed.spaces, parsed.candidates, parsed.every, parsed.steps, parsed.seed, parsed.workers)
    figures = summary(verdicts) | {"by_space": {}}
    rows = []
    for reference in parsed.spaces:
        own = summary([verdict for verdict in verdicts if verdict.space == reference])
        rows.append([
            reference, own["candidates"], own["asked_at_admission"], own["asked_with_trained_parameters"], own["dead"],
            own["leaks_by_batch_norm"], len(own["alarms"]),
        ])  # fmt: skip
        figures["by_space"][reference] = own | {"alarms": len(own["alarms"])}
    print(report.table(["space", "candidates", "asked", "asked trained", "dead", "leaks", "alarms"], rows))
    for alarm in figures["alarms"]:
        print(f"\n{alarm['space']} ({alarm['origin']}): {alarm['failure']}\n{alarm['source']}")
    if parsed.json:
        settings = {name: getattr(parsed, name) for name in ("spaces", "candidates", "every", "steps", "seed")}
        report.write(parsed.json, "false_alarms", settings, figures)
    return 1 if figures["alarms"] else 0


if __name__ == "__main__":
    sys.exit(main())
