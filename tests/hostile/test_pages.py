"""Test that servers of pages escape text, load nothing and serve no file outside reports/."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from flows.reports_server import Handler, Server
from tests.support.commands import ENV
from tests.support.toys import free_port
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a reports server, with a secret file next to reports/."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "reports").mkdir()
    (folder / "reports/index.html").write_text("<p>report</p>")
    (folder / "secret.txt").write_text("secret")
    (folder / "reports/link.txt").symlink_to(folder / "secret.txt")
    (folder / "reports/up").symlink_to(folder)
    (folder / "reports/inner").mkdir()
    (folder / "reports/inner/index.html").symlink_to(folder / "secret.txt")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.reports_server", "127.0.0.1", str(port)],
        cwd=folder,
        env=ENV,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: status(url + "/index.html") == 200, 20)
        yield url
    finally:
        process.kill()
        process.wait()


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=5
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize(
    "path",
    ["/link.txt", "/up/secret.txt", "/up/", "/../secret.txt", "/%2e%2e/secret.txt", "/inner/"],
)
def test_the_reports_server_follows_no_link_outwards(reports: str, path: str) -> None:
    assert status(reports + path) == 404


def test_the_reports_server_answers_no_other_host(reports: str) -> None:
    assert status(f"{reports}/index.html", Host="evil.example") == 403
    assert status(f"{reports}/index.html", Host="localhost:1") == 200


def test_the_reports_server_answers_on_ipv6(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>report</p>")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    server = Server(("::1", 0), partial(Handler, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://[::1]:{server.server_address[1]}/index.html"
        assert status(url) == 200
        assert status(url, Host="[::2]:4201") == 403
        assert status(url, Host="evil.example:4201") == 403
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_gates_page_shows_names_as_text_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    from gear.ingest.config import DataConfig
    from gear.validation.expectations import validate

    key = '<img src=x onerror="alert(1)">'
    columns: dict[str, Any] = {
        "key": [key, key, "b"],
        "label": [0, 0, 0],
        "caption": ["<script>alert(2)</script>", "a", "b"],
        "sha256": ["1", "2", "3"],
        "width": 16,
        "height": 16,
        "split": ["train", "train", "val"],
        "caption_length": 1,
        "sha_ok": True,
        "decodable": True,
        "caption_is_text": True,
        "key_in_both_splits": False,
        "image_in_both_splits": False,
        "looks_like_training": [None, None, False],
    }
    manifest = {"train": 2, "val": 1, "size": 16, "classes": ["a"]}
    monkeypatch.chdir(tmp_path)
    records = validate(pd.DataFrame(columns), manifest, DataConfig(), tmp_path / "docs")
    assert any(not record["success"] for record in records)
    pages = [page.read_text() for page in (tmp_path / "docs").rglob("*.html")]
    assert pages
    for page in pages:
        assert "<script" not in page
        assert 'onerror="alert' not in page
        assert 'src="http' not in page
        assert 'rel="stylesheet" href="http' not in page
        assert "Content-Security-Policy" in page
    assert any("&lt;img src=x" in page for page in pages)
