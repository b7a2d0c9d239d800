"""`gear watch`: serve a live page on the trainings of this checkout.

The server only reads files. It listens on 127.0.0.1, refuses requests for other host names (DNS
rebinding) and serves four URLs, never a file by its path.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from gear.commands.arguments import port
from gear.core.errors import InputError
from gear.core.files import replace_file, require_writable

if TYPE_CHECKING:
    from gear.report.live_page import LivePage

ADDRESS = "127.0.0.1"
PORT = 4202
NAMES = ("127.0.0.1", "localhost")
NICE = 10  # lower CPU priority than training
HTML, JSON, TEXT = (
    f"{kind}; charset=utf-8" for kind in ("text/html", "application/json", "text/plain")
)
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
Answer = tuple[str, bytes]  # content type, body


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gear watch`."""
    parser.add_argument(
        "--port", type=port, default=PORT, help=f"port on {ADDRESS} (default {PORT})"
    )
    parser.add_argument(
        "--once",
        type=Path,
        metavar="FILE",
        help="write the page of this moment to an HTML file, and serve nothing",
    )


def run(arguments: argparse.Namespace) -> str:
    """Serve the page until Ctrl-C, or write it once. Returns what was done.

    Raises:
        InputError: if this is not a checkout, the port is in use, or the file cannot be written.
    """
    if arguments.once is not None:
        require_writable(arguments.once, "--once")
    from gear.report.live_page import LivePage

    page = LivePage(Path())
    if arguments.once is not None:
        replace_file(arguments.once, page.html(whole=True).encode())
        return f"the page of this moment: {arguments.once}"
    os.nice(NICE)
    try:
        server = Server(page, arguments.port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise InputError(f"--port {arguments.port}: {error.strerror}: name another port") from None
    with server:
        print(f"watching on http://{ADDRESS}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return "stopped watching; what runs goes on"
    return ""


class Server(ThreadingHTTPServer):
    """Serves the page of a checkout to browsers of this machine."""

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        """Listen on a port of this machine; 0 for any free one."""
        self.page = page
        self.turn = threading.Lock()  # held while the checkout is read
        super().__init__((ADDRESS, port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers requests for the four URLs."""

    server: Server
    timeout = 20
    server_version = "gear"
    sys_version = ""

    def handle(self) -> None:
        """Answer a request; ignore a browser that disconnects."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer a request; 403 for another host name, 404 for any other URL."""
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        """Answer a request without the body."""
        self._respond(with_body=False)

    def _respond(self, *, with_body: bool) -> None:
        if not self._is_for_us():
            self._send(HTTPStatus.FORBIDDEN, (TEXT, b"another host\n"), with_body)
            return
        try:
            address = urlsplit(self.path)
            query = parse_qs(address.query)
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, (TEXT, b"no address\n"), with_body)
            return
        with self.server.turn:
            answer = self._answer(address.path, query)
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, (TEXT, b"not found\n"), with_body)
        else:
            self._send(HTTPStatus.OK, answer, with_body)

    def _is_for_us(self) -> bool:
        """Return whether a request names this host and, unless it is a link, no other site."""
        own = {f"{name}:{self.server.server_port}" for name in NAMES}
        site = self.headers.get("Sec-Fetch-Site", "none")
        navigates = self.headers.get("Sec-Fetch-Mode") == "navigate"
        return self.headers.get("Host") in own and (site in ("none", "same-origin") or navigates)

    def _answer(self, address: str, query: dict[str, list[str]]) -> Answer | None:
        page = self.server.page
        if address == "/":
            return HTML, page.html().encode()
        if address == "/state":
            state = {"fragments": page.fragments(), "time": time.strftime("%H:%M:%S")}
            return JSON, json.dumps(state).encode()
        if address == "/strip":
            stage, step = (query.get(name, [""])[0] for name in ("stage", "step"))
            known = step.isascii() and step.isdigit() and len(step) < 10
            picture = page.strip(stage, int(step)) if known else None
            return (TEXT, picture.encode()) if picture else None
        if address == "/report":
            report = page.report()
            return (HTML, report) if report else None
        return None

    def _send(self, status: HTTPStatus, answer: Answer, with_body: bool) -> None:
        kind, body = answer
        self.send_response(status)
        for name, value in (
            HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing: an open page sends a request every two seconds."""
