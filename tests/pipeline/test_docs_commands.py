"""Test that every documented command runs in a finished project, or a list says why not."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.docs import blocks, reason_not_to_run, script
from tests.support.repo import REPO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPTS = {
    f"{block.page}:{block.line}" + (f"-{number}" if number else ""): script(paragraph)
    for block in blocks()
    if block.language == "sh"
    for number, paragraph in enumerate(block.paragraphs())
    if script(paragraph)
}
SERVER_COMMANDS = sorted(
    line
    for block in blocks()
    if block.language == "sh"
    for paragraph in block.paragraphs()
    for line in paragraph
    if line.startswith("prefect ") and reason_not_to_run(line)
)


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a project, with the project's own code."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "DVC_NO_ANALYTICS": "1",
        **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "t@example.com" for who in ("AUTHOR", "COMMITTER")},
    }
    command = ["bash", "-c", f"set -euo pipefail\n{text}"]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800
    )


def pictures(folder: Path) -> None:
    """Write a photo, a folder of photos and one with a folder per class."""
    random = np.random.default_rng(0)
    files = ["photo.jpg", "photos/0.jpg", "photos/1.png"]
    files += [f"pictures/{name}/{n}.png" for name in ("owls", "wrens") for n in range(16)]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone with a committed run of the tiny preset, an experiment and some images."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    done = run(
        folder,
        """git init -q -b main
        printf '/photo*\\n/pictures/\\n/shared/\\n' >> .git/info/exclude
        gear preset tiny && dvc repro -q
        git add -A && git commit -qm run
        dvc exp run --temp -q -n tried -S joint.recipe=continued""",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    pictures(folder)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_run(finished: Path, tmp_path: Path, name: str) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))
    done = run(project, SCRIPTS[name])
    assert done.returncode == 0, f"{SCRIPTS[name]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("line", SERVER_COMMANDS)
def test_prefect_knows_the_commands_that_need_a_server(line: str) -> None:
    from prefect.cli._app import _app

    words = [word.replace("ID", "0" * 32) for word in shlex.split(line)[1:]]
    _app.parse_args(words, exit_on_error=False, print_error=False)
