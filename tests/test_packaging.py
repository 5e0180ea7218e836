"""What is shipped works where nothing else is: the wheel, in a clean environment."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_runs_a_search_in_a_clean_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "nas/search_spaces/mnist1d/space.py" in names and "nas/kernels/__init__.py" in names
    assert "nas/report/static/charts.js" in names and "nas/report/static/page.html" in names
    assert any(name.startswith("nas/search_spaces/mnist1d/baselines/") for name in names)
    assert not any(name.split("/")[0] in ("kernels", "search_spaces", "tests", "benchmarks") for name in names)
    run(sys.executable, "-m", "venv", tmp_path / "clean", cwd=tmp_path)
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    out = run(python, "-m", "nas.search", "--budget", "2", "--confirm", "0", "--name", "clean", cwd=tmp_path)
    assert "2 of 2 candidates" in out and "gru" in out
    assert (tmp_path / "results" / "runs" / "clean" / "run.db").exists()
    site = run(python, "-c", "import nas; print(nas.__file__)", cwd=tmp_path)
    assert str(tmp_path) in site
