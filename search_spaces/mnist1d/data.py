"""MNIST-1D, generated: ten digit-like curves of 12 points, padded, stretched, scaled, rolled, tilted, buried in noise.

In goes the name of a split, out come its examples. "train" is the published training set, bit for bit the sequence of
random draws of its authors; "validation" and "test" are fresh examples of the same distribution, many, from other
seeds. The published test set of 1,000 examples is made too (`published`), but it is no split: an accuracy of .95 on
it has a standard error of .007, on 20,000 examples of .0015. Nothing is downloaded and nothing is kept on disk.

Source: Greydanus & Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, arXiv 2011.14439, section 3.
"""

import functools
from typing import NamedTuple

import numpy as np

from nas.space import Split

LENGTH = 40
CLASSES = 10
FRESH = {"validation": (1, 20_000), "test": (2, 20_000)}
"""Seed and number of examples of the splits that are not published."""
MORE_SEED = 1_000
"""Of the first 4,000 training examples beyond the published ones; the next 4,000 have the next seed, and so on."""

PUBLISHED_SEED = 42
PUBLISHED_EXAMPLES = 5_000
PUBLISHED_TRAIN = 4_000

TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
"""The ten curves, as published."""

PADDING = (36, 60)  # zeros appended to a template, fewest and most
POINTS = len(TEMPLATES[0]) + PADDING[1]  # points of a curve before it is subsampled to LENGTH
SCALE = 0.4
SHIFTS = 48
CORRELATED_NOISE = 0.25
NOISE = 0.02
SHEAR = 0.75


class _Draws(NamedTuple):
    """The random numbers of N examples, in the order in which an example consumes them."""

    padding: np.ndarray  # (N,) uniform in [0, 1)
    scale: np.ndarray  # (N,) uniform in [0, 1)
    shift: np.ndarray  # (N,) whole, below SHIFTS
    noise: np.ndarray  # (N, 2, POINTS) standard normal: correlated, then independent
    shear: np.ndarray  # (N,) uniform in [0, 1)


class Published(NamedTuple):
    """The published data set: standardised float64 inputs (N, 40), labels (N,), and how they came about."""

    inputs: np.ndarray
    labels: np.ndarray
    positions: np.ndarray  # (40,) the order of positions in the shuffled control
    mean: float
    deviation: float


def split(name: str, *, shuffled: bool = False, times: int = 1) -> Split:
    """The examples of a split: inputs (N, 40, 1) float32, targets (N,) int32.

    Args:
      name: "train" (the published 4,000), "validation" or "test" (20,000 fresh ones each).
      shuffled: permute the positions, the same way in every example and split; the control without locality.
      times: so many times 4,000 training examples: the published ones, then fresh ones. Less is the beginning of more.
    Raises:
      ValueError: there is no such split.
    """
    data = published()
    if name == "train":
        inputs, labels = data.inputs[:PUBLISHED_TRAIN], data.labels[:PUBLISHED_TRAIN]
        for part in range(times - 1):
            more, targets = _fresh(MORE_SEED + part, PUBLISHED_TRAIN)
            inputs = np.concatenate([inputs, (more - data.mean) / data.deviation])
            labels = np.concatenate([labels, targets])
    elif name in FRESH:
        seed, examples = FRESH[name]
        inputs, labels = _fresh(seed, examples)
        inputs = (inputs - data.mean) / data.deviation
    else:
        raise ValueError(f"mnist1d has no split '{name}'; it has 'train', 'validation' and 'test'. Name one of them.")
    inputs = inputs[:, data.positions] if shuffled else inputs
    return Split(inputs.astype(np.float32)[:, :, None], labels.astype(np.int32))


@functools.cache
def published() -> Published:
    """The published 5,000 examples, the first 4,000 of which are for training.

    They are standardised together by one mean and one standard deviation, which `split` applies to fresh examples too.
    """
    rng = np.random.RandomState(PUBLISHED_SEED)  # the generator that they were published with
    labels = np.repeat(np.arange(CLASSES), PUBLISHED_EXAMPLES // CLASSES)
    curves = _curves(labels, _draw_in_sequence(rng, PUBLISHED_EXAMPLES))
    order = rng.permutation(PUBLISHED_EXAMPLES)
    positions = rng.permutation(LENGTH)
    mean, deviation = float(curves[order].mean()), float(curves[order].std())
    return Published((curves[order] - mean) / deviation, labels[order], positions, mean, deviation)


def _fresh(seed: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Curves (N, 40), not standardised, and their labels, from a seed of our own; the classes are equally frequent."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(examples) % CLASSES)
    draws = _Draws(
        padding=rng.random(examples),
        scale=rng.random(examples),
        shift=rng.integers(SHIFTS, size=examples),
        noise=rng.standard_normal((examples, 2, POINTS)),
        shear=rng.random(examples),
    )
    return _curves(labels, draws), labels


def _draw_in_sequence(rng: np.random.RandomState, examples: int) -> _Draws:
    """One example after the other: some draws are by rejection, so their sequence cannot be had in one call."""
    draws = _Draws(*(np.empty((examples, *shape)) for shape in ((), (), (), (2, POINTS), ())))
    for i in range(examples):
        draws.padding[i] = rng.random_sample()
        draws.scale[i] = rng.random_sample()
        draws.shift[i] = rng.randint(SHIFTS)
        draws.noise[i] = rng.standard_normal((2, POINTS))
        draws.shear[i] = rng.random_sample()
    return draws


def _curves(labels: np.ndarray, draws: _Draws) -> np.ndarray:
    """Turn labels (N,) and random numbers into curves (N, 40)."""
    fewest, most = PADDING
    padding = (draws.padding * (most - fewest + 1)).astype(int)
    x = _dilated()[labels, padding] * (1 + SCALE * (draws.scale - 0.5))[:, None]
    x = np.take_along_axis(x, (np.arange(POINTS) - draws.shift[:, None].astype(int)) % POINTS, axis=1)
    # Correlated noise only where the curve is not: padding is exactly zero, the curve is nowhere (`_dilated`).
    x = np.where(x != 0, x, CORRELATED_NOISE * draws.noise[:, 0] @ _gaussian())
    x += NOISE * draws.noise[:, 1]
    x -= (SHEAR * (draws.shear - 0.5))[:, None] * np.linspace(-0.5, 0.5, POINTS)
    return x @ _resample(np.eye(POINTS), LENGTH).T


def _dilated() -> np.ndarray:
    """Every template with every padding, stretched to equal length: (10, paddings, POINTS)."""
    x = np.array(TEMPLATES)
    x -= x.mean(axis=1, keepdims=True)
    x /= x.std(axis=1, keepdims=True)
    x -= x[:, :1]
    x = x / 6 + 1e-8  # so that a curve's own zeros differ from padding
    fewest, most = PADDING
    return np.array([[_resample(np.pad(row, (0, p)), POINTS) for p in range(fewest, most + 1)] for row in x])


def _resample(x: np.ndarray, points: int) -> np.ndarray:
    """Interpolate the first axis of x linearly at equally spaced points; x (T,) -> (points,), (T, N) -> (points, N)."""
    old, new = np.linspace(0, 1, len(x)), np.linspace(0, 1, points)
    columns = x.reshape(len(x), -1).T
    return np.stack([np.interp(new, old, column) for column in columns], axis=-1).reshape(points, *x.shape[1:])


def _gaussian(sigma: float = 2.0, radius: int = 8) -> np.ndarray:
    """The matrix (POINTS, POINTS) by which noise is multiplied to smooth it; beyond its ends noise is mirrored."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    mirrored = np.pad(np.eye(POINTS), ((0, 0), (radius, radius)), mode="symmetric")
    return np.stack([mirrored[:, i : i + 2 * radius + 1] @ weights for i in range(POINTS)], axis=1)
