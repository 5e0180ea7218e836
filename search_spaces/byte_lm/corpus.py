"""Text in three parts: documents read from disk, gathered with their near-duplicates, split by what they say.

In goes a folder, a text file or a file of tokens, out comes a `Corpus`: one array of bytes, or one memory-mapped array
of tokens, and which ranges of it are for training, validation and test. Neither the names nor the order of documents
matter, only their contents. Documents that share a third of their marks lie on one side; exact copies are left out.
Text is not decoded: what is not UTF-8 is bytes all the same.

A document is a file of a folder. A lone file is cut: at `END_OF_TEXT` if it has that, else at line ends into pieces; a
file of tokens into pieces of equal length.

Source of the marks: Schleimer, Wilkerson & Aiken, "Winnowing", SIGMOD 2003, section 2.2 (every p-th fingerprint by
value). Ours: two documents are compared by the share of the smaller one's marks that both have.
"""

import hashlib
import sysconfig
from collections.abc import Mapping, Sequence
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
PIECE = 1 << 14
"""Units of a piece of a lone file."""

CHUNK = 1 << 20  # units of which marks are made at a time

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
      units: all of it: uint8 bytes, or uint16 tokens that are mapped and not copied.
      spans: for each split the ranges of `units` that are its own, (M, 2), begin and end; no two overlap.
      vocab: units are below it.
      digest: hash of the documents, whatever their order and names; the same digest is the same three splits.
      documents: how many there are, exact copies not counted.
      copies: documents that were left out because another one is equal to the byte.
      alike: groups of two or more near-duplicates.
      grouped: documents in these groups.
    """

    units: np.ndarray
    spans: Mapping[str, np.ndarray]
    vocab: int
    digest: str
    documents: int
    copies: int
    alike: int
    grouped: int

    def size(self, split: str) -> int:
        """Units of a split."""
        return int(np.diff(self.spans[split]).sum())


def library() -> list[Path]:
    """The Python sources of the standard library that runs this, but for its tests and how it was built."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(folder.rglob("*.py")) if not file.name.startswith("_sysconfigdata")]
    return [file for file in files if not LIBRARY_LEAVES_OUT & set(file.relative_to(folder).parts)]


def read(path: Path | None = None, *, limit: int = LIMIT, vocab: int = GPT2) -> Corpus:
    """Read a corpus.

    Args:
      path: a folder of text files (hidden and binary ones are passed over), a text file, a `.bin` file of uint16
        tokens, or None for the sources of the standard library.
      limit: most units: of a folder, documents in an order that is random but follows from their contents; of a file,
        its beginning.
      vocab: number of tokens that a `.bin` file may have; text has 256.
    Raises:
      ValueError: there is no text, or it cannot be what it is said to be; the message has one line.
    """
    if path is None:
        return from_documents([file.read_bytes() for file in library()], limit=limit)
    if path.is_dir():
        return from_documents(_folder(path, limit), limit=limit)
    if not path.is_file():
        raise ValueError(f"byte_lm: there is no file or folder {path}. Give one that exists.")
    if path.suffix == ".bin":
        return _tokens(path, limit, vocab)
    with path.open("rb") as file:
        text = file.read(limit)
    if not text:
        raise ValueError(f"byte_lm: {path} is empty. Give a file with text in it.")
    if _binary(text):
        raise ValueError(f"byte_lm: {path} has zero bytes, so it is no text. Give text, or uint16 tokens named *.bin.")
    return from_documents(_pieces(text), limit=limit)


def from_documents(documents: Sequence[bytes], *, limit: int = LIMIT) -> Corpus:
    """Make a corpus of texts.

    Args:
      documents: in any order.
      limit: most bytes; a document that no longer fits is passed over.
    Raises:
      ValueError: nothing is left.
    """
    by_digest = {_digest(text): text for text in documents if text}
    kept, room = [], limit
    for digest in sorted(by_digest):
        if len(by_digest[digest]) <= room:
            kept.append(digest)
            room -= len(by_digest[digest])
    if not kept:
        raise ValueError(
            f"byte_lm: no text within {limit} bytes was found. Give a folder with text, or a higher limit."
        )
    views = [np.frombuffer(by_digest[digest], np.uint8) for digest in kept]
    group = groups(views)
    sides = _sides([len(view) for view in views], group)
    order = [i for name in _names() for i in np.flatnonzero(sides == name)]
    ends = np.cumsum([sum(len(views[i]) for i in np.flatnonzero(sides == name)) for name in _names()])
    begins = np.concatenate([[0], ends[:-1]])
    return Corpus(
        units=np.concatenate([views[i] for i in order]),
        spans={name: np.array([[a, b]]) for name, a, b in zip(_names(), begins, ends, strict=True)},
        vocab=BYTES,
        digest=_digest(b"".join(kept)).hex(),
        documents=len(kept),
        copies=sum(map(bool, documents)) - len(by_digest),
        **_count(group),
    )


def fresh(corpus: Corpus, split: str, starts: np.ndarray, width: int) -> np.ndarray:
    """Tell which runs of a split are not in the splits before it: less than half of a run's marks are.

    Documents that are no near-duplicates still share passages: licences, tables, what is quoted.

    Args:
      corpus: a corpus.
      split: "validation" or "test", which come after "train" in this order.
      starts: first units of the runs (N,), ascending; the runs do not overlap.
      width: units of a run; if it is below 8 * `SHINGLE` there may be no mark in it, and then it passes.
    Returns:
      For each run whether it is fresh: (N,).
    """
    before = _names()[: _names().index(split)]
    ranges = [(a, end) for name in before for begin, end in corpus.spans[name] for a in range(begin, end, CHUNK)]
    parts = [_marks(corpus.units[a : min(a + CHUNK + SHINGLE - 1, end)]) for a, end in ranges]
    known = np.unique(np.concatenate([np.array([], np.uint64), *parts]))
    marks, old = np.zeros(len(starts)), np.zeros(len(starts))
    for begin, end in corpus.spans[split]:
        places, hashes = _placed_marks(corpus.units[begin:end])
        run = np.searchsorted(starts, places + begin, side="right") - 1
        inside = (run >= 0) & (places + begin + SHINGLE <= starts[run] + width)
        run, seen = run[inside], np.isin(hashes[inside], known)
        marks += np.bincount(run, minlength=len(starts))
        old += np.bincount(run, weights=seen, minlength=len(starts))
    without = width < 8 * SHINGLE  # a longer run without a mark is one unit repeated
    return np.where(marks > 0, 2 * old < marks, without)


def groups(documents: Sequence[np.ndarray]) -> np.ndarray:
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


def _tokens(path: Path, limit: int, vocab: int) -> Corpus:
    """Map a file of uint16 tokens, as nanoGPT writes it."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise ValueError(f"byte_lm: {path} has {size} bytes; a .bin file has two for each token. Write it anew.")
    units = np.memmap(path, dtype="<u2", mode="r")
    by_digest: dict[bytes, tuple[int, int]] = {}
    used = min(len(units), limit)
    for begin in range(0, used, PIECE):
        piece = units[begin : min(begin + PIECE, used)]
        if piece.max() >= vocab:
            raise ValueError(
                f"byte_lm: {path} has token {piece.max()}; vocab={vocab} allows less. Say how many there may be, "
                f"up to 65536: --space 'byte_lm?vocab=65536'."
            )
        by_digest.setdefault(_digest(piece.tobytes()), (begin, begin + len(piece)))
    kept = sorted(by_digest)
    group = groups([units[slice(*by_digest[digest])] for digest in kept])
    ranges = np.array([by_digest[digest] for digest in kept])
    sides = _sides((ranges[:, 1] - ranges[:, 0]).tolist(), group)
    return Corpus(
        units=units,
        spans={name: _joined(ranges[sides == name]) for name in _names()},
        vocab=vocab,
        digest=_digest(b"".join(kept)).hex(),
        documents=len(kept),
        copies=-(-used // PIECE) - len(kept),
        **_count(group),
    )


def _folder(path: Path, limit: int) -> list[bytes]:
    """The texts in a folder and those below it; a lone one in pieces."""
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and not _hidden(f.relative_to(path))]
    tokens = [file.name for file in files if file.suffix == ".bin"]
    texts = [file.read_bytes() for file in files if file.suffix != ".bin" and file.stat().st_size <= limit]
    texts = [text for text in texts if text and not _binary(text)]
    if not texts and tokens:
        raise ValueError(
            f"byte_lm: {path} has token files ({', '.join(tokens[:3])}). Name one of them, not the folder."
        )
    if not texts:
        raise ValueError(f"byte_lm: {path} has no text file of at most {limit} bytes. Give a folder with text in it.")
    return _pieces(texts[0]) if len(texts) == 1 else texts


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _binary(text: bytes) -> bool:
    """Git's rule: a zero byte near the beginning."""
    return b"\0" in text[:8_000]


def _pieces(text: bytes) -> list[bytes]:
    """Cut a lone text into what counts as its documents."""
    if END_OF_TEXT in text:
        return text.split(END_OF_TEXT)
    pieces, begin = [], 0
    while begin < len(text):
        end = begin + PIECE
        if end < len(text):
            end = text.find(b"\n", end, end + PIECE) + 1 or end  # text without lines is cut anywhere
        pieces.append(text[begin:end])
        begin = end
    return pieces


def _digest(content: bytes) -> bytes:
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


def _joined(ranges: np.ndarray) -> np.ndarray:
    """Ranges (M, 2) that do not overlap, those that touch made one."""
    ranges = ranges[np.argsort(ranges[:, 0])]
    apart = ranges[1:, 0] != ranges[:-1, 1]
    return np.stack([ranges[np.r_[True, apart], 0], ranges[np.r_[apart, True], 1]], axis=1) if len(ranges) else ranges


def _count(group: np.ndarray) -> dict[str, int]:
    sizes = np.unique(group, return_counts=True)[1]
    return {"alike": int((sizes > 1).sum()), "grouped": int(sizes[sizes > 1].sum())}


def _marks(units: np.ndarray) -> np.ndarray:
    """The hashes that are marks, each once: the same text has the same marks wherever it stands."""
    return np.unique(_placed_marks(units)[1])


def _placed_marks(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the marked shingles begin, and their hashes; a shingle's hash alone says whether it is marked."""
    hashes, width = units.astype(np.uint64) + np.uint64(1), 1
    while width < SHINGLE:  # the hash of a run is made of those of its halves
        hashes = hashes[:-width] * np.uint64(0x9E3779B97F4A7C15 + 2 * width) + hashes[width:]
        width *= 2
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    places = np.flatnonzero(hashes % np.uint64(SAMPLE) == 0)
    return places, hashes[places]
