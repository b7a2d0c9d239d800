"""Test that `gear init` of an installed wheel makes a project whose stages run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gear import params
from gear.commands import project
from tests.support.datasets import picture
from tests.support.repo import REPO
from tests.support.settings import write_params

COMMIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "start"]
SOURCES = ("gear", "presets", "dvc.yaml", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(
                REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(REPO / name, source)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    shutil.rmtree(source)
    return folder / "site"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Return a flat folder of 60 images."""
    root = tmp_path / "birds"
    root.mkdir()
    for number in range(60):
        (root / f"{number}.png").write_bytes(picture(number))
    return root


def run(site: Path, folder: Path, *words: str, code: int = 0) -> str:
    """Return the output of `python -m WORDS` with the installed wheel and without a checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment | {"DVC_NO_ANALYTICS": "1", "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_wheel_makes_a_project_of_the_same_code_as_the_checkout(
    site: Path, birds: Path, tmp_path: Path
) -> None:
    run(site, tmp_path, "gear", "init", "project", "--images", "birds")
    folder = tmp_path / "project"
    assert (folder / "gear.lock").read_text() == project.lock_text()
    assert (folder / "dvc.yaml").read_text() == project.pipeline_text()
    status = run(site, folder, "dvc", "status", "ingest")
    assert "gear.lock" in status
    assert str(birds) in status


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_project_s_pipeline_runs_and_runs_again_where_the_installed_code_changed(
    site: Path, birds: Path, tmp_path: Path
) -> None:
    run(site, tmp_path, "gear", "init", "project", "--images", "birds")
    folder = tmp_path / "project"
    data = {"source": "folder", "root": str(birds), "val_share": 0.2, "limit": 0}
    tiny = params.load_preset("tiny", {"data": data})
    write_params(folder, tiny)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(COMMIT, cwd=folder, check=True)
    run(site, folder, "dvc", "repro")
    assert (folder / "reports/index.html").stat().st_size > 100_000
    assert "birds" in (folder / "reports/index.html").read_text()
    assert "up to date" in run(site, folder, "dvc", "status")

    page = site / "gear/report/page.py"
    page.write_text(page.read_text() + "\n# another version\n")
    assert "other code of report" in run(site, folder, "gear", "report", code=2)
    assert "runs again: report" in run(site, folder, "gear", "init", "--update")
    status = run(site, folder, "dvc", "status")
    assert [line for line in status.splitlines() if not line.startswith("\t")] == ["report:"]
    assert "Running stage 'report'" in run(site, folder, "dvc", "repro")
    assert "up to date" in run(site, folder, "dvc", "status")
