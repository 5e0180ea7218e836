"""The control beside a search: the same budget, spent on nothing but the numbers of the best baseline.

In go a run's folder and records; out comes what the control among its siblings says of it: of the same space and
version, with the largest budget. Whether a search of architectures has paid is decided against this, and not against a
baseline that nobody has tuned. Controls are made by `python -m nas.search --control tune-best-baseline`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.judge.belief import Retrained, assess
from nas.standings import Confirmed, Records, confirmed, rank, read, retrained
from nas.store import Store, StoreError

_SAME = ("space_name", "space_version", "space_digest", "metric", "maximize", "ladder")
"""What two runs share that can be compared."""


def find(run: Path, config: dict[str, Any]) -> Path | None:
    """The folder of the control beside a run; None if there is none."""
    found = []
    for path in sorted(run.parent.glob("*/run.json")):
        try:
            other = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(other, dict) or not isinstance(other.get("budget"), int):
            continue  # damaged, and no matter of this run's
        if other.get("control") and all(other.get(key) == config.get(key) for key in _SAME):
            found.append((other["budget"], path.parent))
    return max(found, default=(0, None), key=lambda one: one[0])[1]


def sentence(run: Path, records: Records) -> str:
    """What the control says beside a run's table: empty for a control itself."""
    if records.config.get("control"):
        return ""
    folder = find(run, dict(records.config))
    if folder is None:
        how = "python -m nas.search --control tune-best-baseline --budget N"
        return f"control: none yet; {how} says what tuning alone gives"
    try:
        other = read(Store(folder))
    except StoreError as error:
        return f"control {folder.name}: {error}"
    row = next((row for row in rank(other) if row.arm == "control"), None)
    if row is None:
        return f"control {folder.name}: has no score yet"
    digits = records.config["decimals"]
    name = next(entry.candidate.operator for entry in other.entries if entry.candidate.id == row.candidate)
    text = f"control {folder.name}, {other.config['budget']} groups of draws of {name}: best {row.score:.{digits}f}"
    return text + f" on validation{_compared(records, other)}"


def _compared(records: Records, other: Records) -> str:
    """The best confirmed finalist against the confirmed control, on the test split."""
    ours = [one for one in confirmed(records, rank(records)) if one.belief.claim is not None]
    theirs = next((one for one in confirmed(other, rank(other)) if one.row.arm == "control"), None)
    if theirs is None or theirs.belief.test is None:
        return "; not confirmed"
    digits = records.config["decimals"]
    text = f"; {theirs.belief.test.value:.{digits}f} on the test split"
    if not ours or ours[0].belief.test is None:
        return text
    pair = [_again(records, ours[0], baseline=False), _again(other, theirs, baseline=True)]
    claim = assess(pair, records.config["maximize"])[0].claim
    if claim is None or claim.effect is None:
        return text
    low, high = claim.effect.interval()
    verdict = "shown" if low > 0 else "not shown"
    return (
        f"{text}. Candidate {ours[0].row.candidate} is {claim.effect.value:+.{digits}f} [{low:+.{digits}f}, "
        f"{high:+.{digits}f}] better than that: that searching architectures paid is {verdict}"
    )


def _again(records: Records, one: Confirmed, *, baseline: bool) -> Retrained:
    """A confirmed row as it was measured; ids of two runs may be the same, so the control's has its sign turned."""
    found = next(row for row in retrained(records, [one.row]))
    return replace(found, baseline=baseline, candidate=-found.candidate if baseline else found.candidate)
