"""A folder `<root>/<class>/<file>`, or `<root>/<file>` without classes, as a data source."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gear.core.errors import InputError
from gear.ingest.records import EncodedSample, Reject, class_as_caption

CAPTIONS = "metadata.jsonl"
TABLE = "metadata.csv"  # another file of captions in the Hugging Face layout
LOOSE = "not in a class folder: <class>/<file> is read"
NAMELESS = "images"  # the class of a flat folder whose path ends in no name, such as "."
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


def image_folder(root: Path, *, follow_links: bool = False) -> Iterator[EncodedSample | Reject]:
    """Yield the images of `<root>/<class>/<file>`, sorted by name, and rejects.

    A flat folder, `<root>/<file>`, is one class with the folder's name. Names that begin with a dot
    are skipped. Captions come from `<root>/metadata.jsonl`; an image that it does not name has its
    class as caption.

    Rejects include images next to class folders, folders inside class folders, broken links, empty
    files, lines of metadata.jsonl that cannot be read, name no image or give an image a second
    caption, and metadata.csv.

    Args:
        root: The folder.
        follow_links: Whether to read files that are links out of `root`; else they are rejects.
            Folders that are such links always are: DVC does not see when files behind them change.

    Raises:
        InputError: if there are no images, or a class folder is empty.
    """
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder: name one that holds <class>/<file>")
    rejects, files = _list_files(root, follow_links)
    if not files:
        first = f"; {rejects[0].file}: {rejects[0].reason}" if rejects else ""
        raise InputError(
            f"data.root: {root} holds no <class>/<file>: one folder per class, images inside{first}"
        )
    is_refused = any(reject.file == CAPTIONS for reject in rejects)
    captions, bad_lines = ({}, []) if is_refused else _read_captions(root / CAPTIONS)
    yield from rejects
    yield from bad_lines
    if (root / TABLE).is_file():
        yield Reject(TABLE, f"not read: captions are lines of {CAPTIONS}")
    for name in sorted(captions.keys() - set(files) - {reject.file for reject in rejects}):
        captions.pop(name)
        yield Reject(f"{CAPTIONS}: {name}", "no image of this name")
    for name in files:
        file = root / name
        category = _category(file, root)
        if file.stat().st_size:
            caption = captions.get(name, class_as_caption(category))
            yield EncodedSample(name, caption, category, file.absolute())
        else:
            yield Reject(name, "empty file")


def _name(file: Path, root: Path) -> str:
    return str(file.relative_to(root))


def _category(file: Path, root: Path) -> str:
    """Return the class of an image: its folder's name, or `NAMELESS` if `root` has none."""
    folder = file.parent.name
    return NAMELESS if file.parent == root and folder in ("", "..") else folder


def _list_files(root: Path, follow_links: bool) -> tuple[list[Reject], list[str]]:
    """Return rejects, and the files of class folders or of a flat folder, sorted by name."""
    rejects: list[Reject] = []
    files: list[str] = []
    loose: list[str] = []
    has_folders = False
    inside = root.resolve()

    def refused(path: Path) -> str:
        """Return why a path is not read; "" if it is."""
        try:
            mode = path.stat().st_mode
        except OSError as error:
            return "a link to nothing" if path.is_symlink() else str(error.strerror)
        leads_out = not path.resolve().is_relative_to(inside)
        if leads_out and stat.S_ISDIR(mode):
            return (
                "a link to a folder out of data.root, in which DVC would not see changes: "
                "link its files, or put the folder itself there"
            )
        if leads_out and not follow_links:
            return "a link out of data.root: set data.follow_links to true to read it"
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return "neither file nor folder"
        return ""

    def entries(folder: Path) -> Iterator[Path]:
        try:
            listed = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            rejects.append(Reject(_name(folder, root), f"cannot be listed: {error.strerror}"))
            return
        for path in listed:
            if reason := refused(path):
                rejects.append(Reject(_name(path, root), reason))
            else:
                yield path

    for folder in entries(root):
        if not folder.is_dir():
            if folder.suffix.lower() in IMAGE_ENDINGS:
                loose.append(folder.name)
                rejects.append(Reject(folder.name, LOOSE))
            continue
        has_folders = True
        before = len(files) + len(rejects)
        for path in entries(folder):
            if path.is_dir():
                reason = "a folder inside a class folder: <class>/<file> is read"
                rejects.append(Reject(_name(path, root), reason))
            else:
                files.append(_name(path, root))
        if before == len(files) + len(rejects):
            raise InputError(
                f"data.root: class folder {folder} holds no files: fill it, or take it out"
            )
    if not has_folders:
        return [reject for reject in rejects if reject.reason != LOOSE], loose
    return rejects, files


def _read_captions(file: Path) -> tuple[dict[str, str], list[Reject]]:
    """Return captions by file of a metadata.jsonl as in Hugging Face's image folders.

    A line is `{"file_name": ..., "text": ...}`; others are rejects.
    """
    captions: dict[str, str] = {}
    rejects: list[Reject] = []
    if not file.is_file():
        return captions, rejects
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError("no text")
        except (ValueError, KeyError, TypeError, RecursionError):
            reason = 'not {"file_name": ..., "text": ...}, both texts'
            rejects.append(Reject(f"{file.name} line {number}", reason))
            continue
        name = str(PurePosixPath(name))
        if name in captions:
            reason = f"a second caption of {name}: the first is used"
            rejects.append(Reject(f"{file.name} line {number}", reason))
        else:
            captions[name] = text
    return captions, rejects
