"""What every refusal of bad input has to be: exit code 2, one line, and nothing else changed."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

from gear.cli import main

VOLATILE = (".gear", ".dvc", ".git", "__pycache__")  # logs, locks and caches of tools


def snapshot(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder, and where every link leads."""
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
    """Run `gear WORDS` in the working directory, which must refuse; return its one line."""
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
    except SystemExit as ended:  # of the parser
        return int(ended.code or 0)
