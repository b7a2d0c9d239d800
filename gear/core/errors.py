"""Errors that a user sees as one line."""

from __future__ import annotations


class InputError(ValueError):
    """The user's mistake: printed as one line, exit code 2."""


class StageFailed(RuntimeError):
    """A stage stopped on purpose for a reason it can name: printed as one line, exit code 1."""
