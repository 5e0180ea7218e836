"""The record of a run: one folder with a database, source files, programs and checkpoints. The one truth.

    results/runs/<name>/
      run.db             tables `nas_*` (SQLite, WAL, synchronous=FULL) and Optuna's study beside them
      run.json           resolved configuration, versions, hardware: what `--resume` starts from
      candidates/0007.py every proposal's source, the rejected ones too
      programs/<hash>    exported artifacts of admitted programs
      data/  cache/      training and validation arrays; compiled executables (both can be made again)
      checkpoints/       paused trials that can still be promoted, and the finalists' weights
      test/              what fresh seeds scored on every example of the test split

One process writes, under a lock; readers open read-only. A search is a sequence of *tasks*: a task is stored with
everything it decided before it runs, and its outcome when it ends, each in one transaction, so that what was
acknowledged survives a kill and what was not is run again. Numbers of rows are sequence numbers; times and attempts
stand in columns of their own, which `dump` leaves out: two runs that did the same print the same. What a task or a
training after the search ended with has a checksum in a table of its own, which `dump` leaves out too.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from nas.files import sha256
from nas.files import write_file as write_file
from nas.records import Candidate, Failure, Point, Retraining, Trial, to_plain, tunable_from_plain

SCHEMA = 4

_tables = sa.MetaData()
_run = sa.Table(
    "nas_run",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
)
_task = sa.Table(
    "nas_task",
    _tables,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("candidate", sa.Integer, nullable=False),
    sa.Column("decision", sa.JSON, nullable=False),
    sa.Column("outcome", sa.JSON),
    sa.Column("usage", sa.JSON),
)
_candidate = sa.Table(
    "nas_candidate",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("operator", sa.Text, nullable=False),
    sa.Column("idea", sa.Text, nullable=False),
    sa.Column("parents", sa.JSON, nullable=False),
    sa.Column("tunables", sa.JSON, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("failure", sa.JSON),
    sa.Column("program", sa.JSON),
)
_trial = sa.Table(
    "nas_trial",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("candidate", sa.Integer, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("arm", sa.String(16), nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("program", sa.JSON),
    sa.Column("failure", sa.JSON),
)
_score = sa.Table(
    "nas_score",
    _tables,
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("point", sa.JSON),
    sa.Column("losses", sa.JSON),
    sa.Column("failure", sa.JSON),
)
_note = sa.Table(
    "nas_note",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

_message = sa.Table(
    "nas_message",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
)

_retraining = sa.Table(
    "nas_retraining",
    _tables,
    sa.Column("candidate", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("purpose", sa.String(80), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("values", sa.JSON, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("point", sa.JSON),
    sa.Column("test", sa.JSON),
    sa.Column("failure", sa.JSON),
    sa.Column("curve", sa.JSON, nullable=False),
    sa.Column("cost", sa.JSON, nullable=False),
    sa.Column("usage", sa.JSON),
)

_checksum = sa.Table(
    "nas_checksum",  # of what a task or a fresh training ended with; runs of earlier versions have none
    _tables,
    sa.Column("part", sa.String(160), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
)

_NEEDED = ("space", "space_digest", "budget", "seed", "lookahead", "order")
"""What a run cannot go on without: looked for in its `run.json` where the database has no configuration to compare."""

_LISTS = {"parents", "losses", "curve"}
"""JSON columns that hold lists; the others hold objects."""
_UNREPEATABLE = {"usage", "time"}
"""Columns that two equal runs may differ in: seconds, memory, attempts, money, hours."""


class StoreError(RuntimeError):
    """A run that cannot be opened or written; the message has one line and says how to go on."""


class DamagedError(StoreError):
    """Something of a run cannot be read any more; its one line says what, then what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One decision and what came of it.

    Attributes:
      slot: place in the sequence of decisions; a slot that decided nothing has no task.
      kind: `baseline`, `admit`, `first` (draws of one candidate to the first rung), `promote` or `forecast`.
      candidate: whom it is about; 0 for a forecast, which is about many.
      decision: everything that was decided, as plain data.
      outcome: what came of it, or None while it runs.
      usage: seconds and attempts; no decision may depend on it.
    """

    slot: int
    kind: str
    candidate: int
    decision: Mapping[str, Any]
    outcome: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A trial at a rung: a point of its curve, or the failure it ended with."""

    trial: int
    rung: int
    slot: int
    point: Point | None
    failure: Failure | None
    losses: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A candidate with what admission said: its program's facts, or the failure."""

    candidate: Candidate
    slot: int
    failure: Failure | None
    program: Mapping[str, Any] | None


class Store:
    """A run's folder and database.

    Args:
      folder: the run's folder.
      write: take the run's lock and write; otherwise read only.
      url: database address for SQLAlchemy; the run's SQLite file if None.
    Raises:
      StoreError: there is no run, it is of another version, damaged, read-only, or in use by another process.
    """

    def __init__(self, folder: Path, *, write: bool = False, url: str | None = None) -> None:
        self.folder, self._lock = folder, None
        self.path = folder / "run.db"
        if not (folder / "run.json").is_file():
            raise StoreError(f"'{folder}' holds no run (no run.json); give the folder of one, or start a new search")
        if write:
            self._take_lock()
        mode = "" if write else "&mode=ro"
        self.url = url or f"sqlite:///file:{self.path}?uri=true{mode}"
        self.engine = sa.create_engine(self.url)
        if self.url.startswith("sqlite"):
            event.listen(self.engine, "connect", _pragmas if write else _read_pragmas)
        if not write and url is None and not self.path.is_file():
            text = f"'{folder}' has no run.db, so its search has just begun, or the file is lost"
            raise StoreError(f"{text}; look again in a moment, or bring it back")
        with self._friendly():
            if write:
                _tables.create_all(self.engine)
            self._check_schema()

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any], *, url: str | None = None) -> "Store":
        """Make a run's folder and write its configuration.

        Raises:
          StoreError: the folder holds a run already, or cannot be written.
        """
        if (folder / "run.json").exists():
            raise StoreError(
                f"'{folder}' holds a run already; continue it with --resume {folder}, or take another --name"
            )
        try:
            for part in ("candidates", "programs", "data", "cache", "checkpoints"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            write_file(folder / "run.json", json.dumps(config, indent=2, sort_keys=True).encode() + b"\n")
        except OSError as error:
            text = f"'{folder}' cannot be written ({error.strerror}); give --results a folder with room that is yours"
            raise StoreError(text) from error
        store = cls(folder, write=True, url=url)
        with store._friendly(), store.engine.begin() as connection:
            connection.execute(_run.insert().values(id=1, schema=SCHEMA, config=repeatable(config)))
        return store

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run was started with.

        Raises:
          DamagedError: its file cannot be read, or lacks what the database knows of it.
        """
        path = self.folder / "run.json"
        remedy = "bring it back; the table nas_run has its content but for name, machine and time"
        try:
            plain = json.loads(path.read_text("utf-8"))
            if not isinstance(plain, dict):
                raise ValueError("it holds no object")
        except (OSError, ValueError) as error:
            raise DamagedError(f"'{path}' cannot be read ({_reason(error)})", remedy) from error
        with self._friendly(), self.engine.connect() as connection:
            known = connection.execute(sa.select(_run.c.config)).scalar()
        if lacking := sorted(set(_NEEDED if known is None else known) - plain.keys()):
            raise DamagedError(f"'{path}' cannot be read (it lacks {', '.join(lacking[:3])})", remedy)
        return plain

    def close(self) -> None:
        """Fold the log into the database file, so that it can be copied, and let go of the lock."""
        with contextlib.suppress(SQLAlchemyError):
            if self._lock is not None and self.url.startswith("sqlite"):
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- writing

    def begin(
        self, task: Task, candidates: Sequence[Entry] = (), trials: Sequence[Trial] = (), notes: Sequence[str] = ()
    ) -> None:
        """Store a decision, with the candidates and trials that it made, before anything of it runs."""
        for entry in candidates:
            write_file(self.source_path(entry.candidate.id), entry.candidate.source.encode())
        with self._friendly(), self.engine.begin() as connection:
            connection.execute(_task.insert().values(slot=task.slot, kind=task.kind, candidate=task.candidate,
                                                     decision=to_plain(task.decision)))  # fmt: skip
            for entry in candidates:
                connection.execute(_candidate.insert().values(**_entry_row(entry)))
            for trial in trials:
                connection.execute(_trial.insert().values(slot=task.slot, **to_plain(trial)))

    def finish(
        self,
        slot: int,
        outcome: Mapping[str, Any],
        usage: Mapping[str, Any],
        scores: Sequence[Score] = (),
        programs: Mapping[int, Mapping[str, Any]] | None = None,
        trials: Sequence[Trial] = (),
        candidates: Sequence[Entry] = (),
    ) -> None:
        """Store what came of a task: scores, programs of trials, and the trials and candidates that it made itself."""
        for entry in candidates:
            write_file(self.source_path(entry.candidate.id), entry.candidate.source.encode())
        with self._friendly(), self.engine.begin() as connection:
            row = _task.update().where(_task.c.slot == slot)
            connection.execute(row.values(outcome=to_plain(outcome), usage=to_plain(usage)))
            for entry in candidates:
                connection.execute(_candidate.insert().values(**_entry_row(entry)))
            for trial in trials:
                connection.execute(_trial.insert().values(slot=slot, **to_plain(trial)))
            for score in scores:
                connection.execute(_score.insert().values(**to_plain(score)))
            for trial, facts in (programs or {}).items():
                kept = {key: to_plain(facts[key]) for key in ("program", "failure") if key in facts}
                connection.execute(_trial.update().where(_trial.c.id == trial).values(**kept))
            _seal(connection, f"task {slot}", _ended(outcome, map(to_plain, scores)))

    def admit(self, candidate: int, failure: Failure | None, program: Mapping[str, Any] | None) -> None:
        """Store the verdict on a candidate, at the slot where the search learns of it."""
        with self._friendly(), self.engine.begin() as connection:
            row = _candidate.update().where(_candidate.c.id == candidate)
            connection.execute(row.values(failure=to_plain(failure), program=to_plain(program)))

    def note(self, slot: int, text: str) -> None:
        """Store a sentence for people."""
        with self._friendly(), self.engine.begin() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(_note)).scalar_one()
            connection.execute(_note.insert().values(id=count + 1, slot=slot, text=text))

    def hear(self, slot: int, message: Mapping[str, Any]) -> bool:
        """Store a message to the search at the slot where it first counts; False if it was stored before."""
        with self._friendly(), self.engine.begin() as connection:
            known = connection.execute(sa.select(_message.c.id)).scalars().all()
            if message["id"] in known:
                return False
            connection.execute(_message.insert().values(number=len(known) + 1, slot=slot, **message))
        return True

    def retrain(self, rows: Sequence[Retraining]) -> None:
        """Store trainings that were made after the search, all or none."""
        with self._friendly(), self.engine.begin() as connection:
            for row in rows:
                plain = to_plain(row)
                connection.execute(_retraining.insert().values(**plain))
                _seal(connection, _training(plain), plain)

    # ---- reading

    def tasks(self) -> list[Task]:
        """Every task in the order of its slot."""
        return self._read(_task, lambda row: Task(**row))

    def entries(self) -> list[Entry]:
        """Every proposal in the order of its number, rejected ones included."""
        return self._read(_candidate, _entry)

    def trials(self) -> list[Trial]:
        """Every trial in the order of its number."""
        keys = [f.name for f in dataclasses.fields(Trial)]
        return self._read(_trial, lambda row: Trial(**{key: row[key] for key in keys}))

    def scores(self) -> list[Score]:
        """Every score, by trial and rung."""
        return self._read(_score, lambda row: Score(**row | _result(row)))

    def retrainings(self) -> list[Retraining]:
        """Every training after the search, by candidate, purpose and place."""
        return self._read(_retraining, lambda row: Retraining(**row | _result(row)))

    def accesses(self) -> dict[str, int]:
        """How often each split was looked at: by trainings that ended, and by evaluations."""
        scores, own = self.scores(), [row for row in self.retrainings() if "cached" not in row.usage]
        return {
            "train": len({score.trial for score in scores}) + len(own),
            "validation": sum(score.point is not None for score in scores)
            + sum(max(len(row.curve), row.point is not None) for row in own),
            "test": sum(row.test is not None for row in own),
        }

    def messages(self) -> list[dict[str, Any]]:
        """What people and other programs told the search: `slot` and the fields of a message, in order."""
        return [{key: value for key, value in row.items() if key != "number"} for row in self._rows(_message)]

    def notes(self) -> list[str]:
        """What the search said in words, in order."""
        return [row["text"] for row in self._rows(_note)]

    def changed(self) -> list[str]:
        """Tasks and trainings after the search that have other results than they were stored with.

        Each has a checksum, which finds what a disk or a hasty hand did; whoever can write the database can mend it.
        What an earlier version stored has none, and is not told.
        """
        with self._friendly(), self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(_checksum.name):
                return []
        known = {row["part"]: row["sha256"] for row in self._rows(_checksum)}
        scores: dict[int, list[Any]] = {}
        for row in self._rows(_score):
            scores.setdefault(row["slot"], []).append(row)
        tasks = (row for row in self._rows(_task) if row["outcome"] is not None)
        now = {f"task {row['slot']}": _ended(row["outcome"], scores.get(row["slot"], ())) for row in tasks}
        now |= {_training(row): row for row in self._rows(_retraining)}
        return [part for part, plain in now.items() if part in known and known[part] != _sum_of(plain)]

    def _read(self, table: sa.Table, make: Callable[[dict[str, Any]], Any]) -> list[Any]:
        """The rows of a table as records.

        Raises:
          DamagedError: a row cannot be read.
        """
        made, keys = [], table.primary_key.columns.keys()
        for row in self._rows(table):
            place = [row[key] for key in keys]
            try:
                made.append(make(row))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._damaged(table, place, error) from error
        return made

    def _rows(self, table: sa.Table) -> list[dict[str, Any]]:
        keys = list(table.primary_key.columns)
        query = sa.select(table).order_by(*keys)
        with self._friendly(), self.engine.connect() as connection:
            try:
                rows = [dict(row) for row in connection.execute(query).mappings()]
            except ValueError:  # a cell is no JSON: one by one, to say where
                for place in connection.execute(sa.select(*keys)).all():
                    one = query.where(*(key == value for key, value in zip(keys, place, strict=True)))
                    try:
                        connection.execute(one).all()
                    except ValueError as error:
                        raise self._damaged(table, place, error) from error
                raise
        cells = [(column, list if column.name in _LISTS else dict) for column in table.columns if _is_json(column)]
        for row in rows:
            for column, kind in cells:
                if not isinstance(row[column.name], kind) and (row[column.name] is not None or not column.nullable):
                    error = TypeError(f"{column.name} is no {'list' if kind is list else 'object'}")
                    raise self._damaged(table, [row[key.name] for key in keys], error)
        return rows

    def _damaged(self, table: sa.Table, place: Sequence[Any], error: Exception) -> DamagedError:
        row = " ".join(map(str, place))
        what = f"row {row} of {table.name} in '{self.path}' cannot be read ({_reason(error)})"
        return DamagedError(what, "mend it, or go on with a copy of the folder")

    # ---- files

    def source_path(self, candidate: int) -> Path:
        """Where a candidate's source is."""
        return self.folder / "candidates" / f"{candidate:04d}.py"

    def program_path(self, digest: str) -> Path:
        """Where a program's artifacts are."""
        return self.folder / "programs" / digest

    def checkpoint_path(self, trial: int, rung: int) -> Path:
        """Where a trial's state after a rung is."""
        return self.folder / "checkpoints" / f"{trial:05d}-{rung}.safetensors"

    def test_path(self, candidate: int, place: int) -> Path:
        """Where the scores of one fresh seed on every example of the test split are."""
        return self.folder / "test" / f"{candidate:04d}-{place:02d}.npz"

    def weights_path(self, candidate: int, place: int) -> Path:
        """Where the weights of one fresh seed are."""
        return self.folder / "checkpoints" / f"seed-{candidate:04d}-{place:02d}.safetensors"

    @property
    def data_note(self) -> Path:
        """Where it is kept how many examples there are, and what the arrays' files held when they were made."""
        return self.folder / "data" / "sizes.json"

    def data_folders(self) -> list[Path]:
        """Where arrays are, or were: the run's own, and those at other sizes of its space."""
        return [
            self.data_note.parent,
            *sorted(path.parent for path in self.data_note.parent.glob(f"[!.]*/{self.data_note.name}")),
        ]

    def data_known(self, folder: Path | None = None) -> dict[str, Any] | None:
        """What is kept of the arrays in a folder, the run's own if None; None if nothing is that can be read."""
        note = (folder or self.data_note.parent) / self.data_note.name
        try:
            known = json.loads(note.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        whole = isinstance(known, dict) and type(known.get("validation")) is int
        return known if whole and isinstance(known.get("sha256", {}), dict) else None

    def damaged_data(self, folder: Path | None = None) -> list[str]:
        """Files of training and validation arrays that are not what they were when they were made.

        Args:
          folder: that they are in; the run's own if None.
        """
        folder = folder or self.data_note.parent
        known = self.data_known(folder)
        if known is None:
            return [self.data_note.name] if (folder / self.data_note.name).exists() else []
        sums = known.get("sha256", {})
        return [name for name, sum_ in sums.items() if not (folder / name).is_file() or sha256(folder / name) != sum_]

    def folders_of_trainers(self, names: Sequence[str]) -> list[str]:
        """Where a trainer writes: such folders of the run; they are there afterwards."""
        folders = [self.folder / name for name in names]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return [str(folder) for folder in folders]

    def disk_bytes(self) -> int:
        """Bytes that the run's folder holds; files may come and go meanwhile."""
        total = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size
        return total

    # ---- inside

    def in_use(self) -> bool:
        """Whether another process writes to this run just now."""
        import fcntl

        try:
            with open(self.folder / "lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _take_lock(self) -> None:
        import fcntl

        try:
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock or -1)
            raise StoreError(
                f"'{self.folder}' is in use by another search; wait for it, or take another --name"
            ) from error
        except OSError as error:
            raise StoreError(f"'{self.folder}' cannot be written ({error.strerror}); make it writable") from error

    def _check_schema(self) -> None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(_run.c.schema)).first()
        if row is not None and row[0] != SCHEMA:
            text = f"'{self.folder}' was written by schema {row[0]}, this program reads {SCHEMA}"
            raise StoreError(f"{text}; use the version it was made with, or start a new run")

    @contextlib.contextmanager
    def _friendly(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            reason = " ".join(str(error.orig).split())
            remedy = "free some space" if "full" in reason else "mend or remove the file"
            remedy = "wait and try again" if "locked" in reason else remedy
            remedy = "make the folder writable" if "readonly" in reason or "unable to open" in reason else remedy
            raise StoreError(f"the database {self.path} cannot be used ({reason}); {remedy}, then --resume") from error


def _pragmas(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=10000")


def _read_pragmas(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout=10000")


def repeatable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what two equal runs may differ in."""
    return {
        key: value for key, value in config.items() if key not in ("machine", "created", "name", "replay", "sandbox")
    }


def _entry_row(entry: Entry) -> dict[str, Any]:
    row = to_plain(entry.candidate)
    return row | {"slot": entry.slot, "failure": to_plain(entry.failure), "program": to_plain(entry.program)}


def _entry(row: dict[str, Any]) -> Entry:
    failure, program, slot = _maybe(Failure, row.pop("failure")), row.pop("program"), row.pop("slot")
    row["tunables"] = {name: tunable_from_plain(plain) for name, plain in row["tunables"].items()}
    row["parents"] = tuple(row["parents"])
    return Entry(candidate=Candidate(**row), slot=slot, failure=failure, program=program)


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    """The point and the failure of a row."""
    point = row["point"]
    if point is not None:
        wrong = [key for key in ("step", "train_loss", "loss", "score") if not isinstance(point[key], int | float)]
        if wrong:
            raise TypeError(f"{', '.join(wrong)} of its point is no number")
    return {"point": _maybe(Point, point), "failure": _maybe(Failure, row["failure"])}


def _maybe(kind: Any, plain: Mapping[str, Any] | None) -> Any:
    return None if plain is None else kind(**plain)


def _is_json(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.JSON)


def _reason(error: Exception) -> str:
    """An exception in one line; of a file that cannot be opened the reason alone, since its name stands beside."""
    told = error.strerror if isinstance(error, OSError) else None
    return " ".join((told or f"{type(error).__name__}: {error}").split())


def _seal(connection: sa.Connection, part: str, plain: Any) -> None:
    """Keep the checksum of what is stored; of a task that ends once more, after a repair, the new one."""
    connection.execute(_checksum.delete().where(_checksum.c.part == part))
    connection.execute(_checksum.insert().values(part=part, sha256=_sum_of(plain)))


def _ended(outcome: Mapping[str, Any], scores: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a task ended with, its scores in the order of their rows."""
    ordered = sorted(scores, key=lambda score: (score["trial"], score["rung"]))
    return {"outcome": to_plain(outcome), "scores": ordered}


def _training(row: Mapping[str, Any]) -> str:
    """What a training after the search is called among the checksums."""
    return f"training {row['candidate']} {row['purpose']} {row['place']} {row['rung']}"


def _sum_of(plain: Any) -> str:
    """SHA-256 of plain data as the database gives it back: keys are strings there, and have no order."""
    read = json.loads(json.dumps(plain))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def locks(config: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """How candidates were locked during a run, such as "strict" or "auto without landlock (no such lock)".

    A run that went on where it was another way has each in its order.

    Args:
      config: of the run.
      messages: to the search; the search itself left one wherever locks were missing, or were there again.
    Returns:
      It in one line; None of a run that did not keep it.
    """
    told = [message for message in messages if message["kind"] == "sandbox"]
    ways = [(message["content"]["mode"], message["content"]["missing"]) for message in told]
    if config.get("sandbox") and not (told and told[0]["slot"] == 0):
        ways.insert(0, (config["sandbox"], "nothing"))
    each = (mode if missing == "nothing" else f"{mode} without {missing}" for mode, missing in ways)
    return " ".join(", then ".join(dict.fromkeys(each)).split()) or None


def dump(store: Store) -> Iterator[str]:
    """The run in canonical form: one JSON line a row, without times, places and attempts."""
    for table in (_run, _task, _candidate, _trial, _score, _message, _note, _retraining):
        for row in store._rows(table):
            if table is _message and row["kind"] == "sandbox":  # says something of a machine
                continue
            kept = {key: value for key, value in row.items() if key not in _UNREPEATABLE}
            yield json.dumps({"table": table.name, **kept}, sort_keys=True)
