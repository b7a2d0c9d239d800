"""Test code blocks of the documentation: Python runs, settings are valid, commands exist.

The commands themselves are run by tests/pipeline/test_docs_commands.py.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.cli.parser import get_main_parser
from PIL import Image

from gear import params
from gear.cli import parser
from gear.runs.study_file import load_study
from tests.support.docs import LANGUAGES, NOT_RUN, PAGES, TREES, Block, blocks
from tests.support.repo import REPO
from tests.unit.test_pretrained import checkpoint

__all__ = ["checkpoint"]
BLOCKS = blocks()
COMMANDS = [
    (block.page, line)
    for block in BLOCKS
    if block.language == "sh"
    for paragraph in block.paragraphs()
    for line in paragraph
]
CLASSES = ["Food & Drink", "Smileys & Emotion", "Symbols"]
WITH_PYTHON = sorted({block.page for block in BLOCKS if block.language == "python"})


def python_of(page: Path) -> list[str]:
    """Return the Python blocks of a page, or the code cells of a notebook."""
    if page.suffix != ".ipynb":
        name = str(page.relative_to(REPO))
        return [b.text for b in BLOCKS if (b.page, b.language) == (name, "python")]
    cells = json.loads(page.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("page", [*WITH_PYTHON, "docs/first-look.ipynb"])
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


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_is_of_a_kind_that_is_tested(block: Block) -> None:
    assert block.language in LANGUAGES


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 100


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_still_in_the_documentation(pattern: str) -> None:
    assert any(re.match(pattern, line) for _, line in COMMANDS)


@pytest.mark.parametrize("start", TREES)
def test_trees_that_are_not_run_are_still_in_the_documentation(start: str) -> None:
    assert any(start in page.read_text().replace("\n    ", "\n") for page in PAGES)


SETTINGS = [block for block in BLOCKS if block.language == "yaml" and "arms:" not in block.text]
STUDIES = [block for block in BLOCKS if block.language == "yaml" and "arms:" in block.text]


@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: f"{block.page}:{block.line}")
def test_settings_are_valid(block: Block) -> None:
    values = yaml.safe_load(re.sub(r"[0-9a-f]*\.\.\.(?=[},])", "f" * 64, block.text))
    params.load_preset("quickstart", values)


@pytest.mark.parametrize("block", STUDIES, ids=lambda block: f"{block.page}:{block.line}")
def test_study_files_are_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    (tmp_path / "study.yaml").write_text(block.text)
    load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_known_with_their_arguments(page: str, line: str) -> None:
    for program, *words in _commands(line.replace("...", "")):
        if program == "make":
            _require_targets(words)
        elif program == "gear" and words[0] != "--version":
            _, unknown = parser(words[0]).parse_known_args(words)
            assert unknown == []
        elif program == "dvc":
            _dvc().parse_args(words)


def _commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, split at && and |."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    for is_operator, words in groupby(lexer, lambda word: set(word) <= set("&|;")):
        if not is_operator:
            yield list(words)


def _require_targets(words: list[str]) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= set(targets)


@cache
def _dvc() -> argparse.ArgumentParser:
    return get_main_parser()
