"""Asset checks: the laws of the lake, and what must hold before a release is trained on.

That counts add up is checked by every asset itself (assets/production.py).
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import polars as pl
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from assets.resources import Factory
from warehouse import laws
from warehouse.audit import suites
from warehouse.audit.drift import since_previous
from warehouse.curation.audits import enter_audit
from warehouse.curation.releases import read_release
from warehouse.lake import Lake, canonical_sha256
from warehouse.ledger import latest
from warehouse.pages.markdown import table
from warehouse.production import CODE_VERSION

SHOWN = 10
QUALITY = "quality_suite"
AUDITED = "training_set"  # what its blocking checks find stays with the release


def _check(
    asset: str,
    name: str,
    description: str,
    find: Callable[[Lake], list[str]],
    remedy: str,
    blocking: bool = True,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking)
    def check(context: dg.AssetCheckExecutionContext, factory: Factory) -> dg.AssetCheckResult:
        offending = find(factory.lake)
        told = None if not offending else f"{len(offending)}: {'; '.join(offending[:SHOWN])}. {remedy}"
        if blocking and asset == AUDITED:
            _audit(factory.lake, name, told, context.run.run_id)
        return dg.AssetCheckResult(
            passed=not offending, severity=severity, description=told, metadata={"offending": len(offending)}
        )

    return check


def _audit(lake: Lake, check: str, told: str | None, run_id: str) -> None:
    """Keep with the newest release what a blocking check has told of it (None: nothing)."""
    made = latest(lake, AUDITED)
    assert made is not None  # the check runs after its asset
    enter_audit(lake, made.figures["release"], check, told is None, told or "", run_id)


def _empty_splits(lake: Lake) -> list[str]:
    made = latest(lake, "training_set")
    assert made is not None  # the check runs after its asset
    return [f"the release has no {split} row" for split in ("sft", "rl") if not made.figures[split]]


def _lists_without_both_labels(lake: Lake) -> list[str]:
    made = latest(lake, "training_set")
    assert made is not None  # the check runs after its asset
    rows = read_release(lake, made.figures["release"])
    return [
        f"row {row['row_id']}: {len(row['relevant'])} relevant of {len(row['docids'])} passages"
        for row in rows.iter_rows(named=True)
        if not 2 <= len(row["docids"]) <= 20
        or not 0 < len(row["relevant"]) < len(row["docids"])
        or sorted(row["final_order"]) != list(range(len(row["docids"])))
    ]


def _benchmarks_not_read(lake: Lake) -> list[str]:
    made = latest(lake, "benchmarks")
    assert made is not None  # the check runs after its asset
    return [f"{name}: {why}" for name, why in made.figures["benchmarks_not_read"].items()]


@dg.asset_check(
    asset="training_set",
    name="drift_within_bounds",
    description="The release has not moved from the one before it by more than the profile's `drift` bounds.",
)
def drift_within_bounds(factory: Factory) -> dg.AssetCheckResult:
    made = latest(factory.lake, "training_set")
    assert made is not None  # the check runs after its asset
    found = since_previous(factory.lake, made.figures["release"], factory.settings.profile.drift)
    if found is None:
        return dg.AssetCheckResult(passed=True, description="The first release: there is nothing to compare it with.")
    before, measured = found
    moved = measured.filter(pl.col("level") != "ok")
    told = [
        f"{row['measure']} {row['before']:.3g} to {row['after']:.3g} "
        f"(distance {row['distance']:.2f} above {row['bound']:.2f})"
        for row in moved.iter_rows(named=True)
    ]
    remedy = f"`rankmill lake diff {before[:12]} {made.figures['release'][:12]}` shows which rows came and went."
    return dg.AssetCheckResult(
        passed=moved.is_empty(),
        severity=dg.AssetCheckSeverity.ERROR if "error" in moved["level"] else dg.AssetCheckSeverity.WARN,
        description=f"{'; '.join(told)}. {remedy}" if told else None,
        metadata={"previous_release": before, "drift": dg.MetadataValue.md(table(measured))},
    )


PASSED = {AssetCheckExecutionRecordStatus.SUCCEEDED}
REBUILT = dg.AssetCheckKey(dg.AssetKey("training_set"), "releases_can_be_rebuilt")


@dg.asset_check(
    asset="training_set",
    name=REBUILT.name,
    description="The newest release follows again from the snapshot that it read.",
)
def releases_can_be_rebuilt(context: dg.AssetCheckExecutionContext, factory: Factory) -> dg.AssetCheckResult:
    made = latest(factory.lake, "training_set")
    assert made is not None  # the check runs after its asset
    # Release, snapshot and code are the same as when it was last rebuilt, so another time would take seconds and say
    # nothing new; what became of the lake's files since is for `releases_are_immutable` and `rankmill lake verify`.
    basis = canonical_sha256([made.figures["release"], CODE_VERSION, *map(version, ("polars", "rensa"))])
    for record in context.instance.event_log_storage.get_asset_check_execution_history(REBUILT, 1, status=PASSED):
        last = record.event.asset_check_evaluation if record.event else None
        if last is not None and (told := last.metadata.get("basis")) is not None and told.value == basis:
            return dg.AssetCheckResult(passed=True, metadata=last.metadata)
    offending = laws.releases_that_cannot_be_rebuilt(factory.lake)
    remedy = "The code of curation has changed what it makes; raise CODE_VERSION."
    return dg.AssetCheckResult(
        passed=not offending,
        description=f"{'; '.join(offending)}. {remedy}" if offending else None,
        metadata={"offending": len(offending), "basis": basis, "rebuilt_in": context.run.run_id},
    )


def _quality(group: str, blocking: tuple[str, ...] = ()) -> dg.AssetChecksDefinition:
    """The suites of a group as one check an asset, examined together; `blocking` assets stop what would follow them."""
    specs = [
        dg.AssetCheckSpec(
            QUALITY,
            asset=asset,
            blocking=asset in blocking,
            description=" ".join(f"{suite.name}: {suite.about}" for suite in suites.suites() if suite.asset == asset),
        )
        for asset in suites.assets_of(group)
    ]

    @dg.multi_asset_check(name=f"quality_of_{group}", specs=specs, can_subset=True)
    def check(context: dg.AssetCheckExecutionContext, factory: Factory) -> Iterator[dg.AssetCheckResult]:
        chosen = sorted(key.asset_key.to_user_string() for key in context.selected_asset_check_keys)
        made = latest(factory.lake, "training_set")
        question = suites.Question(factory.active_domains(), made.figures["release"] if made else None, chosen)
        docs = factory.settings.reports / suites.DATA_DOCS
        found = suites.examine(factory.lake, question, docs, context.run.run_id)
        for asset in chosen:
            # A release rests on the tables below it: it stops at what is critical in any of them.
            judged = _judged(asset, found if asset in blocking else found.filter(asset=asset), docs)
            if asset == AUDITED:
                stops = not judged.passed and judged.severity == dg.AssetCheckSeverity.ERROR
                _audit(factory.lake, QUALITY, judged.description if stops else None, context.run.run_id)
            yield judged

    return check


def _judged(asset: str, results: pl.DataFrame, docs: Path) -> dg.AssetCheckResult:
    lost = suites.failures(results)
    told = [suites.told(failure) for failure in lost if failure["severity"] == "critical" or failure["asset"] == asset]
    critical = any(failure["severity"] == "critical" for failure in lost)
    pages = {row["suite"]: dg.MetadataValue.path(str(docs / row["docs"])) for row in results.to_dicts()}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=QUALITY,
        passed=not told,
        severity=dg.AssetCheckSeverity.ERROR if critical else dg.AssetCheckSeverity.WARN,
        description=" ".join(told) or None,
        metadata={
            "expectations": results.height,
            "failed": len(lost),
            **({"what_failed": dg.MetadataValue.md(table(suites.shown(lost)))} if lost else {}),
            **pages,
        },
    )


checks = [
    _quality(suites.RELEASE, blocking=("training_set",)),
    _quality(suites.EVALUATION),
    drift_within_bounds,
    _check(
        "benchmarks",
        "benchmarks_were_read",
        "Every registered benchmark was read, so training rows were compared.",
        _benchmarks_not_read,
        "Give a folder with --benchmarks, or set `hub: true` in the profile.",
        blocking=False,
        severity=dg.AssetCheckSeverity.WARN,
    ),
    _check(
        "teacher_rankings",
        "snapshots_are_known",
        "Nothing is labelled without the id of the snapshot it read.",
        lambda lake: laws.work_without_a_snapshot(lake, ("mined_judgements", "teacher_rankings")),
        "Materialize the asset named again.",
    ),
    _check(
        "benchmark_runs",
        "snapshots_are_known",
        "Nothing is trained or scored without the id of the snapshot it read.",
        lambda lake: laws.work_without_a_snapshot(lake, ("sft_model", "rl_model", "benchmark_runs")),
        "Materialize the asset named again.",
    ),
    _check(
        "training_set",
        "ids_are_unique",
        "No id stands for two things.",
        laws.ids_used_twice,
        "Look at the rows named with `rankmill lake query`.",
    ),
    _check(
        "training_set",
        "no_benchmark_overlap",
        "No released row overlaps a benchmark or a held-out query.",
        laws.released_rows_in_a_benchmark,
        "Nothing is trained on this release. Materialize training_set again.",
    ),
    _check(
        "training_set",
        "releases_are_immutable",
        "The rows of every release hash to its name.",
        laws.releases_that_changed,
        "Somebody altered the lake's files; restore them from a backup.",
    ),
    releases_can_be_rebuilt,
    _check(
        "training_set",
        "lists_hold_both_labels",
        "Lists of 2 to 20 passages, some relevant and some not.",
        _lists_without_both_labels,
        "Nothing is trained on this release. Materialize training_set again.",
    ),
    _check(
        "training_set",
        "splits_are_filled",
        "There are rows for SFT and for RL.",
        _empty_splits,
        "Add queries, or lower alpha in the profile.",
    ),
]
