"""Export: modules that compute what the trained program computed, a folder that repeats its score, tables, curves."""

import ast
import csv
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.admit.gate import check
from nas.admit.trace import execute, functions
from nas.export.__main__ import main
from nas.export.card import _block, _lineage, _locks
from nas.export.copying import Place, copy
from nas.export.events import crc32c, record, write_events
from nas.export.source import evaluate, network, score
from nas.export.tables import trials_table, write_trials
from nas.files import spreadsheet
from nas.records import Real, Value, defaults
from nas.search import main as search
from nas.search_spaces import sequence
from nas.space import Scope, SearchSpace, load
from nas.standings import read
from nas.store import Store, StoreError
from tests.report_runs import DIVERGED, HOSTILE, STEPS, UNPRINTABLE, RunWriter
from tests.test_sequence import space as sequence_space

SPACES = Path(__file__).parent / "spaces"
RINGS = str(SPACES / "rings.py")
PINNED = Path(__file__).parent.parent / "constraints.txt"

DEEP = '''"""Twelve layers of one shape, whose order numbers and letters disagree on; "quoted" \\\\ and odd."""
from nas.api import jax, jnp as numbers, nnx, real  # one line

TUNABLES = {"rate": real(0.0, 0.5), "gain": real(0.5, 2.0, log=True)}
# A remark that stays.


def predict(h, gain):  # a name that an exported module has too
    return gain * numbers.tanh(h)


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D = spec.width
        self.embed = nnx.Linear(spec.channels, D, rngs=rngs)
        self.layers = nnx.List(nnx.Linear(D, D, rngs=rngs) for _ in range(12))
        self.norm = nnx.BatchNorm(D, rngs=rngs)
        self.drop = nnx.Dropout(hp.rate, rngs=rngs)
        self.head = nnx.Linear(D, spec.classes, rngs=rngs)
        self.gain = hp.gain

    def __call__(self, x):
        h = self.norm(self.embed(x))
        for layer in self.layers:
            h = predict(layer(self.drop(h)), self.gain)
        return self.head(h.mean(axis=1)), 0.1 * (h**2).mean()
'''
NOISY = '''"""Draws when it is evaluated, and two layers share a matrix."""
from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.first = nnx.Linear(spec.length, spec.length, rngs=rngs)
        self.second = self.first
        self.noise = rngs
        self.head = nnx.Linear(spec.length, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.second(jax.nn.tanh(self.first(x[:, :, 0])))
        return self.head(h + jax.random.normal(self.noise.params(), h.shape))
'''
AROUND = f'''"""A space with a skeleton of its own."""
from dataclasses import replace

from nas.space import load

OFFSET = 2.0


def around(unit, spec, hp, *, rngs):
    from flax import nnx

    class Around(nnx.Module):
        def __init__(self):
            self.unit = unit(spec, hp, rngs=rngs)

        def __call__(self, x):
            return self.unit(x.repeat(spec.width, axis=-1)).mean(axis=(1, 2))[:, None] + OFFSET

    return Around()


SPACE = replace(load({str(SPACES / "toy_block.py")!r}), skeleton=around)
'''
OWN = '''"""It has names of its own for what is copied, and another one for what it imports."""
from nas.api import jnp, layers as pieces, nnx
from nas.kernels import attention as look, rms_norm


def accumulation(x):
    return jnp.tanh(x)


Attention = 2.0


def SwiGLU(x):
    return Attention * x


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.Attention = pieces.Attention(spec, rngs=rngs)
        self.routed = pieces.RoutedMLP(spec, rngs=rngs)

    def __call__(self, x):
        B, T, D = x.shape
        h = pieces.rotary(rms_norm(accumulation(x), jnp.ones(D)).reshape(B, T, 2, -1))
        mixed = look(h, h, h, window=3).reshape(B, T, D)
        return self.routed(self.Attention(SwiGLU(mixed)))
'''
SEQUENCE = [(scope, name) for scope in sequence.SCOPES for name in sequence.baselines(scope)]
QUICK = {("Mixer", "gated_delta_net"), ("Block", "transformer"), ("Stack", "pattern")}
CASES: dict[str, tuple[str, str | None, dict[str, Value]]] = {
    "model at numbers of its own": ("rings", None, {"hidden": 16}),
    "block in a skeleton": ("toy_block", None, {}),
    "mixer in a skeleton, ids": ("toy_mixer", None, {}),
    "state, dropout, a deep list, names in the way": ("rings", DEEP, {"rate": 0.25, "gain": 1.5}),
    "noise and shared weights": ("rings", NOISY, {}),
}


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(
    space: SearchSpace, source: str, values: dict[str, Value], folder: Path
) -> tuple[ModuleType, dict[str, str]]:
    text, named = network(space, source, values, {}, "About: {load}.")
    folder.joinpath("network.py").write_text(text)
    return imported(folder / "network.py"), named


def at(model: Any, name: str) -> Any:
    """The array that a name of a file means in a network."""
    for part in name.split("."):
        model = model[int(part)] if part.isdecimal() else getattr(model, part)
    return model[...]


# ---- the module


@pytest.mark.parametrize("case", CASES)
def test_exported_module_computes_what_the_trained_program_computes(case: str, tmp_path: Path) -> None:
    import jax
    from flax import nnx
    from safetensors.numpy import save_file

    name, source, values = CASES[case]
    space = load(str(SPACES / f"{name}.py"))
    source = source or list(space.baselines.values())[-1]
    assert not check(source, space.scope).failures
    traced = functions(space, execute(source, space.scope), SimpleNamespace(**values))
    rng = np.random.default_rng(0)
    leaves = [np.abs(rng.normal(size=leaf.shape)).astype(leaf.dtype) for leaf in (*traced.params, *traced.state)]
    params, state = leaves[: len(traced.params)], leaves[len(traced.params) :]
    module, named = written(space, source, values, tmp_path)
    _, ours, _, rest = nnx.split(nnx.eval_shape(module.build), nnx.Param, nnx.RngState, ...)
    names = module.array_names(ours) + module.array_names(rest)
    save_file(dict(zip(names, leaves, strict=True)), tmp_path / "weights.safetensors")
    model = getattr(module, named["load"])()
    for name, leaf in zip(names, leaves, strict=True):
        np.testing.assert_array_equal(at(model, name), leaf)
    definition, given = nnx.split(model)
    x = space.task.split("test").inputs[:16]

    def outputs(given: Any, x: Any) -> tuple[Any, Any]:
        ours = getattr(module, named["predict"])(nnx.merge(definition, given), x)
        return ours, traced.apply(params, state, x, np.uint32(0), False)[0]

    np.testing.assert_allclose(*jax.jit(outputs)(given, x), rtol=1e-5, atol=1e-6)


def agree(space: SearchSpace, source: str, folder: Path) -> str:
    """The exported text of a candidate, after a look whether it computes what is traced, at its default values."""
    import jax
    from flax import nnx

    gated = check(source, space.scope)
    assert not gated.failures
    values = defaults(gated.tunables)
    traced = functions(space, execute(source, space.scope), SimpleNamespace(**values))
    module, named = written(space, source, values, folder)
    model = module.build()
    _, params, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
    assert not jax.tree.leaves(state)
    x = np.random.default_rng(0).integers(space.spec.vocab, size=(3, space.spec.length)).astype(np.int32)
    ours = jax.jit(getattr(module, named["predict"]))(model, x)
    theirs = jax.jit(traced.apply, static_argnums=4)(tuple(jax.tree.leaves(params)), (), x, np.uint32(0), False)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return (folder / "network.py").read_text()


@pytest.mark.parametrize(
    ("scope", "name"), [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in SEQUENCE]
)
def test_module_of_a_sequence_model_stands_alone_and_computes_what_was_traced(
    scope: Scope, name: str, tmp_path: Path
) -> None:
    text = agree(sequence_space(scope), sequence.baselines(scope)[name], tmp_path)
    assert roots(text) <= {"jax", "flax", "numpy", "pathlib", "types", "typing", "json", "functools", "collections"}


def test_names_of_a_candidate_are_kept_where_what_is_copied_has_them_too(tmp_path: Path) -> None:
    text = agree(sequence_space("Mixer"), OWN, tmp_path)
    assert "class SwiGLU_(nnx.Module)" in text and "def SwiGLU(x):" in text
    assert "def look(" in text and "def rms_norm(" in text and "pieces = SimpleNamespace(Attention=Attention_, " in text


def test_exported_module_reads_like_the_candidate(tmp_path: Path) -> None:
    space = load(RINGS)
    tunables = {"rate": Real(0.0, 0.5), "gain": Real(0.5, 2.0, log=True)}
    text, named = network(space, DEEP, {"rate": 0.25, "gain": 1.5}, tunables, "How: {load}, {predict}.")
    assert "gain=1.5,  # real(0.5, 2.0, log=True)" in text and "# A remark that stays." in text
    assert "TUNABLES" not in text and "nas" not in {node.split(".")[0] for node in roots(text)}
    assert roots(text) <= {"jax", "flax", "numpy", "pathlib", "types", "typing", "json"}
    assert "How: load, predict_." in (ast.get_docstring(ast.parse(text)) or "")
    assert named["predict"] == "predict_" and named["load"] == "load"


def roots(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    space = load(RINGS)
    module, _ = written(space, space.baselines["linear"], {}, tmp_path)
    good = {"head.kernel": np.zeros((8, 2), np.float32), "head.bias": np.zeros(2, np.float32)}
    for wrong in ({**good, "more": np.zeros(1)}, {**good, "head.bias": np.zeros(3, np.float32)}):
        save_file(wrong, tmp_path / "weights.safetensors")
        with pytest.raises(ValueError, match="another network|has shape"):
            module.load()


def test_reader_of_arrays_gives_what_was_written(tmp_path: Path) -> None:
    import ml_dtypes
    from safetensors.numpy import save_file

    from nas.export.standalone import read_arrays

    kinds = ["float64", "float32", "float16", "int64", "int8", "uint32", "uint8", "bool", ml_dtypes.bfloat16]
    arrays = {f"a.{index}": np.arange(6).reshape(2, 3).astype(kind) for index, kind in enumerate(kinds)}
    save_file({**arrays, "scalar": np.array(3.0)}, tmp_path / "some.safetensors", metadata={"a": "b"})
    found = read_arrays(tmp_path / "some.safetensors")
    assert found.pop("scalar").shape == ()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


@pytest.mark.parametrize("name", ["rings", "toy_block", "toy_mixer"])
def test_score_is_copied_with_what_it_uses(name: str, tmp_path: Path) -> None:
    space = load(str(SPACES / f"{name}.py"))
    text = score(space)
    (tmp_path / "score.py").write_text(text)
    targets = space.task.split("test").targets[:8]
    outputs = np.random.default_rng(0).normal(size=(8, *space.contract.output_shape)).astype(np.float32)
    found = imported(tmp_path / "score.py").score(outputs, targets)
    np.testing.assert_array_equal(found, space.task.score(outputs, targets))
    assert "nas" not in roots(text) and "Grammar" not in text


def test_what_cannot_stand_alone_is_refused_in_one_line(tmp_path: Path) -> None:
    space = load(RINGS)
    with pytest.raises(StoreError, match="optax") as caught:
        score(replace(space, task=replace(space.task, score=space.task.loss)))
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="top of a file"):
        score(replace(space, task=replace(space.task, score=lambda outputs, targets: outputs)))
    again = DEEP.replace("self.gain = hp.gain", "self.gain = len(TUNABLES)")
    with pytest.raises(StoreError, match="TUNABLES"):
        network(space, again, {}, {}, "")
    with pytest.raises(StoreError, match="nas.kernels"):
        network(space, DEEP.replace("# A remark", "from nas.kernels import scan\n#"), {}, {}, "")


def test_name_inside_a_string_is_copied_by_its_name_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text('SIZE = 3\n\n\ndef said(x):\n    return f"{x:{SIZE}} of {SIZE}"\n')
    place = Place(tmp_path / "said.py", "said")
    names: dict[str, Any] = {}
    exec(copy([place]).text, names)
    assert names["said"](1) == "  1 of 3"
    try:
        renamed = copy([place], taken={"SIZE"})
    except StoreError as error:
        assert "in a string, which cannot be copied as 'SIZE_'" in str(error)
    else:  # Python 3.12 and later know where it stands
        exec(renamed.text, names)
        assert names["said"](1) == "  1 of 3" and "SIZE_ = 3" in renamed.text


def test_skeleton_of_the_space_is_copied(tmp_path: Path) -> None:
    (tmp_path / "around.py").write_text(AROUND)
    space = load(f"{tmp_path / 'around.py'}")
    module, _ = written(space, space.baselines["mlp"], {}, tmp_path)
    assert module.predict(module.build(), np.ones((2, 6, 1), np.float32)).shape == (2, 1)
    assert "OFFSET = 2.0" in (tmp_path / "network.py").read_text()


def test_script_is_python_and_imports_the_folder_alone() -> None:
    text = evaluate({"load": "load_", "predict": "predict", "read_arrays": "read_arrays"})
    assert roots(text) <= {"jax", "flax", "numpy", "pathlib", "typing", "sys", "json", "network", "score"}
    assert "network.load_" in text


# ---- the command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without a confirmation: a baseline, a candidate that was promoted, one that failed, one rejected."""
    writer = RunWriter(tmp_path / "run", hurry=True)
    first = writer.propose("random", idea="=1+1", parents=(), operator="sample")
    (one, _) = writer.draw(first, "random", [0.5, 0.4])
    writer.promote(one, first, 1, 0.75)
    second = writer.propose("evolution", parents=(first,))
    writer.draw(second, "evolution", [DIVERGED])
    writer.store.close()
    return tmp_path / "run"


def test_candidate_that_is_not_confirmed_is_told_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "1"]) == 2
    told = capsys.readouterr().err
    assert f"python -m nas.leaderboard {run} --confirm 5" in told and told.count("\n") == 1
    assert main([str(run), "2"]) == 2
    assert "has no score" in capsys.readouterr().err


def test_wrong_arguments_are_told_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        ([str(run), "9"], "there is no candidate 9 in this run; ids go from 1 to 2"),
        ([str(run.parent / "none"), "1"], "is no run"),
        ([str(run), "--trials", str(run / "x.txt")], "must end in .csv or .parquet"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    for arguments in ([str(run)], [str(run), "--out", "there", "--trials", "a.csv"], [str(run), "one"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and error.startswith("nas.export: ")


# ---- tables and curves


def test_table_has_every_trial_with_its_scores_by_rung(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--trials", str(run / "t.csv")]) == 0
    rows = list(csv.DictReader((run / "t.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == ["1", "2", "3"]
    assert [row[f"score_at_{STEPS[0]}"] for row in rows] == ["0.5", "0.4", ""]
    assert [row[f"score_at_{STEPS[1]}"] for row in rows] == ["0.75", "", ""]
    assert rows[0]["name"] == "'=1+1" and rows[2]["failure"] == "train/diverged" and rows[2]["parents"] == "1"
    assert json.loads(rows[0]["recipe"]) == {"lr": 0.02, "wd": 0.001}
    assert rows[0]["params"] == "700" and rows[0]["rung"] == "1"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "＝1", "＋1", "－1", "＠1"])
def test_cells_are_no_formulas(text: str) -> None:
    assert spreadsheet(text) == "'" + text
    assert spreadsheet("1 " + text) == "1 " + text


def test_hostile_text_does_nothing_in_a_folder(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", hurry=True)
    writer.propose(HOSTILE, parents=(), operator=HOSTILE)
    writer.propose("evolution", parents=(1,), operator="| x |\n\n# a heading", idea=HOSTILE)
    writer.store.close()
    records = read(Store(tmp_path / "run"))
    lineage = _lineage(records, records.entries[1])
    assert not UNPRINTABLE.search(lineage) and not re.search(r"[<>`\[]", lineage)
    assert [line.count("|") for line in lineage.splitlines()[2:]] == [6] * 4
    assert all(line.startswith("    ") for line in _block("a\n# b\r\x1b[2J```\u2028c").splitlines())

    idea = r'''{candidate} Ends """ here\\" \N{DIGIT ONE} \x1b[2J\u202e {load} """'''
    space = load(RINGS)
    source = space.baselines["linear"]
    head = next(statement for statement in ast.parse(source).body)
    odd = "\n".join([f"r'''{idea}'''", *source.splitlines()[head.end_lineno :]])
    told = odd.replace("r'''", "'''", 1)  # the escapes are characters
    for text in (network(space, one, {}, {}, "About: {load}.")[0] for one in (odd, told)):
        tree = ast.parse(text)
        assert "{candidate} Ends ''' here" in (ast.get_docstring(tree) or "") and not UNPRINTABLE.search(text)
        ours = text.count('\n"""Sizes') + text.count('\n"""It declares')
        assert [type(one) for one in tree.body].count(ast.Expr) == 1 + ours


def test_table_and_card_say_how_candidates_were_locked(run: Path) -> None:
    records = read(Store(run))
    assert {row["sandbox"] for row in trials_table(records)[1]} == {None}
    assert "not recorded" in _locks(records)
    content = {"mode": "auto", "missing": "files (no `landlock`)"}
    first = {"slot": 0, "id": "1", "kind": "sandbox", "author": "", "time": "", "content": content}
    records = replace(records, config={**records.config, "sandbox": "auto"}, messages=[first])
    assert {row["sandbox"] for row in trials_table(records)[1]} == {"auto without files (no `landlock`)"}
    assert _locks(records) == "auto without files (no  landlock )"  # no markup of its own


def test_parquet_holds_the_same_or_says_what_it_needs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "t.parquet"
    if importlib.util.find_spec("pyarrow") is None:
        assert main([str(run), "--trials", str(path)]) == 2
        assert "pip install" in capsys.readouterr().err and not path.exists()
        return
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    assert write_trials(read(Store(run)), path) == 3
    table = parquet.read_table(path).to_pydict()
    assert table["trial"] == [1, 2, 3] and table[f"score_at_{STEPS[1]}"] == [0.75, None, None]


def test_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial, the usual check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    content = record(b"")
    assert content[:8] == bytes(8) and len(content) == 16


def test_event_files_hold_the_curves(run: Path) -> None:
    assert write_events(read(Store(run)), run / "tb") == 2
    files = sorted((run / "tb").rglob("events.out.tfevents.*"))
    assert [path.parent.name for path in files] == ["trial-00001", "trial-00002"]
    curve = list(events(files[0].read_bytes()))
    validation = [
        (step, round(values["validation/score"], 6)) for step, values in curve if "validation/score" in values
    ]
    assert validation == [(STEPS[0], 0.5), (STEPS[1], 0.75)]
    steps = [step for step, values in curve if "train/loss" in values]
    assert steps == sorted(steps) and len(steps) == 20 and steps[0] == 50 and steps[-1] == STEPS[1]


def events(content: bytes) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers in an event file; a reader of its own."""
    while content:
        (size,) = struct.unpack_from("<Q", content)
        body, content = content[12 : 12 + size], content[16 + size :]
        fields = dict(protobuf(body))
        if 5 in fields:
            values = [dict(protobuf(value)) for number, value in protobuf(fields[5]) if number == 1]
            yield fields.get(2, 0), {value[1].decode(): struct.unpack("<f", value[2])[0] for value in values}


def protobuf(content: bytes) -> Iterator[tuple[int, Any]]:
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while place < len(content):
        key = varint()
        size = {0: 0, 1: 8, 2: 0, 5: 4}[key & 7]
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = size or varint()
        yield key >> 3, content[place : place + size]
        place += size


# ---- the folder


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run that was confirmed, and its finalist."""
    made = tmp_path_factory.mktemp("runs")
    chosen = ["--space", RINGS, "--budget", "2", "--proposer", "evolution", "--confirm", "1"]
    assert search([*chosen, "--results", str(made), "--name", "run"]) == 0
    rows = read(Store(made / "run")).retrainings
    baselines = {e.candidate.id for e in Store(made / "run").entries() if e.candidate.arm == "baseline"}
    (finalist,) = {row.candidate for row in rows} - baselines
    return made / "run", finalist


@pytest.mark.slow
def test_folder_of_several_tasks_has_weights_for_each(tmp_path: Path) -> None:
    chosen = ["--space", f"{RINGS}:tasks", "--budget", "2", "--proposer", "evolution", "--confirm", "1"]
    assert search([*chosen, "--results", str(tmp_path), "--name", "run"]) == 0
    store = Store(tmp_path / "run")
    (finalist,) = {row.candidate for row in store.retrainings()} - {
        entry.candidate.id for entry in store.entries() if entry.candidate.arm == "baseline"
    }
    assert main([str(tmp_path / "run"), str(finalist), "--out", str(tmp_path / "out")]) == 0
    tasks = json.loads((tmp_path / "out" / "config.json").read_text())["evaluation"]["tasks"]
    assert len(tasks) > 1 and all(task in (tmp_path / "out" / "README.md").read_text() for task in tasks)
    module = imported(tmp_path / "out" / "network.py")
    x = np.ones((2, *load(f"{RINGS}:tasks").contract.input_shape), np.float32)
    outputs = [np.asarray(module.predict(module.load(task), x)) for task in tasks]
    assert all((outputs[0] != other).any() for other in outputs[1:])
    np.testing.assert_array_equal(np.asarray(module.predict(module.load(), x)), outputs[0])
    with pytest.raises(ValueError, match=f"no weights of 'another'; it has those of {tasks[0]}"):
        module.load("another")


@pytest.mark.slow
def test_folder_gives_the_score_of_the_leaderboard(
    confirmed: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, finalist = confirmed
    monkeypatch.chdir(run.parent)  # as a person names them, beside where he is
    assert main([f"./{run.name}", str(finalist), "--out", os.path.relpath(tmp_path / "out")]) == 0
    assert f"(--sandbox): {Store(run).config['sandbox']}" in (tmp_path / "out" / "README.md").read_text()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    rows = [r for r in read(Store(run)).retrainings if r.candidate == finalist and r.point is not None]
    best = max(rows, key=lambda row: row.point.score if row.point else 0.0)
    assert best.test is not None and config["evaluation"]["score"] == best.test["score"]
    text = "".join(p.read_text() for p in (tmp_path / "out").glob("*.[pmjt][ysx]*") if p.suffix != ".safetensors")
    assert str(run) not in text and str(SPACES) not in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "model-index:" in card and f"value: {best.test['score']!r}" in card
    assert main([str(run), str(finalist), "--out", str(tmp_path / "out"), "--no-data"]) == 0
    assert not (tmp_path / "out" / "test.safetensors").exists()


@pytest.mark.slow
def test_folder_that_is_not_an_export_is_left_alone(
    confirmed: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main([str(confirmed[0]), str(confirmed[1]), "--out", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.slow
def test_weights_that_are_missing_or_not_those_are_told(
    confirmed: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, finalist = tmp_path / "run", confirmed[1]
    shutil.copytree(confirmed[0], run)
    assert main([str(run), "1"]) == 2
    assert "of which no weights are kept" in capsys.readouterr().err
    files = sorted(run.glob("checkpoints/seed-*"))
    shutil.copyfile(files[1], files[0])  # another seed's: it reads well and scores otherwise
    assert main([str(run), str(finalist), "--seed", "0"]) == 2
    assert "where the leaderboard says" in capsys.readouterr().err
    assert not list(run.glob("export-*/*.py"))
    for file in files:
        file.unlink()
    assert main([str(run), str(finalist)]) == 2
    assert "weights of this candidate are missing" in capsys.readouterr().err


@pytest.mark.slow
def test_folder_works_where_jax_and_flax_alone_are_installed(confirmed: tuple[Path, int], tmp_path: Path) -> None:
    run, finalist = confirmed
    assert main([str(run), str(finalist), "--out", str(tmp_path / "out")]) == 0
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(PINNED), "jax", "flax"]
    subprocess.run(install, check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "evaluate.py"], cwd=tmp_path / "out", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    absent = subprocess.run([str(python), "-c", "import nas"], cwd=tmp_path, env=environment, capture_output=True)
    assert absent.returncode != 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    found = float(done.stdout.splitlines()[0].rsplit(" ", 1)[1])
    assert abs(found - config["evaluation"]["score"]) <= 1e-6
    config["evaluation"]["score"] += 0.0025  # an example more: the script must see it
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert subprocess.run([str(python), str(tmp_path / "out" / "evaluate.py")], capture_output=True).returncode == 1
