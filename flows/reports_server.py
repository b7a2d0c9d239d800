"""`python -m flows.reports_server HOST PORT`: serve reports/ to browsers of this machine.

Links out of reports/ are not followed, and requests for other host names are refused (DNS
rebinding).
"""

from __future__ import annotations

import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gear.paths import REPORTS

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Handler(SimpleHTTPRequestHandler):
    """Serves the files inside one folder."""

    def send_head(self) -> Any:
        """Answer a request; 403 for another host name, 404 for a link out of the folder."""
        host = self.headers.get("Host", "").rpartition(":")[0].strip("[]")
        if host not in LOOPBACK:
            self.send_error(HTTPStatus.FORBIDDEN, "another host")
            return None
        inside = Path(self.directory).resolve()
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(inside):
            self.send_error(HTTPStatus.NOT_FOUND, "File not found")
            return None
        return super().send_head()


def main(host: str, port: int) -> None:
    """Serve until stopped."""
    handler = partial(Handler, directory=str(REPORTS))
    with ThreadingHTTPServer((host, port), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
