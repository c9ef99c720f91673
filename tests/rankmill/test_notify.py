"""Alerts as they leave: to a real HTTP server, to a real mail server, and never with an address in a log."""

from __future__ import annotations

import logging
import subprocess
import sys
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Handler
from webhooks import SECRET, free_port, webhook

from rankmill import notify
from rankmill.notify import LONGEST, Alert, AlertFailed, tell
from rankmill.settings import Settings

ALERT = Alert("label_domain math failed", "the teacher does not answer", "http://mill:3000/runs/1")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEBHOOK", "SMTP", "MAIL_TO", "MAIL_FROM"):
        monkeypatch.delenv(f"RANKMILL_ALERT_{name}", raising=False)
    monkeypatch.setattr(notify, "WAITS_S", (0.01, 0.01))


class Inbox(Handler):
    """Keeps the messages that a mail server takes."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.messages.append(message)


def mail_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name, value in (("SMTP", address), ("MAIL_TO", "a@x.org, b@x.org"), ("MAIL_FROM", "mill@x.org")):
        monkeypatch.setenv(f"RANKMILL_ALERT_{name}", value)


def test_without_an_address_nobody_is_told_and_nothing_fails() -> None:
    assert tell(Settings.load(), ALERT) == []


def test_a_webhook_gets_title_text_and_link_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        assert tell(Settings.load(), ALERT) == ["webhook"]
        tell(Settings.load(), Alert("long", "x" * 2 * LONGEST))
    assert server.texts[0] == "\n".join((ALERT.title, ALERT.text, str(ALERT.link)))
    assert len(server.texts) == 2 and len(server.texts[1]) < LONGEST + 20


@pytest.mark.parametrize(("answers", "asked"), [((503, 429, 200), 3), ((500,), 3), ((404,), 1)])
def test_a_webhook_that_is_busy_is_tried_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[int, ...], asked: int
) -> None:
    with webhook(*answers) as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        if answers[-1] == 200:
            assert tell(Settings.load(), ALERT) == ["webhook"]
        else:
            with pytest.raises(AlertFailed, match=f"answered {answers[-1]}"):
                tell(Settings.load(), ALERT)
    assert len(server.texts) == asked


@pytest.mark.parametrize("place", ["http://127.0.0.1:9", "https://no-such-host.invalid", "ftp://x", "file:///etc"])
def test_no_error_and_no_log_holds_the_secret_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", f"{place}/{SECRET}")
    mail_to(monkeypatch, f"smtp://mill:{SECRET}@127.0.0.1:9")
    settings = Settings.load()
    with pytest.raises(AlertFailed) as told:
        tell(settings, ALERT)
    error: BaseException | None = told.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert SECRET not in caplog.text and SECRET not in repr(settings) and SECRET not in str(settings.model_dump())
    assert "webhook:" in str(told.value) and "e-mail:" in str(told.value)


def test_an_e_mail_reaches_everybody_with_title_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    port = free_port()
    server = Controller(inbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        mail_to(monkeypatch, f"smtp://127.0.0.1:{port}")
        assert tell(Settings.load(), Alert("a\nheader: forged", "ä text", None)) == ["e-mail"]
        mail_to(monkeypatch, f"smtp://mill:{SECRET}@127.0.0.1:{port}")
        with pytest.raises(AlertFailed, match="not sent in the clear"):
            tell(Settings.load(), ALERT)
    finally:
        server.stop()
    (message,) = inbox.messages
    assert message["Subject"] == "rankmill: a header: forged" and message["header"] is None
    assert message["To"] == "a@x.org, b@x.org"
    payload: Any = message.get_payload(decode=True)
    assert payload.decode().replace("\r\n", "\n") == "a\nheader: forged\nä text\n"


def test_one_way_that_fails_does_not_keep_the_other_from_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        mail_to(monkeypatch, "smtp://127.0.0.1:9")
        with pytest.raises(AlertFailed, match="e-mail"):
            tell(Settings.load(), ALERT)
    assert len(server.texts) == 1


def test_a_person_can_try_the_addresses_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def rankmill(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rankmill.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    nobody = rankmill("alert")
    assert nobody.returncode == 1 and "RANKMILL_ALERT_WEBHOOK" in nobody.stderr
    with webhook() as server:
        monkeypatch.setenv("RANKMILL_ALERT_WEBHOOK", server.address)
        sent = rankmill("alert", "is anybody there?")
    assert (sent.returncode, sent.stdout) == (0, "told by webhook\n")
    assert server.texts == ["a trial\nis anybody there?"]
