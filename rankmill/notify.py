"""How a person is told that something is wrong: a webhook, an e-mail, or both, as the environment names them.

    tell(settings, Alert("label_domain failed", "the teacher does not answer", "http://mill:3000/runs/…"))

A webhook gets {"text": …}, which Slack, Mattermost, Rocket.Chat, Google Chat and Teams workflows show as it is. An
address may hold a secret, so it stands in no message, log or error of this module; the standard library's clients are
used because they log nothing. Deliberately absent: what is worth an alert (assets/alerts.py), and what becomes of one
that could not be delivered (outbox.py).
"""

import json
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

from rankmill.settings import Settings

TIMEOUT_S = 10
WAITS_S = (1.0, 3.0)
LONGEST = 3000  # characters of an alert's text; Slack cuts at 4000
OF_USE_LATER = (408, 425, 429, 500, 502, 503, 504)


class AlertFailed(RuntimeError):
    """An alert could not be delivered, or an address cannot be used; the message says which, and not the address.

    `told` are the ways that did deliver it.
    """

    def __init__(self, why: str, told: Collection[str] = ()) -> None:
        super().__init__(why)
        self.told = tuple(told)


@dataclass(frozen=True)
class Alert:
    """What is told: one line, some text, and where to look."""

    title: str
    text: str
    link: str | None = None

    @property
    def whole(self) -> str:
        """All of it as plain text."""
        text = self.text if len(self.text) <= LONGEST else f"{self.text[:LONGEST]} …"
        return "\n".join(part for part in (self.title, text, self.link) if part)


def ways_of(settings: Settings) -> dict[str, Callable[[Settings, Alert], None]]:
    """The ways that the environment names."""
    ways: dict[str, Callable[[Settings, Alert], None]] = {}
    if settings.alert_webhook is not None:
        ways["webhook"] = _post
    if settings.alert_smtp is not None:
        ways["e-mail"] = _mail
    return ways


def tell(settings: Settings, alert: Alert, but: Collection[str] = ()) -> list[str]:
    """Send an alert by every way that the environment names `but` some; gives the ways.

    Raises AlertFailed after trying all.
    """
    told, failed = [], []
    for name, send in ways_of(settings).items():
        if name in but:
            continue
        try:
            send(settings, alert)
            told.append(name)
        except AlertFailed as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise AlertFailed("; ".join(failed), told)
    return told


def _post(settings: Settings, alert: Alert) -> None:
    assert settings.alert_webhook is not None  # tell has looked
    address = settings.alert_webhook.get_secret_value()
    if urlsplit(address).scheme not in ("http", "https"):
        raise AlertFailed("RANKMILL_ALERT_WEBHOOK is no http or https address.")
    body = json.dumps({"text": alert.whole}).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    for wait in (*WAITS_S, None):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            if wait is None or error.code not in OF_USE_LATER:
                raise AlertFailed(f"the webhook answered {error.code}. Look at RANKMILL_ALERT_WEBHOOK.") from None
        except OSError as error:
            if wait is None:
                kind = type(getattr(error, "reason", error)).__name__
                raise AlertFailed(f"the webhook does not answer ({kind}). Look at RANKMILL_ALERT_WEBHOOK.") from None
        time.sleep(wait)


def _mail(settings: Settings, alert: Alert) -> None:
    assert settings.alert_smtp is not None  # tell has looked
    server = urlsplit(settings.alert_smtp.get_secret_value())
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise AlertFailed("RANKMILL_ALERT_SMTP is no smtp://host:port or smtps://user:password@host:port.")
    if not settings.alert_mail_to or not settings.alert_mail_from:
        raise AlertFailed("RANKMILL_ALERT_SMTP is set, so RANKMILL_ALERT_MAIL_TO and …_MAIL_FROM must be.")
    message = EmailMessage()
    message["Subject"] = f"rankmill: {alert.title}".replace("\n", " ")[:200]
    message["From"], message["To"] = settings.alert_mail_from, settings.alert_mail_to
    message.set_content(alert.whole)
    try:
        client: smtplib.SMTP
        if server.scheme == "smtps":
            client = smtplib.SMTP_SSL(
                server.hostname, server.port or 465, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            client = smtplib.SMTP(server.hostname, server.port or 25, timeout=TIMEOUT_S)
        with client:
            if server.scheme == "smtp" and client.has_extn("starttls"):
                client.starttls(context=ssl.create_default_context())
            if server.username:
                if server.scheme == "smtp" and not client.has_extn("starttls"):
                    raise AlertFailed("the mail server offers no STARTTLS, and a password is not sent in the clear.")
                client.login(unquote(server.username), unquote(server.password or ""))
            client.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise AlertFailed(f"the mail server refuses or does not answer ({type(error).__name__}).") from None
