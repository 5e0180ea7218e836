"""Whole searches where there is nothing to find: how often is something claimed? `python -m benchmarks.null`

    python -m benchmarks.null --searches 50 --budget 10 --results results/runs/null --json null.json

Every search has a space of its own: the points of `tests/spaces/rings.py` with labels drawn at random, other points and
labels each time, so that no two share a test split. All architectures are then equally good, and every claim is false.
Search, confirmation and claims are the real ones, from the command line. A claim is made at the 5 % level over all
finalists of a search, so about 1 in 20 searches may make one, and fewer since the best baseline is hard to beat by
chance. What was begun before is continued.

Exit status: 0 if at most one search in twenty-five made a claim, 1 if more did, 2 if a search could not be run.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.process import search_into
from nas.standings import board, read
from nas.store import Store, StoreError

RINGS = Path(__file__).parents[1] / "tests" / "spaces" / "rings.py"
LABELS = "(np.linalg.norm(x[:, :, 0], axis=1) > 2.7).astype(np.int32)"
POINTS = '{"train": 0, "validation": 1, "test": 2}[name]'
LARGEST = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one search said.

    Attributes:
      finalists: that were confirmed.
      seeds: how many they had together.
      claims: of them, those said to beat every baseline.
      least_p: the smallest p, corrected for the number of finalists.
      best: test score of the best finalist.
      baseline: of the best baseline.
      flattered: best search score at the top rung minus .5, which is the truth.
    """

    finalists: int
    seeds: int
    claims: int
    least_p: float
    best: float
    baseline: float
    flattered: float


def write_space(folder: Path, number: int) -> Path:
    """A space file whose labels have nothing to do with its points."""
    text = RINGS.read_text("utf-8")
    for old, new in (
        (LABELS, "rng.integers(0, 2, len(x), dtype=np.int32)"),
        (POINTS, f"[{number}, {POINTS}]"),
        ('name="rings"', f'name="null{number}"'),
    ):
        if old not in text:
            raise StoreError(f"'{RINGS}' no longer says {old}; write it anew here")
        text = text.replace(old, new)
    path = folder / f"null{number}.py"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def told(folder: Path) -> Told:
    """Read what a finished search said."""
    store = Store(folder)
    found = board(read(store))
    store.close()
    finalists = [one for one in found.confirmed if one.belief.claim is not None]
    scores = {
        name: max((one.belief.test.value for one in found.confirmed if one.belief.test and (one in finalists) == mine),
                  default=0.0)
        for name, mine in (("best", True), ("baseline", False))
    }  # fmt: skip
    top = len(found.config["ladder"]["steps"]) - 1
    searched = [row.score for row in found.rows if row.arm != "baseline" and row.rung == top]
    return Told(
        finalists=len(finalists),
        seeds=sum(one.belief.seeds for one in finalists),
        claims=sum(bool(one.belief.claim and one.belief.claim.claimed) for one in finalists),
        least_p=min((one.belief.claim.adjusted for one in finalists if one.belief.claim), default=1.0),
        flattered=max(searched, default=0.5) - 0.5,
        **scores,
    )


def show(found: Sequence[Told]) -> str:
    """The figures as text."""
    claimed = sum(one.claims > 0 for one in found)
    rows = [[i, o.finalists, o.seeds, o.claims, f"{o.least_p:.2g}", f"{o.best:.3f}", f"{o.baseline:.3f}",
             f"{o.flattered:+.3f}"] for i, o in enumerate(found)]  # fmt: skip
    heads = ["search", "finalists", "seeds", "claims", "least p", "best on test", "baseline", "search score - .5"]
    mean = sum(one.flattered for one in found) / max(len(found), 1)
    said = (
        f"{claimed} of {len(found)} searches claim something; their best search scores flatter by {mean:.3f} on average"
    )
    return f"{report.table(heads, rows)}\n\n{said}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.null", description="Whole searches on random labels.")
    add = made.add_argument
    add("--searches", type=int, default=50, metavar="N", help="how many (50)")
    add("--budget", type=int, default=10, metavar="N", help="of each (10)")
    add(
        "--results", type=Path, default=Path("results/runs/null"), metavar="DIR", help="of the runs (results/runs/null)"
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; its exit status is in the module's docstring."""
    parsed = parser().parse_args(arguments)
    found: list[Told] = []
    began = time.monotonic()
    try:
        for number in range(parsed.searches):
            space = write_space(parsed.results / "spaces", number)
            chosen = ["--space", str(space), "--budget", str(parsed.budget), "--seed", str(number), "--confirm", "5"]
            search_into(parsed.results / f"null{number}", *chosen)
            found.append(told(parsed.results / f"null{number}"))
    except StoreError as error:
        print(f"benchmarks.null: {error}", file=sys.stderr)
        return 2
    print(show(found))
    claimed = sum(one.claims > 0 for one in found)
    if parsed.json:
        figures: dict[str, Any] = {"claimed": claimed, "searches": [asdict(one) for one in found]}
        settings = {"searches": parsed.searches, "budget": parsed.budget}
        report.write(parsed.json, "null", settings, figures | {"minutes": (time.monotonic() - began) / 60})
    return 1 if claimed > LARGEST * len(found) else 0


if __name__ == "__main__":
    sys.exit(main())
