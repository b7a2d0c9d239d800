"""Identify a training, to decide whether it can resume the state of an earlier one.

Its identity is what changes the mathematics: settings, contents of inputs, code, and the versions
of torch and DeepSpeed. The number of steps, how often something is logged, saved or measured, the
machine, and the locations of files are not part of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gear

PINS = ("torch", "deepspeed")
NEUTRAL_SECTIONS = ("host", "health", "teacher")  # the input data/features identifies the teachers
NEUTRAL_KEYS = ("joint.fd_n",)  # besides every `steps` and `*_every`

# Code that decides what a training computes: packages or files of gear/
AUTOENCODER_CODE = (
    "data",
    "encoders/efficientnet.py",
    "losses",
    "nn",
    "tokenizer",
    "training/autoencoder.py",
    "training/batches.py",
    "training/ema.py",
    "training/engine.py",
    "training/loop.py",
)
JOINT_CODE = (*AUTOENCODER_CODE, "generator", "joint")
# files of these packages that no training computes with: the last parts of their paths
NEUTRAL_FILES = (
    "config.py",
    "public_layouts.py",
    "data/near_twins.py",
    "generator/inference.py",
    "generator/prompts.py",
    "generator/sampling.py",
    "joint/guidance_gradient.py",
    "joint/quality_curve.py",
    "joint/validation_curve.py",
)

ABSENT = "absent"  # in place of the hash of a missing input
MISSING = "-"  # of a value that only one of two trainings has
LARGE_FILE = 64 << 20  # bytes; of larger files, evenly spaced blocks are hashed
BLOCKS = 17
BLOCK = 1 << 20


@dataclass(frozen=True)
class Identity:
    """What determines a training: equal identities give equal results after equal steps.

    settings: values by name, such as `joint.batch`; inputs and code: hashes by name.
    params: all settings of the run, for readers of its state; not part of the identity.
    """

    stage: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]
    versions: dict[str, str]
    params: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """Hash that names the folder of the state."""
        text = json.dumps(self.facts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def has_absent_inputs(self) -> bool:
        """Whether an input is missing, so that its state cannot be told by its fingerprint."""
        return ABSENT in self.inputs.values()

    def facts(self) -> dict[str, Any]:
        """Return what is hashed, as JSON."""
        return {
            "stage": self.stage,
            "settings": self.settings,
            "inputs": self.inputs,
            "code": self.code,
            "versions": self.versions,
        }

    def differences(self, description: Mapping[str, Any]) -> list[str]:
        """Return how a described state differs from this training, one phrase a difference.

        Inputs that are missing now are not compared, nor code that only one of the two runs: which
        code that is can depend on such an input.
        """
        phrases = [
            f"{name} {old} -> {new}"
            for kind in ("settings", "versions")
            for name, old, new in _changed(description.get(kind, {}), getattr(self, kind))
        ]
        for kind in ("inputs", "code"):
            changed = _changed(description.get(kind, {}), getattr(self, kind))
            phrases += [
                f"other {kind} {name}"
                for name, old, new in changed
                if new != ABSENT
                and not (kind == "code" and self.has_absent_inputs and MISSING in (old, new))
            ]
        return phrases


def identify(
    stage: str, params: dict[str, Any], inputs: dict[str, Path], code: tuple[str, ...]
) -> Identity:
    """Return the identity of a training.

    Args:
        stage: The stage.
        params: Sections of the settings that the stage declares.
        inputs: Files or folders by name; a missing one is recorded as `ABSENT`.
        code: Packages or files of gear/, such as `AUTOENCODER_CODE`.
    """
    return Identity(
        stage,
        settings=mathematical_settings(params),
        inputs={n: content_hash(p) if p.exists() else ABSENT for n, p in inputs.items()},
        code=code_hashes((*code, f"stages/{stage}.py")),
        versions={name: version(name) for name in PINS},
        params=params,
    )


def mathematical_settings(params: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that change what a training computes, by `section.key`.

    >>> mathematical_settings({"joint": {"steps": 9, "batch": 8, "fd_every": 2}, "host": {"x": 1}})
    {'joint.batch': 8}
    """
    return {
        f"{section}.{key}": _without_place(value)
        for section, values in params.items()
        for key, value in values.items()
        if section not in NEUTRAL_SECTIONS
        and key != "steps"
        and not key.endswith("_every")
        and f"{section}.{key}" not in NEUTRAL_KEYS
    }


def _without_place(value: Any) -> Any:
    """Return a setting; of a file that its sha256 identifies, without where it lies."""
    is_pinned = isinstance(value, dict) and value.get("path") and value.get("sha256")
    return {**value, "path": ""} if is_pinned else value


def code_hashes(parts: Iterable[str], root: Path = Path(gear.__file__).parent) -> dict[str, str]:
    """Return a hash of each Python file, which ignores docstrings, comments and formatting."""
    files: list[Path] = []
    for part in parts:
        path = root / part
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return {
        file.relative_to(root).as_posix(): _code_hash(file.read_text())
        for file in files
        if not any(file.match(neutral) for neutral in NEUTRAL_FILES)
    }


def content_hash(*paths: Path) -> str:
    """Return a hash of files by content, and of folders by their files' names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
        for file in files:
            digest.update(file.relative_to(path).as_posix().encode())
            digest.update(_content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    """Hash a file; of a large one, only its size and evenly spaced blocks, to save time.

    The last block of a Parquet file contains its footer, with the smallest and largest sha256 of
    the images in each row group.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= LARGE_FILE:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(BLOCKS):
            stream.seek((size - BLOCK) * number // (BLOCKS - 1))
            digest.update(stream.read(BLOCK))
        return digest.digest()


def _code_hash(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (name, old.get(name, MISSING), new.get(name, MISSING))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
