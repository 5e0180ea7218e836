"""All trials of a run as one table: CSV with the standard library, Parquet with pyarrow where it is installed.

One row a trial in the order of their numbers, and for every rung three columns, named by its steps. What is not known
is empty. Fresh seeds are no trials: the leaderboard has them.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.files import spreadsheet
from nas.progress import one_line
from nas.standings import Records, costs_of_trials, reason, untraced
from nas.store import Score, StoreError, locks, write_file

POINT = ("score", "loss", "train_loss")
"""What is told of a trial at a rung."""


def write_trials(records: Records, path: Path) -> int:
    """Write the table to a file, whose ending says how; returns the number of rows.

    Raises:
      StoreError: the ending is another one, a package is missing, or the file cannot be written.
    """
    writers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix not in writers:
        raise StoreError(f"--trials {path.name}: the file must end in .csv or .parquet")
    columns, rows = trials_table(records)
    content = writers[path.suffix](columns, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise StoreError(f"'{path}' cannot be written ({error.strerror}); give --trials a place that can") from error
    return len(rows)


def trials_table(records: Records) -> tuple[dict[str, type], list[dict[str, Any]]]:
    """Columns with their types, and the rows."""
    steps = records.config["ladder"]["steps"]
    fixed = {
        "trial": int, "candidate": int, "arm": str, "written_by": str, "name": str, "parents": str, "seed": int,
        "recipe": str, "values": str, "params": int, "flops": int, "train_flops": int, "rung": int, "failure": str,
        "sandbox": str,
    }  # fmt: skip
    columns = fixed | {f"{what}_at_{step}": float for step in steps for what in POINT}
    scores: dict[int, list[Score]] = {}
    for score in records.scores:
        scores.setdefault(score.trial, []).append(score)
    entries, lost = {entry.candidate.id: entry for entry in records.entries}, untraced(records.tasks)
    costs = costs_of_trials(records)
    rows, sandbox = [], locks(records.config, records.messages)
    for trial in records.trials:
        entry, mine = entries[trial.candidate], scores.get(trial.id, [])
        written = entry.candidate
        failure = next((score.failure for score in mine if score.failure), lost.get(trial.id))
        row: dict[str, Any] = dict.fromkeys(columns)
        row |= {
            "trial": trial.id, "candidate": trial.candidate, "arm": trial.arm, "written_by": written.arm,
            "name": one_line(written.operator if written.arm == "baseline" else written.idea or written.operator),
            "parents": " ".join(map(str, written.parents)), "seed": trial.seed,
            "recipe": json.dumps(dict(trial.recipe), sort_keys=True),
            "values": json.dumps(dict(trial.values), sort_keys=True),
            "rung": max((score.rung for score in mine if score.point), default=None),
            "failure": reason(failure) if failure else None, "sandbox": sandbox,
        }  # fmt: skip
        row |= {key: costs[trial.id].get(key) for key in ("params", "flops", "train_flops")}
        for score in mine:
            if score.point is not None:
                row |= {f"{what}_at_{steps[score.rung]}": getattr(score.point, what) for what in POINT}
        rows.append(row)
    return columns, rows


def _csv(columns: dict[str, type], rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    return spreadsheet(value) if isinstance(value, str) else value


def _parquet(columns: dict[str, type], rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise StoreError("Parquet needs pyarrow: pip install pyarrow, or write a .csv") from error
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), out)
    return out.getvalue()
