"""The images hold what the Makefile installs, in its order, on its Python, and nothing that must stay at home."""

from __future__ import annotations

import re
import shlex

import pytest

from gear.report.provenance import DETERMINES
from tests.support.repo import REPO

DOCKERFILE = (REPO / "Dockerfile").read_text()
MAKEFILE = (REPO / "Makefile").read_text()


def stage(name: str) -> str:
    """A build stage's lines and those of the stages it starts from."""
    found = re.search(rf"^FROM (\S+) AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found is not None, name
    return ("" if ":" in found[1] else stage(found[1])) + found[2]


def installs(text: str, pip: str) -> list[list[str]]:
    """What each pip command of a text installs, with the options that decide how."""
    commands = []
    for line in re.findall(rf"(?:DS_BUILD_OPS=0 )?{re.escape(pip)} .*", text):
        words = shlex.split(line.replace(pip, "", 1).rstrip("\\"))
        skipped = {i + 1 for i, word in enumerate(words) if word in ("-c", "--extra-index-url")}
        kept = [
            w
            for i, w in enumerate(words)
            if i not in skipped and w not in ("-c", "--extra-index-url")
        ]
        commands.append([w.removesuffix("[dev]") for w in kept])
    return commands


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_install_what_the_makefile_does_in_its_order(target: str) -> None:
    """Torch before DeepSpeed before the rest: another order installs and is broken."""
    wanted = installs(MAKEFILE.split("$(STAMP):")[1].split("repro:")[0], "$(PIP)")
    assert len(wanted) == 4
    text = stage(f"packages-{target}")
    assert installs(text, "pip install") == wanted
    assert text.count("pip install ") == text.count("pip install -c constraints.txt ")
    assert f"COPY --from=packages-{target} " in stage(target)


def test_images_run_the_python_that_the_makefile_asks_for() -> None:
    version = re.search(r"^ARG PYTHON=(\d+\.\d+)\.\d+-", DOCKERFILE, re.M)
    assert version is not None and f"command -v python{version[1]}" in MAKEFILE


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
    text = stage(target)
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "1000:1000"
    assert 'ENTRYPOINT ["tini"' in text and "HEALTHCHECK" in text
