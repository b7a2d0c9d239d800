"""`gear publish`: a run's models with a model card, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gear.core.errors import InputError

SHOWN = ("extractor", "n", "guidance", "reference_n", "weights")  # of a metric's protocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear publish`."""
    parser.add_argument("folder", type=Path, help="the folder to write; it must be absent or empty")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("data/models/generator"),
        help="folder of tokenizer/ and generator/ (default: the pipeline's own)",
    )
    parser.add_argument(
        "--hub",
        metavar="OWNER/NAME",
        help="a repository of the Hugging Face Hub to upload it to, as you are logged in",
    )


def run(arguments: argparse.Namespace) -> str:
    """Write the folder, and upload it if asked; return where it is.

    Raises:
        InputError: if the folder holds something, or the checkpoint cannot be loaded.
    """
    from gear import paths
    from gear.pretrained import load_generator

    folder: Path = arguments.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: it holds files: name a folder that is absent or empty")
    generator = load_generator(arguments.checkpoint)
    card: dict[str, Any] = {}
    if arguments.checkpoint.resolve() == paths.GENERATOR.resolve():
        card = {"data": attribution(), "metrics": metric_rows()}
    generator.save_pretrained(folder, model_card_kwargs=card)
    if not arguments.hub:
        return f"{folder}: `gear.load_generator({str(folder)!r})` loads it; read its README.md"
    url = generator.push_to_hub(arguments.hub, model_card_kwargs=card)
    return f"{folder}, and {url}"


def attribution() -> str:
    """Return what the shards' manifest says of their source."""
    from gear import paths
    from gear.data.shards import load_manifest

    manifest = load_manifest(paths.SHARDS)
    text = f"{manifest['train']} images of the source `{manifest.get('source', 'unknown')}`."
    return f"{text} {manifest.get('attribution') or ''}".strip()


def metric_rows() -> list[dict[str, Any]]:
    """Return the run's metrics with what their protocols say; none if nothing was measured."""
    from gear import paths
    from gear.core.files import read_json
    from gear.evaluation.metric_protocol import require_records

    file = paths.REPORTS / "protocols.json"
    if not file.exists():
        return []
    rows = []
    for name, record in require_records(read_json(file), str(file)).items():
        protocol = record["protocol"]
        shown = [f"{key} {protocol[key]}" for key in SHOWN if key in protocol]
        rows.append({"name": name, "value": f"{record['value']:.5g}", "protocol": ", ".join(shown)})
    return rows
