"""Which rows may be trained on, and which release may be published: licences against a policy file.

    policy = read_policy("default")                 # licences.yaml beside this module, or a path
    judged = licences(policy)(lists)
    hindrances(judged.decisions, released)          # empty: the release may be published

The policy is a file, because it is what a lawyer signs and all profiles share; its content, not its path, goes into the
settings, so that a change of the file is another release and every release carries the policy that let it through.

A row is under the licence of its query and of every passage that it shows. Deliberately absent: obligations (naming
authors, sharing alike), which the dataset card lists.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from warehouse.curation.filters import REJECTED, WARNED, Filter, Judged, Lists, decide
from warehouse.curation.findings import FAULTS, memberships

LICENCES = "licences"
UNSTATED = "NOASSERTION"
DEFAULT = Path(__file__).with_suffix(".yaml")
REASONS = {
    "licence_not_allowed": "A text's licence is not allowed for training. Drop the source, or add the id to `train`.",
    "licence_not_stated": "A text states no licence. Find and record it; until then the release is not published.",
    "licence_not_publishable": "A text may be trained on but not handed on. Retract these rows before publishing.",
}
_CREATIVE_COMMONS = re.compile(r"CC[ -](BY(?:-(?:SA|NC|ND|NC-SA|NC-ND))?)[ -](\d\.\d)", re.IGNORECASE)


class LicencePolicyError(ValueError):
    """A licence policy that cannot be used: which file, what is wrong, what to do."""


class LicencePolicy(BaseModel):
    """Allowed licences by use. In a profile: the path of a YAML file with these keys, or `default`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[str, ...] = Field(description="SPDX ids that a row may be under to be trained on.")
    publish: tuple[str, ...] = Field(description="SPDX ids that a release may hold and still be published.")
    unstated: Literal["warn", "reject"] = Field(
        "warn", description="What becomes of a row without a stated licence; it never becomes publishable."
    )
    spellings: dict[str, str] = Field(
        default_factory=dict, description="Other ways to write a licence, each with its SPDX expression."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, given: Any) -> Any:
        return _content(given) if isinstance(given, (str, Path)) else given

    @model_validator(mode="after")
    def _publish_within_train(self) -> "LicencePolicy":
        extra = sorted(set(self.publish) - set(self.train))
        if extra:
            raise ValueError(f"{', '.join(extra)} may be published but not trained on. Add to `train` as well.")
        return self


def read_policy(name: str | Path = "default") -> LicencePolicy:
    """The policy that ships (`default`) or the one in a YAML file. Raises LicencePolicyError."""
    try:
        return LicencePolicy.model_validate(str(name))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LicencePolicyError(f"licence policy {name}: {where}: {first['msg']}") from None


def licences(policy: LicencePolicy) -> Filter:
    """A filter that rejects rows outside `train` and warns of rows outside `publish`. Raises LicencePolicyError."""
    _check_ids(policy)

    def judge(lists: Lists) -> Judged:
        stated = pl.concat([lists.rows["license"], lists.passages["license"]]).fill_null(UNSTATED).unique()
        told = pl.DataFrame(
            [(name, *verdict) for name in stated if (verdict := _verdict(name, policy))],
            schema={"license": pl.String, "outcome": pl.String, "reason": pl.String},
            orient="row",
        )
        return decide(lists, LICENCES, _faults(lists, told))

    return judge


def spdx(statement: str, policy: LicencePolicy) -> str:
    """A source's statement as an SPDX expression, where the policy or custom has one for it; else as it is."""
    stated = policy.spellings.get(statement.strip(), statement.strip())
    return _CREATIVE_COMMONS.sub(lambda match: f"CC-{match[1].upper()}-{match[2]}", stated) or UNSTATED


def allowed(expression: str, ids: Iterable[str]) -> bool:
    """Whether an SPDX expression can be met with `ids` alone: one side of an OR, every side of an AND."""
    from license_expression import ExpressionError, ExpressionParseError, get_spdx_licensing

    try:
        parsed = get_spdx_licensing().parse(expression)
    except (ExpressionError, ExpressionParseError):
        return expression in set(ids)
    return parsed is not None and _met(parsed, frozenset(ids))


def hindrances(decisions: pl.DataFrame, released: pl.Series) -> pl.DataFrame:
    """Why a release may not be published: reason, rows, detail; no row where it may.

    `decisions` are those of the release (filters.DECISIONS), `released` the ranking_ids that it holds.
    """
    warned = decisions.filter(
        (pl.col("filter") == LICENCES) & (pl.col("outcome") == WARNED) & pl.col("ranking_id").is_in(released.implode())
    )
    return (
        warned.group_by("reason")
        .agg(rows=pl.col("ranking_id").n_unique(), detail=pl.col("detail").min())
        .sort("reason")
    )


def _met(parsed: Any, ids: frozenset[str]) -> bool:
    name = type(parsed).__name__
    if name == "OR":
        return any(_met(side, ids) for side in parsed.args)
    if name == "AND":
        return all(_met(side, ids) for side in parsed.args)
    if name == "LicenseWithExceptionSymbol":  # an exception only ever permits more
        return _met(parsed.license_symbol, ids)
    return parsed.key in ids


def _verdict(statement: str, policy: LicencePolicy) -> tuple[str, str] | None:
    expression = spdx(statement, policy)
    if expression == UNSTATED:
        return (WARNED if policy.unstated == "warn" else REJECTED), "licence_not_stated"
    if not allowed(expression, policy.train):
        return REJECTED, "licence_not_allowed"
    return None if allowed(expression, policy.publish) else (WARNED, "licence_not_publishable")


def _faults(lists: Lists, told: pl.DataFrame) -> pl.DataFrame:
    """A fault for each list and reason, naming the licence and the text that bears it."""
    named = [_named(lists.rows.with_columns(bearer=pl.lit("query")), told)]
    bearing = lists.passages.filter(pl.col("license").fill_null(UNSTATED).is_in(told["license"].implode()))
    if bearing.height:
        about = bearing.select("domain", "docid", "license")
        for held in memberships(lists.rows):
            joined = held.join(about, on=["domain", "docid"], how="inner", maintain_order="left")
            named.append(_named(joined.with_columns(bearer=pl.format("passage {}", "docid")), told))
    more = pl.when(pl.len() > 1).then(pl.format(" (and {} more)", pl.len() - 1)).otherwise(pl.lit(""))
    return (
        pl.concat(named)
        .group_by("ranking_id", "outcome", "reason", maintain_order=True)
        .agg(value=pl.len(), detail=pl.concat_str(pl.col("detail").first(), more))
        .with_columns(threshold=pl.lit(0.0))
        .select(list(FAULTS))
        .cast(FAULTS)
    )


def _named(bearers: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    return (
        bearers.with_columns(pl.col("license").fill_null(UNSTATED))
        .join(told, on="license", how="inner", maintain_order="left")
        .select("ranking_id", "outcome", "reason", detail=pl.format("{} of {}", "license", "bearer"))
    )


def _check_ids(policy: LicencePolicy) -> None:
    from license_expression import get_spdx_licensing

    known = get_spdx_licensing().known_symbols
    wrong = sorted({name for name in policy.train if name not in known and not name.startswith("LicenseRef-")})
    if wrong:
        raise LicencePolicyError(
            f"licence policy: {', '.join(wrong)} is no SPDX id. Look it up at https://spdx.org/licenses, or write "
            "LicenseRef-<name> for terms of your own."
        )


def _content(name: str | Path) -> Any:
    path = DEFAULT if str(name) == "default" else Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {path}. Give the path of a YAML file, or `default`.")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no policy. It needs `train` and `publish`, each a list of SPDX ids.")
    return content
