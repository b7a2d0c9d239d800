"""Assert that bad input is refused with exit code 2 and one line, and that no file changes."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

from gear.cli import main

VOLATILE = (".gear", ".dvc", ".git", "__pycache__")  # logs, locks and caches of tools


def snapshot(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder, and the target of every link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in VOLATILE:
            continue
        if path.is_symlink():
            found[str(name)] = f"link to {path.readlink()}"
        elif path.is_file():
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str, says: tuple[str, ...] = ()) -> str:
    """Run `gear WORDS`, assert that it refuses its input, and return its one line."""
    before = snapshot(Path.cwd())
    capsys.readouterr()
    code = _run(words)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2, (code, lines[-1:])
    assert len(lines) == 1, lines[:5]
    assert lines[0].startswith(f"gear {words[0]}: "), lines
    assert len(lines[0]) < 1100
    assert not [c for c in lines[0] if unicodedata.category(c) in ("Cc", "Cs")]
    assert "Traceback" not in lines[0]
    assert "weights_only=False" not in lines[0]
    missing = [text for text in says if text not in lines[0]]
    assert not missing, (missing, lines[0])
    assert snapshot(Path.cwd()) == before
    return lines[0]


def _run(words: tuple[str, ...]) -> int:
    try:
        return main(list(words))
    except SystemExit as ended:  # raised by argparse
        return int(ended.code or 0)
