"""The documentation's Python runs, and its commands are ones that `gear` and `make` know."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gear.cli import parser
from tests.support.repo import REPO
from tests.unit.test_pretrained import checkpoint

__all__ = ["checkpoint"]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:    |\$ )((?:gear|make) [a-z-].*)$", re.MULTILINE)
MESSAGE = re.compile(r"(gear|make) [a-z]+:")  # what a command prints
CLASSES = ["Food & Drink", "Smileys & Emotion", "Symbols"]


def python_of(page: Path) -> list[str]:
    """Return the blocks of Python of a page, or the code cells of a notebook."""
    if page.suffix != ".ipynb":
        return BLOCK.findall(page.read_text())
    cells = json.loads(page.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/first-look.ipynb"])
def test_python_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "data/models/generator")
    config = Path("data/models/generator/generator/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"class_names": CLASSES}))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    blocks = python_of(REPO / page)
    assert blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)


def commands() -> list[tuple[str, str]]:
    """Every command line of the pages, with its page, without comments and continuations."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in COMMAND.findall(text):
            if not MESSAGE.match(line):
                found.append((page.name, re.split(r"\s#|&&|\|", line)[0].strip()))
    return found


def test_there_are_commands_to_look_at() -> None:
    assert len(commands()) > 50


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_known_with_their_arguments(page: str, line: str) -> None:
    program, *words = shlex.split(line.replace("...", ""))
    if program == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        wanted = [word for word in words if "=" not in word and not word.startswith("-")]
        assert set(wanted) <= set(targets)
        return
    if words[0] == "--version":
        return
    _, unknown = parser(words[0]).parse_known_args(words)
    assert unknown == []
