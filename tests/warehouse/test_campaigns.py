"""The campaign report: what its figures say of answers that came in different ways."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from small_lake import DOMAINS, message
from told_lake import exchange

from warehouse.lake import Append, Lake
from warehouse.pages.campaigns import campaign_values
from warehouse.pages.reports import write_report


def test_answers_of_a_batch_have_no_latency_and_take_no_part_in_that_of_the_others(
    factory_lake: Lake, tmp_path: Path
) -> None:
    mixed = [exchange(f"m{latency_s}", "mining", latency_s=latency_s) for latency_s in (0.0, 0.0, 0.0, 2.0, 4.0)]
    batch = [exchange(key, "ranking", latency_s=0.0) for key in "abc"]
    rows = pl.DataFrame([*mixed, *batch], infer_schema_length=None)
    behind = Append("campaign_exchanges", rows.select("domain", "purpose", "key"))
    factory_lake.commit([Append("exchanges", rows), behind], message("mined_judgements"))
    values = campaign_values(factory_lake, DOMAINS, 0.4)
    told = {row["purpose"]: [row[name] for name in ("calls", "p50", "p90")] for row in values["by_teacher"]}
    assert told == {"mining": [5, 3.0, 3.8], "ranking": [3, None, None]}
    page = write_report(tmp_path / "campaign.html", "campaign.html.j2", {**values, "planned": []}).read_text("utf-8")
    assert '<td class="n">3.000 s</td>' in page and page.count('<td class="n">–</td>' * 3) == 1
