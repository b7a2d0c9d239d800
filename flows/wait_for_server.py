"""`python -m flows.wait_for_server URL`: wait for a Prefect server.

The exit code is 1 if none answers within a minute.
"""

from __future__ import annotations

import http.client
import sys
import time
import urllib.request


def wait(url: str, seconds: float = 60.0) -> bool:
    """Return whether `<url>/health` answered in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return True
        except (OSError, http.client.HTTPException):  # no server, or one of something else
            time.sleep(0.3)
    return False


if __name__ == "__main__":
    if not wait(sys.argv[1]):
        raise SystemExit(f"no Prefect server at {sys.argv[1]}: see .gear/services/server.log")
