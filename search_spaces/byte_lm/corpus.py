"""Text in three parts: documents read from disk, gathered with their near-duplicates, split by what they say.

In goes a folder, a text file or a file of tokens, out comes a `Corpus`: one array of bytes, or one memory-mapped array
of bytes or tokens, and which ranges of it are for training, validation and test. Neither the names nor the order of
documents matter, only their contents. Documents that share a third of their marks lie on one side; exact copies are
left out. Text is not decoded: what is not UTF-8 is bytes all the same.

A document is a file of a folder. A lone file is cut into documents where it says that one ends: text at `END_OF_TEXT`
or at the pages of a Wikipedia dump, GPT-2's tokens at `END_TOKEN`. A lone file that says nothing is not cut: its splits
are one stretch each, first training, then validation, then test.

Source of the marks: Schleimer, Wilkerson & Aiken, "Winnowing", SIGMOD 2003, section 2.2 (every p-th fingerprint by
value). Ours: two documents are compared by the share of the smaller one's marks that both have.
"""

import hashlib
import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMIT = 1 << 23
"""Most units (bytes or tokens) that are read by default."""
SHARES = {"validation": 0.1, "test": 0.1}
"""Most of the units that these may have; the rest is for training."""
BYTES = 256
GPT2 = 50_257
"""Vocabulary of the tokens in a `.bin` file, unless another one is given."""
END_OF_TEXT = b"<|endoftext|>"
PAGE = b"<page>\n    <title>"
"""How a page begins in a dump of Wikipedia, as enwik8 is one."""
END_TOKEN = GPT2 - 1
PADDED = 50_304
"""GPT-2's vocabulary as it is often rounded up. In a larger one, 50,256 is a token like others."""

CHUNK = 1 << 20  # units that are looked at a time

SHINGLE = 32
"""Units of which a mark is a hash; a power of 2."""
SAMPLE = 16
"""One shingle in so many is a mark."""
ALIKE = 0.35
"""Share of the smaller document's marks from which on two are near-duplicates: above what a licence makes alike."""
CROWD = 64
"""Documents that have a mark in common are compared each with each up to so many, beyond only with their neighbours."""

LIBRARY_LEAVES_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}
"""Folders that some installations of Python have and others do not, and one of tables that are copies of each other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """What is trained and scored on.

    Attributes:
      units: uint8 bytes or uint16 tokens; those of a lone file are mapped and not copied.
      spans: for each split the ranges of `units` that are its own, (M, 2), begin and end; no two overlap. One after the
        other they are the split's text.
      whole: units that there are, with copies, marks between documents and what is beyond the limit.
      vocab: units are below it.
      digest: hash of the documents, whatever their order and names, or of the whole text where none are known; the same
        digest is the same three splits.
      documents: how many there are, exact copies not counted; 0 where none are known and each split is one stretch.
      copies: documents that were left out because another one is equal to the byte.
      alike: groups of two or more near-duplicates.
      grouped: documents in these groups.
    """

    units: np.ndarray
    spans: Mapping[str, np.ndarray]
    whole: int
    vocab: int
    digest: str
    documents: int
    copies: int
    alike: int
    grouped: int

    def size(self, split: str) -> int:
        """Units of a split."""
        return int(np.diff(self.spans[split]).sum())

    @property
    def used(self) -> int:
        """Units of all splits."""
        return sum(map(self.size, self.spans))

    @property
    def tokens(self) -> bool:
        """Whether units are tokens."""
        return self.units.dtype.itemsize > 1

    def reader(self, split: str) -> Callable[[int, int], np.ndarray]:
        """What gives the units of a split's text from `begin` up to `end`, which is beyond `begin`."""
        spans = self.spans[split]
        upto = np.cumsum(spans[:, 1] - spans[:, 0])

        def between(begin: int, end: int) -> np.ndarray:
            first, last = np.searchsorted(upto, (begin, end - 1), side="right").tolist()
            parts = [
                self.units[max(a, b - (to - begin)) : b - max(to - end, 0)]
                for (a, b), to in zip(spans[first : last + 1].tolist(), upto[first : last + 1].tolist(), strict=True)
            ]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return between


class VocabularyError(ValueError):
    """A file has a token beyond its vocabulary."""


def library() -> list[Path]:
    """The Python sources of the standard library that runs this, but for its tests and how it was built."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(folder.rglob("*.py")) if not file.name.startswith("_sysconfigdata")]
    return [file for file in files if not LIBRARY_LEAVES_OUT & set(file.relative_to(folder).parts)]


def read(path: Path | None = None, *, limit: int = LIMIT, vocab: int = GPT2) -> Corpus:
    """Read a corpus.

    Args:
      path: a folder of text files (hidden and binary ones are passed over), a text file, a `.bin` file of uint16
        tokens, or None for the sources of the standard library. A folder with one text is that text.
      limit: most units: of a folder, documents in an order that is random but follows from their contents; of a file,
        its beginning.
      vocab: number of tokens that a `.bin` file may have; text has 256.
    Raises:
      VocabularyError: a token is beyond it; one line.
      ValueError: there is no text, or it cannot be what it is said to be; the message has one line.
    """
    if path is None:
        return from_documents(library(), limit=limit)
    if path.is_dir():
        texts = _texts(path)
        return from_documents(texts, limit=limit) if len(texts) > 1 else _text(texts[0], limit)
    if not path.is_file():
        raise ValueError(f"byte_lm: there is no file or folder {path}. Give one that exists.")
    return _tokens(path, limit, vocab) if path.suffix == ".bin" else _text(path, limit)


def from_documents(documents: Sequence[bytes | Path], *, limit: int = LIMIT) -> Corpus:
    """Make a corpus of texts.

    Args:
      documents: texts or files, in any order; a file is read as often as it is needed and not kept.
      limit: most bytes; a document that no longer fits is passed over.
    Raises:
      ValueError: nothing is left.
    """
    sizes = [document.stat().st_size if isinstance(document, Path) else len(document) for document in documents]
    fit = [document for document, size in zip(documents, sizes, strict=True) if 0 < size <= limit]
    by_digest: dict[bytes, tuple[bytes | Path, int]] = {}
    for document in fit:
        content = _content(document)
        by_digest[_digest(content)] = document, len(content)
    kept, room = [], limit
    for digest in sorted(by_digest):
        if by_digest[digest][1] <= room:
            kept.append(digest)
            room -= by_digest[digest][1]
    if not kept:
        raise ValueError(
            f"byte_lm: no text within {limit} bytes was found. Give a folder with text, or a higher limit."
        )
    group = groups(np.frombuffer(_content(by_digest[digest][0]), np.uint8) for digest in kept)
    taken = np.array([by_digest[digest][1] for digest in kept])
    sides = _sides(taken.tolist(), group)
    units, begin, spans = np.empty(taken.sum(), np.uint8), 0, {}
    for name in _names():
        end = begin
        for i in np.flatnonzero(sides == name):
            content = _content(by_digest[kept[i]][0])
            if _digest(content) != kept[i]:
                raise ValueError(f"byte_lm: {by_digest[kept[i]][0]} changed while it was read. Try again.")
            units[end : end + len(content)] = np.frombuffer(content, np.uint8)
            end += len(content)
        spans[name], begin = np.array([[begin, end]]), end
    return Corpus(
        units=units,
        spans=spans,
        whole=sum(sizes),
        vocab=BYTES,
        digest=_digest(b"".join(kept)).hex(),
        documents=len(kept),
        copies=len(fit) - len(by_digest),
        **_count(group),
    )


def fresh(corpus: Corpus, split: str, starts: np.ndarray, width: int) -> np.ndarray:
    """Tell which runs of a split are not in the splits before it: less than half of a run's marks are.

    Documents that are no near-duplicates still share passages: licences, tables, what is quoted.

    Args:
      corpus: a corpus.
      split: "validation" or "test", which come after "train" in this order.
      starts: where in the split's text the runs begin (N,), ascending; the runs do not overlap.
      width: units of a run; if it is below 8 * `SHINGLE` there may be no mark in it, and then it passes.
    Returns:
      For each run whether it is fresh: (N,).
    """
    before = _names()[: _names().index(split)]
    known = np.sort(np.concatenate([_placed_marks(corpus.reader(name), corpus.size(name))[1] for name in before]))
    places, hashes = _placed_marks(corpus.reader(split), corpus.size(split))
    run = np.searchsorted(starts, places, side="right") - 1
    inside = (run >= 0) & (places + SHINGLE <= starts[run] + width)
    run, hashes = run[inside], hashes[inside]
    seen = np.searchsorted(known, hashes, side="left") < np.searchsorted(known, hashes, side="right")
    marks, old = (np.bincount(run, weights=weights, minlength=len(starts)) for weights in (None, seen))
    without = width < 8 * SHINGLE  # a longer run without a mark is one unit repeated
    return np.where(marks > 0, 2 * old < marks, without)


def groups(documents: Iterable[np.ndarray]) -> np.ndarray:
    """Find near-duplicates.

    Two documents are alike if at least `ALIKE` of the smaller one's marks are in the other, too; who is alike with
    one of a group is in it. Documents of fewer than `SHINGLE` units have no marks and are alike with none.

    Args:
      documents: arrays of units.
    Returns:
      For each document the first one of its group: (D,).
    """
    marks = [_marks(document) for document in documents]
    sizes = np.array([len(own) for own in marks])
    every, owner = np.concatenate(marks), np.repeat(np.arange(len(marks)), sizes)
    order = np.argsort(every, kind="stable")  # so that the owners of a mark ascend
    every, owner = every[order], owner[order]
    starts = np.flatnonzero(np.r_[True, every[1:] != every[:-1]]) if len(every) else np.array([], int)
    counts = np.diff(np.r_[starts, len(every)])
    pairs = [np.array([], int)]
    for count in np.unique(counts[counts > 1]):
        members = owner[starts[counts == count][:, None] + np.arange(count)]
        a, b = np.triu_indices(count, 1) if count <= CROWD else (np.arange(count - 1), np.arange(1, count))
        pairs.append((members[:, a] * len(marks) + members[:, b]).ravel())
    pair, shared = np.unique(np.concatenate(pairs), return_counts=True)
    a, b = np.divmod(pair, len(marks))
    alike = shared >= ALIKE * np.minimum(sizes[a], sizes[b])
    return _union(len(marks), a[alike], b[alike])


def _union(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The first member of the group of each of `count`, where a and b name pairs that are in one group."""
    first = list(range(count))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = i = first[first[i]]
        return i

    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        one, other = sorted((root(one), root(other)))
        first[other] = one
    return np.array([root(i) for i in range(count)])


def _text(path: Path, limit: int) -> Corpus:
    """Map a lone file of text."""
    if path.stat().st_size == 0:
        raise ValueError(f"byte_lm: {path} is empty. Give a file with text in it.")
    if _binary(path):
        raise ValueError(f"byte_lm: {path} has zero bytes, so it is no text. Give text, or uint16 tokens named *.bin.")
    units = np.memmap(path, dtype=np.uint8, mode="r")
    used = units[:limit]
    marks = [mark.span() for mark in re.finditer(re.escape(END_OF_TEXT), used.data)]
    pages = [] if marks else [mark.start() for mark in re.finditer(re.escape(PAGE), used.data)]
    inner = np.array(marks or [(page, page) for page in pages], int).reshape(-1, 2)
    ranges = np.stack([np.r_[0, inner[:, 1]], np.r_[inner[:, 0], len(used)]], axis=1)
    return _mapped(units, ranges, BYTES)


def _tokens(path: Path, limit: int, vocab: int) -> Corpus:
    """Map a file of uint16 tokens, as nanoGPT writes it."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise ValueError(f"byte_lm: {path} has {size} bytes; a .bin file has two for each token. Write it anew.")
    units = np.memmap(path, dtype="<u2", mode="r")
    used, ends = min(len(units), limit), [np.array([], int)]
    for begin in range(0, used, CHUNK):
        chunk = units[begin : min(begin + CHUNK, used)]
        if chunk.max() >= vocab:
            raise VocabularyError(
                f"byte_lm: {path} has token {chunk.max()}; vocab={vocab} allows less. Say how many there may be, up to "
                "65536, by the option vocab"
            )
        if GPT2 <= vocab <= PADDED:
            ends.append(begin + np.flatnonzero(chunk == END_TOKEN) + 1)
    bounds = np.unique(np.r_[0, np.concatenate(ends), used])
    return _mapped(units, np.stack([bounds[:-1], bounds[1:]], axis=1), vocab)


def _mapped(units: np.ndarray, ranges: np.ndarray, vocab: int) -> Corpus:
    """The corpus of a mapped file: of documents that are ranges (M, 2) of it, or of a single range, which is cut."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    if len(ranges) < 2:
        return _stretches(units, ranges, vocab)
    by_digest: dict[bytes, tuple[int, int]] = {}
    for begin, end in ranges.tolist():
        by_digest.setdefault(_digest(units[begin:end].data), (begin, end))
    kept = sorted(by_digest)
    placed = np.array([by_digest[digest] for digest in kept])
    group = groups(units[begin:end] for begin, end in placed.tolist())
    sizes = np.diff(placed)[:, 0]
    sides = _sides(sizes.tolist(), group)
    if any(sizes[sides == name].sum() < share / 10 * sizes.sum() for name, share in SHARES.items()):
        # One document is nearly all of it, and its splits were nearly empty: as if it said nothing.
        return _stretches(units, np.array([[ranges[0, 0], ranges[-1, 1]]]), vocab)
    return Corpus(
        units=units,
        spans={name: placed[sides == name] for name in _names()},
        whole=len(units),
        vocab=vocab,
        digest=_digest(b"".join(kept)).hex(),
        documents=len(kept),
        copies=len(ranges) - len(kept),
        **_count(group),
    )


def _stretches(units: np.ndarray, ranges: np.ndarray, vocab: int) -> Corpus:
    """The corpus of a range without documents: one stretch for each split, in their order."""
    ((begin, end),) = ranges.tolist() or [(0, 0)]
    bounds, spans = end, {}
    for name, share in reversed(SHARES.items()):
        spans[name] = np.array([[bounds - int(share * (end - begin)), bounds]])
        bounds -= int(share * (end - begin))
    spans["train"] = np.array([[begin, bounds]])
    return Corpus(
        units=units,
        spans={name: spans[name] for name in _names()},
        whole=len(units),
        vocab=vocab,
        digest=hashlib.sha256(b"stretches" + _digest(units[begin:end].data)).hexdigest(),
        documents=0,
        copies=0,
        alike=0,
        grouped=0,
    )


def _texts(path: Path) -> list[Path]:
    """The text files in a folder and those below it."""
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and not _hidden(f.relative_to(path))]
    tokens = [file.name for file in files if file.suffix == ".bin"]
    texts = [f for f in files if f.suffix != ".bin" and f.stat().st_size > 0 and not _binary(f)]
    if not texts and tokens:
        raise ValueError(
            f"byte_lm: {path} has token files ({', '.join(tokens[:3])}). Name one of them, not the folder."
        )
    if not texts:
        raise ValueError(f"byte_lm: {path} has no text file. Give a folder with text in it.")
    return texts


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _binary(path: Path) -> bool:
    """Git's rule: a zero byte near the beginning."""
    with path.open("rb") as file:
        return b"\0" in file.read(8_000)


def _content(document: bytes | Path) -> bytes:
    return document.read_bytes() if isinstance(document, Path) else document


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()


def _names() -> list[str]:
    return ["train", *SHARES]


def _sides(sizes: Sequence[int], group: np.ndarray) -> np.ndarray:
    """The split of each document, these in the order of their digests: a group goes to the first with room for it."""
    members: dict[int, list[int]] = {}
    for i, first in enumerate(group):
        members.setdefault(int(first), []).append(i)
    room = {name: share * sum(sizes) for name, share in SHARES.items()}
    sides = np.full(len(sizes), "train", dtype="<U10")
    for own in members.values():
        size = sum(sizes[i] for i in own)
        name = next((name for name in room if size <= room[name]), None)
        if name is not None:
            room[name] -= size
            sides[own] = name
    return sides


def _count(group: np.ndarray) -> dict[str, int]:
    sizes = np.unique(group, return_counts=True)[1]
    return {"alike": int((sizes > 1).sum()), "grouped": int(sizes[sizes > 1].sum())}


def _marks(units: np.ndarray) -> np.ndarray:
    """The hashes that are marks, each once: the same text has the same marks wherever it stands."""
    hashes = np.sort(_placed_marks(lambda begin, end: units[begin:end], len(units))[1])
    return hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]  # np.unique takes ten times as long


def _placed_marks(between: Callable[[int, int], np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the marked shingles of a text begin, and their hashes; a shingle's hash alone says whether it is marked."""
    found = [(np.array([], int), np.array([], np.uint64))]
    for begin in range(0, size, CHUNK):
        units = between(begin, min(begin + CHUNK + SHINGLE - 1, size))
        hashes, width = units.astype(np.uint64) + np.uint64(1), 1
        while width < SHINGLE:  # the hash of a run is made of those of its halves
            hashes = hashes[:-width] * np.uint64(0x9E3779B97F4A7C15 + 2 * width) + hashes[width:]
            width *= 2
        hashes ^= hashes >> np.uint64(31)
        hashes *= np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(29)
        places = np.flatnonzero(hashes % np.uint64(SAMPLE) == 0)
        found.append((begin + places, hashes[places]))
    places, hashes = zip(*found, strict=True)
    return np.concatenate(places), np.concatenate(hashes)
