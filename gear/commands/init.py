"""`gear init`: create a project, in which the installed package trains on your images."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gear import paths
from gear.commands import fit_preset, project
from gear.core.errors import InputError
from gear.core.files import replace_file
from gear.core.text import one_line, printable
from gear.git_project import git_root, ignored_names, project_prefix

DATASET = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")  # dataset on the Hub
HUB_FOLDER = Path("data/raw")
LOOKED_AT = 200  # images whose size is read
PIPELINE_FOLDERS = ("data", "reports")  # what stages write
IGNORED = """\
.venv/
__pycache__/
.gear/
*.partial
/data/shards
/data/features
/data/reference
/data/inception
/data/samples
/data/models/
/data/raw/
/data/incoming
/data/quarantine/
/data/versions/
/reports/index.html
/reports/samples.png
/reports/dataset.json
/reports/data-docs/
/reports/drift/
/reports/compare/
/reports/live/
/params.yaml.broken*
"""
RECORDS = (  # files that have to be in git
    *(".dvc/config", "dvc.lock", "reports/metrics.json", "reports/protocols.json"),
    *map(str, (paths.PARAMS, paths.PIPELINE, paths.LOCK)),
)
DVC_IGNORED = "__pycache__/\n.venv/\n.gear/\n"
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
README = """\
# {name}
A project of [GEAR]({home}): a tokenizer and a generator, trained together on {images}.

    {commands}

- `params.yaml`: all settings, each with a comment; `gear preset` lists sets of them.
- `dvc.yaml`: the stages. `gear.lock`: the code and libraries that results are of; after an upgrade
  run `gear init --update`. `dvc.lock`, which `dvc repro` writes: hashes of all inputs and results.
- `data/`, `reports/`: what stages write. `reports/index.html` is the report.
- `gear generate --out grid.png` draws images; `gear doctor` says what this machine lacks.
"""
HOME = "https://arxiv.org/abs/2606.32039"


@dataclass(frozen=True)
class Source:
    """Where images come from.

    data: values of the section `data`. side: typical shorter side, pixels.
    text: description of the images. before: commands to run before the pipeline.
    """

    data: dict[str, Any]
    count: int
    side: int
    text: str
    before: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear init`."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="the project (default: this folder)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of images, or of one folder per class (default: the packaged OpenMoji)",
    )
    source.add_argument(
        "--hub", metavar="DATASET", help="a dataset of the Hugging Face Hub, owner/name"
    )
    parser.add_argument(
        "--captions", action="store_true", help="train on captions in place of classes"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="in a project: take over the installed code, in gear.lock and dvc.yaml",
    )


def run(arguments: argparse.Namespace) -> str:
    """Create or update a project; return what to do next.

    Raises:
        InputError: if the folder is not empty, or there are no images.
    """
    folder: Path = arguments.folder
    if arguments.update:
        if arguments.images or arguments.hub or arguments.captions or folder != Path():
            raise InputError("--update stands alone: run it in the project's folder")
        return update()
    require_text(folder, "FOLDER")
    if arguments.images:
        require_images_apart(folder, arguments.images)
    require_empty(folder, arguments.images)
    if shutil.which("git") is None:
        raise InputError("git is not installed: runs are recorded in it")
    require_git_takes(folder)
    if arguments.images:
        source = of_images(arguments.images, folder, captions=arguments.captions)
    elif arguments.hub:
        source = of_hub(arguments.hub)
    else:
        source = packaged()
    return make_project(folder, source, captions=arguments.captions)


def require_text(path: Path, what: str) -> None:
    """Raise `InputError` for a path that params.yaml or a shell could not name."""
    from gear.data.captions import text_fault

    if fault := text_fault(str(path), "name"):
        raise InputError(f"{what} {path}: {fault}: rename it")


def require_empty(folder: Path, images: Path | None) -> None:
    """Raise `InputError` if a folder holds more than hidden files and the images."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a new or an empty one")
    if (folder / paths.LOCK).exists():
        raise InputError(f"{folder} is a project already: `gear init --update` in it renews it")
    inside = _inside(images, folder) if images else None
    own = inside.parts[0] if inside else ""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.name != own:
            raise InputError(
                f"{_shown(folder)} holds {path.name}: name a new or an empty folder for the project"
            )


def require_git_takes(folder: Path) -> None:
    """Raise `InputError` if git would ignore files of the project that runs are recorded in."""
    if ignored := ignored_names(folder, RECORDS):
        raise InputError(
            f"{_shown(folder)}: git ignores {', '.join(ignored)} there, and runs are recorded in "
            f"them: change .gitignore (`git check-ignore -v {folder / ignored[0]}` names the line)"
        )


def require_images_apart(folder: Path, images: Path) -> None:
    """Raise `InputError` if stages would write into the images' folder, or it holds the project."""
    require_text(images, "--images")
    if not images.is_dir():
        what = "is not a folder" if images.exists() else "no such folder"
        raise InputError(f"--images {images}: {what}: name the one that your images are in")
    if folder.resolve().is_relative_to(images.resolve()):
        raise InputError(
            f"--images {images}: it would hold the project: make that elsewhere, "
            "`gear init FOLDER --images DIR`"
        )
    inside = _inside(images, folder)
    if inside and inside.parts[0] in PIPELINE_FOLDERS and inside.parts[:2] != HUB_FOLDER.parts:
        raise InputError(
            f"--images {images}: stages write to {inside.parts[0]}/ in the project: "
            "put the images beside it"
        )


def of_images(images: Path, folder: Path, *, captions: bool) -> Source:
    """Return a folder of images as a source; checks all names and the size of some images."""
    from gear.ingest.folder import CAPTIONS, image_folder
    from gear.ingest.records import EncodedSample

    try:
        found = [item for item in image_folder(images) if isinstance(item, EncodedSample)]
    except InputError as error:
        raise InputError(str(error).replace("data.root:", "--images:", 1)) from None
    if captions and not (images / CAPTIONS).is_file():
        raise InputError(
            f"--captions: no {images / CAPTIONS}, whose lines are "
            '{"file_name": "1.png", "text": "a cat"}'
        )
    if len(found) < fit_preset.LEAST_IMAGES:
        raise InputError(
            f"--images {images}: {len(found)} images, under {fit_preset.LEAST_IMAGES}: "
            "too few to train on and to measure with"
        )
    classes = Counter(item.category for item in found)
    if single := [name for name, count in sorted(classes.items()) if count == 1]:
        raise InputError(
            f"--images {images}: class {single[0]!r} has one image, and one is held out of each: "
            "add another or take it out; images in one folder are one class"
        )
    side = typical_side([item.image for item in found if isinstance(item.image, Path)], images)
    inside = _inside(images, folder)
    root = str(inside or Path(os.path.abspath(images)))
    kinds = f"{len(classes)} classes" if len(classes) > 1 else "one class"
    text = f"{len(found)} images in {kinds}, median side {side} px"
    return Source({"source": "folder", "root": root}, len(found), side, text)


def typical_side(files: list[Path], images: Path) -> int:
    """Return the median of the shorter sides of up to `LOOKED_AT` images, pixels.

    Raises:
        InputError: if none of them can be read.
    """
    from statistics import median_low

    from gear.data.row_selection import evenly_spaced
    from gear.ingest.decode import reject_reason
    from gear.ingest.image_headers import open_image

    sides = []
    for row in evenly_spaced(len(files), LOOKED_AT):
        try:
            with open_image(files[row]) as image:
                sides.append(min(image.size))
        except Exception as error:  # decoders of damaged files raise errors of every kind
            fault = one_line(reject_reason(error), 200)
    if not sides:
        raise InputError(f"--images {images}: none of its images can be read: {fault}")
    return int(median_low(sides))


def of_hub(name: str) -> Source:
    """Return a dataset of the Hugging Face Hub as a source; it is downloaded later."""
    if not DATASET.fullmatch(name) or ".." in name:
        raise InputError(f"--hub {name}: a dataset's name is owner/name")
    root = HUB_FOLDER / name
    load = f"load_dataset('{name}', split='train').save_to_disk('{root}')"
    fetch = f'python -c "from datasets import load_dataset; {load}"'
    data = {"source": "huggingface", "root": str(root)}
    return Source(data, fit_preset.UNKNOWN, 64, f"{name} of the Hugging Face Hub", (fetch,))


def packaged() -> Source:
    """Return the packaged images as a source."""
    from gear.ingest.config import PACKAGED_IN_PROJECT

    data = {"source": "openmoji", "root": PACKAGED_IN_PROJECT}
    return Source(data, fit_preset.UNKNOWN, 64, "the packaged images, OpenMoji")


def make_project(folder: Path, source: Source, *, captions: bool) -> str:
    """Write a project; return what to do next."""
    from gear.ingest.config import PACKAGED_IN_PROJECT
    from gear.ingest.openmoji import ATTRIBUTION
    from gear.params import load_preset, to_yaml

    machine = fit_preset.this_machine()
    preset, values = fit_preset.fit(source.count, source.side, machine)
    values["data"] |= source.data
    if captions:
        values["data"]["condition"] = "caption"
        values["sample"]["guidance"] = 2.0
    config = load_preset(preset, values)
    commands = (*source.before, 'git add . && git commit -m "Start"', "dvc repro")
    name = printable(Path(os.path.abspath(folder)).name) or "project"
    readme = README.format(
        name=name, home=HOME, images=source.text, commands="\n    ".join(commands)
    )
    folder.mkdir(parents=True, exist_ok=True)
    start_repositories(folder)
    files = {
        str(paths.PARAMS): to_yaml(config),
        str(paths.PIPELINE): project.pipeline_text(),
        str(paths.SCHEMA): (paths.PRESETS / paths.SCHEMA.name).read_text(),
        "README.md": readme,
    }
    if source.data["source"] == "openmoji":
        files[PACKAGED_IN_PROJECT] = f"# The packaged images\n{ATTRIBUTION}\n"
    for file, text in files.items():
        replace_file(folder / file, text.encode())
    own = source.data["root"] if source.data["source"] == "folder" else ""
    inside = bool(own) and not Path(own).is_absolute()
    add_lines(folder / ".gitignore", f"{IGNORED}/{_literal(own)}\n" if inside else IGNORED)
    add_lines(folder / ".dvcignore", DVC_IGNORED)
    replace_file(folder / paths.LOCK, project.lock_text().encode())  # last: it marks a project
    return summary(folder, source, config, machine, commands)


def summary(
    folder: Path,
    source: Source,
    config: Any,
    machine: fit_preset.Machine,
    commands: tuple[str, ...],
) -> str:
    """Return what was made, and what to do next."""
    how = "on a GPU" if machine.has_gpu else f"about a quarter of an hour on {machine.cores} cores"
    used = f" ({config.data.limit} of them, data.limit)" if config.data.limit else ""
    there = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    return "\n".join(
        [
            f"{_shown(folder)}: a project for {source.text}{used}",
            f"{config.data.size} px, {config.tokenizer.codes} codes, steps "
            f"{config.tokenizer.steps} + {config.joint.steps} + {config.generator.steps}, {how}",
            "next:",
            *(f"    {line}" for line in (*there, *commands)),
        ]
    )


def start_repositories(folder: Path) -> None:
    """Initialise DVC in a folder, and git unless the folder is inside a repository."""
    if git_root(folder) is None:
        _start(folder, "git", "init", "--quiet")
    if not (folder / ".dvc").is_dir():
        below = ["--subdir"] if project_prefix(folder).parts else []
        _start(folder, sys.executable, "-m", "dvc", "init", "--quiet", *below)
        replace_file(folder / ".dvc/config", DVC_CONFIG.encode())


def _start(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = one_line(done.stderr or done.stdout or "no reason given", 300)
        raise InputError(f"{' '.join(command[-3:])} failed in {folder}: {said}")


def update() -> str:
    """Write gear.lock and dvc.yaml of the installed package; return what runs again."""
    if not paths.LOCK.exists():
        raise InputError(f"no {paths.LOCK} here: run it in a folder that `gear init` made")
    changed, again = project.differences(), project.stages_to_run()
    replace_file(paths.PIPELINE, project.pipeline_text().encode())
    replace_file(paths.SCHEMA, (paths.PRESETS / paths.SCHEMA.name).read_bytes())
    replace_file(paths.LOCK, project.lock_text().encode())
    if not changed:
        return f"{paths.LOCK} already records what is installed; {paths.PIPELINE} is written anew"
    return "\n".join([*changed, f"`dvc repro` runs again: {', '.join(again)}, and what follows"])


def add_lines(file: Path, text: str) -> None:
    """Append the lines of a text that a file lacks."""
    old = file.read_text() if file.exists() else ""
    lacking = [line for line in text.splitlines() if line not in old.splitlines()]
    joined = old if not old or old.endswith("\n") else f"{old}\n"
    replace_file(file, (joined + "".join(f"{line}\n" for line in lacking)).encode())


def _literal(path: str) -> str:
    r"""Return a path as a pattern of .gitignore that matches only it.

    >>> print(_literal("my [old] birds"))
    my\ \[old\]\ birds
    """
    return re.sub(r"([\\*?\[\] ])", r"\\\1", path)


def _inside(path: Path, folder: Path) -> Path | None:
    """Return a path relative to a folder; None if it is not inside."""
    whole, above = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return whole.relative_to(above) if whole.is_relative_to(above) and whole != above else None


def _shown(folder: Path) -> str:
    return "this folder" if folder == Path() else str(folder)
