"""Test that `gear watch` serves four URLs to browsers of this machine, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gear.commands.watch import Server
from gear.report.live_page import LivePage
from tests.support.commands import run_gear
from tests.support.runs import toy_run
from tests.unit.report.test_live_page import write_log, write_strip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = toy_run(tmp_path / "checkout")
    write_log(folder, {"step": 0, "fd": 9.0}, {"step": 5, "fd": 8.0})
    write_strip(folder, 5)
    (folder / "reports/index.html").write_text("<p>the report")
    return folder


@pytest.fixture
def server(checkout: Path) -> Iterator[Server]:
    with Server(LivePage(checkout), 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def ask(
    server: Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_the_page_its_state_a_picture_and_the_report(server: Server) -> None:
    status, text, headers = ask(server, "/")
    assert status == 200
    assert "FD of fresh samples" in text
    assert headers["X-Content-Type-Options"] == "nosniff"
    state = json.loads(ask(server, "/state")[1])
    assert set(state["fragments"]) == {"progress", "samples", "curves", "settings"}
    assert ask(server, "/strip?stage=joint&step=5")[1].startswith("data:image/png;base64,")
    assert ask(server, "/report")[1] == "<p>the report"
    assert ask(server, "/", method="HEAD")[:2] == (200, "")


def test_a_browser_that_goes_away_leaves_no_traceback(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()
    html = server.page.html
    monkeypatch.setattr(server.page, "html", lambda: [gone.wait(20), html() * 200][1])
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        address = f"127.0.0.1:{server.server_port}"
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        at_once = struct.pack("ii", 1, 0)  # reset the connection on close
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    gone.set()
    assert ask(server, "/state")[0] == 200  # requests are answered one after the other
    server.server_close()  # waits for the requests
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path",
    [
        "/params.yaml",
        "/reports/index.html",
        "/.gear/logs/joint.jsonl",
        "/../params.yaml",
        "/%2e%2e/params.yaml",
        "//etc/passwd",
        "/strip",
        "/strip?stage=joint",
        "/strip?stage=joint&step=6",
        "/strip?stage=../../x&step=5",
        "/strip?stage=joint&step=-5",
        "/strip?stage=joint&step=5/../5",
        "/strip?stage=joint&step=%F0%9F%98%80",
        "/strip?stage=joint&step=%C2%B2",
        "/state/",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("line", [b"GET http://[/ HTTP/1.1", b"GET", b"\x00\xff", b"GET / HTTP/9"])
def test_a_broken_request_breaks_nothing(server: Server, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        host = f"Host: 127.0.0.1:{server.server_port}".encode()
        connection.sendall(line + b"\r\n" + host + b"\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert ask(server, "/state")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", ""]
)
def test_another_hosts_name_is_refused(server: Server, host: str) -> None:
    assert ask(server, "/state", Host=host.format(port=server.server_port))[0] == 403


def test_this_machines_names_are_answered(server: Server) -> None:
    assert ask(server, "/state", Host=f"localhost:{server.server_port}")[0] == 200


def test_another_sites_page_reads_nothing(server: Server) -> None:
    assert ask(server, "/state", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server, "/state", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_changed_through_it(server: Server, method: str) -> None:
    assert ask(server, "/", method=method)[0] == 501


def test_it_listens_to_this_machine_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_once_writes_the_page_of_the_moment(checkout: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    done = run_gear(checkout, "watch", "--once", str(file))
    assert done.returncode == 0, done.stderr
    assert "FD of fresh samples" in file.read_text()
    assert "data-part>" not in file.read_text()


def test_bad_input_is_one_line(checkout: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            "name another port": (checkout, "--port", port),
            "is a folder": (checkout, "--once", str(tmp_path)),
            "run in a checkout": (tmp_path, "--once", str(tmp_path / "x.html")),
            "not a whole number": (checkout, "--port", "70000"),
        }
        for message, (folder, *words) in cases.items():
            done = run_gear(folder, "watch", *words, timeout=60)
            assert done.returncode == 2, message
            assert message in done.stderr
            assert done.stderr.count("\n") == 1
    assert not os.path.exists(tmp_path / "x.html")
