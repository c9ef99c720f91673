"""Where a training row comes from and where it went: from its sources to the scores of the models trained on it.

    explained = explain(lake, "3f2a91")     # a row's id or a ranking's, or a beginning of one
    explained.exchanges, explained.decisions, explained.missing

All of it is read from the lake, as it was when the newest release with the row was made; nothing is computed again.
What the lake does not hold is said in `missing`. The same Explanation is printed, dumped as JSON and shown as a page.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warehouse.lake import Lake

Record = Mapping[str, Any]
LISTED = 5  # how many rows an ambiguous beginning is answered with

_FIND_ROW = """
    SELECT t.row_id, t.ranking_id, t.domain, t.qid, t.release FROM training_rows t JOIN releases r USING (release)
    WHERE starts_with(t.row_id, ?) OR starts_with(t.ranking_id, ?) ORDER BY r.created_at DESC, t.release
"""
_FIND_RANKING = "SELECT ranking_id, domain, qid FROM rankings WHERE starts_with(ranking_id, ?)"
_EXAMPLES = f"SELECT DISTINCT row_id FROM training_rows ORDER BY row_id LIMIT {LISTED}"
_HOLDING = """
    SELECT r.release, r.created_at, t.split, r.read_snapshot, m.retraction IS NOT NULL AS retracted, m.successor,
           x.selector, x.value, x.reason, x.who, x.retracted_at
    FROM training_rows t JOIN releases r USING (release)
    LEFT JOIN retraction_marks m ON m.unit = 'release' AND m.id = r.release
    LEFT JOIN retractions x ON x.retraction = m.retraction
    WHERE t.row_id = ? ORDER BY r.created_at, r.release
"""
_ROW = "SELECT * FROM training_rows WHERE release = ? AND row_id = ?"
_UNRELEASED = """
    SELECT r.ranking_id, r.domain, r.qid, q.text AS query, r.initial_list AS docids,
           list_transform(r.final_list, d -> list_position(r.initial_list, d)::BIGINT - 1) AS final_order,
           list_transform(r.relevant_docids, d -> list_position(r.initial_list, d)::BIGINT - 1) AS relevant,
           r.reasoning, r.exchange_key, r.prompt_sha256, r.judge, r.agreement, q.source, q.license, q.url
    FROM rankings r LEFT JOIN queries q USING (domain, qid) WHERE r.ranking_id = ?
"""
_PASSAGES = """
    SELECT docid, title, text, source, license, url FROM passages {at}
    WHERE domain = ? AND list_contains(?, docid)
"""
_JUDGEMENTS = """
    SELECT docid, grade, origin, role, judge, exchange_key, prompt_sha256 FROM judgements {at}
    WHERE domain = ? AND qid = ? AND list_contains(?, docid) ORDER BY origin, docid
"""
_CONSISTENCY = "SELECT consistency, alpha FROM consistent_rankings {at} WHERE domain = ? AND ranking_id = ?"
_SAMPLES = "SELECT exchange_key, initial_list, final_list FROM ranking_samples {at} WHERE domain = ? AND ranking_id = ?"
_EXCHANGES = """
    WITH asked AS (SELECT * FROM exchanges {at} WHERE domain = ?),
         ours AS (SELECT key FROM asked WHERE list_contains(?, key)
                  UNION SELECT repair_of FROM asked WHERE list_contains(?, key) AND repair_of IS NOT NULL
                  UNION SELECT key FROM asked WHERE list_contains(?, repair_of))
    SELECT * FROM asked WHERE key IN (SELECT key FROM ours) ORDER BY purpose = 'rank_teacher' DESC, created_at, key
"""
_DECISIONS = """
    SELECT d.release, filter, outcome, reason, value, threshold, detail
    FROM decisions d LEFT JOIN releases r USING (release)
    WHERE d.domain = ? AND d.ranking_id = ? ORDER BY r.created_at, d.release
"""
_REJECTIONS = """
    SELECT asset, stage, reason, detail FROM rejections
    WHERE (key = ? OR key = ?) OR (partition_key = ? AND key = ?) ORDER BY asset
"""
_MODELS = """
    SELECT m.model, m.recipe, m.stage, m.parent, m.weights_sha256, m.release, m.seed, m.steps, m.path, m.created_at,
           count(k.retraction) > 0 AS retracted
    FROM models m LEFT JOIN retraction_marks k ON k.unit = 'model' AND k.id = m.model
    WHERE list_contains(?, m.release) GROUP BY ALL ORDER BY m.created_at
"""
_SEEN = "SELECT model FROM model_rows WHERE row_id = ?"
_LEFT_OUT = "SELECT asset, partition_key, reason FROM rejections WHERE reason = 'not_trained_on' AND key = ?"
_SCORES = """
    SELECT model, recipe, stage, domain, split, queries, measures, low, high, versus_bm25 FROM leaderboard
    WHERE list_contains(?, model) ORDER BY recipe, stage, domain
"""


class UnknownRow(LookupError):
    """No row or ranking has this id, or several begin with it; the message lists some."""


@dataclass(frozen=True)
class Explanation:
    """A row's whole history; records are plain values, so that they can be printed, dumped and rendered alike.

    `passages` stand in the order in which the teacher was shown them, `place` is where it put each (from 1).
    """

    row_id: str | None
    ranking_id: str
    domain: str
    qid: str
    split: str | None
    read_snapshot: int | None
    query: Record
    passages: tuple[Record, ...]
    chain: str
    judge: str
    exchanges: tuple[Record, ...]
    samples: int
    judgements: tuple[Record, ...]
    consistency: float | None
    alpha: float | None
    agreement: float | None
    decisions: tuple[Record, ...]
    rejections: tuple[Record, ...]
    releases: tuple[Record, ...]
    models: tuple[Record, ...]
    scores: tuple[Record, ...]
    missing: tuple[str, ...]


def explain(lake: Lake, row: str) -> Explanation:
    """All that the lake knows of the row or ranking whose id begins with `row`. Raises UnknownRow."""
    row_id, ranking_id, release = _find(lake, row)
    releases = _rows(lake, _HOLDING, row_id) if row_id is not None else []
    if release is not None:
        content = _rows(lake, _ROW, release, row_id)[0]
        snapshot = next(held["read_snapshot"] for held in releases if held["release"] == release)
    else:
        content, snapshot = _rows(lake, _UNRELEASED, ranking_id)[0], None
    domain, qid, docids = content["domain"], content["qid"], content["docids"]
    judgements = _rows(lake, _at(_JUDGEMENTS, snapshot), domain, qid, docids)
    passed = _rows(lake, _at(_CONSISTENCY, snapshot), domain, ranking_id)
    samples = _rows(lake, _at(_SAMPLES, snapshot), domain, ranking_id)
    keys = [content["exchange_key"], *(found["exchange_key"] for found in [*samples, *judgements])]
    asked = sorted({key for key in keys if key is not None})
    models = _models(lake, row_id, releases)
    explained = Explanation(
        row_id=row_id,
        ranking_id=ranking_id,
        domain=domain,
        qid=qid,
        split=content.get("split"),
        read_snapshot=snapshot,
        query={"text": content["query"], **{name: content[name] for name in ("source", "license", "url")}},
        passages=_passages(content, _rows(lake, _at(_PASSAGES, snapshot), domain, docids)),
        chain=content["reasoning"],
        judge=content["judge"],
        exchanges=tuple(
            {**found, "messages": json.loads(found["messages"]), "sampling": json.loads(found["sampling"])}
            for found in _rows(lake, _at(_EXCHANGES, snapshot), domain, asked, asked, asked)
        ),
        samples=len(samples),
        judgements=tuple(judgements),
        consistency=passed[0]["consistency"] if passed else content.get("consistency"),
        alpha=passed[0]["alpha"] if passed else None,
        agreement=content["agreement"],
        decisions=tuple(_rows(lake, _DECISIONS, domain, ranking_id)),
        rejections=tuple(_rows(lake, _REJECTIONS, ranking_id, row_id or "", domain, qid)),
        releases=tuple(releases),
        models=tuple(models),
        scores=tuple(
            {**found, "measures": json.loads(found["measures"])}
            for found in _rows(lake, _SCORES, [model["model"] for model in models])
        ),
        missing=(),
    )
    return Explanation(**{**explained.__dict__, "missing": tuple(_missing(explained, asked))})


def _find(lake: Lake, row: str) -> tuple[str | None, str, str | None]:
    """(row id, ranking id, newest release) of the one row that `row` begins; a ranking without a row has neither."""
    found = _rows(lake, _FIND_ROW, row, row) if row else []
    named = [held for held in found if held["row_id"].startswith(row)]
    if len({held["row_id"] for held in named}) == 1:
        return named[0]["row_id"], named[0]["ranking_id"], named[0]["release"]
    if not named and len({held["ranking_id"] for held in found}) == 1:
        return found[0]["row_id"], found[0]["ranking_id"], found[0]["release"]
    ranked = _rows(lake, _FIND_RANKING, row) if row and not found else []
    if len(ranked) == 1:
        return None, ranked[0]["ranking_id"], None
    several = list(dict.fromkeys(held["row_id"] for held in named or found)) or [held["ranking_id"] for held in ranked]
    if several:
        listing = ", ".join(several[:LISTED])
        raise UnknownRow(
            f"{len(several)} rows have an id that begins with {row!r}, such as {listing}. Give more of it."
        )
    examples = [held["row_id"] for held in _rows(lake, _EXAMPLES)]
    listing = ", ".join(examples) or "none yet: run `rankmill run`"
    raise UnknownRow(f"no row and no ranking has an id that begins with {row!r}. Some rows: {listing}.")


def _rows(lake: Lake, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    return lake.query(sql, parameters).to_dicts()


def _at(sql: str, snapshot: int | None) -> str:
    return sql.format(at="" if snapshot is None else f"AT (VERSION => {int(snapshot)})")


def _passages(content: Record, stored: Sequence[Record]) -> tuple[Record, ...]:
    """A list's passages as they were shown; the text is the release's own where there is one."""
    known = {found["docid"]: found for found in stored}
    place = {position: rank for rank, position in enumerate(content["final_order"], start=1)}
    texts = content.get("passages") or [None] * len(content["docids"])
    shown = []
    for position, (docid, text) in enumerate(zip(content["docids"], texts, strict=True)):
        source = known.get(docid, {})
        shown.append(
            {
                "shown": position + 1, "place": place.get(position), "relevant": position in content["relevant"],
                "docid": docid, "text": source.get("text") if text is None else text,
                **{name: source.get(name) for name in ("source", "license", "url")},
            }
        )  # fmt: skip
    return tuple(shown)


def _models(lake: Lake, row_id: str | None, releases: Sequence[Record]) -> list[dict[str, Any]]:
    """Models of the releases that hold a row, each with what the row was to it."""
    found = _rows(lake, _MODELS, [held["release"] for held in releases])
    left = {(gone["asset"], gone["partition_key"]) for gone in _rows(lake, _LEFT_OUT, row_id or "")}
    drawn = {seen["model"] for seen in _rows(lake, _SEEN, row_id or "")}
    splits = {held["release"]: held["split"] for held in releases}
    trained = set()
    for model in found:
        if (f"{model['stage']}_model", model["recipe"]) in left:
            model["use"] = "left this row out"
        elif model["model"] in drawn:
            model["use"] = "trained on this row"
            trained.add(model["weights_sha256"])
        elif model["parent"] in trained:
            model["use"] = "started from a model trained on this row"
        elif splits[model["release"]] == model["stage"]:
            model["use"] = f"trained on this row's split; none of its {model['steps']} steps drew the row"
        else:
            model["use"] = f"of the same release; the row is in its split {splits[model['release']]}"
    return found


def _missing(told: Explanation, asked: Sequence[str]) -> list[str]:
    """What a person would look for and the lake does not hold."""
    said = [f"the query has no {name} in its source" for name in ("source", "license", "url") if not told.query[name]]
    for name in ("source", "license", "url"):
        without = sum(not passage[name] for passage in told.passages)
        if without:
            said.append(f"{without} of {len(told.passages)} passages have no {name} in their source")
    lost = set(asked) - {exchange["key"] for exchange in told.exchanges}
    said += [f"the exchange {key[:12]} is not in the lake" for key in sorted(lost)]
    if not asked:
        said.append("no exchange is named: the ranking was imported, or people made it")
    if not told.judgements:
        said.append("no judgement of a passage of this list is in the lake")
    if told.alpha is None:
        said.append("the ranking is not among the consistent ones, or came to its release without that filter")
    if not told.decisions:
        said.append("no filter's decision on this ranking is in the lake")
    if not told.releases:
        said.append("no release holds it")
    elif not any(model["use"] == "trained on this row" for model in told.models):
        said.append("no model was trained on this row")
    if told.models and not told.scores:
        said.append("none of these models is on the leaderboard")
    return said
