"""`python -m flows.reports_server HOST PORT`: serve reports/ to browsers of this machine.

Links out of reports/ are not followed, and requests for other host names are refused (DNS
rebinding).
"""

from __future__ import annotations

import socket
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
        asked = Path(self.translate_path(self.path))
        opened = (asked, asked / "index.html", asked / "index.htm")  # of a folder, its index
        if not all(path.resolve().is_relative_to(inside) for path in opened):
            self.send_error(HTTPStatus.NOT_FOUND, "File not found")
            return None
        return super().send_head()


class Server(ThreadingHTTPServer):
    """A server of IPv4, or of IPv6 if its address is one."""

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)


def main(host: str, port: int) -> None:
    """Serve until stopped."""
    handler = partial(Handler, directory=str(REPORTS))
    with Server((host, port), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
