"""Transfer: are the finalists still ahead where there is more width, depth, data or training?

    python -m nas.scale [RUN] --top 3 --factors 2,4 [--axis width,steps] [--seeds 3] --format table|markdown|json

In go a run and the factors by which its space is made larger, as the space's `scale` says; trainings go into the run's
store, a report comes out. Sources stay as they are: width and depth are the space's. Which trainings, `sizes.py` says;
what they tell, `scaled.py`. All of them are scored on validation: the test split is for confirmation alone. What was
stopped goes on where it was, and what is stored is not trained again.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nas.admit import Flow, Stopped, drive_all
from nas.confirm import SEEDS_A_JOB, measured
from nas.execute import Event, Executor
from nas.flows import Place, admission, training
from nas.leaderboard import RESULTS, find_run
from nas.loop import stop_on_signals
from nas.progress import drop_output, one_line, print_any_text
from nas.records import Failure, Retraining
from nas.scaled import Report, report, to_json, to_markdown, write_table
from nas.sizes import FURTHER, SEEDS_TRIED, TRIED, Protocol, Size, State, Subject, sizes
from nas.space import SpaceError, digest, load
from nas.standings import read
from nas.store import Store, StoreError
from nas.workplace import data_job, default_workers, open_workplace, put_data

TOP = 3
"""Finalists, unless told otherwise."""
FACTORS = (2, 4)
"""Factors along each axis, unless told otherwise."""
SEEDS = 3
"""Fresh seeds of each row at each size, unless told otherwise."""
_PASSING = ("timeout", "lost", "cancelled")
"""What may end an admission on a busy machine: tried again the next time."""


class Scaling:
    """The trainings of one report. See the module's docstring.

    Args:
      place: the run, its store open for writing.
      executor: where trainings run.
      protocol: what is to be trained.
      said: is told what happens, in sentences.
    """

    def __init__(self, place: Place, executor: Executor, protocol: Protocol, said: Callable[[str], None]) -> None:
        self.place, self.store, self.executor, self.protocol, self.said = place, place.store, executor, protocol, said
        self.stopping = False
        self.done, self.total = 0, protocol.missing(place.store.retrainings())

    def stop(self) -> None:
        """Leave what is not trained yet for the next time."""
        self.stopping = True

    def run(self) -> bool:
        """Train what is not trained yet.

        Returns:
          Whether it was not stopped before its end.
        Raises:
          StoreError: the run's files cannot be used, or a size's data cannot be made, or not as it was.
        """
        stored, subjects = self.store.retrainings(), self.protocol.choice.subjects
        wanted = [
            (size, rows)
            for size in self.protocol.sizes
            if (rows := [one for one in subjects if self.protocol.state(stored, one, size).missing])
        ]
        try:
            grounds = drive_all(self.executor, [self._ground(size) for size, _ in wanted], lambda: self.stopping)
            flows = [
                self._row(subject, size, ground, turn)
                for turn, ((size, rows), ground) in enumerate(zip(wanted, grounds, strict=True))
                for subject in rows
            ]
            drive_all(self.executor, flows, lambda: self.stopping)
        except Stopped:
            return False
        return True

    def _ground(self, size: Size) -> Flow[Place]:
        """Where a size's rows are trained; its arrays are made unless they are there."""
        space, reference = self.protocol.spaces[size], self.protocol.references[size]
        place = dataclasses.replace(self.place, space=space, reference=reference)
        if space.task.split is self.place.space.task.split:
            return place
        folder = self.store.folder / "data" / f"{size.axis}-{size.factor}"
        job = data_job(self.store, reference, folder, f"scale.{size.axis}.{size.factor}.data")
        if job is not None:
            (event,) = yield [job]
            put_data(self.store, reference, folder, event)
        known = self.store.data_known(folder)
        assert known is not None, "arrays without a note"
        return dataclasses.replace(place, examples=known["validation"], data=folder)

    def _row(self, subject: Subject, size: Size, place: Place, turn: int) -> Flow[None]:
        """Find a row's learning rate at a size, and train it there with fresh seeds."""
        who, tag = f"{size.label}, {subject.title}", f"scale.{size.axis}.{size.factor}.{subject.candidate}"
        state = self._state(subject, size)
        admitted = yield from admission(place, turn, subject.source, subject.values, tag=tag)
        if admitted.facts is None:
            assert admitted.failure is not None, "neither a program nor a failure"
            self._reject(state, admitted.failure, who)
            return
        while to_tune := state.to_tune:
            yield from self._train(place, admitted.facts, to_tune, f"{tag}.tune{to_tune[0].place}", turn, size)
            state = self._state(subject, size)
            if state.to_tune and state.to_tune[0].place == to_tune[0].place:
                break  # they brought no answer
            self.total += len(state.to_tune)
            tried = ", ".join(dict.fromkeys(f"×{row.recipe['lr'] / subject.recipe['lr']:.3g}" for row in to_tune))
            self.said(f"{self.done} of {self.total} · {who}: learning rates {tried} tried")
        if state.recipe is None:
            self.done += 0 if state.to_tune else self.protocol.seeds
            self.said(f"{who}: " + ("not finished" if state.to_tune else "no learning rate could be trained with"))
            return
        for index in range(0, len(state.to_train), SEEDS_A_JOB):
            part = state.to_train[index : index + SEEDS_A_JOB]
            yield from self._train(place, admitted.facts, part, f"{tag}.{part[0].place}", turn, size)
        self._tell(subject, size, who)

    def _state(self, subject: Subject, size: Size) -> State:
        return self.protocol.state(self.store.retrainings(), subject, size)

    def _reject(self, state: State, failure: Failure, who: str) -> None:
        """Store that a row has no program at a size, unless that may be the machine's doing."""
        self.said(f"{who}: not admitted at this size, {failure}")
        if failure.rule not in _PASSING and state.to_tune:
            self.store.retrain([dataclasses.replace(state.to_tune[0], failure=failure)])
            self.done += state.missing

    def _train(
        self, place: Place, facts: Mapping[str, Any], rows: Sequence[Retraining], name: str, turn: int, size: Size
    ) -> Flow[None]:
        """Train and store rows that share a program; what the machine lost is not stored."""
        if not rows:
            return
        trials = [
            {"id": row.place, "seed": row.seed, "lr": row.recipe["lr"], "wd": row.recipe["wd"], "load": [],
             "save": None}
            for row in rows
        ]  # fmt: skip
        job = training(place, name, facts, [place.space.ladder.steps[-1]], trials, priority=turn)
        # A limit that fits the space at ×1: work grows with the square of the width, and all rows are in one job.
        longer = job.timeout_s * size.factor**2 * len(rows)
        (event,) = yield [dataclasses.replace(job, timeout_s=longer)]
        self._store([dataclasses.replace(row, cost=facts["cost"]) for row in rows], event)

    def _store(self, rows: Sequence[Retraining], event: Event) -> None:
        made = measured(rows, event)
        if isinstance(made, Failure):
            self.said(f"candidate {rows[0].candidate}: {made.message}; the same command repeats it")
        else:
            self.store.retrain(made)
            self.done += len(rows)

    def _tell(self, subject: Subject, size: Size, who: str) -> None:
        state, digits = self._state(subject, size), self.store.config["decimals"]
        assert state.recipe is not None, "seeds without a learning rate"
        times = state.recipe["lr"] / subject.recipe["lr"]
        told = ", ".join(f"{row.point.score:.{digits}f}" if row.point else "failed" for row in state.trained)
        self.said(f"{self.done} of {self.total} · {who}: learning rate ×{times:.3g}, seeds {told or 'not finished'}")


# ---- the command line


def scale_run(
    folder: Path, top: int, factors: Sequence[int], axes: Sequence[str] | None, seeds: int, workers: int | None,
    said: Callable[[str], None], baselines: int | None = None,
) -> Report:  # fmt: skip
    """Train what a report asks for, or go on with it, and make the report; Ctrl-C stops it cleanly.

    Args:
      folder: of the run.
      top: how many finalists.
      factors: by which the space is made larger.
      axes: along which; all of the space's if None.
      seeds: fresh ones of each row at each size.
      workers: jobs at once; as in a search if None.
      said: is told what happens.
      baselines: how many of them, the best first; None is all.
    Returns:
      What is known now; `missing` is 0 if all of it was trained.
    Raises:
      StoreError: the run is in use, cannot be used, or has nothing to scale.
      SpaceError: the space cannot be made larger so.
    """
    with contextlib.closing(Store(folder)) as store:
        records = read(store)
    space = load(records.config["space"])
    if records.config["space_digest"] != digest(space):
        text = f"'{folder}' was made with another state of space '{records.config['space_name']}'"
        raise StoreError(f"{text}; restore the space's file, or start a new run")
    protocol = Protocol(records, space, top, sizes(space, factors, axes), seeds, baselines)
    if not protocol.choice.finalists:
        raise StoreError(f"'{folder}' has no candidate with a score yet, so there is nothing to make larger")
    missing, stopped = protocol.missing(records.retrainings), False
    if missing:
        said(_announcement(protocol, missing))
        with contextlib.closing(Store(folder, write=True)) as store:
            with open_workplace(store, space, workers or default_workers()) as (executor, place, warnings):
                for text in warnings:
                    said(text)
                scaling = Scaling(place, executor, protocol, said)
                with stop_on_signals(scaling, said):
                    stopped = not scaling.run()
            records = read(store)
    return dataclasses.replace(report(records, protocol), stopped=stopped)


def _announcement(protocol: Protocol, missing: int) -> str:
    finalists, labels = len(protocol.choice.finalists), ", ".join(size.label for size in protocol.sizes)
    rows = f"{finalists} candidate{'s' * (finalists != 1)} and {len(protocol.choice.subjects) - finalists} baselines"
    each = f"up to {len(TRIED) * SEEDS_TRIED} to find its learning rate and {protocol.seeds} fresh seeds"
    return (
        f"{missing} trainings to make: {rows} at {labels}, each {each}, less what is stored; and up to "
        f"{FURTHER * SEEDS_TRIED} more where the best rate is at an end of those tried"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.scale: {one_line(message)}; --help lists what is allowed\n")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to 1000")
    return int(text)


def _factors(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and 2 <= int(part) <= 1000 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of factors; give whole numbers from 2, such as 2,4")
    return [int(part) for part in parts]


def _axes(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of axes; give their names, such as width,steps")
    return parts


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m nas.scale",
        description="Train the best candidates and the baselines at larger sizes of the space, and compare.",
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder or name of a run (default: the latest)")
    parser.add_argument("--top", type=_count, metavar="N", default=TOP, help=f"candidates, the best first ({TOP})")
    parser.add_argument("--baselines", type=_count, metavar="N", help="baselines, the best first (all)")
    factors = ",".join(map(str, FACTORS))
    parser.add_argument(
        "--factors",
        type=_factors,
        metavar="F,F",
        default=list(FACTORS),
        help=f"times as large; ×1 goes first ({factors})",
    )
    parser.add_argument("--axis", type=_axes, metavar="A,A", help="along which axes (default: all of the space's)")
    parser.add_argument("--seeds", type=_count, metavar="N", default=SEEDS, help=f"fresh ones a row and size ({SEEDS})")
    parser.add_argument("--workers", type=_count, metavar="N", help="jobs at once (as in a search)")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _one_line_errors(debug: bool) -> Iterator[list[int]]:
    """A list that holds the exit code after an error of the user's, or an interruption that could not be waited for."""
    code: list[int] = []
    try:
        yield code
    except (StoreError, SpaceError) as error:
        if debug:
            raise
        print(f"nas.scale: {one_line(str(error))}", file=sys.stderr)
        code.append(2)
    except KeyboardInterrupt:
        print("nas.scale: interrupted; nothing that was stored is lost, the same command goes on", file=sys.stderr)
        code.append(130)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with one line on standard error, or 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    print_any_text()
    with _one_line_errors(parsed.debug) as code:
        run = find_run(parsed.run, parsed.results)
        made = scale_run(
            run, parsed.top, parsed.factors, parsed.axis, parsed.seeds, parsed.workers, _say, parsed.baselines
        )
        code += [130] if made.stopped else []
        try:
            if parsed.format == "table":
                write_table(made, sys.stdout)
            else:
                sys.stdout.write(to_json(made) if parsed.format == "json" else to_markdown(made))
            sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
    return code[0] if code else 0


if __name__ == "__main__":
    sys.exit(main())
