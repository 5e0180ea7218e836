"""A submitted candidate: what its folder holds, and the check that anyone can run on it.

    results/<space>@<version>/<entry>/
      candidate.py     the source
      entry.json       space, run, numbers, every fresh seed's scores, what they say, versions, machine, locks, cost
      test.json        what every fresh seed scored on every example of the test split

An entry has every row of its confirmation, all finalists and all baselines, since a claim depends on all of them. The
entry rule: at least `SEEDS` fresh seeds of the candidate and `BASELINE_SEEDS` of every baseline, those that the
confirmation draws, none left out; each that finished scored on every example of the test split; the limits of the
space's contract kept; a claim said or denied as `judge/belief.py` has it. The check reads the folder alone and
believes none of its sums; where the space is installed it is compared too. What it cannot see: whether the trainings
took place (only to repeat them shows that), and parameters and FLOPs, which need the source traced.
"""

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.judge.belief import BASELINE_SEEDS, SEEDS, Retrained, assess
from nas.progress import one_line
from nas.records import baseline_seed, finalist_seed, to_plain
from nas.space import SearchSpace, SpaceError, digest, file_name, load, names

FORMAT = 1
"""Of an entry's files; raised when a key changes its meaning or goes."""
SOURCE, RECORD, TESTS = "candidate.py", "entry.json", "test.json"
FILES = (SOURCE, RECORD, TESTS)
"""What an entry consists of, and nothing else."""
MOST_BYTES = 64_000_000
"""A larger file is not read."""
MOST_EXAMPLES = 2_000_000
"""More examples of a test split are not read."""
LIMITS = {"max_params": "params", "max_flops": "flops", "max_memory_bytes": "memory_bytes"}
"""A contract's limits, and the facts of a program that they bound."""
TOLERANCE = 1e-6
"""Relative difference that processors may make in a mean or an error."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SPACE = re.compile(r"[A-Za-z_]\w{0,79}(:[\w-]{1,80})?", re.ASCII)


class EntryError(ValueError):
    """An entry that cannot be read or written; the message has one line and says how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """An entry as it was read: its record, and its rows as `belief` takes them, in the record's order."""

    name: str
    record: Mapping[str, Any]
    rows: Sequence[Retrained]

    @property
    def own(self) -> Mapping[str, Any]:
        """The candidate's own row of the record."""
        return next(row for row in self.record["rows"] if row["candidate"] == self.record["candidate"])


def check_name(name: str) -> str:
    """The name of an entry, if it is one: letters, digits, '.', '_' and '-', 80 at most.

    Raises:
      EntryError: it is none.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        text = "give one of letters, digits, '.', '_' and '-' that begins with a letter or digit and has no '..'"
        raise EntryError(f"'{plain(name)}' is no name of an entry; {text}, for instance --name my-run-0007")
    return name


def folder_name(space: str, version: int) -> str:
    """The name of the folder that holds the entries of one version of a space."""
    return f"{file_name(space)}@{version}"


def split_digest(space: SearchSpace) -> Mapping[str, Any]:
    """What tells a space's test split from another: a hash of its arrays, and the number of examples."""
    split, total = space.task.split("test"), hashlib.sha256()
    for array in (split.inputs, split.targets):
        total.update(f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return {"sha256": total.hexdigest(), "examples": len(split.inputs)}


def describe(space: SearchSpace) -> dict[str, Any]:
    """What an entry says of its space; entries that share a table say the same."""
    return {
        "name": space.name,
        "version": space.version,
        "digest": digest(space),
        "metric": space.task.metric,
        "maximize": space.task.maximize,
        "decimals": space.task.decimals,
        "steps": list(space.ladder.steps),
        "contract": to_plain(space.contract),
        "baselines": list(space.baselines),
        "test_split": dict(split_digest(space)),
    }


# ---- results on single examples


def pack(results: Mapping[int, Sequence[np.ndarray | None]]) -> bytes:
    """Results on every example of the test split, by candidate and seed, as text: a seed a line.

    Right or wrong takes a bit, any other number the four bytes of a float32; a seed without results is null.
    """
    arrays = [array for seeds in results.values() for array in seeds if array is not None]
    bits = all(np.isin(array, (0.0, 1.0)).all() for array in arrays)
    plain = {
        "examples": len(arrays[0]) if arrays else 0,
        "as": "bits" if bits else "float32",
        "results": {
            str(candidate): [None if array is None else _pack(array, bits) for array in seeds]
            for candidate, seeds in results.items()
        },
    }
    return to_json(plain)


def _pack(array: np.ndarray, bits: bool) -> str:
    packed = np.packbits(array.astype(bool)) if bits else array.astype("<f4")
    return base64.b64encode(packed.tobytes()).decode("ascii")


def _unpack(text: str, kind: str, examples: int) -> np.ndarray:
    data = base64.b64decode(text, validate=True)
    if kind == "bits":
        if len(data) != (examples + 7) // 8:
            raise ValueError(f"{len(data)} bytes for {examples} examples")
        return np.unpackbits(np.frombuffer(data, np.uint8), count=examples).astype(float)
    if kind != "float32" or len(data) != 4 * examples:
        raise ValueError(f"{len(data)} bytes of {kind!r} for {examples} examples")
    return np.frombuffer(data, "<f4").astype(float)


def to_json(plain: Any) -> bytes:
    """Plain data as bytes that depend on nothing else."""
    return json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def from_json(data: bytes) -> Any:
    """Read JSON, and only that: no NaN, no infinity, no key twice."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no number of JSON")

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a key stands there twice")
        return made

    return json.loads(data.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)


# ---- reading


def read_entry(folder: Path) -> Submission:
    """Read an entry and compare its files with their hashes.

    Raises:
      EntryError: it is no entry, or a file is missing, foreign, a link, changed, or cannot be read.
    """
    check_name(folder.name)
    if folder.is_symlink() or not folder.is_dir():
        raise EntryError("is no folder of its own (a link, or a file); an entry is a folder with three files")
    found = sorted(path.name for path in folder.iterdir())
    for name in found:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise EntryError(f"{plain(name)} is no file of its own (a link, or a folder)")
        if name not in FILES:
            raise EntryError(f"{plain(name)} does not belong to an entry ({', '.join(FILES)} do)")
        if path.stat().st_size > MOST_BYTES:
            raise EntryError(f"{name} has more than {MOST_BYTES:,} bytes")
    missing = sorted(set(FILES) - set(found))
    if missing:
        raise EntryError(f"{', '.join(missing)} is missing")
    return parse({name: (folder / name).read_bytes() for name in FILES}, folder.name)


def parse(files: Mapping[str, bytes], name: str) -> Submission:
    """Read an entry from its files' bytes.

    Raises:
      EntryError: a file is not what its hash says, or cannot be read.
    """
    try:
        record = from_json(files[RECORD])
        if record["format"] != FORMAT:
            raise EntryError(f"{RECORD} has format {record['format']}, this program reads {FORMAT}")
        for file in (SOURCE, TESTS):
            if hashlib.sha256(files[file]).hexdigest() != record["files"][file]:
                raise EntryError(f"{file} was changed: its SHA-256 is not the one in {RECORD}")
        return Submission(name=name, record=record, rows=_rows(record, from_json(files[TESTS])))
    except EntryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise EntryError(f"cannot be read: {plain(f'{type(error).__name__}: {error}')}") from error


def _rows(record: Mapping[str, Any], tests: Mapping[str, Any]) -> list[Retrained]:
    examples, results = tests["examples"], tests["results"]
    if type(examples) is not int or not 2 <= examples <= MOST_EXAMPLES:
        raise EntryError(f"{TESTS} has results on {plain(str(examples))} examples; 2 to {MOST_EXAMPLES:,} are allowed")
    if examples != record["space"]["test_split"]["examples"]:
        raise EntryError(f"{TESTS} has results on {examples} examples, the test split has another number")
    if sorted(results) != sorted(str(row["candidate"]) for row in record["rows"]):
        raise EntryError(f"{TESTS} and {RECORD} do not name the same candidates")
    rows = []
    for row in record["rows"]:
        told = results[str(row["candidate"])]
        if len(told) != len(row["seeds"]):
            raise EntryError(f"candidate {row['candidate']}: {len(row['seeds'])} seeds, test results of {len(told)}")
        lost = np.full(examples, math.nan)
        rows.append(
            Retrained(
                candidate=int(row["candidate"]),
                baseline=bool(row["baseline"]),
                validation=np.array([_number(seed["validation"]) for seed in row["seeds"]], float),
                test=np.array([lost if one is None else _unpack(one, tests["as"], examples) for one in told], float),
                search=row["search"],
            )
        )
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def plain(text: str) -> str:
    """What somebody else wrote, safe to print in a message."""
    return one_line(text)[:160]


# ---- checking


def problems(entry: Submission) -> list[str]:
    """What is wrong with an entry whose files are whole; in one line each."""
    found = []
    try:
        for problem in _problems(entry):
            found.append(plain(problem))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        found.append(f"{RECORD} is not an entry's record: {plain(f'{type(error).__name__}: {error}')}")
    return found


def _problems(entry: Submission) -> Iterator[str]:
    record, space = entry.record, entry.record["space"]
    if not _SPACE.fullmatch(space["name"]) or type(space["version"]) is not int or space["decimals"] not in range(16):
        yield f"no name, version and decimals of a space: {space['name']}, {space['version']}, {space['decimals']}"
        return
    if record["entry"] != entry.name:
        yield f"calls itself '{record['entry']}'"
    if [row["candidate"] for row in record["rows"]].count(record["candidate"]) != 1 or entry.own["baseline"]:
        yield f"candidate {record['candidate']} is no finalist of the confirmation"
        return
    yield from _seeds(entry)
    yield from _limits(entry)
    yield from _baselines(entry)
    yield from _statements(entry)
    yield from _receipt(record)
    yield from _installed(space)


def _seeds(entry: Submission) -> Iterator[str]:
    """Enough of them, none left out, none chosen, all scored; and their means."""
    for row, told in zip(entry.record["rows"], entry.rows, strict=True):
        who, seeds, examples = f"candidate {row['candidate']}", row["seeds"], told.test.shape[-1]
        least = BASELINE_SEEDS if row["baseline"] else SEEDS if row is entry.own else 1
        if len(seeds) < least:
            yield f"{who}: {len(seeds)} fresh seeds, the entry rule wants {least} or more"
        if [seed["place"] for seed in seeds] != list(range(len(seeds))):
            yield f"{who}: a fresh seed is missing, its seeds have places {[seed['place'] for seed in seeds]}"
        for seed, results in zip(seeds, told.test, strict=True):
            if seed["seed"] != _expected_seed(entry.record, row, seed["place"]):
                yield f"{who}: seed {seed['place']} is {seed['seed']}, not the one that a confirmation draws"
            finished = seed["validation"] is not None
            if finished != (seed["test"] is not None) or finished != bool(np.isfinite(results).all() and examples):
                yield f"{who}: seed {seed['place']} has a score on one split and not on the other"
            elif finished and not _near(seed["test"], float(results.mean())):
                yield f"{who}: seed {seed['place']} says {seed['test']} on test, its examples {results.mean()}"
            if finished == bool(seed["failure"]):
                what = "a score and a failure" if finished else "no score, and no reason"
                yield f"{who}: seed {seed['place']} has {what}"


def _expected_seed(record: Mapping[str, Any], row: Mapping[str, Any], place: int) -> int:
    if row["baseline"]:
        return baseline_seed(record["space"]["name"], row["operator"], place)
    return finalist_seed(record["run"]["seed"], row["candidate"], place)


def _limits(entry: Submission) -> Iterator[str]:
    contract, program = entry.record["space"]["contract"], entry.own["program"]
    for limit, fact in LIMITS.items():
        if not isinstance(program[fact], int):
            yield f"{fact} is not said"
        elif contract[limit] is not None and program[fact] > contract[limit]:
            yield f"{fact} {program[fact]:,} is more than the space allows ({contract[limit]:,})"


def _baselines(entry: Submission) -> Iterator[str]:
    """Every baseline of the space was confirmed, or could not be."""
    expected = set(entry.record["space"]["baselines"])
    found = [row["operator"] for row in entry.record["rows"] if row["baseline"]]
    known = {*found, *entry.record["baselines_left_out"]}
    if not found or len(set(found)) < len(found) or known != expected:
        wanted = ", ".join(sorted(expected)) or "at least one"
        yield f"baselines confirmed are {', '.join(sorted(found)) or 'none'}, the space has {wanted}"


def _statements(entry: Submission) -> Iterator[str]:
    """What the record says that its seeds say."""
    beliefs = assess(entry.rows, entry.record["space"]["maximize"])
    for row, belief in zip(entry.record["rows"], beliefs, strict=True):
        wrong = list(_differences(row["says"], to_plain(belief), ""))
        if wrong:
            more = f" (and {len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
            yield f"candidate {row['candidate']}: {wrong[0]}{more}"


def _differences(stated: Any, true: Any, where: str) -> Iterator[str]:
    """Where two plain values differ by more than rounding."""
    if isinstance(true, Mapping) and isinstance(stated, Mapping) and stated.keys() == true.keys():
        for key in true:
            yield from _differences(stated[key], true[key], f"{where}.{key}" if where else key)
    elif isinstance(true, list) and isinstance(stated, list) and len(stated) == len(true):
        for index, (one, other) in enumerate(zip(stated, true, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif not _same(stated, true):
        yield f"{where} is said to be {stated}, its seeds give {true}"


def _same(stated: Any, true: Any) -> bool:
    if isinstance(true, float) and isinstance(stated, int | float) and not isinstance(stated, bool):
        return _near(stated, true)
    return type(stated) is type(true) and stated == true


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-9)


def _receipt(record: Mapping[str, Any]) -> Iterator[str]:
    """Versions, machine, locks, and what it cost."""
    for key in ("versions", "machine"):
        if not record[key]:
            yield f"{key} is empty"
    if not isinstance(record.get("sandbox"), str | None):  # entries of earlier versions do not say it
        yield f"sandbox is {record['sandbox']}, not how candidates were locked, in words"
    for key, cost in record["cost"].items():
        if cost is not None and not (float(cost) >= 0 and math.isfinite(float(cost))):
            yield f"cost {key} is {cost}"


def _installed(said: Mapping[str, Any]) -> Iterator[str]:
    """Compare with the space itself, where this version of it is installed."""
    if said["name"].partition(":")[0] not in names():
        return
    try:
        space = load(said["name"])
    except SpaceError:  # it has no such variant
        return
    if space.version == said["version"]:
        true = _described(said["name"])
        keys = [key for key in sorted(true) if said.get(key) != true[key]]
        if keys:
            yield f"the space that is installed here has another {', '.join(keys)}"


@functools.cache
def _described(name: str) -> Mapping[str, Any]:
    return describe(load(name))
