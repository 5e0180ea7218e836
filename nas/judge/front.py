"""Two objectives at once: which points no other beats in both, and the area that they dominate.

In go pairs of a size and a loss, both better when smaller; out come indices and areas. Sizes and losses are never
weighed against each other here. Two dimensions only: in two the front is a staircase and its area a sum.
"""

from bisect import bisect_left
from collections.abc import Sequence

Pair = tuple[float, float]
"""A size and a loss, less is better of both."""


def pareto(points: Sequence[Pair]) -> list[int]:
    """Indices of the points that no other equals or beats in both, by increasing size; of equal points the first."""
    best, ahead = float("inf"), []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if points[i][1] < best:
            best = points[i][1]
            ahead.append(i)
    return ahead


def hypervolume(points: Sequence[Pair], reference: Pair) -> float:
    """Area of what the points dominate, as far as it is better than the reference in both; 0 if nothing is."""
    grown = growth(points, reference)
    return grown[-1] if grown else 0.0


def growth(points: Sequence[Pair], reference: Pair) -> list[float]:
    """The area after each of the points, in their order; it never shrinks.

    Args:
      points: of a size and a loss.
      reference: a size and a loss; points that are not better in both add nothing.
    Source: Zitzler and Thiele (1998), in two dimensions.
    """
    right, floor = reference
    sizes: list[float] = []  # of the front so far, growing, and their losses, falling
    losses: list[float] = []
    area, areas = 0.0, []
    for size, loss in points:
        if size < right and loss < floor:
            area += _added(sizes, losses, size, loss, reference)
        areas.append(area)
    return areas


def _added(sizes: list[float], losses: list[float], size: float, loss: float, reference: Pair) -> float:
    """Put a point into the front; the area that it alone dominates."""
    start = bisect_left(sizes, size)
    if (start and losses[start - 1] <= loss) or (start < len(sizes) and sizes[start] == size and losses[start] <= loss):
        return 0.0
    stop, left = start, size
    ceiling = losses[start - 1] if start else reference[1]
    gained = 0.0
    while stop < len(sizes) and losses[stop] >= loss:
        gained += (sizes[stop] - left) * (ceiling - loss)
        left, ceiling = sizes[stop], losses[stop]
        stop += 1
    until = sizes[stop] if stop < len(sizes) else reference[0]
    gained += (until - left) * (ceiling - loss)
    sizes[start:stop], losses[start:stop] = [size], [loss]
    return gained
