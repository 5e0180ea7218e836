"""The default space: its data are the published ones, its limits leave its baselines in, and its grammar fits them."""

import random
import sys

import numpy as np
import pytest

from nas.search_spaces.mnist1d import data
from nas.search_spaces.mnist1d.space import BODY, SPACE, VARIANTS
from nas.space import load, names


def package(shuffled: bool) -> dict[str, np.ndarray]:
    """What the authors' package makes with its own defaults."""
    pytest.importorskip("requests")
    pytest.importorskip("matplotlib").use("agg")
    make = pytest.importorskip("mnist1d.data")
    arguments = make.get_dataset_args()
    arguments.shuffle_seq = shuffled
    return make.make_dataset(arguments)


@pytest.mark.parametrize("shuffled", [False, True])
def test_published_examples_equal_the_package(shuffled: bool) -> None:
    theirs = package(shuffled)
    ours = data.published()
    inputs = ours.inputs[:, ours.positions] if shuffled else ours.inputs
    np.testing.assert_allclose(inputs[:4000], theirs["x"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(inputs[4000:], theirs["x_test"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.labels, np.concatenate([theirs["y"], theirs["y_test"]]))


def test_generator_leaves_the_global_streams_alone() -> None:
    data.published.cache_clear()
    np.random.seed(7)
    before = (str(np.random.get_state()), random.getstate())
    for name in ("train", "validation"):
        data.split(name)
    assert before == (str(np.random.get_state()), random.getstate())


def test_fresh_examples_are_distributed_as_the_published() -> None:
    """Class means and spreads at every position agree within 5 standard errors of their difference."""
    ours, labels = data.published().inputs, data.published().labels
    fresh, targets = data.split("validation")
    for label in range(10):
        a, b = ours[labels == label], fresh[targets == label][:, :, 0]
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * error).all()
        assert (np.abs(a.std(axis=0) / b.std(axis=0) - 1) < 5 * np.sqrt(1 / len(a) + 1 / len(b))).all()


def test_splits_have_the_sizes_of_the_readme() -> None:
    for name, count in {"train": 4_000, "validation": 20_000, "test": 20_000}.items():
        inputs, targets = SPACE.task.split(name)
        assert inputs.shape == (count, 40, 1) and inputs.dtype == np.float32
        assert targets.shape == (count,) and targets.dtype == np.int32


def test_shuffled_control_permutes_every_split_in_the_same_way() -> None:
    order = data.published().positions
    for name in ("train", "validation", "test"):
        plain, shuffled = SPACE.task.split(name), VARIANTS["shuffled"].task.split(name)
        np.testing.assert_array_equal(shuffled.inputs, plain.inputs[:, order])
        np.testing.assert_array_equal(shuffled.targets, plain.targets)


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'valid'.*'validation'"):
        data.split("valid")


def test_space_and_variants_are_found_by_name() -> None:
    assert "mnist1d" in names()
    assert load("mnist1d") is SPACE
    for variant, space in VARIANTS.items():
        assert load(f"mnist1d:{variant}") is space
        assert space.name == f"mnist1d:{variant}"


def test_baselines_come_in_the_order_of_the_readme() -> None:
    assert list(SPACE.baselines) == ["linear", "mlp", "cnn", "pooled_cnn", "gru"]


def test_block_variant_keeps_the_length_of_the_series() -> None:
    kept = VARIANTS["block"].grammar.body
    assert len(kept) == len(BODY) - 3
    assert not any("::2" in primitive.call or "strides" in primitive.init for primitive in kept)


def test_more_data_begin_with_the_published_and_add_fresh_ones() -> None:
    one, two, four = (load(f"mnist1d@data={factor}").task.split("train") for factor in (1, 2, 4))
    assert [len(split.inputs) for split in (one, two, four)] == [4_000, 8_000, 16_000]
    for small, large in ((one, two), (two, four)):
        np.testing.assert_array_equal(large.inputs[: len(small.inputs)], small.inputs)
        np.testing.assert_array_equal(large.targets[: len(small.targets)], small.targets)
    rows = {row.tobytes() for row in four.inputs}
    assert len(rows) == 16_000 and (np.bincount(four.targets[4_000:]) == 1_200).all()
    for name in ("validation", "test"):
        assert not rows & {row.tobytes() for row in SPACE.task.split(name).inputs}


def test_shuffled_data_are_permuted_at_every_size() -> None:
    order, plain = data.published().positions, load("mnist1d@data=2").task.split("train")
    shuffled = load("mnist1d:shuffled@data=2").task.split("train")
    np.testing.assert_array_equal(shuffled.inputs, plain.inputs[:, order])


def test_limits_grow_with_the_square_of_the_width_and_with_depth() -> None:
    wide, deep, long = load("mnist1d@width=4"), load("mnist1d:block@depth=4"), load("mnist1d@steps=4")
    assert (wide.spec.width, wide.contract.max_params, wide.contract.max_flops) == (16, 19_200, 192_000)
    assert (deep.spec.depth, deep.spec.width) == (8, 8)
    assert (deep.contract.max_params, deep.contract.max_flops) == (8_000, 320_000)
    assert long.ladder.steps == (1_000, 4_000, 16_000) and long.contract == SPACE.contract


def test_depth_is_an_axis_of_blocks_alone() -> None:
    assert {name: sorted(space.scale) for name, space in VARIANTS.items()} == {
        "shuffled": ["data", "steps", "width"],
        "block": ["data", "depth", "steps", "width"],
    }


def test_loss_and_score_are_cross_entropy_and_correctness() -> None:
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32))
    targets = np.array([1, 2], np.int32)
    np.testing.assert_allclose(SPACE.task.loss(outputs, targets), -np.log([0.25, 0.7]), rtol=1e-5)
    np.testing.assert_array_equal(SPACE.task.score(outputs, targets), [0, 1])


def test_data_need_no_scipy() -> None:
    import subprocess

    script = "import sys; from nas.space import load; load('mnist1d').task.split('test'); print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
