"""Drive headless Chromium through the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.wait import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """A page of a browser, with the `requests` and `errors` that it has made so far."""

    def __init__(self, profile: Path) -> None:
        """Start Chromium with a new profile in a folder."""
        from websockets.sync.client import connect

        binary = next(filter(None, map(shutil.which, NAMES)), None)
        assert binary, f"needs a browser: one of {', '.join(NAMES)}"
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}"]
        flags += ["--disable-background-networking", "--disable-component-update"]
        self.process = subprocess.Popen(
            [binary, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ports = profile / "DevToolsActivePort"
        assert wait_until(lambda: ports.exists() and ports.read_text().strip(), 60)
        address = f"http://127.0.0.1:{ports.read_text().split()[0]}/json/list"
        pages: list[dict[str, str]] = []

        def found() -> bool:
            with urllib.request.urlopen(address, timeout=10) as answer:
                pages[:] = [page for page in json.load(answer) if page["type"] == "page"]
            return bool(pages)

        assert wait_until(found, 20)
        self.socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, ping_interval=None)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(found["exceptionDetails"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "assert"):
            self.errors.append(json.dumps(found["args"]))

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        assert wait_until(lambda: self("document.readyState") == "complete", 30)

    def __call__(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page; return its value."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Emulate a screen of this size, in the light or the dark theme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        """Send a mouse event: "mouseMoved", "mousePressed" or "mouseReleased"."""
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=clicks)

    def key(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def box(self, selector: str) -> dict[str, float]:
        """Scroll to an element; return its bounding box in the window."""
        place = f"document.querySelector({json.dumps(selector)})"
        found = self(
            f"(() => {{ {place}.scrollIntoView({{block: 'center'}}); "
            f"const box = {place}.getBoundingClientRect(); "
            "return {x: box.x, y: box.y, width: box.width, height: box.height}; })()"
        )
        return dict(found)

    def screenshot(self, file: Path) -> None:
        """Save a screenshot of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def pause(self, seconds: float) -> None:
        """Wait, and record the requests and errors of the page."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self("0")
            time.sleep(0.1)
