"""Next-byte prediction on real text: windows of a corpus, and named public texts fetched on request.

    python -m nas.search_spaces.byte_lm.data text8 --to texts      fetch it, check it, and say where it is

In goes a corpus (the sources of the Python library that runs this, unless told otherwise), out come windows: inputs
(N, T) and targets (N, T), the same units one further. Training windows are drawn anywhere in the training text, with
their seed; those of validation and test are fixed, share no unit with each other, and leave out what stands in the text
before them word for word (`corpus.fresh`). A window may run from one document into the next of the same split.
Nothing is fetched unless `fetch` is called.
"""

import argparse
import functools
import hashlib
import os
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas.search_spaces.byte_lm.corpus import GPT2, LIMIT, SHARES, Corpus, fresh, read
from nas.space import Split

LENGTH = 256
"""T: units of a window's inputs."""
COUNTS = {"train": 16_384, "validation": 1_024, "test": 1_024}
"""Windows of each split: 4 M units to train on, .26 M each to be scored on, or less where the text is short."""
FEWEST = 64
"""Validation and test have so many windows or a multiple, as many of `COUNTS` as there is room for."""
SEEDS = {"train": 1_000, "validation": 1, "test": 2}
CHUNK = 1 << 20  # bytes read at a time


class Public(NamedTuple):
    """A public text.

    Attributes:
      url: where it is.
      text: the file in the archive, or the file itself.
      sha256: of what the address gives, in hexadecimal.
    """

    url: str
    text: str
    sha256: str


PUBLIC = {
    "text8": Public(
        "https://mattmahoney.net/dc/text8.zip",
        "text8",
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ),
    "enwik8": Public(
        "https://mattmahoney.net/dc/enwik8.zip",
        "enwik8",
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    ),
    "tinystories": Public(
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories-valid.txt",
        "TinyStories-valid.txt",
        "94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4",
    ),
}
"""Texts that are known by name. The hashes are those that several projects which use these texts state alike."""


def split(
    name: str, *, path: Path | None = None, length: int = LENGTH, times: int = 1, limit: int = LIMIT, vocab: int = GPT2
) -> Split:
    """The examples of a split.

    Args:
      name: "train", "validation" or "test".
      path: as in `corpus.read`.
      length: T.
      times: so many times the training windows; less is the beginning of more.
      limit: most units of the corpus.
      vocab: tokens that a `.bin` file may have.
    Raises:
      ValueError: there is no such split, no text, or too little of it; the message has one line.
    """
    if name not in COUNTS:
        raise ValueError(f"byte_lm has no split '{name}'; it has {', '.join(COUNTS)}. Name one of them.")
    count = COUNTS[name] * (times if name == "train" else 1)
    return windows(corpus(path, limit, vocab), name, count=count, length=length)


@functools.lru_cache(maxsize=2)
def corpus(path: Path | None = None, limit: int = LIMIT, vocab: int = GPT2) -> Corpus:
    """The corpus at a path, read once; its `digest` is part of the task's version."""
    return read(path, limit=limit, vocab=vocab)


def told(text: Corpus, path: Path | None, limit: int) -> str:
    """How much of a text is used and how it is split, in one line."""
    units, place = "tokens" if text.tokens else "bytes", path or "the Python library's sources"
    said = f"byte_lm: uses {text.used:,} of {text.whole:,} {units} of {place}"
    said += f" (limit={text.whole} takes all)" if limit < text.whole else ""
    if not text.documents:
        return f"{said}; no end of a document is marked in it, so its end is scored on and what is before is trained on"
    documents = "1 document" if text.documents == 1 else f"{text.documents:,} documents"
    copies = f", {text.copies:,} copies left out" if text.copies else ""
    return f"{said}; {documents}, split whole{copies}"


def windows(text: Corpus, name: str, *, count: int, length: int, seed: int | None = None) -> Split:
    """Cut windows from a split of a corpus.

    Args:
      text: the corpus.
      name: "train", "validation" or "test".
      count: how many; for training they are drawn with replacement, and less is the beginning of more. Of the others
        there may be less, but at least `FEWEST`.
      length: T; a window has one unit more, the last target.
      seed: of the draw; None is the split's own.
    Returns:
      Inputs and targets (count, length), int32.
    Raises:
      ValueError: there is too little text.
    """
    rng = np.random.default_rng(SEEDS[name] if seed is None else seed)
    if name == "train":
        chosen = _anywhere(text, length + 1, count, rng)
    else:
        chosen = _apart(text, name, length + 1, count, rng)
    between = text.reader(name)
    inputs, targets = (np.empty((len(chosen), length), np.int32) for _ in range(2))
    for i, start in enumerate(chosen.tolist()):  # of a mapped file, only these are read
        window = between(start, start + length + 1)
        inputs[i], targets[i] = window[:-1], window[1:]
    return Split(inputs, targets)


def fetch(name: str, folder: Path, *, url: str | None = None, timeout_s: float = 60) -> Path:
    """Fetch a public text, unless the folder has it, and check it by its hash.

    Args:
      name: one of `PUBLIC`.
      folder: where it is to be kept.
      url: another place that has the same file.
      timeout_s: longest silence of the other side [s].
    Returns:
      The text, for `corpus.read`.
    Raises:
      ValueError: the name is unknown, the hash is another one or the archive has no such text.
      OSError: it cannot be fetched.
    """
    if name not in PUBLIC:
        raise ValueError(f"byte_lm knows no text '{name}'; it knows {', '.join(PUBLIC)}. Name one, or give a file.")
    url, text, sha256 = url or PUBLIC[name].url, folder / PUBLIC[name].text, PUBLIC[name].sha256
    archive = folder / url.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        _download(url, archive, sha256, timeout_s)
    elif (found := _sha256(archive)) != sha256:
        raise ValueError(f"byte_lm: {archive} has SHA-256 {found}, not {sha256}. Remove it to fetch it again.")
    if archive.suffix == ".zip" and not text.exists():
        _unpack(archive, text)
    return text if archive.suffix == ".zip" else archive


def _anywhere(text: Corpus, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where training windows begin: each place at which one can is equally likely, again and again."""
    places = text.size("train") - width + 1
    if places < 1:
        raise _too_little(text, "train", width, 0)
    return rng.integers(places, size=count)


def _apart(text: Corpus, name: str, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of a split begin that is scored: some of those side by side that are fresh."""
    starts = np.arange(0, text.size(name) - width + 1, width)
    starts = starts[fresh(text, name, starts, width)] if len(starts) else starts
    room = len(starts) // FEWEST * FEWEST
    if not room:
        raise _too_little(text, name, width, len(starts))
    return np.sort(rng.choice(starts, min(count, room), replace=False))


def check(text: Corpus, length: int) -> None:
    """Say early that a text is too short for windows of `length`; that enough of it is fresh shows when they are cut.

    Raises:
      ValueError: it is; one line.
    """
    for name in SHARES:
        room = text.size(name) // (length + 1)
        if room < FEWEST:
            raise _too_little(text, name, length + 1, room)


def _too_little(text: Corpus, name: str, width: int, found: int) -> ValueError:
    units, kinds = ("tokens", "tokens") if text.tokens else ("units of text", "units")
    beyond = f" ({text.whole:,} with copies, marks and what is beyond the limit)" if text.used < text.whole else ""
    least = -(-round(1.2 * FEWEST * width / min(SHARES.values())) // 10_000) * 10_000
    whole = ", in several documents" if text.documents else ""
    repeats = " that repeat less" if text.used >= least else ""
    grouped = f"{text.grouped:,} of {text.documents:,} documents"
    alike = f"; near-duplicates, {grouped}, stay together" if text.grouped else ""
    return ValueError(
        f"byte_lm: of {text.used:,} {units}{beyond} {text.size(name):,} are for {name}, with room for {found} windows "
        f"of {width} that nothing else has{alike}. Give {least:,} {kinds} or more{whole}{repeats}."
    )


def _download(url: str, target: Path, sha256: str, timeout_s: float) -> None:
    """Fetch to a file beside the target, which it becomes if its hash is right."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
        found = _sha256(part)
        if found != sha256:
            raise ValueError(f"byte_lm: {url} has SHA-256 {found}, not {sha256}. Nothing is kept; try again later.")
        os.replace(part, target)
    except OSError as error:
        raise OSError(f"byte_lm: {url} cannot be fetched: {error}. Fetch it elsewhere and give the file.") from error
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, text: Path) -> None:
    part = text.with_name(f".{text.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(text.name) as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        os.replace(part, text)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"byte_lm: {archive} holds no '{text.name}'. Remove it and fetch it again.") from error
    finally:
        part.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch a public text and say how to search on it; returns 1 if it cannot be had."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description="Fetch a public text.")
    parser.add_argument("name", choices=list(PUBLIC), metavar="NAME", help=", ".join(PUBLIC))
    parser.add_argument("--to", type=Path, default=Path("texts"), metavar="DIR", help="where it is kept (texts)")
    parser.add_argument("--url", help="another address that has the same file")
    parsed = parser.parse_args(arguments)
    try:
        found = fetch(parsed.name, parsed.to, url=parsed.url)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{found}\n\n    python -m nas.search --space byte_lm --data {found}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
