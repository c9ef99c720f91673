"""kill -9 at moments that a seed chooses, of any process that a house runs.

    reaper = Reaper(house, seed=17, kills=30, nights=30)
    house.night(date, reaper.watch)

A victim is chosen by what it is, so that rare processes have their turn: the daemon, its code server, a run, a step of
a run, a training process, the process that validates, and the whole machine at once. Of the kills that are due, the
first one whose process is there takes place; what finds none in its night waits for the next.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil
from night_house import House, kill

VICTIMS = ("daemon", "code server", "run", "step", "training", "suite", "machine")
LOOK_S = 0.25
MOST_WAIT_S = 6.0  # between a victim's being there and its end


def what(process: psutil.Process) -> str | None:
    """What a process of a house is; None where it is a helper of another one."""
    try:
        words = " ".join(process.cmdline())
        parent = process.parent()
        above = " ".join(parent.cmdline()) if parent is not None else ""
    except psutil.Error:
        return None
    if "night_daemon.py" in words:
        return "daemon"
    if "dagster api grpc" in words:
        return "code server"
    if "training." in words:
        return "training"
    if "warehouse.audit.validation" in words:
        return "suite"
    if "forkserver" in words:
        return "step" if "forkserver" in above else None
    if "spawn_main" in words:
        return "run"
    return None


@dataclass
class Reaper:
    """Kills to come, the next one first, and what was killed."""

    house: House
    seed: int
    kills: int
    nights: int
    victims: tuple[str, ...] = VICTIMS
    done: list[str] = field(default_factory=list)
    _due: int = 0
    _looked: float = 0.0
    _victim: tuple[str, psutil.Process, float] | None = None

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        order = [self.victims[n % len(self.victims)] for n in range(self.kills)]
        self._chance.shuffle(order)
        self._order = order
        nights = [n * self.nights // self.kills for n in range(self.kills)]
        self._nights = Counter(nights)

    def dawn(self, night: int) -> None:
        """A night begins: its kills are due, and those that waited."""
        self._due += self._nights[night]

    def watch(self) -> None:
        """Look whether the next victim is there, or whether its time has come."""
        now = time.monotonic()
        if not self._due or now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._victim is None:
            there = [(what(process), process) for process in self.house.processes()]
            for kind in self._order[: self._due]:
                found = [process for name, process in there if name == ("run" if kind == "machine" else kind)]
                if found:
                    moment = now + self._chance.uniform(0, MOST_WAIT_S)
                    self._victim = (kind, self._chance.choice(found), moment)
                    return
        elif now >= self._victim[2]:
            kind, victim, _ = self._victim
            self._victim = None
            self._end(kind, victim)

    def _end(self, kind: str, victim: psutil.Process) -> None:
        if kind == "machine":
            for process in self.house.processes():
                kill(process)
        elif victim.is_running():
            kill(victim)
        else:
            return  # it has ended by itself; another one is looked for
        self._order.remove(kind)
        self.done.append(kind)
        self._due -= 1
