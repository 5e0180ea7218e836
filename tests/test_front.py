"""The front of two objectives and the area it dominates, against counting by brute force."""

import random

import pytest

from nas.judge.front import Pair, growth, hypervolume, pareto

REFERENCE = (10.0, 10.0)


def cells(points: list[Pair], reference: tuple[int, int]) -> int:
    """The dominated area of points on whole numbers, square by square."""
    squares = ((x, y) for x in range(reference[0]) for y in range(reference[1]))
    return sum(any(size <= x and loss <= y for size, loss in points) for x, y in squares)


def some(rng: random.Random, count: int) -> list[Pair]:
    return [(float(rng.randrange(12)), float(rng.randrange(12))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_front_is_exactly_what_nobody_beats(seed: int) -> None:
    points = some(random.Random(seed), 12)
    beaten = [
        any((a <= size and b <= loss and (a, b) != (size, loss)) or (points[j] == points[i] and j < i)
            for j, (a, b) in enumerate(points))
        for i, (size, loss) in enumerate(points)
    ]  # fmt: skip
    front = pareto(points)
    assert sorted(front) == [i for i, worse in enumerate(beaten) if not worse]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@pytest.mark.parametrize("seed", range(20))
def test_area_after_each_point_is_that_of_counting_squares(seed: int) -> None:
    points = some(random.Random(seed), 12)
    assert growth(points, REFERENCE) == [cells(points[: i + 1], (10, 10)) for i in range(len(points))]


def test_area_does_not_depend_on_the_order() -> None:
    points = some(random.Random(5), 30)
    shuffled = random.Random(6).sample(points, len(points))
    assert hypervolume(points, REFERENCE) == pytest.approx(hypervolume(shuffled, REFERENCE))


def test_area_is_that_of_the_front_alone() -> None:
    points = some(random.Random(8), 30)
    assert hypervolume([points[i] for i in pareto(points)], REFERENCE) == pytest.approx(hypervolume(points, REFERENCE))


def test_points_beyond_the_reference_add_nothing() -> None:
    assert growth([(10.0, 0.0), (0.0, 10.0), (11.0, 12.0), (9.0, 9.0)], REFERENCE) == [0.0, 0.0, 0.0, 1.0]


def test_no_points_have_no_front_and_no_area() -> None:
    assert pareto([]) == [] and hypervolume([], REFERENCE) == 0.0
