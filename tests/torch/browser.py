"""What a headless Chromium makes of an HTML file: what overflows, what fails, what it looks like.

Speaks the DevTools protocol over a pipe, so that width, colour scheme and every message are exact
and nothing but the browser itself is needed. Without a network: no name is resolved.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = 390, 1280
PATIENCE_S = 120

# Chromium reads the protocol from descriptor 3 and writes it to 4. A preexec_fn would fork
# a process with torch's threads.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Boxes and text that leave the window at a side, unless an ancestor scrolls them, or they are a
# drawer: fixed, and wholly outside until it is opened.
OVERFLOWING = """
(width => {
  const found = [], laid = document.documentElement.scrollWidth;
  if (laid > width) found.push(`the page is ${laid} px wide`);
  const lineage = element => {
    const all = [];
    for (let each = element; each; each = each.parentElement) all.push(getComputedStyle(each));
    return all;
  };
  for (const element of document.body.querySelectorAll('*')) {
    if (element.parentElement.closest('svg, math')) continue;
    const boxes = [element.getBoundingClientRect()];
    const range = document.createRange();
    for (const node of element.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.data.trim()) continue;
      range.selectNodeContents(node);
      boxes.push(range.getBoundingClientRect());
    }
    const drawn = boxes.filter(box => box.width && box.height);
    if (!drawn.length) continue;
    const left = Math.min(...drawn.map(box => box.left));
    const right = Math.max(...drawn.map(box => box.right));
    if (left > -1 && right < width + 1) continue;
    const [own, ...above] = lineage(element);
    const outside = right <= 0 || left >= width;
    if (outside && [own, ...above].some(style => style.position === 'fixed')) continue;
    if (above.some(style => /auto|scroll/.test(style.overflowX))) continue;
    if (/auto|scroll/.test(own.overflowX) && boxes[0].left > -1 && boxes[0].right < width + 1)
      continue;
    const name = [element.localName, ...element.classList].join('.');
    const text = element.textContent.trim().slice(0, 40);
    found.push(`${name} from ${left.toFixed()} to ${right.toFixed()} px: ${text}`);
  }
  return found;
})
"""


def overflowing(path: Path, width: int, dark: bool) -> list[str]:
    """Elements of a page that leave a window of so many pixels at a side; skips without Chromium.

    What lies in an element that scrolls is seen by scrolling, and is no fault.
    """
    found: list[str] = _browser().opened(path, width, dark, f"{OVERFLOWING}({width})")
    return found


def console_errors(path: Path) -> list[str]:
    """What a page logs as an error, throws, or fails to load; skips without Chromium."""
    _browser().opened(path, DESK, False)
    return [text for event in _browser().events if (text := _fault(event))]


def requested(path: Path) -> list[str]:
    """Addresses that a page asks for, itself and ``data:`` apart; skips without Chromium."""
    _browser().opened(path, DESK, False)
    asked = [e["params"] for e in _browser().events if e["method"] == "Network.requestWillBeSent"]
    urls = [each["request"]["url"] for each in asked]
    return [url for url in urls if url != path.resolve().as_uri() and not url.startswith("data:")]


def screenshot(path: Path, width: int, dark: bool, picture: Path) -> Path:
    """Write the whole page, as it looks in a window of that width, as PNG."""
    _browser().opened(path, width, dark)
    size = _browser().ask("Page.getLayoutMetrics")["cssContentSize"]
    whole = {**size, "scale": 1}
    shot = _browser().ask("Page.captureScreenshot", captureBeyondViewport=True, clip=whole)
    picture.write_bytes(base64.b64decode(shot["data"]))
    return picture


def value_of(path: Path, expression: str, width: int = DESK, dark: bool = False) -> Any:
    """What an expression of JavaScript is worth in a page; skips without Chromium."""
    return _browser().opened(path, width, dark, expression)


def _fault(event: dict[str, Any]) -> str:
    name, params = event["method"], event["params"]
    if name == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        return str(details.get("exception", {}).get("description", details["text"]))
    if name == "Log.entryAdded" and params["entry"]["level"] == "error":
        return f"{params['entry']['text']} {params['entry'].get('url', '')}".strip()
    if name == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
        return " ".join(str(each.get("value", each)) for each in params["args"])
    if name == "Network.loadingFailed" and not params.get("canceled"):
        return f"{params['type']} failed to load: {params['errorText']}"
    return ""


class _Browser:
    """One Chromium with one tab; ``events`` are those since the last page was opened."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        to_read, self._to = os.pipe()
        from_end, to_write = os.pipe()
        words = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-dev-shm-usage",
            "--disable-background-networking", "--remote-debugging-pipe",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self._profile.name}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", LAUNCH, str(to_read), str(to_write), program, *words],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._from = from_end
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def opened(self, path: Path, width: int, dark: bool, expression: str = "null") -> Any:
        """Open a page in a window of that width and colour scheme, and evaluate an expression."""
        self._go("about:blank")
        self.ask("Log.clear")
        phone = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self._go(path.resolve().as_uri())
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        self._send(json.dumps(message).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the browser: it goes when its pipe does."""
        with contextlib.suppress(OSError):
            os.close(self._to)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    def _go(self, url: str) -> None:
        """Open an address, and wait until it is laid out with all that it loads."""
        self.events = []
        self.ask("Page.navigate", url=url)
        loaded = "Page.loadEventFired"
        if all(event["method"] != loaded for event in self.events):
            self._until(lambda message: message.get("method") == loaded)

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._to, data) :]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            message = self._next()
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], PATIENCE_S)
            assert ready, "Chromium does not answer"
            block = os.read(self._from, 1 << 20)
            assert block, "Chromium ended"
            self._rest += block
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


@functools.cache
def _browser() -> _Browser:
    """The browser that every test shares; it ends with the process."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed: pages looked at")
    browser = _Browser(program)
    atexit.register(browser.close)
    return browser
