"""Test that `gear init` makes a project that fits images and machine, or says why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from gear import params
from gear.cli import main
from gear.commands import project
from gear.commands.fit_preset import MANY, Machine, fit
from tests.support.datasets import picture
from tests.support.repo import REPO

COMMIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "start"]
LAPTOP = Machine(cores=2, has_gpu=False)
SERVER = Machine(cores=32, has_gpu=False)
GPU = Machine(cores=16, has_gpu=True)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return tmp_path


def images(root: Path, count: int = 24) -> Path:
    root.mkdir(parents=True)
    for number in range(count):
        (root / f"{number}.png").write_bytes(picture(number))
    return root


@pytest.fixture
def birds(elsewhere: Path) -> Path:
    return images(elsewhere / "birds")


def fitted(count: int, side: int, machine: Machine) -> params.Config:
    preset, values = fit(count, side, machine)
    return params.load_preset(preset, values)


@pytest.mark.parametrize(
    ("side", "machine", "count", "size"),
    [
        (20, LAPTOP, 1000, 16),
        (8, LAPTOP, 1000, 16),
        (500, LAPTOP, 1000, 32),
        (500, SERVER, 1000, 64),
        (40, SERVER, 1000, 32),
        (500, GPU, 1000, 64),
        (500, GPU, MANY, 128),
        (100, GPU, MANY, 64),
    ],
)
def test_size_follows_images_and_machine(
    side: int, machine: Machine, count: int, size: int
) -> None:
    assert fitted(count, side, machine).data.size == size


def test_more_images_get_more_codes_and_fewer_a_smaller_generator() -> None:
    few, some, many = (fitted(count, 100, LAPTOP) for count in (60, 1500, 60_000))
    assert [c.tokenizer.codes for c in (few, some, many)] == [128, 512, 1024]
    assert few.generator.width < some.generator.width == many.generator.width
    assert fitted(60_000, 100, GPU).tokenizer.codes == 4096
    assert fitted(60_000, 100, GPU).generator.width > many.generator.width


def test_steps_follow_the_cores() -> None:
    one, two, four = (
        fitted(1500, 32, Machine(cores, has_gpu=False)).joint.steps for cores in (1, 2, 4)
    )
    assert one * 4 == two * 2 == four == 600


def test_a_cpu_takes_part_of_a_large_set_and_a_gpu_all_of_it() -> None:
    assert fitted(1_000_000, 256, LAPTOP).data.limit == 20_000
    assert fitted(1_000_000, 256, GPU).data.limit == 0


@pytest.mark.parametrize(
    ("count", "side", "machine"),
    product((24, 60, 499, 500, 10_000, 10**6), (2, 32, 3000), (LAPTOP, SERVER, GPU)),
)
def test_every_fit_is_valid_and_its_batches_fit_into_the_training_split(
    count: int, side: int, machine: Machine
) -> None:
    config = fitted(count, side, machine)
    training = (config.data.limit or count) * (1 - config.data.val_share)
    assert max(config.tokenizer.batch, config.joint.batch) <= training / 2
    assert config.data.val_share * count > config.evaluate.neighbours - 1


def test_a_project_is_complete_and_its_pipeline_loads(
    birds: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["init", "project", "--images", "birds"]) == 0
    said = capsys.readouterr().out
    assert "24 images in one class, median side 40 px" in said
    folder = elsewhere / "project"
    made = {path.name for path in folder.iterdir()}
    assert made == {
        *("params.yaml", "dvc.yaml", "gear.lock", "README.md", "presets"),
        *(".dvc", ".dvcignore", ".git", ".gitignore"),
    }
    monkeypatch.chdir(folder)
    assert params.load().data.root == str(birds)
    assert params.load_for_stage("ingest").data.source == "folder"
    project.require_locked_code()
    command = ["git", "add", "--all", "--dry-run"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("add")


def test_images_in_the_project_are_named_from_there_and_stay_out_of_git(elsewhere: Path) -> None:
    images(elsewhere / "pictures/birds")
    (elsewhere / ".gitignore").write_text("mine\n.venv/")
    assert main(["init", "--images", "pictures/birds"]) == 0
    assert params.load().data.root == "pictures/birds"
    lines = Path(".gitignore").read_text().splitlines()
    assert {"mine", "/pictures/birds", "/data/shards"} <= {*lines}
    assert lines.count(".venv/") == 1


def test_names_that_git_dvc_or_a_shell_could_misread(elsewhere: Path) -> None:
    name = 'my "birds" {x} ${y} [é] *#'
    images(elsewhere / name)
    assert main(["init", "--images", name]) == 0
    assert params.load().data.root == name
    ignored = subprocess.run(["git", "check-ignore", f"{name}/1.png"], capture_output=True)
    assert ignored.returncode == 0
    (elsewhere / "my").mkdir()
    (elsewhere / "my/1.png").touch()
    assert subprocess.run(["git", "check-ignore", "my/1.png"], capture_output=True).returncode == 1
    status = [sys.executable, "-m", "dvc", "status", "--json", "ingest"]
    said = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["ingest"][0]["changed deps"][name] in ("new", "modified")


def test_a_folder_in_a_git_repository_makes_none_of_its_own(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_CEILING_DIRECTORIES")
    subprocess.run(["git", "init", "-q"], check=True)
    assert main(["init", "inner", "--images", "birds"]) == 0
    assert not Path("inner/.git").exists()
    assert Path("inner/.dvc/config").exists()


def test_a_repository_that_ignores_what_runs_are_recorded_in_is_refused(
    birds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GIT_CEILING_DIRECTORIES")
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".gitignore").write_text("*.lock\n*.png\nreports/\n")
    assert main(["init", "ml/inner", "--images", "birds"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gear init: ml/inner: git ignores dvc.lock, reports/metrics.json, ")
    assert error.count("\n") == 1
    assert not Path("ml").exists()
    Path(".gitignore").write_text("*.png\n/reports/\n")
    assert main(["init", "ml/inner", "--images", "birds"]) == 0


def test_without_images_the_packaged_ones_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "project", "--captions"]) == 0
    monkeypatch.chdir("project")
    data = params.load().data
    assert (data.source, data.condition) == ("openmoji", "caption")
    assert "CC BY-SA" in Path(data.root).read_text()


def test_a_dataset_of_the_hub_is_named_with_the_command_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "project", "--hub", "owner/some.birds"]) == 0
    said = capsys.readouterr().out
    assert "load_dataset('owner/some.birds', split='train')" in said
    monkeypatch.chdir("project")
    data = params.load().data
    assert (data.source, data.root) == ("huggingface", "data/raw/owner/some.birds")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["full", "--images", "birds"], "full holds notes.txt: name a new or an empty folder"),
        (["file", "--images", "birds"], "file is not a folder"),
        (["new", "--images", "nowhere"], "--images nowhere: no such folder"),
        (["new", "--images", "file"], "--images file: is not a folder"),
        (["new", "--images", "bare"], "--images: bare holds no <class>/<file>"),
        (["new", "--images", "few"], "--images few: 3 images, under 24"),
        (["new", "--images", "odd"], "class 'lonely' has one image"),
        (["new", "--images", "broken"], "none of its images can be read: no image of the formats"),
        (["new", "--images", "birds", "--captions"], "--captions: no birds/metadata.jsonl"),
        (["birds/new", "--images", "birds"], "it would hold the project"),
        (["birds", "--images", "birds"], "it would hold the project"),
        ([".", "--images", "data/birds"], "stages write to data/"),
        (["new", "--images", "a\x1b[31m"], "its name has the control character U+001B"),
        (["new", "--images", os.fsdecode(b"caf\xe9")], "its name is not UTF-8"),
        (["a\nb", "--images", "birds"], "its name has the control character U+000A"),
        (["new", "--hub", "../owner"], "a dataset's name is owner/name"),
        (["new", "--hub", "o/n'); import os"], "a dataset's name is owner/name"),
        (["--update"], "no gear.lock here"),
        (["new", "--update"], "--update stands alone"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    birds: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("bare").mkdir()
    Path("bare/notes.txt").write_text("mine")
    images(Path("few"), count=3)
    shutil.copytree("birds", "data/birds")
    images(Path("odd/birds"))
    images(Path("odd/lonely"), count=1)
    for name in ("a\x1b[31m", os.fsdecode(b"caf\xe9")):
        images(Path(name), count=1)
    Path("broken").mkdir()
    for number in range(24):
        Path(f"broken/{number}.png").write_bytes(b"no image")
    before = sorted(Path().rglob("*"))
    assert main(["init", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_project_is_not_made_twice(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "project"]) == 0
    assert main(["init", "project"]) == 2
    assert "is a project already" in capsys.readouterr().err


def test_a_stage_refuses_other_code_until_the_lock_is_updated(
    birds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "project", "--images", "birds"]) == 0
    monkeypatch.chdir("project")
    lock = yaml.safe_load(Path("gear.lock").read_text())
    lock["code"]["validation"] = "0" * 16
    lock["libraries"]["evidently"] = "0.1"
    Path("gear.lock").write_text(yaml.safe_dump(lock))
    capsys.readouterr()
    assert main(["validate"]) == 2
    error = capsys.readouterr().err
    assert "other code of validation, evidently 0.1, here" in error
    assert "gear init --update" in error
    assert main(["init", "--update"]) == 0
    said = capsys.readouterr().out
    assert "runs again: validate, codebook, and what follows" in said
    assert project.differences() == []
    assert main(["validate"]) == 2
    assert "git has no commit here" in capsys.readouterr().err
    subprocess.run([*COMMIT, "--allow-empty"], check=True)
    project.require_commit()


def test_every_dependency_on_code_or_library_becomes_an_entry_of_the_lock() -> None:
    original = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
    made = yaml.safe_load(project.pipeline_text())["stages"]
    lock = yaml.safe_load(project.lock_text())
    assert made.keys() == original.keys()
    for name, stage in made.items():
        old = original[name]
        assert not [path for path in stage.get("deps", []) if path.startswith("gear/")]
        entries = stage["params"][-1]["gear.lock"]
        code = [path for path in old["deps"] if path.startswith("gear/")]
        pins = [p["pyproject.toml"] for p in old.get("params", []) if isinstance(p, dict)]
        assert len(entries) == len(code) + sum(len(names) for names in pins)
        for entry in entries:
            kind, _, key = entry.partition(".")
            assert isinstance(lock[kind][key], str)
        assert stage["cmd"] == old["cmd"]
        assert stage.get("outs") == old.get("outs")


def test_the_hash_of_code_is_of_what_can_change_a_result(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "step.py").write_text("x = 1\n")
    before = project.code_hash(package)
    (package / "config.py").write_text("help = 2\n")
    (package / "__pycache__/step.cpython-311.pyc").write_bytes(b"compiled")
    assert project.code_hash(package) == before
    (package / "step.py").write_text("x = 2\n")
    changed = project.code_hash(package)
    (package / "step.py").rename(package / "steps.py")
    assert len({before, changed, project.code_hash(package)}) == 3


def test_a_preset_keeps_the_images_beside_a_mistake_elsewhere(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["init", "project", "--images", "birds"]) == 0
    monkeypatch.chdir("project")
    source = params.load().data.root
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 0", "sede: 0", 1))
    assert main(["preset", "tiny"]) == 0
    assert params.load().data.root == source


def test_a_preset_keeps_the_project_s_images(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "project", "--images", "birds"]) == 0
    monkeypatch.chdir("project")
    assert main(["preset", "tiny"]) == 0
    config = params.load()
    assert (config.data.source, config.data.root) == ("folder", str(birds))
    assert config.data.limit == params.load_preset("tiny").data.limit
