"""Check that edits change the stages that docs/architecture.md lists, and no others.

One file or setting at a time is edited in a temporary copy, and `dvc status` names the changed
stages. No stage runs: outputs are placeholders that `dvc commit` records. Takes about a minute.

    make graph-check
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

REPO = Path(__file__).parents[1]
COPIED = ("gear", "presets", "dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore")
TRAININGS = {"tokenizer", "joint", "generator"}
# stages that load torch
MODELS = {
    "features",
    "reference",
    *TRAININGS,
    "sample",
    "reconstruction",
    "evaluate",
    "codebook",
}


@dataclass(frozen=True)
class Case:
    """One edit and the stages that it must change."""

    edit: str
    expected: set[str]
    apply: Callable[[Path], None]


def append(file: str, text: str = "# an edit\n") -> Callable[[Path], None]:
    """Return an edit that adds a line to a file."""

    def apply(checkout: Path) -> None:
        with (checkout / file).open("a") as stream:
            stream.write(text)

    return apply


def replace(file: str, pattern: str, text: str) -> Callable[[Path], None]:
    """Return an edit that replaces the first match of a pattern in a file."""

    def apply(checkout: Path) -> None:
        before = (checkout / file).read_text()
        after, count = re.subn(pattern, text, before, count=1, flags=re.MULTILINE)
        assert count == 1, f"{file} has no {pattern}"
        (checkout / file).write_text(after)

    return apply


def setting(section: str, key: str, value: str) -> Callable[[Path], None]:
    """Return an edit of one key of params.yaml."""
    return replace("params.yaml", rf"(^{section}:\n(?:[ ].*\n|\n)*?  {key}: ).*$", rf"\g<1>{value}")


def pin(name: str) -> Callable[[Path], None]:
    """Return an edit of one pinned version."""
    return replace(
        "pyproject.toml", rf'(\[tool\.gear\.pins\][^\[]*?{name} = ")[^"]*', r"\g<1>9.9.9"
    )


CASES = (
    Case("help text of a setting", set(), append("gear/joint/config.py")),
    Case("the command line", set(), append("gear/cli.py")),
    Case("gear/params.py", set(), append("gear/params.py")),
    Case("host.checkpoint_every", set(), setting("host", "checkpoint_every", "7")),
    Case("host.device, host.threads", set(), setting("host", "threads", "1")),
    Case("health.min_usage", set(), setting("health", "min_usage", "0.01")),
    Case(
        "Inception's weights named",
        {"reference", "reconstruction", "evaluate", "report"},
        setting("evaluate", "inception", "{path: weights/inception.pth, sha256: ab}"),
    ),
    Case(
        "a metric's code",
        {"reconstruction", "evaluate", "codebook"},
        append("gear/evaluation/memorisation.py"),
    ),
    Case("the report's template", {"report"}, append("gear/report/page.py")),
    Case(
        "gear/generator/sampling.py",
        {"joint", "generator", "sample", "reconstruction", "evaluate", "codebook", "report"},
        append("gear/generator/sampling.py"),
    ),
    Case("gear/training/loop.py", TRAININGS, append("gear/training/loop.py")),
    Case("gear/joint/step.py", {"joint", "generator"}, append("gear/joint/step.py")),
    Case("gear/ingest/decode.py", {"ingest"}, append("gear/ingest/decode.py")),
    Case("an image in data.root", {"ingest"}, append("gear/ingest/openmoji.md")),
    Case("one stage's own file", {"sample"}, append("gear/stages/sample.py")),
    Case(
        "joint.lambda_tok",
        {"joint", "generator", "report"},
        setting("joint", "lambda_tok", "0.7"),
    ),
    Case("tokenizer.lr", {"tokenizer", "joint", "report"}, setting("tokenizer", "lr", "0.003")),
    Case("sample.grid_guidance", {"sample", "report"}, setting("sample", "grid_guidance", "3.0")),
    Case("sample.guidance", {"sample", "evaluate", "report"}, setting("sample", "guidance", "2.0")),
    Case("another torch", {"report", *MODELS}, pin("torch")),
    Case("another deepspeed", TRAININGS, pin("deepspeed")),
    Case("another pyarrow", {"ingest", "sample"}, pin("pyarrow")),
    Case(
        "content of the shards",
        {"ingest", "validate", "report", *MODELS},
        append("data/shards/placeholder"),
    ),
)


def main() -> int:
    """Print the table; return 1 if a row disagrees."""
    with tempfile.TemporaryDirectory(prefix="graph-check-") as folder:
        checkout = Path(folder)
        prepare(checkout)
        wrong = 0
        for case in CASES:
            saved = {
                path: path.read_bytes()
                for path in checkout.rglob("*")
                if path.is_file() and not {".dvc", ".git"} & set(path.parts)
            }
            case.apply(checkout)
            found = changed_stages(checkout)
            for path, content in saved.items():
                if path.read_bytes() != content:
                    path.write_bytes(content)
            agree = found == case.expected
            wrong += not agree
            print(f"{'agrees' if agree else 'DIFFERS':8} {case.edit:34} {names(case.expected)}")
            if not agree:
                print(f"{'':8} {'  dvc status says':34} {names(found)}")
    print(f"{len(CASES) - wrong} of {len(CASES)} rows agree")
    return int(wrong > 0)


def names(stages: set[str]) -> str:
    """Return stages as text, in the order of dvc.yaml."""
    order = list(yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"])
    return " ".join(sorted(stages, key=order.index)) or "nothing"


def prepare(checkout: Path) -> None:
    """Fill a folder with a copy of the project, in which every stage is recorded as run."""
    for name in COPIED:
        if (REPO / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPO / name, checkout / name, ignore=ignored)
        else:
            shutil.copy(REPO / name, checkout / name)
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    dvc(checkout, "init", "-q")
    pipeline = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]
    for stage in pipeline.values():
        entries = [*stage.get("outs", []), *stage.get("metrics", [])]
        for entry in entries:
            path = checkout / (entry if isinstance(entry, str) else next(iter(entry)))
            if not path.suffix:
                path = path / "placeholder"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.name}\n")
    for stage in pipeline.values():  # single files that stages read inside another's output
        for dep in stage["deps"]:
            if dep.startswith("data/") and Path(dep).suffix:
                (checkout / dep).write_text("placeholder\n")
    dvc(checkout, "commit", "--force", "--quiet")
    left = changed_stages(checkout)
    assert not left, f"changed before any edit: {left}"


def changed_stages(checkout: Path) -> set[str]:
    """Return the stages whose dependencies, params or command changed, by `dvc status`."""
    status = json.loads(dvc(checkout, "status", "--json"))
    return set(status)


def dvc(checkout: Path, *arguments: str) -> str:
    """Run DVC in a folder and return what it prints."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"dvc {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
