"""What unattended work may spend in a night and in a month: a cap for the engine's hard limit.

    night = night_at(datetime.now(UTC))                  # 2030-01-02: from 03:00 UTC until the next night begins
    left = allowance(store, night, budgets)              # None where the profile sets no such budget
    teacher = left.bounding(teacher)                     # the teacher with the cap of this night's runs

Whatever the home has spent since the night began counts, whoever asked. The cap is a level of the home's own total,
and not a sum a run: all runs of a night that are under way at once share it, in whatever process they are, and one that
is started again finds the same. A month begins with its first night.

Deliberately absent: the limit itself, which the engine holds (inference/budget.py), and the clock that calls.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from flows.teacher import TeacherSettings
from inference.budget import Budget
from inference.store import ExchangeStore

HOUR = 3  # UTC, at which a night begins


class NightBudgets(BaseModel):
    """What unattended runs may spend; what the home may spend in all is the teacher's own budget_usd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night_usd: float | None = Field(None, ge=0, description="Most USD that the home spends from 03:00 UTC to the next.")
    month_usd: float | None = Field(None, ge=0, description="Most USD that the home spends in the nights of a month.")


@dataclass(frozen=True)
class Night:
    """The day that begins at 03:00 UTC."""

    began: datetime

    @property
    def name(self) -> str:
        """Its date."""
        return self.began.date().isoformat()

    @property
    def month_began(self) -> datetime:
        """When the first night of its month began."""
        return self.began.replace(day=1)


@dataclass(frozen=True)
class Allowance:
    """What is left of the budget that ends first: the `night`'s or the `month`'s.

    `cap_usd` is the home's total at which it is used up, `left_usd` what lies between; `budget_usd` as it was set.
    """

    night: Night
    which: str
    budget_usd: float
    cap_usd: float
    left_usd: float

    @property
    def words(self) -> str:
        """What to tell when it is used up: which budget, and what to do."""
        when = f"night {self.night.name}" if self.which == "night" else f"month {self.night.name[:7]}"
        return (
            f"the budget of the {when}, ${self.budget_usd:,.2f}, is used up (${max(0.0, self.left_usd):,.2f} were left "
            f"to begin with). All answers are kept, and the next {self.which} goes on; to go on now raise "
            f"budgets.{self.which}_usd in the profile."
        )

    def pays_for_a_question(self, teacher: TeacherSettings) -> bool:
        """Whether the shortest question with the longest answer still fits."""
        return self.left_usd >= teacher.prices.of(teacher.model).output * teacher.max_tokens * teacher.share / 1e6

    def bounding(self, teacher: TeacherSettings) -> TeacherSettings:
        """A teacher that stops at this cap, or at its own budget where that ends first."""
        own = teacher.budget_usd
        return teacher.model_copy(update={"budget_usd": self.cap_usd if own is None else min(own, self.cap_usd)})


def night_at(moment: datetime) -> Night:
    """The night that a moment (with its time zone) belongs to."""
    began = moment.astimezone(UTC).replace(hour=HOUR, minute=0, second=0, microsecond=0)
    return Night(began if began <= moment else began - timedelta(days=1))


def allowance(store: ExchangeStore, night: Night, budgets: NightBudgets) -> Allowance | None:
    """What a night may still spend; None where neither budget is set."""
    scope = Budget().scope
    spent = store.spent(scope).usd
    found = []
    for which, began, usd in (
        ("night", night.began, budgets.night_usd),
        ("month", night.month_began, budgets.month_usd),
    ):
        if usd is not None:
            cap = store.spent_before(scope, began).usd + usd
            found.append(Allowance(night, which, usd, cap, cap - spent))
    return min(found, key=lambda left: left.cap_usd) if found else None
