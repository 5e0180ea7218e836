"""The space of byte-level language models: what it says of itself holds, at every size, for every text."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas import workplace
from nas.admit import Admitted, admit, drive, gate, program, trace
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import Failure, Program, defaults
from nas.search_spaces.byte_lm import corpus, data, space
from nas.search_spaces.byte_lm.space import SPACE, VARIANTS
from nas.space import SearchSpace, SpaceError, digest, load, names
from nas.store import StoreError


def traced(name: str, found: SearchSpace, platform: str = "cpu") -> Program | Failure:
    source = found.baselines[name]
    blobs = trace.trace(found, source, defaults(gate.check(source, found.scope).tunables), platform)
    if isinstance(blobs, Failure):
        return blobs
    return program.check(*blobs, found.contract, found.recipe, platform)


def parameters(name: str, found: SearchSpace) -> int:
    """Trainable numbers of a baseline, without tracing what it does with them."""
    import jax
    from flax import nnx

    from nas.admit.skeleton import assemble

    source = found.baselines[name]
    unit, values = trace.execute(source, found.scope), defaults(gate.check(source, found.scope).tunables)
    made = nnx.eval_shape(lambda: assemble(found, unit, SimpleNamespace(**values), rngs=nnx.Rngs(jax.random.key(0))))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))


# ---- what it is ----


def test_space_and_variants_are_found_by_name() -> None:
    assert "byte_lm" in names()
    assert load("byte_lm") is SPACE and load("byte_lm:mixer") is SPACE
    assert {name: (found.scope, found.name) for name, found in VARIANTS.items()} == {
        "mixer": ("Mixer", "byte_lm"),
        "block": ("Block", "byte_lm:block"),
        "stack": ("Stack", "byte_lm:stack"),
    }


def test_loading_reads_no_text_and_no_jax() -> None:
    script = (
        "import sys, builtins, pathlib\n"
        "from nas.search_spaces.byte_lm import corpus\n"
        "corpus.read = corpus.library = None\n"
        "from nas.space import load\n"
        "load('byte_lm:stack?size=gpu@width=2')\n"
        "print(sorted({'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loss_is_the_mean_cross_entropy_and_the_score_that_in_bits() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(2, 3, 5)).astype(np.float32)
    targets = rng.integers(5, size=(2, 3)).astype(np.int32)
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(shares, targets[..., None], axis=-1)[..., 0]).mean(axis=1)
    np.testing.assert_allclose(SPACE.task.loss(outputs, targets), expected, rtol=1e-5)
    np.testing.assert_allclose(SPACE.task.score(outputs, targets), expected / np.log(2), rtol=1e-5)
    assert (SPACE.task.metric, SPACE.task.maximize) == ("bits_per_byte", False)


def test_examples_have_the_length_of_the_spec_and_more_begin_with_the_fewer(tmp_path: Path) -> None:
    text = written(tmp_path)
    small, large = (load(f"byte_lm?data={text}{axis}").task.split("train") for axis in ("", "@data=2"))
    assert small.inputs.shape == (2 * data.COUNTS["train"], SPACE.spec.length)
    np.testing.assert_array_equal(large.inputs[: len(small.inputs)], small.inputs)
    assert len(large.inputs) == 2 * len(small.inputs)
    np.testing.assert_array_equal(small.inputs[:, 1:], small.targets[:, :-1])


# ---- sizes and limits ----


@pytest.mark.parametrize("name", SPACE.baselines)
def test_mixers_have_the_parameters_of_attention(name: str) -> None:
    assert abs(parameters(name, SPACE) / parameters("attention", SPACE) - 1) < 0.03


@pytest.mark.parametrize("variant", VARIANTS)
def test_limits_leave_in_every_baseline(variant: str) -> None:
    found = VARIANTS[variant]
    assert found.contract.max_params is not None
    for name in found.baselines:
        assert parameters(name, found) <= found.contract.max_params, name


@pytest.mark.parametrize(("variant", "name"), [("mixer", "attention"), ("stack", "transformer")])
def test_limits_are_a_fifth_above_the_transformer(variant: str, name: str) -> None:
    found = VARIANTS[variant]
    checked = traced(name, found)
    assert isinstance(checked, Program), checked
    assert found.contract.max_params is not None and found.contract.max_flops is not None
    assert 1.15 < found.contract.max_params / checked.cost.params < 1.25
    assert 1.10 < found.contract.max_flops / checked.cost.flops < 1.25
    assert checked.cost.memory_bytes < found.contract.max_memory_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), [(v, n) for v in VARIANTS for n in VARIANTS[v].baselines])
def test_every_baseline_is_admitted(variant: str, name: str) -> None:
    checked = traced(name, VARIANTS[variant])
    assert isinstance(checked, Program), checked


@pytest.mark.parametrize(
    ("reference", "width", "depth", "heads", "steps"),
    [
        ("byte_lm@width=4", 256, 2, 16, 100),
        ("byte_lm@depth=3", 64, 6, 4, 100),
        ("byte_lm:stack@steps=2", 64, 2, 4, 200),
        ("byte_lm:block?size=gpu@width=2", 768, 6, 12, 250),
    ],
)
def test_scale_makes_larger_what_it_names(reference: str, width: int, depth: int, heads: int, steps: int) -> None:
    found = load(reference)
    assert (found.spec.width, found.spec.depth, found.spec.heads) == (width, depth, heads)
    assert found.ladder.steps[0] == steps
    assert found.contract.max_params == round(space.MARGIN * space.params(found.spec))
    assert found.contract.output_shape == (found.spec.length, 256)


def test_patterns_are_longer_where_the_size_is_deeper_and_stay_where_a_space_is_scaled() -> None:
    found = {reference: load(f"byte_lm:stack{reference}") for reference in ("", "@width=3", "?size=gpu")}
    assert [one.grammar.blocks for one in found.values()] == [(3, 5), (3, 5), (11, 13)]
    tasks = {reference: one.task for reference, one in found.items()}
    assert tasks["@width=3"].split is tasks[""].split and tasks["?size=gpu"].split is not tasks[""].split


def test_a_stack_says_itself_how_deep_it_is() -> None:
    assert {"depth"} == SPACE.scale.keys() - VARIANTS["stack"].scale.keys()
    with pytest.raises(SpaceError, match="does not say how its depth grows; its scale has data, steps, width"):
        load("byte_lm:stack?size=gpu@depth=2")


def test_rematerialised_layers_keep_less_and_compute_more() -> None:
    plain, again = traced("attention", SPACE), traced("attention", load("byte_lm?remat=on"))
    assert isinstance(plain, Program) and isinstance(again, Program)
    assert again.cost.memory_bytes < 0.7 * plain.cost.memory_bytes
    assert again.cost.train_flops > plain.cost.train_flops and again.cost.params == plain.cost.params
    assert load("byte_lm?remat=on&size=gpu").spec.remat and not load("byte_lm?remat=off").spec.remat


def test_gpu_size_has_ten_million_parameters_in_half_precision() -> None:
    found = load("byte_lm?size=gpu")
    assert 9e6 < parameters("attention", found) < 12e6
    assert (found.spec.length, found.spec.dtype) == (1_024, "bfloat16")
    assert found.recipe.microbatch < found.recipe.batch


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACE.baselines)
def test_gpu_size_is_traced_for_a_gpu(name: str) -> None:
    checked = traced(name, load("byte_lm?size=gpu"), "cuda")
    assert isinstance(checked, Program), checked


# ---- texts ----


def written(folder: Path, name: str = "text") -> Path:
    """A folder of made-up texts, large enough for every split."""
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, size=rng.integers(2, 9)).astype(np.uint8)) for _ in range(3_000)]
    place = folder / name
    place.mkdir()
    for index in range(60):
        lines = (b" ".join(words[i] for i in rng.integers(len(words), size=10)) for _ in range(640))
        (place / f"{index}.txt").write_bytes(b"\n".join(lines))
    return place


def test_other_text_has_another_identity(tmp_path: Path) -> None:
    found = load(f"byte_lm:block?data={written(tmp_path)}")
    assert found.name == "byte_lm:block?data=text" and found.scope == "Block"
    assert found.contract == VARIANTS["block"].contract
    split: Any = found.task.split
    assert split.keywords["path"] == tmp_path / "text"
    before = digest(found)
    data.corpus.cache_clear()
    (tmp_path / "text" / "more.txt").write_text("one more document\n" * 40)
    assert digest(found) != before
    data.corpus.cache_clear()


def added(folder: Path) -> None:
    (folder / "more.txt").write_text("one more document\n" * 40)


def removed(folder: Path) -> None:
    (folder / "7.txt").unlink()


def changed(folder: Path) -> None:
    with (folder / "7.txt").open("ab") as file:
        file.write(b"!")


@pytest.mark.parametrize("change", [added, removed, changed])
def test_folder_that_changed_between_two_loads_of_a_run_is_told_in_one_line(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    place = written(tmp_path)
    found = load(f"byte_lm?data={place}")
    data.corpus.cache_clear()  # as in another process
    run: Any = SimpleNamespace(folder=tmp_path, config={"space_digest": digest(found), "space_version": 1})
    change(place)
    data.corpus.cache_clear()
    with pytest.raises(StoreError, match="restore the space's file or its data, or start a new run") as raised:
        with workplace.open_workplace(run, found, 1, None):
            pass
    assert "\n" not in str(raised.value)


def test_limit_is_chosen_and_larger_at_a_larger_size(tmp_path: Path) -> None:
    """Whatever the order of the options."""
    place = written(tmp_path)
    text = sum(file.stat().st_size for file in place.iterdir())

    def used(options: str) -> int:
        split: Any = load(f"byte_lm{options}").task.split
        kept = dict(split.keywords)
        return space._limit(kept["length"], kept["path"], kept["limit"])

    assert used("") == used("?size=gpu") == used(f"?data={place}") == corpus.LIMIT
    assert used(f"?data={place}&size=gpu") == used(f"?size=gpu&data={place}@width=2") == 1 << 27
    for options in (f"data={place}&limit={text // 2}&size=gpu", f"size=gpu&limit={text // 2}&data={place}"):
        assert used(f"?{options}") == text // 2
    least, most = load(f"byte_lm?limit={text // 2}&data={place}"), load(f"byte_lm?data={place}")
    assert identity(least) != identity(most)
    assert not np.array_equal(least.task.split("train").inputs, most.task.split("train").inputs)
    assert least.name == f"byte_lm?limit={text // 2}&data=text"


def test_how_much_is_used_of_a_given_text_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = written(tmp_path)
    identity(SPACE)
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        identity(load(f"byte_lm?data={place}&limit=2000000"))
    assert re.fullmatch(
        r"byte_lm: uses 1,\d+,\d+ of [\d,]+ bytes of \S+/text \(limit=\d+ takes all\); \d+ documents, split whole\n",
        capsys.readouterr().err,
    )
    identity(load("byte_lm?limit=4000000"))
    assert " of the Python library's sources (limit=" in capsys.readouterr().err


def identity(found: SearchSpace) -> str:
    assert found.task.identity is not None
    return found.task.identity()


@pytest.mark.parametrize(
    ("reference", "right"),
    [
        ("byte_lm?data={}", "byte_lm?data={}&vocab=65536"),
        ("byte_lm:stack?size=gpu&data={}&vocab=60000", "byte_lm:stack?size=gpu&data={}&vocab=65536"),
        ("byte_lm:block?data={}&limit=9000&remat=on", "byte_lm:block?data={}&limit=9000&remat=on&vocab=65536"),
        ("byte_lm?vocab=300&data={}@width=2", "byte_lm?data={}&vocab=65536@width=2"),
        ("byte_lm?data={}@width=2@data=2", "byte_lm?data={}&vocab=65536@width=2@data=2"),
    ],
)
def test_token_beyond_the_vocabulary_is_told_with_the_reference_that_is_right(
    tmp_path: Path, reference: str, right: str
) -> None:
    file = tmp_path / "a b.bin"
    np.full(40_000, 65_535, "<u2").tofile(file)
    named = str(file).replace(" ", "%20")
    with pytest.raises(SpaceError) as raised:
        digest(load(reference.format(named)))
    said = str(raised.value)
    assert "has token 65535; vocab=" in said and said.endswith(f"--space '{right.format(named)}'")
    assert "\n" not in said and load(right.format(named)).spec.vocab == 65_536


def test_tokens_have_a_vocabulary_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "train.bin"
    np.random.default_rng(0).integers(900, size=4_000).astype("<u2").tofile(file)
    found = load(f"byte_lm?data={file}&vocab=1000")
    assert (found.spec.vocab, found.spec.classes, found.contract.output_shape) == (1_000, 1_000, (128, 1_000))
    assert found.task.metric == "bits_per_token"
    assert load(f"byte_lm?data={file}").spec.vocab == corpus.GPT2
    assert load(f"byte_lm?data={file}&vocab=1000&size=gpu@width=2").spec.vocab == 1_000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("data=no/such/file.txt", "there is no such file or folder. Give text"),
        ("vocab=many", "many is no number of tokens; give one from 2 to 65536"),
        ("vocab=70000", "70000 is no number of tokens"),
        ("size=tpu", "there is no size 'tpu'; there are cpu, gpu"),
        ("colour=red", "has no option 'colour'; it has data, limit, remat, size, vocab"),
        ("limit=0", "0 is no number of bytes or tokens; give a whole number from 1"),
        ("limit=8MiB", "8MiB is no number of bytes or tokens"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(option: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as raised:
        load(f"byte_lm?{option}")
    assert "\n" not in str(raised.value)


def test_bytes_stay_bytes_whatever_vocabulary_is_named() -> None:
    found = load("byte_lm?vocab=1000")
    assert found.spec.vocab == 256 and found.task.metric == "bits_per_byte"


def test_specs_differ_only_in_what_the_size_says() -> None:
    cpu, gpu = SPACE.spec, load("byte_lm?size=gpu").spec
    same = {f.name for f in dataclasses.fields(cpu) if getattr(cpu, f.name) == getattr(gpu, f.name)}
    assert same == {"channels", "vocab", "classes", "remat", "scan"}


# ---- tokens of a large vocabulary ----


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    """A file of GPT-2's tokens, as nanoGPT writes them."""
    drawn = np.minimum(np.random.default_rng(0).zipf(1.3, 400_000), 50_256)
    drawn.astype(np.uint16).tofile(tmp_path / "tokens.bin")
    return f"byte_lm?data={tmp_path / 'tokens.bin'}"


@pytest.mark.parametrize("more", ["", "&size=gpu", "&size=gpu&vocab=300", "&vocab=4000"])
def test_logits_of_a_part_of_a_batch_fit(tokens: str, more: str) -> None:
    made, plain = load(tokens + more), load("byte_lm" + "?size=gpu" * ("gpu" in more))
    recipe, spec = made.recipe, made.spec
    each = 4 * spec.length * spec.vocab
    assert max(recipe.microbatch, recipe.eval_batch) * each <= space.LOGITS_BYTES or recipe == plain.recipe
    assert max(recipe.microbatch, recipe.eval_batch) * each <= made.contract.max_memory_bytes
    assert recipe.batch == plain.recipe.batch and data.FEWEST % recipe.eval_batch == 0
    if spec.vocab == 300:
        assert recipe == plain.recipe


@pytest.mark.slow
def test_baseline_is_admitted_on_tokens(tokens: str) -> None:
    made = load(tokens)
    source = made.baselines["attention"]
    with LocalExecutor(1, preload(made)) as executor:
        found = drive(executor, admit(tokens, source, defaults(gate.check(source, made.scope).tunables)))
    assert isinstance(found, Admitted), found
