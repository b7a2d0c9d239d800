"""Find the code blocks of the documentation, and the lines that a test can run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt

from tests.support.repo import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "yaml", "text", "mermaid"}  # text: output, file trees
TREES = ("images\n  ingest ", "gear/\n  cli.py ", "params.yaml       all settings")
# clone a project whose remote has its data, so that the clone can pull
CLONE = " && ".join(
    [
        "dvc remote add -q -d store $PWD/shared",
        "dvc push -q",
        "git commit -qam remote",
        "git clone -q . clone",
        "cd clone",
    ]
)
# Patterns of commands that are not run, and why. All others are run.
NOT_RUN = {
    r"make setup\b|source ": "the tests run in an environment that `make setup` made",
    r"make test$": "the tests",
    r"make repro-t2i": "a quarter of an hour: tests/pipeline/test_text_to_image.py",
    r"make bench": "ten minutes on a quiet machine",
    r"make (server|deploy|stop)": "tests/flows/test_server.py",
    r"export (PREFECT_|GEAR_NOTIFY_URL)": "for the server of the lines that follow",
    r"prefect deployment ": "needs a server and a worker: tests/flows",
    r"pip wheel|pip install -c constraints.txt torch|DS_BUILD_OPS": "tests/pipeline/test_wheel.py",
    r"pip install .*\[dask\]": "part of what `make setup` installs",
    r"pip install 'gear-autoregression\[": "part of what `make setup` installs",
    r"tensorboard --logdir": "serves until Ctrl-C",
    r"wandb (login|sync)": "needs an account",
    r"export MLFLOW_TRACKING_URI": "needs a server",
    r"dask ": "a cluster: tests/distributed/test_dask.py",
    r"pre-commit install": "fetches its hooks",
    r"gear watch$": "serves until Ctrl-C: tests/browser",
    r"gear study studies/toy.yaml$": "a few minutes: tests/flows/test_study.py",
    r"gear study studies/openmoji.yaml$": "six hours",
    r"dvc queue start": "trains for each experiment of the queue",
    r"gear generate --prompt": "a text-to-image model: tests/pipeline/test_text_to_image.py",
    r"gear (import|generate --checkpoint) ": (
        "public weights: tests/unit/tokenizer, tests/unit/generator"
    ),
    r"gear publish .*--hub": "uploads",
    r"gear monitor --device cuda": "needs a GPU",
    r"docker ": "needs Docker: `make image`, tests/pipeline/test_docker.py",
    r"deepspeed ": "started as a stub: tests/distributed/test_launch.py",
    r"srun |sbatch |kubectl ": "needs a cluster: tests/pipeline/test_deploy.py",
    r"(mkdir|tar|for|cd|sha256sum) .*(imagenet|\.tar|dinov2)|cd -": "needs ImageNet",
}
# Replacements that make a documented line work in the finished project.
MEANT = {
    r"^make ": "make -o setup ",
    r"\bNAME \.\.\.|\bNAME\b|<experiment>": "tried",
    r"\bREVISION\b": "HEAD",
    r"PATH$|\.gear/joint/3f0c\.\.\.": "$(dirname .gear/joint/*/latest)",
    r"~/pictures/birds|/path/to/images": "$PWD/pictures",
    r"/shared/": "$PWD/shared/",
    r"^git clone <repository> && cd <repository> && make setup": CLONE,
    r"joint.steps=600": "joint.steps=16",
    # ImageNet is not here
    r"(^gear preset imagenet256-xl\n)dvc repro$": r"\1",
    # stop before the trainings of a new project, which take a quarter of an hour
    r"(^cd birds[^#]*)dvc repro$": r"\1dvc repro validate",
    r"^gear init --update": (
        "gear init birds --images $PWD/pictures && cd birds && gear init --update"
    ),
}


@dataclass(frozen=True)
class Block:
    """A code block; an indented one has the language `sh`."""

    page: str
    line: int
    language: str
    text: str

    def paragraphs(self) -> list[list[str]]:
        """Return the commands of a shell block, grouped by its empty lines."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        parts = [part.splitlines() for part in re.split(r"\n\s*\n", joined)]
        return [list(filter(None, (_uncommented(line) for line in part))) for part in parts]


def blocks() -> list[Block]:
    """Return all code blocks of the documentation except file trees."""
    return [
        Block(str(page.relative_to(REPO)), token.map[0] + 1, token.info or "sh", token.content)
        for page in PAGES
        for token in MarkdownIt().parse(page.read_text())
        if token.type in ("fence", "code_block") and token.map
        if not token.content.startswith(TREES)
    ]


def reason_not_to_run(line: str) -> str | None:
    """Return why a command of the documentation is not run, or None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, line)), None)


def script(lines: list[str]) -> str:
    """Return the lines of a paragraph that can run, with placeholders replaced."""
    text = "\n".join(line for line in lines if reason_not_to_run(line) is None)
    for pattern, meant in MEANT.items():
        text = re.sub(pattern, meant, text, flags=re.MULTILINE)
    return text


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*", "", line).strip()
