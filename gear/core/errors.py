"""Errors that a user sees as one line."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake of the user: printed as one line, exit code 2."""


class StageFailed(RuntimeError):
    """A failure that a command detects itself: printed as one line, exit code 1."""
