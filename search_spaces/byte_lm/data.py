"""Next-byte prediction on real text: windows of a corpus, and named public texts fetched on request.

In goes a corpus (the sources of the Python library that runs this, unless told otherwise), out come windows: inputs
(N, T) and targets (N, T), the same units one further. Training windows are drawn anywhere in the training text, with
their seed; those of validation and test are fixed, share no unit with each other, and leave out what stands in the text
before them word for word (`corpus.fresh`). A window may run from one document into the next of the same split.
Nothing is fetched unless `fetch` is called.
"""

import functools
import hashlib
import os
import shutil
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nas.search_spaces.byte_lm.corpus import GPT2, LIMIT, Corpus, fresh, read
from nas.space import Split

LENGTH = 256
"""T: units of a window's inputs."""
COUNTS = {"train": 16_384, "validation": 1_024, "test": 1_024}
"""Windows of each split: 4 M units to train on, .26 M each to be scored on."""
SEEDS = {"train": 1_000, "validation": 1, "test": 2}
CHUNK = 1 << 20  # bytes read at a time


class Public(NamedTuple):
    """A public text.

    Attributes:
      url: where it is.
      text: the file in the archive, or the file itself.
    """

    url: str
    text: str


PUBLIC = {
    "text8": Public("https://mattmahoney.net/dc/text8.zip", "text8"),
    "enwik8": Public("https://mattmahoney.net/dc/enwik8.zip", "enwik8"),
    "tinystories": Public(
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories-valid.txt",
        "TinyStories-valid.txt",
    ),
}
"""Texts that are known by name. Their hashes are for who fetches them to give: none was checked here."""


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


def windows(text: Corpus, name: str, *, count: int, length: int, seed: int | None = None) -> Split:
    """Cut windows from a split of a corpus.

    Args:
      text: the corpus.
      name: "train", "validation" or "test".
      count: how many; for training they are drawn with replacement, and less is the beginning of more.
      length: T; a window has one unit more, the last target.
      seed: of the draw; None is the split's own.
    Returns:
      Inputs and targets (count, length), int32.
    Raises:
      ValueError: the split has not that many.
    """
    rng = np.random.default_rng(SEEDS[name] if seed is None else seed)
    if name == "train":
        chosen = _anywhere(text, length + 1, count, rng)
    else:
        chosen = _apart(text, name, length + 1, count, rng)
    every = np.lib.stride_tricks.sliding_window_view(text.units, length + 1)
    drawn = np.asarray(every[chosen], dtype=np.int32)  # of a mapped file, only these are read
    return Split(drawn[:, :-1].copy(), drawn[:, 1:].copy())


def fetch(name: str, folder: Path, *, url: str | None = None, sha256: str | None = None, timeout_s: float = 60) -> Path:
    """Fetch a public text, unless the folder has it.

    Args:
      name: one of `PUBLIC`.
      folder: where it is to be kept.
      url: another place that has the same file.
      sha256: hash of the file at the URL, in hexadecimal; None fetches unchecked and warns, telling the hash it has.
      timeout_s: longest silence of the other side [s].
    Returns:
      The text, for `corpus.read`.
    Raises:
      ValueError: the name is unknown, the hash is another one or the archive has no such text.
      OSError: it cannot be fetched.
    """
    if name not in PUBLIC:
        raise ValueError(f"byte_lm knows no text '{name}'; it knows {', '.join(PUBLIC)}. Name one, or give a file.")
    url, text = url or PUBLIC[name].url, folder / PUBLIC[name].text
    archive = folder / url.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        _download(url, archive, sha256, timeout_s)
    elif sha256 is not None and (found := _sha256(archive)) != sha256.lower():
        raise ValueError(f"byte_lm: {archive} has SHA-256 {found}, not {sha256}. Remove it to fetch it again.")
    if archive.suffix == ".zip" and not text.exists():
        _unpack(archive, text)
    return text if archive.suffix == ".zip" else archive


def _anywhere(text: Corpus, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where training windows begin: each place at which one can is equally likely, again and again."""
    begins, ends = text.spans["train"].T
    places = np.maximum(ends - begins - width + 1, 0)
    if places.sum() == 0:
        raise _too_little(text, "train", width, 1, 0)
    drawn, upto = rng.integers(places.sum(), size=count), np.cumsum(places)
    span = np.searchsorted(upto, drawn, side="right")
    return begins[span] + drawn - (upto - places)[span]


def _apart(text: Corpus, name: str, width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of a split begin that is scored: some of those side by side that are fresh."""
    starts = np.concatenate([np.arange(begin, end - width + 1, width) for begin, end in text.spans[name]] or [[]])
    starts = starts.astype(int)[fresh(text, name, starts, width)] if len(starts) else starts
    if len(starts) < count:
        raise _too_little(text, name, width, count, len(starts))
    return np.sort(rng.choice(starts, count, replace=False))


def _too_little(text: Corpus, name: str, width: int, count: int, found: int) -> ValueError:
    return ValueError(
        f"byte_lm: {count} {name} windows of {width} units are asked for; its {text.size(name)} units have room for "
        f"{found}. Give more text or a higher limit, or ask for fewer or shorter windows."
    )


def _download(url: str, target: Path, sha256: str | None, timeout_s: float) -> None:
    """Fetch to a file beside the target, which it becomes if its hash is right."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
        found = _sha256(part)
        if sha256 is None:
            warnings.warn(f"byte_lm: {url} was not checked. Its SHA-256 is {found}; give it next time.", stacklevel=3)
        elif found != sha256.lower():
            raise ValueError(f"byte_lm: {url} has SHA-256 {found}, not {sha256}. Nothing is kept; give the right one.")
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
