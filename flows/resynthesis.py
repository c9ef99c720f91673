"""Labelling without Dagster: from sources to consistent rankings, for what is missing, new, changed or rejected.

    mill = Mill(lake, active, labels, teacher, home, candidates=100, alpha=0.4, seed=0, reports=folder)
    planned = plan_all(mill, retry=True, tell=print)
    label_all(mill, planned, tell=print, say=print)
    report(mill, planned)

The steps are those of Dagster's assets, so what is made here counts there and the other way round. Deliberately absent:
a clock (Dagster's schedule calls), and anything after the filter.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from flows.campaign import Home, Tell
from flows.plan import Planned, plan, retry_rejected
from flows.questions import LabelSettings
from flows.steps import Campaign, campaign_of, mining_step, ranking_step
from flows.teacher import VLLM, TeacherSettings, serving
from inference.store import ExchangeStore
from warehouse.curation.self_consistency import consistency_step
from warehouse.intake.registry import Active
from warehouse.intake.steps import candidates_step, source_step
from warehouse.lake import Lake
from warehouse.pages.campaigns import campaign_values
from warehouse.pages.reports import write_report
from warehouse.production import Performed, Shop, Step, perform


@dataclass(frozen=True)
class Mill:
    """A home's sources, its lake and its teacher: all that labelling needs."""

    lake: Lake
    active: Sequence[Active]
    labels: LabelSettings
    teacher: TeacherSettings
    home: Home
    candidates: int
    alpha: float
    seed: int
    reports: Path

    @property
    def domains(self) -> list[str]:
        """Domains of the sources."""
        return [active.domain for active in self.active]

    def campaign(self, domain: str, tell: Tell) -> Campaign:
        """A domain's questions to the teacher."""
        return campaign_of(domain, self.labels, self.teacher, self.lake, self.home, tell)


def plan_all(mill: Mill, retry: bool, tell: Tell) -> list[Planned]:
    """What labelling every domain would ask, from the sources as they are now; nothing is bought."""
    planned = []
    with ExchangeStore(mill.home.store) as store:
        for active in mill.active:
            intake = [source_step(active, mill.seed), candidates_step(active.domain, mill.candidates)]
            _perform(mill, intake, tell)
            shop = Shop(mill.lake, active.domain, mill.lake.snapshot(), mill.domains)
            planned += plan(mill.campaign(active.domain, tell), shop, store, retry)
    return planned


def label_all(mill: Mill, planned: Sequence[Planned], tell: Tell, say: Tell) -> dict[str, list[Performed]]:
    """Label every domain, rejected questions of the plan once more; gives what became of each step, by domain.

    `tell` hears what was made, `say` how the campaigns get on meanwhile.

    A Prefect flow where a server is named, in which the campaigns are flows of their own. Raises what label raises.
    """
    if mill.home.prefect is None:
        return _label_all(mill, planned, tell, say)
    from prefect import flow

    name = f"label {', '.join(mill.domains)}"[:200]
    as_flow = flow(name="resynthesize", flow_run_name=name, persist_result=False, validate_parameters=False)(_label_all)
    return as_flow(mill, planned, tell, say)


def report(mill: Mill, planned: Sequence[Planned]) -> Path:
    """The campaign report of all domains, with what this run had planned."""
    values = campaign_values(mill.lake, mill.domains, mill.alpha)
    asked = [
        {"domain": each.domain, "purpose": each.purpose, **each.states, "calls": each.estimate.calls}
        for each in planned
    ]
    return write_report(mill.reports / "campaign.html", "campaign.html.j2", {**values, "planned": asked})


def _label_all(mill: Mill, planned: Sequence[Planned], tell: Tell, say: Tell) -> dict[str, list[Performed]]:
    with ExchangeStore(mill.home.store) as store:
        retry_rejected(planned, store)
    with _one_server(mill, planned) as served:
        return {active.domain: _label(served, active, tell, say) for active in mill.active}


@contextmanager
def _one_server(mill: Mill, planned: Sequence[Planned]) -> Iterator[Mill]:
    """The mill with a vLLM server up for all of its campaigns, where it names one and there is something to ask."""
    asks = any(each.estimate.calls for each in planned)
    if mill.teacher.base_url != VLLM or not asks:
        yield mill
        return
    with serving(mill.teacher, mill.home.logs / "vllm.log") as base_url:
        yield replace(mill, teacher=mill.teacher.model_copy(update={"base_url": base_url}))


def _label(mill: Mill, active: Active, tell: Tell, say: Tell) -> list[Performed]:
    campaign = mill.campaign(active.domain, say)
    return _perform(
        mill,
        [
            source_step(active, mill.seed),
            candidates_step(active.domain, mill.candidates),
            mining_step(campaign),
            ranking_step(campaign),
            consistency_step(active.domain, mill.alpha),
        ],
        tell,
    )


def _perform(mill: Mill, steps: Sequence[Step], tell: Tell) -> list[Performed]:
    run_id = str(uuid.uuid4())
    done = []
    for step in steps:
        performed = perform(mill.lake, step, run_id, mill.domains)
        for asset, row in performed.rows.items():
            counts = f"{row.rows_in} in, {row.rows_out} out, {row.rows_rejected} rejected"
            if performed.committed is None:
                tell(f"{step.partition_key} · {asset}: unchanged ({counts})")
            else:
                tell(f"{step.partition_key} · {asset}: {counts}{_reasons(mill, asset, step.partition_key)}")
        done.append(performed)
    return done


def _reasons(mill: Mill, asset: str, domain: str) -> str:
    """Why rows of an asset were rejected, the commonest reason first, with what one of them is told."""
    known = {"asset": asset, "partition_key": domain, "stage": asset}
    told = mill.lake.read("rejections", known, ["reason", "detail"])
    found = told.group_by("reason").agg(pl.len().alias("rows"), pl.col("detail").min())
    rows = found.sort("rows", "reason", descending=[True, False]).iter_rows()
    return "".join(f"; {count} {reason} ({detail})" for reason, count, detail in rows)
