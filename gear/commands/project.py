"""Write dvc.yaml and gear.lock of a project, a folder that runs the installed package.

Stages of a checkout depend on folders of gear/. A project has none: its stages depend on params in
gear.lock, a hash of each of those folders as installed and the versions of the libraries that can
change results. A stage refuses to run if gear.lock and the installation differ, so that every
output is made by the code that gear.lock records. `gear init --update` records the current
installation, and the stages whose entries changed run again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import gear
from gear import paths
from gear.core.errors import InputError
from gear.core.yaml_text import read_yaml

CODE = "gear/"  # prefix of dependencies on code in the package's dvc.yaml
KINDS = ("code", "libraries")  # sections of gear.lock
PINS = "pyproject.toml"  # the file of a checkout that names the libraries' versions
PIN = "tool.gear.pins."
NEUTRAL = ("config.py", ".md", ".pyc")  # endings of files that change no result
LOCK_HEAD = """\
# The installed package and libraries that this project's results are of: params of its stages.
# After an upgrade `gear init --update` writes it anew, and stages whose entries changed run again.
"""
PIPELINE_HEAD = """\
# The pipeline, written by `gear init`. `dvc repro` runs what changed; settings live in params.yaml,
# hashes in dvc.lock. The code is that of the installed package, which gear.lock names.
"""


def installed() -> dict[str, Any]:
    """Return what gear.lock records: the package's version, hashes of its code, libraries."""
    code: dict[str, str] = {}
    libraries: dict[str, str] = {}
    for stage in _graph()["stages"].values():
        code |= {_key(path): code_hash(paths.PACKAGE.parent / path) for path in _code(stage)}
        libraries |= {name: _version(name) for name in _libraries(stage)}
    return {
        "version": gear.__version__,
        "code": dict(sorted(code.items())),
        "libraries": dict(sorted(libraries.items())),
    }


def lock_text() -> str:
    """Return the text of gear.lock for the current installation."""
    here = installed()
    lines = [f"version: {json.dumps(here['version'])}"]
    for kind in KINDS:  # quoted: a hash can look like a number
        lines += [f"{kind}:", *(f"  {k}: {json.dumps(v)}" for k, v in here[kind].items())]
    return LOCK_HEAD + "\n".join(lines) + "\n"


def pipeline_text() -> str:
    """Return a project's dvc.yaml: the package's own, with params of gear.lock for its code."""
    graph = _graph()
    for stage in graph["stages"].values():
        locked = locked_entries(stage)
        stage["deps"] = [path for path in stage["deps"] if not path.startswith(CODE)]
        stage["params"] = [
            *(entry for entry in stage.get("params", []) if not _is_pins(entry)),
            {str(paths.LOCK): locked},
        ]
        for empty in [name for name in ("deps", "params") if not stage[name]]:
            del stage[empty]
    return PIPELINE_HEAD + yaml.safe_dump(graph, sort_keys=False, width=100)


def locked_entries(stage: dict[str, Any]) -> list[str]:
    """Return the entries of gear.lock that a stage of the package's dvc.yaml depends on."""
    return [
        *(f"code.{_key(path)}" for path in _code(stage)),
        *(f"libraries.{name}" for name in _libraries(stage)),
    ]


def differences() -> list[str]:
    """Return how the installation differs from gear.lock, a phrase an entry; [] in a checkout."""
    return [
        f"other code of {name}" if kind == "code" else f"{name} {old}, here {new}"
        for kind, name, old, new in _changes()
    ]


def require_locked_code() -> None:
    """Check that gear.lock of a project records the current installation; a checkout has none.

    Raises:
        InputError: if it does not.
    """
    if found := differences():
        raise InputError(
            f"{paths.LOCK} records another installation: {', '.join(found[:4])}"
            f"{', ...' if len(found) > 4 else ''}: `gear init --update` takes over what is "
            "installed, and what depends on it runs again; or install what is recorded"
        )


def require_commit() -> None:
    """Check that the git repository of a project has a commit, which trainings record.

    Raises:
        InputError: if it has none.
    """
    if not paths.LOCK.exists():
        return
    command = ["git", "rev-list", "--max-count=1", "--all"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git, and so no repository
        return
    if done.returncode == 0 and not done.stdout.strip():
        raise InputError(
            "git has no commit here, and runs are recorded in it: "
            '`git add . && git commit -m "Start"`'
        )


def stages_to_run() -> list[str]:
    """Return the stages that depend on an entry of gear.lock that differs from the installation."""
    changed = {f"{kind}.{name}" for kind, name, _, _ in _changes()}
    return [
        name
        for name, stage in _graph()["stages"].items()
        if changed.intersection(locked_entries(stage))
    ]


def code_hash(path: Path) -> str:
    """Return a hash of a module or package without compiled files, `*config.py` and Markdown."""
    digest = hashlib.sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and not file.name.endswith(NEUTRAL):
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _changes() -> list[tuple[str, str, str, str]]:
    """Return (code or libraries, entry, recorded, installed) where these differ."""
    if not paths.LOCK.exists():
        return []
    recorded = read_yaml(paths.LOCK, "`gear init --update` writes it")
    here = installed()
    changes = []
    for kind in KINDS:
        old = recorded.get(kind)
        old = old if isinstance(old, dict) else {}
        for name in sorted({*old, *here[kind]}):
            pair = str(old.get(name, "none")), here[kind].get(name, "none")
            if pair[0] != pair[1]:
                changes.append((kind, name, *pair))
    return changes


def _graph() -> dict[str, Any]:
    return read_yaml(paths.GRAPH, "install the package again")


def _code(stage: dict[str, Any]) -> list[str]:
    return [path for path in stage["deps"] if path.startswith(CODE)]


def _libraries(stage: dict[str, Any]) -> list[str]:
    pins = (entry[PINS] for entry in stage.get("params", []) if _is_pins(entry))
    return [name.removeprefix(PIN) for names in pins for name in names]


def _is_pins(entry: Any) -> bool:
    return isinstance(entry, dict) and PINS in entry


def _key(path: str) -> str:
    """Return the name of code in gear.lock.

    >>> _key("gear/core"), _key("gear/stages/ingest.py")
    ('core', 'stages/ingest')
    """
    return path.removeprefix(CODE).removesuffix(".py")


def _version(library: str) -> str:
    """Return an installed version without a suffix such as `+cpu`; "none" if it is missing."""
    try:
        return version(library).split("+")[0]
    except PackageNotFoundError:
        return "none"
