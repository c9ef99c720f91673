"""Whether the teacher can be trusted, and which alpha to choose: figures from the lake, by domain.

    audit = audit_teacher(lake, ["math", "coding"])
    audit.against_people    # mined judgements against human ones: precision, recall, kappa
    audit.two_opinions      # its ranking (answer hidden) against its own mined labels (answer shown)
    audit.position          # the pull of the order in which it was shown a list
    audit.sweep             # what each alpha keeps, and what a kept row costs
    audit.picture(0.4)      # histogram of NDCG@10 and the sweep, as PNG bytes

Agreement with people is read from the ledger, as it was measured when the judgements were mined; the rest follows from
rankings and exchanges. Every frame has a row a domain, and one named `all`.

Deliberately absent: choosing alpha. That is done by looking, and set in the profile.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ranking.agreement import position_bias
from ranking.consistency import consistency
from ranking.statistics import cohen_kappa
from warehouse.lake import Lake
from warehouse.ledger import campaign_calls

ALL = "all"
ALPHAS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
"""The paper's grid is 0.1 to 0.7 in steps of 0.1; ours is twice as fine."""
AGAINST = pl.Schema(
    {"domain": pl.String(), "pairs": pl.Int64(), **dict.fromkeys(("precision", "recall", "kappa"), pl.Float64())}
)
OPINIONS = pl.Schema(
    {
        "domain": pl.String(), "lists": pl.Int64(), "consistency": pl.Float64(), "first_is_positive": pl.Float64(),
        "precision": pl.Float64(), "kappa": pl.Float64(),
    }
)  # fmt: skip
SWEEP = pl.Schema(
    {
        "domain": pl.String(), "alpha": pl.Float64(), "ranked": pl.Int64(), "kept": pl.Int64(), "share": pl.Float64(),
        "usd_per_kept": pl.Float64(), "tokens_per_kept": pl.Float64(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class TeacherAudit:
    """The frames of the audit. `scored` has domain, ranking_id and consistency, a row a ranking."""

    against_people: pl.DataFrame
    two_opinions: pl.DataFrame
    position: pl.DataFrame
    sweep: pl.DataFrame
    scored: pl.DataFrame

    def picture(self, alpha: float) -> bytes:
        """NDCG@10 of all rankings, and what each alpha keeps by domain, with `alpha` marked: PNG bytes."""
        from warehouse.pages.pictures import alpha_sweep

        return alpha_sweep(self.scored, self.sweep, alpha)


def audit_teacher(
    lake: Lake, domains: Sequence[str], alphas: Sequence[float] = ALPHAS, snapshot: int | None = None
) -> TeacherAudit:
    """The audit of the labels of `domains`, as they are now or were at `snapshot`."""

    def read(table: str, columns: Sequence[str]) -> pl.DataFrame:
        return lake.read(table, columns=columns, snapshot=snapshot).filter(pl.col("domain").is_in(list(domains)))

    ranked = read("rankings", ["domain", "ranking_id", "qid", "final_list", "relevant_docids"])
    scored = consistency(ranked).select("domain", "ranking_id", "consistency").sort("domain", "ranking_id")
    mined = read("judgements", ["domain", "qid", "docid", "grade", "origin"])
    calls = campaign_calls(lake, ["domain", "purpose", "key", "usd", "prompt_tokens", "completion_tokens"], snapshot)
    spent = calls.filter(pl.col("domain").is_in(list(domains)))
    return TeacherAudit(
        _against_people(lake, domains, snapshot),
        two_opinions(ranked, mined.filter((pl.col("origin") == "teacher") & (pl.col("grade") >= 1))),
        _position(read("ranking_samples", ["domain", "initial_list", "final_list"])),
        alpha_sweep(scored, spent, alphas),
        scored,
    )


def two_opinions(rankings: pl.DataFrame, positives: pl.DataFrame) -> pl.DataFrame:
    """OPINIONS: the teacher's ranking against its own mined labels, over lists that hold a mined positive.

    With p mined positives in a list, its first p places are what the ranking calls positive: precision is the share of
    them that were mined, kappa is over all pairs of list and passage. `positives` has domain, qid, docid.
    """
    mined = positives.select("domain", "qid", "docid", mined=pl.lit(True)).unique()
    places = pl.int_ranges(pl.col("final_list").list.len())
    pairs = (
        rankings.select("domain", "ranking_id", "qid", docid="final_list", place=places)
        .explode("docid", "place")
        .join(mined, on=["domain", "qid", "docid"], how="left")
        .with_columns(pl.col("mined").fill_null(False))
        .with_columns(count=pl.col("mined").sum().over("ranking_id"))
        .filter(pl.col("count") > 0)
        .with_columns(top=pl.col("place") < pl.col("count"))
        .sort("ranking_id", "place")
    )
    lists = consistency(
        pairs.group_by("domain", "ranking_id", maintain_order=True).agg(
            final_list="docid", relevant_docids=pl.col("docid").filter("mined"), first=pl.col("mined").first()
        )
    )
    told = []
    for domain in (*sorted(lists["domain"].unique()), ALL):
        chosen = pl.lit(True) if domain == ALL else pl.col("domain") == domain
        some, their = lists.filter(chosen), pairs.filter(chosen)
        if some.is_empty():
            continue
        agreeing = (their["top"] & their["mined"]).sum() / max(1, int(their["top"].sum()))
        kappa = cohen_kappa(their["top"].to_numpy(), their["mined"].to_numpy())
        told.append((domain, some.height, some["consistency"].mean(), some["first"].mean(), agreeing, kappa))
    return pl.DataFrame(told, schema=OPINIONS, orient="row")


def alpha_sweep(scored: pl.DataFrame, spent: pl.DataFrame, alphas: Sequence[float] = ALPHAS) -> pl.DataFrame:
    """SWEEP: rankings that each alpha keeps, and what a kept row costs with all that its domain's questions cost.

    `scored` has domain and consistency, `spent` the domain's exchanges. A cost is null where nothing is kept.
    """
    both = pl.concat([scored, scored.with_columns(domain=pl.lit(ALL))])
    cost = pl.concat([spent, spent.with_columns(domain=pl.lit(ALL))]).group_by("domain").agg(
        pl.col("usd").sum(), tokens=(pl.col("prompt_tokens") + pl.col("completion_tokens")).sum()
    )  # fmt: skip
    kept = pl.concat(
        [
            both.group_by("domain").agg(
                alpha=pl.lit(float(alpha)), ranked=pl.len(), kept=(pl.col("consistency") >= alpha).sum()
            )
            for alpha in alphas
        ]
    )
    some = pl.when(pl.col("kept") > 0).then("kept")
    return (
        kept.join(cost, on="domain", how="left")
        .with_columns(
            share=pl.col("kept") / pl.col("ranked"),
            usd_per_kept=pl.col("usd") / some,
            tokens_per_kept=pl.col("tokens") / some,
        )
        .sort(pl.col("domain") == ALL, "domain", "alpha")
        .select(list(SWEEP))
        .cast(SWEEP)
    )


def _against_people(lake: Lake, domains: Sequence[str], snapshot: int | None) -> pl.DataFrame:
    made = lake.read("materializations", {"asset": "mined_judgements"}, ["partition_key", "figures"], snapshot)
    told = []
    for domain, text in made.sort("partition_key").iter_rows():
        figures = json.loads(text)
        if domain in domains and figures.get("teacher_pairs"):
            measured = [figures[f"teacher_{name}"] for name in ("precision", "recall", "kappa")]
            told.append((domain, int(figures["teacher_pairs"]), *measured))
    frame = pl.DataFrame(told, schema=AGAINST, orient="row")
    if frame.is_empty():
        return frame
    weighted = [(pl.col(name) * pl.col("pairs")).sum() / pl.col("pairs").sum() for name in AGAINST.names()[2:]]
    total = frame.select(pl.lit(ALL).alias("domain"), pl.col("pairs").sum(), *weighted)
    return pl.concat([frame, total.select(list(AGAINST))])


def _position(samples: pl.DataFrame) -> pl.DataFrame:
    """ranking.agreement.position_bias by domain."""
    told = []
    for domain in (*sorted(samples["domain"].unique()), ALL):
        found = position_bias(samples if domain == ALL else samples.filter(pl.col("domain") == domain))
        if found:
            told.append({"domain": domain, **found})
    return pl.DataFrame(told) if told else pl.DataFrame(schema={"domain": pl.String})
