"""The web UI as a person meets it: the real `rankmill ui`, a browser in front of it, and what the browser complains of.

with running_ui(home, profile, log) as address, visitor(address, chromium()) as person: person.open("/")
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

LONG = 300  # seconds that anything may take on a machine with other work; a page takes one
NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = "127.0.0.1"


@contextlib.contextmanager
def running_ui(home: Path, profile: Path, log: Path) -> Iterator[str]:
    """`rankmill ui` of a home for the length of a block: its address. What it says goes to `log`."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--home", str(home), "--profile", str(profile)]
    with log.open("w") as said:
        # A group of its own: whatever it started ends with it. Started from a shell with & it would ignore signals.
        server = subprocess.Popen(
            [sys.executable, "-m", "rankmill.cli", "ui", *options],
            cwd=home.parent, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://{HERE}:{port}"
    try:
        wait_for(f"{address}/server_info", server, log)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(60)


def wait_for(page: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server gives a page. Raises RuntimeError with the end of its log where it has ended, or will not."""
    end = time.monotonic() + LONG
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(page, timeout=10).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise RuntimeError(f"the UI did not come up:\n{log.read_text('utf-8')[-4000:]}")


@dataclass
class Visitor:
    """A person in front of a browser window, who writes down what the browser's console says."""

    address: str
    page: Any
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Write down errors of the console and of scripts, answers that are errors, and every other host asked."""
        page, note = self.page, self.complaints.append
        page.on("console", lambda said: note(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: note(f"script: {error}"))
        page.on("response", lambda answer: note(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
        page.on("request", lambda asked: note(f"elsewhere: {asked.url}") if _is_elsewhere(asked.url) else None)

    def open(self, path: str) -> None:
        """Go to a page of the UI by its path."""
        self.page.goto(f"{self.address}{path}")

    def turn_to(self, name: str) -> None:
        """Click on an entry of the navigation; the words of its icon stand before it."""
        self.page.get_by_role("link", name=re.compile(f" {name}$")).click()

    def sees(self, text: str | re.Pattern[str]) -> None:
        """Wait until a text (Markdown's ticks aside) can be seen. Raises playwright's TimeoutError."""
        text = text.replace("`", "") if isinstance(text, str) else text
        self.page.get_by_text(text).filter(visible=True).first.wait_for()

    def open_asset(self, name: str, tab: str = "Overview") -> None:
        """Go to a tab of an asset's page."""
        self.open(f"/assets/{name}")
        self.page.get_by_role("tab", name=tab).click()

    def shown(self, key: str) -> Any:
        """The cell of a metadata table that holds a key's value: the last one that is not empty."""
        row = self.page.locator("tr").filter(has=self.page.get_by_text(key, exact=True))
        row.first.wait_for()
        return row.first.locator(":scope > td").filter(has_text=re.compile(r"\S")).last

    def unfold(self, key: str) -> Any:
        """What stands beside a key, opened in a window of its own where it is large."""
        cell = self.shown(key)
        button = cell.get_by_text("[Show Markdown]")
        if not button.count():
            return cell
        button.click()
        window = self.page.get_by_role("dialog")
        window.wait_for()
        return window


def _is_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != HERE


def chromium() -> str:
    """The browser's program. Skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@contextlib.contextmanager
def visitor(address: str, program: str) -> Iterator[Visitor]:
    """A visitor with a new browser, who has not been there before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Root may not use Chromium's sandbox; /dev/shm is small in containers.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(LONG * 1000)
        person = Visitor(address, page)
        person.listen()
        yield person
        browser.close()
