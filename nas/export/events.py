"""Learning curves as TensorBoard event files, one folder a trial.

A file is a sequence of records (length, checksum, bytes, checksum), each a protocol buffer `Event` with a step and one
number by its tag. The few fields that a curve needs are written here, so that nothing has to be installed to write
them. Times are left at the run's start: the store keeps none. Sources: tensorflow/core/util/event.proto,
tensorflow/core/framework/summary.proto, tensorflow/core/lib/io/record_writer.h; CRC-32C: RFC 3720, appendix B.4.
"""

import functools
import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from nas.standings import Records
from nas.store import Score, StoreError, write_file

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def write_events(records: Records, folder: Path) -> int:
    """Write the curves of all trials that have a point; returns how many those are.

    Raises:
      StoreError: the folder cannot be written.
    """
    steps, time = records.config["ladder"]["steps"], _created(records)
    scores: dict[int, list[Score]] = {}
    for score in records.scores:
        if score.point is not None:
            scores.setdefault(score.trial, []).append(score)
    arms = {trial.id: trial for trial in records.trials}
    try:
        for trial, mine in scores.items():
            target = folder / f"candidate-{arms[trial].candidate:04d}" / f"trial-{trial:05d}"
            target.mkdir(parents=True, exist_ok=True)
            content = [_event(time, version="brain.Event:2")]
            content += [_event(time, step, values) for step, values in _points(mine, steps)]
            write_file(target / f"events.out.tfevents.{int(time)}.nas", b"".join(map(record, content)))
    except OSError as error:
        text = f"'{folder}' cannot be written ({error.strerror}); give --tensorboard a folder that can"
        raise StoreError(text) from error
    return len(scores)


def _points(scores: list[Score], steps: list[int]) -> Iterator[tuple[int, Mapping[str, float]]]:
    """What a trial measured, by step: the training loss of each chunk, and at the rungs what validation said."""
    begin = 0
    for score in sorted(scores, key=lambda one: one.rung):
        point = score.point
        assert point is not None, "a score without a point was chosen"
        if score.rung:
            begin = steps[score.rung - 1]
        for index, loss in enumerate(score.losses, 1):
            yield begin + round(index * (point.step - begin) / len(score.losses)), {"train/loss": loss}
        yield point.step, {"validation/loss": point.loss, "validation/score": point.score}


def _created(records: Records) -> float:
    """When the run was started [s since 1970]; the hour is taken as UTC."""
    try:
        return datetime.strptime(records.config["created"], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except (KeyError, ValueError):
        return 0.0


# ---- the format


def record(content: bytes) -> bytes:
    """One record of the file."""
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """CRC-32C, turned and shifted as the format asks for."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """The cyclic redundancy check of Castagnoli's polynomial."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _event(time: float, step: int = 0, values: Mapping[str, float] | None = None, *, version: str = "") -> bytes:
    """`Event`: 1 wall time, 2 step, 3 file version, 5 summary, of values: 1 tag, 2 number."""
    content = b"\x09" + struct.pack("<d", time) + (b"\x10" + _varint(step) if step else b"")
    if version:
        return content + _bytes(3, version.encode())
    parts = [
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in (values or {}).items()
        if math.isfinite(value)
    ]
    return content + _bytes(5, b"".join(parts))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])
