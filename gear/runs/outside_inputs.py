"""Inputs of a recorded run that neither git nor DVC holds, such as the user's images.

A clone of the revision does not have them. They are read where they are, if their bytes still have
the hash that dvc.lock records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gear import paths
from gear.core.errors import InputError
from gear.core.yaml_text import parse_yaml
from gear.runs.revision import Locked, Revision, content_md5


def outside_inputs(revision: Revision, lock: Mapping[str, Locked]) -> list[str]:
    """Return the paths of the inputs that no stage made and neither git nor DVC holds."""
    made = {path for stage in lock.values() for path in stage.outs}
    read = {path for stage in lock.values() for path in stage.deps}
    return [
        path
        for path in sorted(read)
        if not any(path == out or path.startswith(f"{out}/") for out in made)
        and not revision.holds(path)
    ]


def current_hashes(root: Path, inputs: Iterable[str]) -> dict[str, str]:
    """Return the hashes that inputs have now, by path; "" for one that is not there."""
    return {path: content_md5(root, path) for path in inputs}


def partly_in_git(revision: Revision, lock: Mapping[str, Locked], clone: Path) -> dict[str, str]:
    """Return the folder of images and its recorded hash, if git holds only a part of the images.

    The folder on this machine has the recorded hash, and that in a clone has not.
    """
    content = revision.read(str(paths.PARAMS))
    data = parse_yaml(content, str(paths.PARAMS)).get("data") if content else None
    images = str(data.get("root") if isinstance(data, dict) else "")
    recorded = {stage.deps[images] for stage in lock.values() if images in stage.deps}
    if not recorded or not revision.in_git(images) or content_md5(clone, images) in recorded:
        return {}
    found = content_md5(revision.root, images)
    return {images: found} if found in recorded else {}


def require_recorded(stage: str, path: str, recorded: str, found: str) -> None:
    """Raise `InputError` unless an input still has its recorded hash."""
    if found == recorded:
        return
    where = f"stage {stage} reads {path}, which is neither in git nor in DVC's cache"
    if not found:
        raise InputError(
            f"{where}, and not on this machine: put what the run read there, or leave this stage "
            "out"
        )
    raise InputError(
        f"{where}, and what is there now is not what the run read ({found[:12]}, not "
        f"{recorded[:12]}): put that back, or leave this stage out"
    )
