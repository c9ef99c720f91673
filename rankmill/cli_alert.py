"""`rankmill alert`: whether alerts arrive where the environment says."""

from typing import Annotated

import typer

from rankmill.options import plain_errors


def alert(text: Annotated[str, typer.Argument(help="What to tell.")] = "this is a trial of rankmill's alerts") -> None:
    """Send a trial alert by every way that the environment names; alerts of failures go the same ways."""
    with plain_errors():
        from rankmill.notify import Alert, AlertFailed, tell
        from rankmill.settings import Settings

        ways = tell(Settings.load(), Alert("a trial", text))
        if not ways:
            raise AlertFailed("nobody would be told. Set RANKMILL_ALERT_WEBHOOK, or RANKMILL_ALERT_SMTP and …_MAIL_TO.")
        typer.echo(f"told by {' and '.join(ways)}")
