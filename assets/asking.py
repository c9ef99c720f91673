"""Label campaigns whose paid half runs at another place, where the profile says so.

Deliberately absent: what is asked (flows.questions), and how it is asked there (flows.asking).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from assets.places import Processes
from assets.resources import Factory
from assets.tasks import ProcessFailed
from flows import asking
from flows.campaign import Label
from flows.questions import Question
from flows.standing import standing
from flows.steps import Campaign
from inference.store import ExchangeStore

ENVIRONMENT = {"TQDM_DISABLE": "1"}


def at_its_place(context: dg.AssetExecutionContext, factory: Factory, campaign: Campaign) -> Campaign:
    """The campaign as it is where `label` runs here; else its questions go there, unless all are answered already."""
    settings = factory.settings
    place, home = Processes(settings.profile.processes, settings.home), settings.campaign_home
    if not place.elsewhere("label"):
        return campaign

    def ask(name: str, questions: Sequence[Question]) -> Label:
        with ExchangeStore(home.store) as store:
            if all(stand.due is None for stand in standing(store, questions)):
                return campaign.ask(name, questions)
        folder = settings.home / "work" / "label"
        path = asking.write(folder, name, questions, campaign.teacher, home)
        command, cause = [sys.executable, "-m", "rankmill.asking", str(path)], ""
        try:
            place.run(context=context, stage="label", command=command, env=ENVIRONMENT)
        except ProcessFailed as failed:
            cause = f" ({failed})"
        try:
            bought = asking.answered(path)
        finally:
            path.unlink()
            asking.came_of(path).unlink(missing_ok=True)
        if bought is None:
            raise dg.Failure(
                f"{name}: the process that asks ended without a word{cause}. Mend the cause and materialize it again: "
                f"answers that came are stored.",
                allow_retries=False,
            )
        return bought

    return replace(campaign, ask=ask)
