"""Six synthetic tasks of token sequences: recall, noisy and fuzzy recall, selective copying, compression, memorisation.

In goes a seed, a number of examples and settings, out come inputs (N, T) and targets (N, T), int32. **The convention:**
the target at position t is what a model must say after it has read the inputs up to and including t; it is -1 where
nothing is asked. So a causal model answers everything but compression, where every answer is read off the last
position (`Settings.reads`). Where a value follows its key in the input, it stands one position after it was asked for.

**The vocabulary** of a task: keys first, then as many values, then noise, then its markers, the last of them at
`vocab - 1`. The splits have seeds of their own; only the table of memorisation is one for all of them, made from
`Memorisation.table`, since what is not in the training examples could not be known. Nothing is kept on disk.

Sources: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures" (MAD), arXiv 2403.17844, appendix B, and
its configurations; Arora et al., "Zoology", arXiv 2312.04927, section 4. Ours: an example has half of the keys, so
that they come back while none has a place of its own; one length for all six, so that one program serves them; and
settings at which known mixers differ after 500 to 1,000 short steps (`README.md` beside this file).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nas.space import Split

LENGTH = 64
"""T of every task as it is set here."""
UNASKED = -1

SEEDS = {"train": 1_000, "validation": 1, "test": 2}
"""Of a split's examples; the training examples beyond the first `EXAMPLES` have the seeds after theirs."""
EXAMPLES = {"train": 12_800, "validation": 640, "test": 1_280}
"""Of each task; to train and test on as many as MAD has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every task has.

    Attributes:
      length: T, tokens in an example.
      vocab: token ids are below it.
      reads: the position whose state answers: each its own, or the last for all.
    """

    length: int = LENGTH
    vocab: int
    reads: Literal["each", "last"] = "each"


def _need(holds: bool, settings: Settings, field: str, allowed: str) -> None:
    if not holds:
        name, value = type(settings).__name__, getattr(settings, field)
        raise ValueError(f"{name}({field}={value}): {field} must be {allowed}. Change it, or what it follows from.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(Settings):
    """A stream of key-value pairs; asked at every key that came before.

    MAD: length 128, vocab 16, all 8 keys in every example; noisy: vocab 32, 16 of it for noise, which .2 of the pairs
    are. Ours: 8 of 16 keys, another 8 in each example, so that none can be kept but in the state; noisy: 6 of 12, and
    noise .2. With 16 of 64, attention does not find the look-up in 1,000 steps; with 8 of 16 it does in 250 to 500.

    Attributes:
      keys: distinct keys in an example, drawn from all; each has a value drawn with replacement.
      noise_vocab: tokens that only noise has.
      noise: share of the pairs that are two noise tokens instead; exactly so many, anywhere.
    """

    vocab: int = 32
    keys: int = 8
    noise_vocab: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        _need(self.length % 2 == 0, self, "length", "even, since pairs have two tokens")
        _need(1 <= self.keys <= self.half, self, "keys", f"1 to {self.half}, half of vocab - noise_vocab")
        _need(0 <= self.noise < 1, self, "noise", "at least 0 and below 1")
        _need(self.noise == 0 or self.noise_vocab > 0, self, "noise_vocab", "at least 1 where there is noise")

    @property
    def half(self) -> int:
        """Number of keys, and of values."""
        return (self.vocab - self.noise_vocab) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzyRecall(Settings):
    """As recall, with keys and values of 1 to `longest` tokens; each token of a value is asked, one after the other.

    MAD: length 128, vocab 16, longest 3, keys of length 3 alone in its test set. Ours: one distribution for all splits,
    and longest 4, since a short convolution sees three tokens or four.

    Attributes:
      keys: distinct keys in an example; as many of each length as can be.
      longest: most tokens of a key and of a value.
    """

    vocab: int = 32
    keys: int = 4
    longest: int = 4

    def __post_init__(self) -> None:
        _need(self.longest >= 1, self, "longest", "at least 1")
        most = self.half * self.longest
        _need(1 <= self.keys <= most, self, "keys", f"1 to {most}, so that each length has enough")

    @property
    def half(self) -> int:
        """Number of tokens that keys are made of, and values."""
        return self.vocab // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveCopying(Settings):
    """Tokens scattered among blanks, a marker, then blanks at which they are asked for in their order.

    MAD: length 256, vocab 16, 16 tokens, and up to 96 of them. Ours: 12, of which mixers with a state learn something
    in 1,000 steps.

    Attributes:
      tokens: how many are copied.
    """

    vocab: int = 18
    tokens: int = 12

    def __post_init__(self) -> None:
        most = (self.length - 1) // 2
        _need(1 <= self.tokens <= most, self, "tokens", f"1 to {most}, so that they, a marker and the answers fit")
        _need(self.vocab >= 3, self, "vocab", "at least 3: a token, the blank and the marker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression(Settings):
    """Blanks, random tokens, a marker at the end, from whose state alone every token is to be told.

    MAD: length 32, all of it tokens but the marker, vocab 16; an encoder, and a decoder that knows the position. Ours
    has blanks in front, for the length of the other tasks, and 12 tokens, each place with an alphabet of its own: asked
    is how much a state holds. With one alphabet, attention, which is given no positions, tells in 1,000 steps which
    tokens there were and not in what order.

    Attributes:
      tokens: how many are compressed into one state; each place has as many kinds as the vocabulary allows.
    """

    vocab: int = 122
    reads: Literal["each", "last"] = "last"
    tokens: int = 12

    def __post_init__(self) -> None:
        _need(1 <= self.tokens < self.length, self, "tokens", f"1 to {self.length - 1}, and a marker after them")
        least = self.tokens + 2
        _need(self.vocab >= least, self, "vocab", f"at least {least}: a kind for each place, the blank and the marker")

    @property
    def kinds(self) -> int:
        """Number of tokens that may stand in a place."""
        return (self.vocab - 2) // self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation(Settings):
    """Random keys, each followed by a marker at which its value is asked; the table is the task's, in no input.

    MAD: length 32, vocab 256 to 8,192, keys of one token. Ours: keys of two, so that there is much to memorise in a
    small vocabulary (3,969 facts), and the embedding alone cannot hold it.

    Attributes:
      key_length: tokens of a key; every sequence of so many is a key.
      table: seed of the table, a random map of keys to values, each value as often as any other.
    """

    vocab: int = 128
    key_length: int = 2
    table: int = 12_345

    def __post_init__(self) -> None:
        _need(self.vocab >= 5, self, "vocab", "at least 5: two tokens of keys, two values and the marker")
        _need(1 <= self.key_length < self.length, self, "key_length", f"1 to {self.length - 1}, with a marker after it")

    @property
    def half(self) -> int:
        """Number of tokens that keys are made of, and of values."""
        return (self.vocab - 1) // 2


def recall(seed: int, examples: int, settings: Recall) -> Split:
    """Make examples of in-context recall with several queries, with or without noise."""
    s, rng = settings, np.random.default_rng([seed, 1])
    pairs = s.length // 2
    keys = _distinct(rng, examples, s.keys, s.half)
    values = rng.integers(s.half, 2 * s.half, size=keys.shape)
    which = rng.integers(s.keys, size=(examples, pairs))
    noisy = _some(rng, examples, pairs, round(s.noise * pairs))
    again = _seen(np.where(noisy, s.keys + np.arange(pairs), which), s.keys + pairs)
    inputs = np.stack([_take(keys, which), _take(values, which)], axis=2)
    if s.noise_vocab:
        noise = rng.integers(2 * s.half, 2 * s.half + s.noise_vocab, size=inputs.shape)
        inputs = np.where(noisy[:, :, None], noise, inputs)
    targets = np.full(inputs.shape, UNASKED)
    targets[:, :, 0] = np.where(again, inputs[:, :, 1], UNASKED)
    return _split(inputs.reshape(examples, -1), targets.reshape(examples, -1))


def fuzzy_recall(seed: int, examples: int, settings: FuzzyRecall) -> Split:
    """Make examples of recall with keys and values of several tokens; the last pair may be cut off."""
    s, rng = settings, np.random.default_rng([seed, 2])
    sizes = 1 + np.arange(s.keys) % s.longest
    keys = np.empty((examples, s.keys, s.longest), int)
    for size in range(1, s.longest + 1):
        same = np.flatnonzero(sizes == size)
        numbers = _distinct(rng, examples, len(same), s.half**size)
        keys[:, same] = numbers[:, :, None] // s.half ** np.arange(s.longest) % s.half
    values = rng.integers(s.half, 2 * s.half, size=keys.shape)
    value_sizes = rng.integers(1, s.longest + 1, size=(examples, s.keys))

    which = rng.integers(s.keys, size=(examples, s.length // 2 + 1))  # pairs; more than fit
    again = _seen(which, s.keys)
    key_size = sizes[which]
    ends = np.cumsum(key_size + _take(value_sizes, which), axis=1)
    starts = np.concatenate([np.zeros((examples, 1), int), ends[:, :-1]], axis=1)
    begins = np.zeros((examples, s.length + 1), int)  # one more than the inputs: the last target
    rows, columns = np.nonzero(starts <= s.length)
    begins[rows, starts[rows, columns]] = 1
    pair = np.cumsum(begins, axis=1) - 1

    place = np.arange(s.length + 1) - _take(starts, pair)  # within its pair
    beyond = place - _take(key_size, pair)  # within its value; negative within its key
    row, slot = np.arange(examples)[:, None], _take(which, pair)
    key_token = keys[row, slot, np.clip(place, 0, s.longest - 1)]
    value_token = values[row, slot, np.clip(beyond, 0, s.longest - 1)]
    tokens = np.where(beyond < 0, key_token, value_token)
    answers = np.where((beyond >= 0) & _take(again, pair), tokens, UNASKED)
    return _split(tokens[:, :-1], answers[:, 1:])


def selective_copying(seed: int, examples: int, settings: SelectiveCopying) -> Split:
    """Make examples of copying in order what stands among blanks."""
    s, rng = settings, np.random.default_rng([seed, 3])
    blank, marker = s.vocab - 2, s.vocab - 1
    tokens = rng.integers(blank, size=(examples, s.tokens))
    inputs = np.full((examples, s.length), blank)
    room = s.length - s.tokens - 1
    inputs[:, :room][_some(rng, examples, room, s.tokens)] = tokens.ravel()  # row by row, so in their order
    inputs[:, room] = marker
    targets = np.full(inputs.shape, UNASKED)
    targets[:, room + 1 :] = tokens
    return _split(inputs, targets)


def compression(seed: int, examples: int, settings: Compression) -> Split:
    """Make examples of random tokens to be told from the state at the last position; targets are the inputs."""
    s, rng = settings, np.random.default_rng([seed, 4])
    inputs = np.full((examples, s.length), s.vocab - 2)
    inputs[:, -1] = s.vocab - 1
    first = s.kinds * np.arange(s.tokens)
    inputs[:, -1 - s.tokens : -1] = first + rng.integers(s.kinds, size=(examples, s.tokens))
    targets = np.full(inputs.shape, UNASKED)
    targets[:, -1 - s.tokens : -1] = inputs[:, -1 - s.tokens : -1]
    return _split(inputs, targets)


def memorisation(seed: int, examples: int, settings: Memorisation) -> Split:
    """Make examples of keys whose values only training can teach."""
    s, rng = settings, np.random.default_rng([seed, 5])
    table = s.half + np.random.default_rng([s.table, 6]).permutation(s.half**s.key_length) % s.half
    period = s.key_length + 1
    keys = rng.integers(len(table), size=(examples, s.length // period))
    inputs = np.full((examples, s.length), s.vocab - 1)  # what is left at the end is markers, too
    targets = np.full(inputs.shape, UNASKED)
    end = keys.shape[1] * period
    for place in range(s.key_length):
        inputs[:, place:end:period] = keys // s.half**place % s.half
    targets[:, s.key_length : end : period] = table[keys]
    return _split(inputs, targets)


class Procedure(NamedTuple):
    """A task as it is set here.

    Attributes:
      make: (seed, examples, settings) -> examples; a pure function.
      settings: ours.
      asked: share of the positions at which something is asked, in the mean over examples.
      chance: accuracy of naming one of the answers that the example has, at random; of memorisation, any value.
    """

    make: Callable[[int, int, Any], Split]
    settings: Recall | FuzzyRecall | SelectiveCopying | Compression | Memorisation
    asked: float
    chance: float


TASKS = {
    "recall": Procedure(recall, Recall(), 0.3767, 1 / 8),
    "noisy_recall": Procedure(recall, Recall(keys=6, noise_vocab=8, noise=0.2), 0.3133, 1 / 6),
    "fuzzy_recall": Procedure(fuzzy_recall, FuzzyRecall(), 0.34, 0.16),
    "selective_copying": Procedure(selective_copying, SelectiveCopying(), 0.1875, 0.141),
    "compression": Procedure(compression, Compression(), 0.1875, 1 / 10),
    "memorisation": Procedure(memorisation, Memorisation(), 0.3281, 1 / 63),
}
"""The six, in the order in which their scores are told."""

VOCAB = max(task.settings.vocab for task in TASKS.values())
"""Token ids of all tasks are below it."""
DECODED = Compression().tokens
"""Answers that are read off the last position."""


def split(task: str, name: str, *, times: int = 1) -> Split:
    """The examples of a split of a task.

    Args:
      task: one of `TASKS`.
      name: "train", "validation" or "test".
      times: so many times the training examples, of the same table; less is the beginning of more.
    Raises:
      ValueError: there is no such task or split.
    """
    if task not in TASKS:
        raise ValueError(f"recall has no task '{task}'; it has {', '.join(TASKS)}. Name one of them.")
    if name not in SEEDS:
        raise ValueError(f"recall has no split '{name}'; it has {', '.join(SEEDS)}. Name one of them.")
    make, settings, *_ = TASKS[task]
    seeds = range(SEEDS[name], SEEDS[name] + (times if name == "train" else 1))
    parts = [make(seed, EXAMPLES[name], settings) for seed in seeds]
    return Split(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def together(name: str, *, times: int = 1) -> Split:
    """The examples of a split of all tasks, one task after the other, in one form of targets: (N, T + `DECODED`).

    The answers of a task that is read at each position stand in the first T places. Those of one that is read at the
    last stand after them, in their order; what is left is -1.

    Raises:
      ValueError: there is no such split.
    """
    parts = [split(task, name, times=times) for task in TASKS]
    inputs, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    targets = np.pad(targets, ((0, 0), (0, DECODED)), constant_values=UNASKED)
    for task, one, rows in zip(TASKS.values(), parts, np.split(targets, len(parts)), strict=True):
        if task.settings.reads == "last":
            rows[:] = UNASKED
            rows[:, LENGTH:] = one.targets[:, LENGTH - 1 - DECODED : LENGTH - 1]
    return Split(inputs, targets)


def _split(inputs: np.ndarray, targets: np.ndarray) -> Split:
    return Split(inputs.astype(np.int32), targets.astype(np.int32))


def _take(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """For each example its entries: table (N, A), index (N, B) -> (N, B)."""
    return np.take_along_axis(table, index, axis=1)


def _distinct(rng: np.random.Generator, examples: int, count: int, below: int) -> np.ndarray:
    """For each example `count` different numbers below `below`, every set equally likely: (N, count).

    Source: R. W. Floyd, in Bentley, "Programming Pearls: A Sample of Brilliance", CACM 30(9), 1987. The order is not
    random; whoever draws from them at random need not care.
    """
    chosen = np.empty((examples, count), int)
    for i, largest in enumerate(range(below - count, below)):
        drawn = rng.integers(largest + 1, size=examples)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, largest, drawn)
    return chosen


def _some(rng: np.random.Generator, examples: int, places: int, count: int) -> np.ndarray:
    """For each example exactly `count` of its places: (N, places), bool."""
    chosen = np.zeros((examples, places), bool)
    order = np.argsort(rng.random((examples, places)), axis=1)
    np.put_along_axis(chosen, order[:, :count], True, axis=1)
    return chosen


def _seen(numbers: np.ndarray, below: int) -> np.ndarray:
    """Whether a number (N, T) stands in its row before, too."""
    places = np.broadcast_to(np.arange(numbers.shape[1]), numbers.shape)
    first = np.full((len(numbers), below), numbers.shape[1])
    np.minimum.at(first, (np.arange(len(numbers))[:, None], numbers), places)
    return places > _take(first, numbers)
