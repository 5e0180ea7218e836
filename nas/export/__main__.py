"""The command line: `python -m nas.export RUN CANDIDATE` writes a folder; `--trials`, `--tensorboard` write tables."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nas.export.events import write_events
from nas.export.tables import write_trials
from nas.leaderboard import RESULTS, find_run
from nas.progress import one_line
from nas.space import SpaceError
from nas.standings import read
from nas.store import Store, StoreError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.export: {one_line(message)}; --help lists what is allowed\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m nas.export", description="Take a confirmed candidate, or all trials, out of a run."
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="folder or name of a run")
    add("candidate", nargs="?", type=int, metavar="CANDIDATE", help="id of a confirmed candidate to export")
    add("--out", type=Path, metavar="DIR", help="folder to write it to (default: export-ID in the run's folder)")
    add("--seed", type=int, metavar="N", help="which fresh seed's weights, from 0 (default: best on validation)")
    add("--no-data", action="store_true", help="leave the test split out of the folder")
    add("--trials", type=Path, metavar="FILE", help="write all trials, with scores by rung, to a .csv or .parquet")
    add("--tensorboard", type=Path, metavar="DIR", help="write the learning curves as TensorBoard event files")
    add("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    add("--debug", action="store_true", help="show where an error came from")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.candidate is None:
        if parsed.trials is None and parsed.tensorboard is None:
            parser.error("nothing to export; give the id of a candidate, --trials FILE or --tensorboard DIR")
        if parsed.out is not None or parsed.seed is not None or parsed.no_data:
            parser.error("--out, --seed and --no-data are of a candidate; give its id after the run")
    try:
        _export(parsed)
        sys.stdout.flush()
    except (StoreError, SpaceError) as error:
        if parsed.debug:
            raise
        print(f"nas.export: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    return 0


def _export(parsed: argparse.Namespace) -> None:
    run = find_run(parsed.run, parsed.results)
    with contextlib.closing(Store(run)) as store:
        records = read(store)
        if parsed.trials is not None:
            print(f"{parsed.trials}: {write_trials(records, parsed.trials):,} trials")
        if parsed.tensorboard is not None:
            print(f"{parsed.tensorboard}: curves of {write_events(records, parsed.tensorboard):,} trials")
        if parsed.candidate is not None:
            from nas.export.winner import export

            out = parsed.out or run / f"export-{parsed.candidate:04d}"
            found = export(store, records, parsed.candidate, out, place=parsed.seed, data=not parsed.no_data)
            metric = records.config["metric"]
            print(f"{out}: test {metric} {found:.7f}, as on the leaderboard; python {out}/evaluate.py repeats it")


if __name__ == "__main__":
    sys.exit(main())
