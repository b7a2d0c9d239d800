"""Errors that a user sees as one line."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake of the user: printed as one line, exit code 2."""


class StageFailed(RuntimeError):
    """A stage stopped for a reason that it can name: printed as one line, exit code 1."""
