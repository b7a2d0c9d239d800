"""Ending with another process: what it started, it takes along, whichever way it dies."""

from __future__ import annotations

import os
import select
import signal
import threading


def end_with(process: int) -> None:
    """Send this process SIGTERM when another one dies, even by SIGKILL. Linux only; elsewhere, or where it is gone, nothing happens."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(process)
    except OSError:  # gone already, or somebody else's
        return

    def wait() -> None:
        select.select([handle], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name=f"end-with-{process}", daemon=True).start()
