"""Test that Docker images install what the Makefile does, in its order, and no private files."""

from __future__ import annotations

import shlex
import subprocess
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from gear.report.provenance import DETERMINES
from tests.support.repo import REPO

OPTIONS_WITH_VALUE = ("-c", "--extra-index-url")


def read_dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    lines = (REPO / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    words = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, argument) for name, argument in words]


def stage(target: str) -> list[tuple[str, str]]:
    """Return the instructions of a build stage, preceded by those of its base stages."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, argument in read_dockerfile():
        if instruction == "FROM":
            base, _, name = argument.split()
            stages[name] = list(stages.get(base, []))
        elif name:
            stages[name].append((instruction, argument))
    return stages[target]


def arguments(target: str, instruction: str) -> list[str]:
    return [argument for name, argument in stage(target) if name == instruction]


def installed(commands: list[str]) -> list[list[str]]:
    """Return the packages and build options of each `pip install` in some shell commands."""
    found = []
    for command in commands:
        if "pip install" not in command:
            continue
        words = shlex.split(command)
        how = [word for word in words if word.startswith("DS_BUILD_OPS")]
        rest = words[words.index("install") + 1 :]
        values = {i + 1 for i, word in enumerate(rest) if word in OPTIONS_WITH_VALUE}
        skipped = {*OPTIONS_WITH_VALUE, "--quiet", "--disable-pip-version-check"}
        kept = [w for i, w in enumerate(rest) if i not in values and w not in skipped]
        found.append(how + [word.removesuffix("[dev]") for word in kept])
    return found


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_install_what_the_makefile_does_in_its_order(target: str) -> None:
    """Test the order torch, DeepSpeed, rest: another one installs but does not work."""
    make = ["make", "--dry-run", "--always-make", "setup"]
    recipe = subprocess.run(make, cwd=REPO, capture_output=True, text=True, check=True).stdout
    wanted = installed(recipe.splitlines())
    assert len(wanted) == 4
    steps = arguments(f"packages-{target}", "RUN")
    commands = [command.strip() for step in steps for command in step.split("&&")]
    assert installed(commands) == wanted
    unpinned = [c for c in commands if "pip install" in c and "-c constraints.txt" not in c]
    assert unpinned == []
    assert [a for a in arguments(target, "COPY") if a.startswith(f"--from=packages-{target} ")]


def test_blocks_can_be_compiled_in_the_image_for_gpus() -> None:
    assert [run for run in arguments("cuda", "RUN") if "apt-get install" in run and '"g++=' in run]
    assert arguments("cuda", "USER")[-1] == "1000:1000"


def test_images_run_the_python_that_the_makefile_asks_for() -> None:
    (version,) = [a for name, a in read_dockerfile() if name == "ARG" and a.startswith("PYTHON=")]
    major, minor = version.removeprefix("PYTHON=").split(".")[:2]
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert f"{major}.{minor}" in SpecifierSet(project["requires-python"])
    assert f"command -v python{major}.{minor}" in (REPO / "Makefile").read_text()


def test_images_take_what_determines_a_run_and_no_data_history_or_credentials() -> None:
    lines = [
        x for x in (REPO / ".dockerignore").read_text().splitlines() if x and not x.startswith("#")
    ]
    assert lines[0] == "*"
    taken = {line[1:] for line in lines if line.startswith("!")}
    assert {*DETERMINES, "flows", "presets", ".dvc/config"} <= taken
    assert all((REPO / name).exists() for name in taken)
    assert not {
        name
        for name in taken
        if name.split("/")[0] in ("data", ".git", ".gear") or name in (".dvc", ".dvc/config.local")
    }


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_end_as_a_plain_user_under_tini(target: str) -> None:
    assert arguments(target, "USER")[-1] == "1000:1000"
    assert arguments(target, "ENTRYPOINT")[-1].startswith('["tini"')
    assert arguments(target, "HEALTHCHECK")
