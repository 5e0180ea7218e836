"""The battery: sound spaces pass it, and a broken one is told in one sentence what is wrong with it."""

import dataclasses
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import declared, search, testing
from nas.admit import Admitted
from nas.admit.__main__ import main as admit_main
from nas.execute import Executor
from nas.execute.local import LocalExecutor
from nas.flows import PRELOAD
from nas.records import Failure
from nas.space import SearchSpace, SpaceError, Split, digest, load

SPACES = Path(__file__).parent / "spaces"
TOY = SPACES / "toy_model.py"
RINGS = SPACES / "rings.py"


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with LocalExecutor(workers=2, preload=PRELOAD) as started:
        yield started


@pytest.mark.parametrize(
    "name",
    ["toy_block", "toy_stack", *(pytest.param(name, marks=pytest.mark.slow) for name in ("toy_model", "toy_mixer"))],
)
def test_toy_space_of_every_scope_passes(name: str, executor: Executor) -> None:
    findings = list(testing.battery(str(SPACES / f"{name}.py"), executor))
    assert [str(f) for f in findings if f.problem] == []
    assert any("loss falls" in f.check for f in findings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist1d", "mnist1d:shuffled", "mnist1d:block"])
def test_built_in_space_passes(name: str, executor: Executor) -> None:
    assert [str(f) for f in testing.battery(name, executor) if f.problem] == []


def broken(tmp_path: Path, old: str, new: str, source: Path = TOY) -> str:
    """A copy of a toy space with one text replaced."""
    text = source.read_text("utf-8")
    assert old in text
    path = tmp_path / "broken.py"
    path.write_text(text.replace(old, new), "utf-8")
    return str(path)


DECLARED = {
    'name="toy_model",': ('name="Toy Model",', "lower-case"),
    "version=1": ("version=0", "count from 1"),
    "channels=2, classes=2, width=4": ("channels=2, vocab=3, classes=2, width=4", "exactly one"),
    'baselines={"linear": LINEAR, "pooled": POOLED}': ("baselines={}", "there is no baseline"),
    "width=4, depth=1": ("width=4, depth=1, heads=3", "does not divide"),
    "max_params=500": ("max_params=0", "max_params is 0"),
    "output_shape=(2,)": ("output_shape=(3,)", "spec.classes=2"),
    "steps=(10, 20, 40)": ("steps=(10, 40, 20)", "larger than the one before"),
    "eta=2": ("eta=0", "eta is 0"),
    "draws=2": ("draws=0", "at least one draw"),
    "batch=32,": ("batch=0,", "batch is 0"),
    "max_params=500 ": ("max_memory_bytes=0", "max_memory_bytes is 0; give a positive number"),
    "output_shape=(2,) ": ("output_shape=(2,), input_dtype='floaty'", "'floaty'; choose one of float32"),
    'scope="Model"': ('scope="Block"', "baseline 'linear' defines Model while scope is Block"),
    '{HEADER}class Model(nnx.Module):\n    def __init__(self, spec, hp, *, rngs):\n        self.find': (
        "class (", "baseline 'pooled' is no Python",
    ),
    '{"linear": LINEAR': ('{"linear one / x": LINEAR', "baseline 'linear one / x'"),
    "baseline_seeds=2": ("baseline_seeds=0", "at least one seed"),
    "baseline_seeds=2 ": ("baseline_seeds=-1", "at least one seed"),
    'metric="accuracy"': ('metric="accuracy", decimals=40', "task.decimals is 40"),
    'choices={"function": ("relu", "tanh")}': ('choices={"function": ()}', "no value to choose for 'function'"),
    'choices={"function": ("relu", "tanh")} ': ('choices={"function": ("relu", "ta nh")}', "call of 'dense' is no Py"),
    'call="h = h + self.{name}(h)"': ('call="h = {"', "call of 'near' is no Python, 'h = {'"),
    'call="h = h + self.{name}(h)" ': ('call=""', "call of 'near' is empty"),
    'call="h = self.{name}(x)", out="spec.width"': ('call="h = x", out="("', "out of 'embed' is no Python"),
    'call="return self.{name}(h[:, -1])"': ('call="h = self.{name}(h[:, -1])"', "return statement"),
    'name="near"': ('name="dense"', "two primitives 'dense'"),
    "blocks=(1, 2)": ("blocks=(2, 1)", "blocks is (2, 1)"),
    "grammar=GRAMMAR": ("grammar=Grammar(stem=(), body=GRAMMAR.body, head=GRAMMAR.head)", "grammar.stem is empty"),
    "grammar=GRAMMAR ": ("grammar=Grammar(stem=GRAMMAR.stem, body=[], head=GRAMMAR.head)", "grammar.body is empty"),
}  # fmt: skip


@pytest.mark.parametrize("old", DECLARED)
def test_broken_declaration_is_told_before_anything_runs(tmp_path: Path, old: str) -> None:
    new, told = DECLARED[old]
    findings = list(testing.battery(broken(tmp_path, old.rstrip(), new)))
    problems = [f.problem for f in findings if f.problem]
    assert len(findings) == len(declared.DECLARATIONS) + 1 and told in problems[0]
    refused(tmp_path, told)


def refused(tmp_path: Path, told: str) -> None:
    """A search would not begin with the broken space, and says so in one line."""
    with pytest.raises(SpaceError, match=re.escape(told)) as raised:
        declared.must_hold(load(str(tmp_path / "broken.py")), "broken.py")
    assert "\n" not in str(raised.value)


MISTYPED = {
    'baselines={"linear": LINEAR, "pooled": POOLED}': ("baselines=(LINEAR, POOLED)", "it must be Mapping[str, str]"),
    "grammar=GRAMMAR": ("grammar=None", "grammar is None; it must be Grammar"),
    "grammar=GRAMMAR ": (
        "grammar=Grammar(stem=GRAMMAR.stem, body=None, head=GRAMMAR.head)", "grammar.body is None; it must be Sequence",
    ),
    'choices={"function": ("relu", "tanh")}': ('choices={"function": 3}', "grammar.body[0].choices['function'] is 3"),
    "blocks=(1, 2)": ("blocks=(1, 2, 3)", "grammar.blocks is (1, 2, 3); it must be tuple[int, int]"),
    "steps=(10, 20, 40)": ("steps=(20.0, 60.5)", "ladder.steps[0] is 20.0; it must be int"),
    "eta=2": ("eta=True", "ladder.eta is True"),
    "baseline_seeds=2": ("baseline_seeds=None", "baseline_seeds is None; it must be int"),
    "version=1": ("version='1'", "version is '1'; it must be int"),
    'scope="Model"': ('scope="Net"', "scope is 'Net'; it must be one of ['Model', 'Block', 'Mixer', 'Stack']"),
    'task=Task(split=split, loss=loss, score=score, metric="accuracy")': ("task=None", "task is None; it must be Task"),
    'metric="accuracy"': ('metric="accuracy", identity="abc"', "task.identity is 'abc'"),
    'metric="accuracy" ': ('metric="accuracy", bound="high"', "task.bound is 'high'; it must be float | None"),
    'metric="accuracy"  ': ('metric="accuracy", decimals="4"', "task.decimals is '4'; it must be int"),
    "max_params=500": ("max_memory_bytes=None", "contract.max_memory_bytes is None; it must be int."),
    "output_shape=(2,)": ("output_shape=(2,), input_dtype=float", "contract.input_dtype is <class 'float'>"),
    "baseline_seeds=2 ": ("credible_gain='a lot'", "credible_gain is 'a lot'; it must be float | None"),
    "baseline_seeds=2  ": ("options=None", "options is None; it must be Mapping"),
    "baseline_seeds=2   ": ("scale=None", "scale is None; it must be Mapping"),
    "baseline_seeds=2    ": ("scale={'width': 2}", "scale['width'] is 2; it must be Callable"),
    "lr=Real(1e-2, 3e-1, log=True)": ("lr=0.1", "recipe.lr is 0.1; it must be Real"),
}  # fmt: skip


@pytest.mark.parametrize("old", MISTYPED)
def test_field_of_another_type_is_the_only_finding(tmp_path: Path, old: str) -> None:
    new, told = MISTYPED[old]
    (finding,) = testing.battery(broken(tmp_path, old.rstrip(), new))
    assert finding.problem is not None and told in f"{finding.problem}."
    refused(tmp_path, told)


IDENTITIES = {
    "lambda: {}['data']": "task.identity fails: KeyError: 'data'. Mend it.",
    "lambda: __import__('sys').exit('bye')": "task.identity fails: SystemExit: bye. Mend it.",
    "lambda: open('/nowhere')": "has no data: [Errno 2]",
    "lambda: 3": "task.identity returns int; return a text",
}


@pytest.mark.parametrize("identity", IDENTITIES)
def test_data_whose_identity_cannot_be_told_are_no_traceback(tmp_path: Path, identity: str) -> None:
    reference = broken(tmp_path, 'metric="accuracy"', f'metric="accuracy", identity={identity}')
    with pytest.raises(SpaceError, match=re.escape(IDENTITIES[identity])):
        digest(load(reference))


FILES = {
    "options={'a': lambda space, text: 1 / 0}": ("?a=1", "options['a'] fails at 1: ZeroDivisionError"),
    "options={'a': lambda space, text: None}": ("?a=1", "options['a'] returns NoneType at 1; return a SearchSpace"),
    "options={'a': lambda space: space}": ("?a=1", "options['a'] fails at 1: TypeError"),
    "options={'a': lambda space, text: __import__('sys').exit(text)}": (
        "?a=1",
        "options['a'] fails at 1: SystemExit: 1",
    ),
    "options={'a': 3}": ("?a=1", "options['a'] fails at 1: TypeError"),
    "options=None": ("?a=1", "options is no mapping of names to functions"),
    "options={3: None}": ("?a=1", "options is no mapping of names to functions"),
    "scale=None": ("@width=2", "scale is no mapping of names to functions"),
    "scale={'width': lambda space, factor: __import__('sys').exit('bye')}": (
        "@width=2",
        "scale['width'] fails at 2: SystemExit: bye",
    ),
    ")\nVARIANTS = None\ndict(a=1": ("", "VARIANTS is NoneType; make it a dict"),
    ")\nVARIANTS = [SPACE]\ndict(a=1": (":small", "VARIANTS is list; make it a dict"),
    ")\nVARIANTS = SPACE\ndict(a=1": ("", "VARIANTS is SearchSpace; make it a dict"),
    ")\nVARIANTS = {1: 2, 'a': 3}\ndict(a=1": (":a", "binds no SearchSpace to 'a' (variants: 1, a)"),
    ")\nraise SystemExit('bye')\ndict(a=1": ("", "cannot be loaded: line 83 SystemExit: bye. Mend the file"),
}


@pytest.mark.parametrize("new", FILES)
def test_file_that_cannot_be_loaded_so_is_told_in_one_line(tmp_path: Path, new: str) -> None:
    asked, told = FILES[new]
    with pytest.raises(SpaceError, match=re.escape(told)) as raised:
        load(broken(tmp_path, "baseline_seeds=2", new) + asked)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("start", ["", "./"])
def test_folder_is_answered_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=r"is a folder\. Give its file, for instance --space mine/space\.py"):
        load(f"{start}mine")


def test_number_of_examples_that_does_not_fit_is_told_by_task() -> None:
    space = load(f"{RINGS}:tasks")
    assert declared.misfit(space, "validation", 1_000) is None
    assert "7 examples of 5 tasks" in str(declared.misfit(space, "train", 7))
    assert "does not divide 100 examples" in str(declared.misfit(space, "test", 500))
    assert "does not divide 0 examples" in str(declared.misfit(space, "test", 0))
    assert "10 examples do not fill a batch of 20" in str(declared.misfit(space, "train", 50))


@pytest.mark.parametrize("command", [search.main, admit_main])
def test_no_command_begins_with_a_broken_declaration(
    tmp_path: Path, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if command is search.main else [str(TOY)]
    assert command([*given, "--space", broken(tmp_path, "eta=2", "eta=[]")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "ladder.eta is []; it must be int" in said and "nas.testing" in said


DATA = {
    "default_rng(list(SIZES).index(name))": ("default_rng(0)", "are in validation too"),
    "rng = np.random.default_rng(list(SIZES).index(name))": ("rng = np.random.default_rng()", "fixed seed"),
    ".astype(np.int32)": (".astype(np.int64)", "int32 or float32"),
    "return Split(inputs, targets)": ("return Split(inputs, targets + 1)", "labels run from 1 to 2"),
    "return Split(inputs, targets) ": ("return Split(inputs / 0.0, targets)", "NaN or infinite"),
    "return Split(inputs, targets)  ": ("return Split(inputs[:, :7], targets)", "the contract says"),
    "eval_batch=64": ("eval_batch=60", "does not divide 128"),
    "batch=32, eval": ("batch=300, eval", "do not fill a batch"),
    "from typing import Any": ("from typing import Any\nimport jax", "imports jax"),
}


@pytest.mark.parametrize("old", DATA)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_broken_data_are_told(tmp_path: Path, old: str) -> None:
    new, told = DATA[old]
    problems = [f.problem for f in testing.battery(broken(tmp_path, old.rstrip(), new)) if f.problem]
    assert problems and told in problems[0]


def swapped(space: SearchSpace, **changes: Any) -> SearchSpace:
    return dataclasses.replace(space, task=dataclasses.replace(space.task, **changes))


def mean_of_batch(outputs: Any, targets: Any) -> Any:
    right = outputs.argmax(axis=-1) == targets
    return 0 * right + right.mean()


FUNCTIONS: dict[str, tuple[Callable[[SearchSpace], dict[str, Any]], str]] = {
    "scalar": (lambda space: {"score": lambda o, t: space.task.score(o, t).mean()}, "one number for each"),
    "batch": (lambda space: {"score": mean_of_batch}, "changes with the others"),
    "infinite": (lambda space: {"loss": lambda o, t: space.task.loss(o, t) / 0.0}, "not finite"),
    "flat": (lambda space: {"loss": lambda o, t: space.task.score(o, t)}, "is 0 everywhere"),
    "negated": (lambda space: {"loss": lambda o, t: -space.task.loss(o, t)}, "right must be lower"),
    "direction": (lambda space: {"maximize": False}, "maximize is False"),
    "raises": (lambda space: {"loss": lambda o, t: o[t, None, "x"]}, "must not raise"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_broken_loss_or_score_is_told(name: str) -> None:
    space = load(str(TOY))
    changes, told = FUNCTIONS[name]
    splits = {"validation": space.task.split("validation")}
    found = list(testing._run(testing._functions(swapped(space, **changes(space)), splits)))
    assert any(told in f.problem for f in found if f.problem), found


def test_direction_is_told_for_numbers_too() -> None:
    space = load(str(SPACES / "toy_block.py"))
    targets = space.task.split("validation").targets
    assert testing._direction(space, targets) is None
    assert "maximize is True" in str(testing._direction(swapped(space, maximize=True), targets))


PROPOSALS = {
    "h = jax.nn.{function}(self.{name}(h))": ("h = open(self.{name}(h))", "random candidates: gate"),
    "x.reshape(x.shape[0], -1)": ("open(x)", "baseline linear: gate"),
}


@pytest.mark.parametrize("old", PROPOSALS)
def test_baseline_or_primitive_that_the_gate_refuses_is_told(tmp_path: Path, old: str) -> None:
    new, told = PROPOSALS[old]
    findings = [f for f in testing.battery(broken(tmp_path, old, new)) if f.problem]
    assert findings and told in f"{findings[0].check}: {findings[0].problem}"


def test_limit_that_nothing_fits_is_told_for_baselines_and_random_candidates(
    tmp_path: Path, executor: Executor
) -> None:
    reference = broken(tmp_path, "max_flops=20_000", "max_flops=20")
    told = {f.check: f.problem for f in testing.battery(reference, executor) if f.problem}
    assert "program/flops" in told["baseline linear: admitted"]
    assert "8 of 8 random candidates are rejected" in told["random candidates: admitted"]
    assert not any("loss falls" in check for check in told)


def test_half_of_the_random_candidates_may_be_rejected() -> None:
    good = Admitted(blobs={}, facts={"fingerprint": "a"})
    bad = Failure(stage="trace", rule="shape", message="it does not fit")
    assert testing._rejections(["'idea'"] * 4, [good, bad, good, bad]) is None
    assert "3 of 4" in str(testing._rejections(["'idea'"] * 4, [good, bad, bad, bad]))


def test_equal_baselines_are_told() -> None:
    same, other = (Admitted(blobs={}, facts={"fingerprint": mark}) for mark in "ab")
    assert testing._same_program({"one": same, "two": other}) is None
    assert "'one' and 'three' are the same" in str(testing._same_program({"one": same, "two": other, "three": same}))


SCALES = {
    "width=factor * space.spec.width)": ("width=space.spec.width)", "width", "changes nothing at 2 times"),
    "width=factor * space.spec.width) ": ("width=factor * space.spec.width, heads=3)", "width", "does not divide"),
    "factor * step for": ("factor + 0 * step for", "steps", "at 2 times, ladder: ladder.steps is (2, 2, 2)"),
    "ladder=dataclasses.replace(space.ladder": (
        "baselines={}, ladder=dataclasses.replace(space.ladder", "steps", "it changes baselines",
    ),
    "ladder=dataclasses.replace(space.ladder ": (
        "scope='Block', ladder=dataclasses.replace(space.ladder", "steps", "it changes scope",
    ),
    '(times if name == "train" else 1)': ("times", "data", "validation split is another one"),
    "functools.partial(split, times=factor)": ("functools.partial(split)", "data", "400 examples as before"),
    '"data": more_data': ('"more data": more_data', "more data", "cannot be written"),
    "task = dataclasses.replace(space.task": ("task = dataclasses.replace(1", "data", "scale['data'] fails at 2"),
}  # fmt: skip


@pytest.mark.parametrize("old", SCALES)
def test_broken_scale_is_told(tmp_path: Path, old: str) -> None:
    new, axis, told = SCALES[old]
    whole = tmp_path / "whole.py"
    whole.write_text(
        RINGS.read_text("utf-8").replace("baseline_seeds=2,", "baseline_seeds=2, guidance='Inside?',"), "utf-8"
    )
    reference = broken(tmp_path, old.rstrip(), new, whole)
    space = load(reference)
    splits = {name: space.task.split(name) for name in testing.SPLITS}
    found = {f.check: f.problem for f in collect(testing._run(testing._scales(space, reference, splits)))}
    problem = found.pop(f"scale {axis}")
    assert problem is not None and told in problem and list(found.values()) == [None, None]


def collect(run: Generator[testing.Finding, None, bool]) -> list[testing.Finding]:
    return list(run)


def test_baseline_that_no_larger_size_admits_is_told(tmp_path: Path, executor: Executor) -> None:
    reference = broken(tmp_path, "max_params=400", "max_params=120", RINGS) + ":growing"
    found = list(testing._run(testing._scaled_programs(load(reference), reference, executor)))
    assert [f.check for f in found] == [
        "scale width, baseline linear: admitted",
        "scale width, baseline wide: admitted",
    ]
    assert found[0].problem is None and "178 parameters; the space allows 120" in str(found[1].problem)


def test_loss_that_does_not_fall_is_told(tmp_path: Path, executor: Executor) -> None:
    reference = broken(tmp_path, "Real(1e-2, 3e-1", "Real(1e2, 3e3")
    problems = [f.problem for f in testing.battery(reference, executor) if f.problem]
    assert problems and all("the training loss goes from" in p or "not finite" in p for p in problems)


def test_together_runs_flows_side_by_side_and_keeps_their_order() -> None:
    def flow(rounds: int) -> Any:
        total = 0
        for _ in range(rounds):
            events = yield [rounds] * rounds
            total += sum(events)
        return total

    both: Any = testing._together([flow(1), flow(0), flow(2)])
    asked = [next(both)]
    asked.append(both.send(asked[-1]))
    with pytest.raises(StopIteration) as stop:
        both.send(asked[-1])
    assert asked == [[1, 2, 2], [2, 2]] and stop.value.value == [1, 0, 8]


def test_command_line_says_ok_fail_and_what_is_no_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert testing.main([broken(tmp_path, "eta=2", "eta=0")]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "ok    spec" in shown and any(line.startswith("FAIL  ladder: ladder.eta is 0") for line in shown)
    assert testing.main(["no_such_space"]) == 2
    assert "not known" in capsys.readouterr().err


def test_overlap_compares_every_pair() -> None:
    one, two = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    splits = {"train": Split(one, one), "validation": Split(two, two), "test": Split(two, two)}
    assert "1 inputs of test are in validation" in str(testing._overlap(splits))
