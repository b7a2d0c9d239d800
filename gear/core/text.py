"""Make untrusted text safe to print."""

from __future__ import annotations

import unicodedata

LINE = 1000  # maximum characters of a line
# Unicode bidirectional controls, which reorder the displayed text around them
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators


def printable(text: str) -> str:
    r"""Return text with control characters, bidi controls and lone surrogates escaped.

    >>> printable("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    return "".join(
        repr(c)[1:-1] if c in BIDI or unicodedata.category(c) in HIDDEN else c for c in text
    )


def one_line(text: str, length: int = LINE) -> str:
    """Return text as one printable line of at most `length` characters.

    >>> one_line("two  \\n lines"), one_line("abcdefghij", 7)
    ('two lines', 'abcd...')
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= length else f"{line[: length - 3]}..."
