"""Test projects in a folder of a larger git repository: each command that reads revisions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from flows import artifacts
from gear import paths
from gear.git_project import files_at, git_root, project_prefix
from gear.report.live_page import committed_settings
from gear.runs.find_checkpoints import newest
from gear.runs.revision import find_revision
from tests.support.runs import commit, dvc, gear, git, into_larger_repository, toy_run
from tests.support.studies import ran, study_checkout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("monorepo")
    return into_larger_repository(toy_run(folder / "toy"), folder / "repository")


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the project, with its repository."""
    shutil.copytree(finished.parents[1], tmp_path / "repository", symlinks=True)
    return tmp_path / "repository/ml/toy"


def test_the_project_is_found_in_its_repository(finished: Path, tmp_path: Path) -> None:
    assert git_root(finished) == finished.parents[1]
    assert project_prefix(finished) == Path("ml/toy")
    assert project_prefix(finished.parents[1]) == Path()
    (tmp_path / "link").symlink_to(finished)
    assert project_prefix(tmp_path / "link") == Path("ml/toy")
    assert git_root(tmp_path) is None
    assert project_prefix(tmp_path) == Path()


def test_files_of_a_revision_have_their_paths_in_the_project(finished: Path) -> None:
    head = find_revision("HEAD", finished)
    assert head.read("make.py") == (finished / "make.py").read_bytes()
    assert head.read("data/shards/train/0.txt") == b"row 0"
    assert head.files.find("data/shards")[0] == "data/shards/train/0.txt"
    assert head.in_git("reports/metrics.json")
    assert not head.in_git("data/models/joint")
    assert head.read("ml/toy/make.py") is None
    assert head.read("web/index.html") is None
    assert find_revision("HEAD~1", finished).read("make.py") is None
    assert committed_settings(finished) == yaml.safe_load((finished / "params.yaml").read_bytes())
    metrics = artifacts._read(finished, paths.METRICS, "HEAD")
    assert metrics == (finished / paths.METRICS).read_bytes()
    assert artifacts._read(finished, paths.METRICS, "HEAD~1") == b""


def test_a_project_above_is_not_taken_for_this_one(project: Path) -> None:
    """Test a revision with a DVC project at git's root, and only a note in this one's folder."""
    root = project.parents[1]
    git(root, "checkout", "-q", "-b", "other", "HEAD~1")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    (root / "dvc.lock").write_text("of the project above")
    (project / "notes.txt").touch()
    git(root, "add", ".dvc/config", "dvc.lock", "ml/toy/notes.txt")
    git(root, "commit", "-q", "-m", "a project above")
    git(root, "checkout", "-q", "main")
    assert find_revision("other", project).read("dvc.lock") is None
    assert bytes(files_at(root, "other").read_bytes("dvc.lock")) == b"of the project above"


def test_a_run_is_verified_and_compared(project: Path) -> None:
    done = gear(project, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made again, same bytes: shards, evaluate; " in done.stdout
    earlier = gear(project, "verify", "HEAD~1")
    assert earlier.returncode == 2
    assert "HEAD~1 has no dvc.lock: nothing was run there" in earlier.stderr
    dvc(project, "exp", "run", "--temp", "--name", "seed-1", "-S", "run.seed=1")
    assert not git(project, "status", "--porcelain")
    done = gear(project, "compare", "HEAD", "seed-1")
    assert done.returncode == 0, done.stderr
    assert "98.5 ± 2.1" in done.stdout
    done = gear(project, "verify", "seed-1", "--stages", "joint")
    assert "made again, same bytes: joint; " in done.stdout, done.stderr
    (project / "make.py").write_text((project / "make.py").read_text() + "# the end\n")
    assert "changed and not committed: make.py: commit" in gear(project, "verify").stderr
    commit(project, "edit")
    done = gear(project, "accept-code", "--unproved", "joint")
    assert "same outputs: shards, evaluate; not proved: joint" in done.stdout, done.stderr


def test_experiments_in_progress_are_monitored(project: Path) -> None:
    apart = project / ".dvc/tmp/exps/standalone/tmpabc/ml/toy"
    state = apart / ".gear/joint/run"
    (state / "step-8").mkdir(parents=True)
    (state / "step-8/state.pt").write_bytes(b"eight")
    (state / "latest").write_text("step-8")
    assert [(c.run, c.step, c.root) for c in newest(project)] == [("run", 8, apart)]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [True, False])
def test_a_study_of_images_in_the_project(tmp_path: Path, ignored: bool) -> None:
    """Test images that git ignores, and images of which it ignores some."""
    checkout = study_checkout(tmp_path / "toy")
    (checkout / "images").mkdir()
    for name in ("cat.png", "dog.png"):
        (checkout / "images" / name).write_text(name)
    pattern = "/images\n" if ignored else "dog.png\n"
    (checkout / ".gitignore").write_text((checkout / ".gitignore").read_text() + pattern)
    pipeline = (checkout / "dvc.yaml").read_text()
    pipeline = pipeline.replace("deps: [make.py]", "deps: [make.py, images]")
    (checkout / "dvc.yaml").write_text(pipeline)
    study = checkout / "studies/toy.yaml"
    images = "settings: {data.source: folder, data.root: images, "
    study.write_text(study.read_text().replace("settings: {", images))
    project = into_larger_repository(checkout, tmp_path / "repository")
    done = gear(project, "study", "studies/toy.yaml", "--only", "fast-1")
    if not ignored:
        assert done.returncode == 2
        assert "git ignores 1 files of images, such as images/dog.png" in done.stderr
        assert not ran(project)
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 4 runs" in done.stdout
    stages = [line.split()[0] for line in ran(project)]
    assert stages == ["tokenizer", "joint", "sample", "evaluate"]
