"""What a person chooses of a space: how it is written, what becomes of it, and data that changes under a run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nas import search, workplace
from nas.progress import _LineView
from nas.space import SpaceError, canonical, digest, file_name, load, with_options
from nas.store import Store

CHOSEN = str(Path(__file__).parent / "spaces" / "chosen.py")


def test_options_are_applied_in_order_and_named(tmp_path: Path) -> None:
    (tmp_path / "a b&c=2.txt").write_text("2.2")
    reference = with_options(CHOSEN, {"size": "large", "data": str(tmp_path / "a b&c=2.txt")})
    space = load(reference)
    assert space.name == "chosen?size=large&data=a b&c=2.txt" and space.spec.width == 16
    assert space.task.split("test").targets.mean() > load(CHOSEN).task.split("test").targets.mean()
    assert file_name(space.name) == "chosen-size-large-data-a-b-c-2.txt"


def test_space_made_larger_keeps_its_options() -> None:
    space = load(f"{CHOSEN}?size=large@width=2")
    assert space.spec.width == 32 and space.name == "chosen?size=large@width=2"


def test_canonical_reference_finds_the_data_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "radius.txt").write_text("2.2")
    monkeypatch.chdir(tmp_path)
    reference = canonical(with_options(CHOSEN, {"data": "radius.txt"}))
    monkeypatch.chdir("/")
    assert load(reference).task.split("test").targets.mean() > 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": "3"}, "has no option 'depth'; it has data, size"),
        ({"size": "huge"}, "its sizes are small, large; give one of them"),
        ({"data": "nowhere.txt"}, "there is no file nowhere.txt"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(options: dict[str, str], said: str) -> None:
    with pytest.raises(SpaceError, match=said) as raised:
        load(with_options(CHOSEN, options))
    assert "\n" not in str(raised.value)


def test_options_after_a_factor_are_refused() -> None:
    with pytest.raises(SpaceError, match="write options before '@width'"):
        with_options(f"{CHOSEN}@width=2", {"size": "small"})


def test_digest_depends_on_the_data_and_not_on_where_it_lies(tmp_path: Path) -> None:
    for name, text in (("one", "2.7\n"), ("other", "2.2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "radius.txt").write_text(text)
    same, other = (load(with_options(CHOSEN, {"data": str(tmp_path / n / "radius.txt")})) for n in ("one", "other"))
    shutil.copy(tmp_path / "one" / "radius.txt", tmp_path / "radius.txt")
    moved = load(with_options(CHOSEN, {"data": str(tmp_path / "radius.txt")}))
    assert digest(same) == digest(moved) != digest(other)


BAD = {
    "empty.txt": (b"", "is empty. Give a file with text in it"),
    "binary.txt": (b"\x00\x01" * 5_000, "has zero bytes, so it is no text"),
    "short.txt": (b"one line\n", "Give 100,000 units"),
    "tokens.bin": (b"\xff\xff" * 50_000, "has token 65535; vocab=50257 allows less"),
}


@pytest.mark.parametrize("more", [["--name", "run"], ["--dry-run"]], ids=["search", "dry-run"])
@pytest.mark.parametrize("name", BAD)
def test_text_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: list[str]
) -> None:
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path, "--space", "byte_lm", "--data", str(tmp_path / name), *more) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("time=")]
    assert len(told) == 1 and said in told[0]


def run(tmp_path: Path, *more: str) -> int:
    return search.main(["--budget", "4", "--workers", "2", "--results", str(tmp_path), *more])


@pytest.mark.slow
def test_data_that_changed_before_a_resume_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "radius.txt"
    data.write_text("2.7")
    assert run(tmp_path, "--space", CHOSEN, "--data", str(data), "--name", "run", "--confirm", "0") == 0
    assert Store(tmp_path / "run").config["space_name"] == "chosen?data=radius.txt"
    data.write_text("2.2")
    capsys.readouterr()
    assert search.main(["--resume", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "restore the space's file or its data, or start a new run" in line


@pytest.mark.parametrize("moment", [pytest.param(one, marks=pytest.mark.slow) for one in ("start", "admit", "first")])
def test_data_that_goes_during_a_run_is_one_line_and_the_run_goes_on_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    data, kept = tmp_path / "radius.txt", tmp_path / "kept.txt"
    data.write_text("2.7")
    event = _LineView.event

    def moved(self: _LineView, kind: str, **fields: Any) -> None:
        if data.exists() and (moment == kind or moment == fields.get("task")):
            data.rename(kept)
        event(self, kind, **fields)

    monkeypatch.setattr(_LineView, "event", moved)
    assert run(tmp_path, "--space", CHOSEN, "--data", str(data), "--name", "run", "--confirm", "1") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nas.search:")]
    assert "there is no file" in line or "is not what the run began with" in line
    assert not [entry for entry in Store(tmp_path / "run").entries() if entry.failure is not None]
    kept.rename(data)
    monkeypatch.undo()
    assert search.main(["--resume", str(tmp_path / "run")]) == 0


def test_test_split_of_changed_data_is_not_made(tmp_path: Path) -> None:
    from nas.train.job import _test, prepare_job

    data = tmp_path / "radius.txt"
    data.write_text("2.7")
    reference = with_options(CHOSEN, {"data": str(data)})
    prepare_job(reference, str(tmp_path / "data"))
    data.write_text("2.2")

    class Stand:
        """What is read of an engine before the data is compared."""

        space = load(reference)

    with pytest.raises(OSError, match="the data is not what the run began with"):
        _test(Stand(), [], tmp_path / "scores", tmp_path / "data")  # type: ignore[arg-type]


@pytest.mark.parametrize(("devices", "cores", "expected"), [(0, 6, 6), (1, 16, 4), (1, 2, 2), (4, 2, 4), (8, 64, 32)])
def test_trainings_on_devices_leave_cores_to_what_admits(
    monkeypatch: pytest.MonkeyPatch, devices: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(workplace, "accelerators", lambda: [f"cuda:{index}" for index in range(devices)])
    monkeypatch.setattr(workplace, "cores", lambda: cores)
    assert workplace.default_workers() == expected


@pytest.mark.slow
def test_run_of_more_devices_than_there_are_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert run(tmp_path, "--space", CHOSEN, "--devices-per-trial", "2", "--name", "run", "--confirm", "0") == 0
    assert all(score.point for score in Store(tmp_path / "run").scores())
    monkeypatch.delenv("XLA_FLAGS")
    capsys.readouterr()
    assert search.main(["--resume", str(tmp_path / "run"), "--confirm", "1"]) == 2
    assert "has 2 devices and this machine has 1; go on where there are as many" in capsys.readouterr().err


def test_devices_that_do_not_divide_a_batch_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "devices_here", lambda: 3)
    assert run(tmp_path, "--space", CHOSEN, "--devices-per-trial", "3") == 2
    assert "does not divide the space's microbatch, 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "said"), [("0", "give 1 or more"), ("2", "this machine has 1; give that many or fewer")]
)
def test_devices_that_there_are_not_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: str, said: str
) -> None:
    assert run(tmp_path, "--space", CHOSEN, "--devices-per-trial", count) == 2
    assert said in capsys.readouterr().err
