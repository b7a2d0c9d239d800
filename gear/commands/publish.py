"""`gear publish`: write a run's models with a model card to a folder or the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.core.text import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear publish`."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("published"),
        help="the folder to write, absent or empty (default: published)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("data/models/generator"),
        help="folder of tokenizer/ and generator/, or owner/name of the Hugging Face Hub "
        "(default: the pipeline's own)",
    )
    parser.add_argument(
        "--hub",
        metavar="OWNER/NAME",
        help="upload it to this repository of the Hugging Face Hub, with the account of "
        "`hf auth login`",
    )


def run(arguments: argparse.Namespace) -> str:
    """Write the folder, and upload it if asked; return where it is.

    Raises:
        InputError: if the folder is not empty, the checkpoint cannot be loaded, or the upload
            fails; the folder is complete then.
    """
    from gear import paths
    from gear.core.files import replace_folder
    from gear.pretrained import load_generator

    folder: Path = arguments.folder
    if folder.resolve() == Path.cwd() or not folder.name:
        raise InputError(f"{folder}: name another folder than the current one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: it holds files: name a folder that is absent or empty")
    if arguments.hub:
        require_repository(arguments.hub)
    generator = load_generator(arguments.checkpoint)
    card: dict[str, Any] = {"name": arguments.hub or folder.name}
    note = ""
    if arguments.checkpoint.resolve() == paths.GENERATOR.resolve():
        rows, note = metric_rows()
        card |= {"data": attribution(), "metrics": rows}

    def fill(draft: Path) -> None:
        generator.save_pretrained(draft, model_card_kwargs=card)

    replace_folder(folder, fill)
    text = f"{folder}: `gear.load_generator({str(folder)!r})` loads it; read its README.md{note}"
    return f"{text}\n{upload(folder, arguments.hub)}" if arguments.hub else text


def require_repository(name: str) -> None:
    """Raise `InputError` unless a name is OWNER/NAME, as the Hugging Face Hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        is_valid = name.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise InputError(f"--hub {one_line(repr(name), 100)}: give OWNER/NAME")


def upload(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the Hub, created if needed. Returns its URL.

    Raises:
        InputError: if the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    from gear.hub_model import hub_errors

    remedy = (
        "; the folder is written: log in with `hf auth login`, and upload it with "
        f"`hf upload {repository} {folder}`"
    )
    with hub_errors(f"--hub {repository}", remedy):
        address = HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    return str(address)


def attribution() -> str:
    """Return the number, source and attribution of images from the shards' manifest."""
    from gear import paths
    from gear.data.shards import load_manifest

    manifest = load_manifest(paths.SHARDS)
    text = f"{manifest['train']} images of the source `{manifest.get('source', 'unknown')}`."
    return f"{text} {manifest.get('attribution') or ''}".strip()


def metric_rows() -> tuple[list[dict[str, Any]], str]:
    """Return the metrics with their protocols, and a note if there are none for these models."""
    from gear import paths
    from gear.core.files import read_json
    from gear.evaluation.metric_protocol import require_records
    from gear.runs.revision import changed_inputs

    file = paths.REPORTS / "protocols.json"
    if not file.exists():
        return [], "; it has no metrics: nothing was evaluated here"
    if changed := changed_inputs("evaluate", since_its_run=True):
        return [], f"; it has no metrics: {changed} is newer than they are (`dvc repro`)"
    rows = []
    for name, record in require_records(read_json(file), str(file)).items():
        protocol = ", ".join(f"{key} {value}" for key, value in record["protocol"].items())
        value = f"{record['value']:.5g}"
        rows.append({"name": name, "value": value, "protocol": protocol.replace("|", "/")})
    return rows, ""
