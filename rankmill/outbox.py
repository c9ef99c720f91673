"""Alerts that could not be delivered: each waits in a file of its own below the home, until somebody takes it.

    outbox = Outbox(settings.home / "alerts")
    outbox.tell(settings, alert)      # at once; behind the others where some wait
    outbox.deliver(settings)          # those that wait, the oldest first

A file is named by its moment, written whole, and removed when every way has told it; a way that has is not asked again.
One sensor delivers (assets/alerts.py), so an alert goes out once, unless a process is killed between the answer of the
webhook and the removal. Deliberately absent: an end of the waiting.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rankmill.notify import Alert, AlertFailed, tell, ways_of
from rankmill.settings import Settings

TICK_S = 20  # after which a delivery leaves the rest to the next tick; Dagster gives a tick a minute


@dataclass(frozen=True)
class Outbox:
    """The folder of alerts that wait."""

    folder: Path

    def waiting(self) -> list[Path]:
        """Their files, the oldest first."""
        return sorted(self.folder.glob("*.json"))

    def tell(self, settings: Settings, alert: Alert) -> list[str]:
        """Tell an alert and give the ways; raises AlertFailed where it waits, and says why."""
        if not ways_of(settings):
            return []
        before = len(self.waiting())
        try:
            if before:
                raise AlertFailed(f"{before} before it could not be told yet")
            return tell(settings, alert)
        except AlertFailed as why:
            try:
                self._keep(self.folder / f"{time.time_ns():020}.{os.getpid()}.json", alert, why.told)
            except OSError as error:
                raise AlertFailed(f"{why} It is lost, since it could not be kept: {error}", why.told) from None
            raise AlertFailed(f"it waits: {why}", why.told) from None

    def deliver(self, settings: Settings) -> list[str]:
        """Tell those that wait and give their titles; raises AlertFailed at the first that has to wait on."""
        titles: list[str] = []
        if not ways_of(settings):
            return titles
        ends = time.monotonic() + TICK_S
        for path in self.waiting():
            if time.monotonic() > ends:
                break
            held = json.loads(path.read_text("utf-8"))
            alert, told = Alert(**held["alert"]), tuple(held["told"])
            try:
                tell(settings, alert, told)
            except AlertFailed as error:
                self._keep(path, alert, (*told, *error.told))
                raise AlertFailed(f"{len(self.waiting())} wait, the first is {alert.title!r}: {error}") from None
            path.unlink()
            titles.append(alert.title)
        return titles

    def _keep(self, path: Path, alert: Alert, told: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump({"alert": asdict(alert), "told": list(told)}, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
