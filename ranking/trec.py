"""TREC run and qrels files. A docid may hold any character but ASCII white space; nothing is quoted or escaped."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

_RUN = {"qid": pl.String, "Q0": pl.String, "docid": pl.String, "rank": pl.Int64, "score": pl.Float64, "tag": pl.String}
_QRELS = {"qid": pl.String, "0": pl.String, "docid": pl.String, "grade": pl.Int64}


class TrecFileError(ValueError):
    """A run or qrels file that cannot be read; the message names file, line and remedy."""


def read_run(path: Path) -> pl.DataFrame:
    """A run of lines `qid Q0 docid rank score tag` as qid, docid, rank, score (Float64)."""
    content = _content(path)
    plain = _read_plain(content, _RUN)
    if plain is not None and not plain["score"].is_nan().any():
        return plain.select("qid", "docid", "rank", "score")
    qids, docids, ranks, scores = [], [], [], []
    for number, fields in _lines(path, content, 6, "qid Q0 docid rank score tag"):
        qids.append(fields[0])
        docids.append(fields[2])
        try:
            ranks.append(_whole(fields[3]))
            scores.append(_number(fields[4]))
        except ValueError:
            raise TrecFileError(
                f"{path}:{number}: rank {fields[3]!r} and score {fields[4]!r} must be numbers. "
                f"Write the line as: qid Q0 docid rank score tag."
            ) from None
    schema = {"qid": pl.String, "docid": pl.String, "rank": pl.Int64, "score": pl.Float64}
    return pl.DataFrame({"qid": qids, "docid": docids, "rank": ranks, "score": scores}, schema=schema)


def read_qrels(path: Path) -> pl.DataFrame:
    """Judgements of lines `qid 0 docid grade` as qid, docid, grade (Int64)."""
    content = _content(path)
    plain = _read_plain(content, _QRELS)
    if plain is not None:
        return plain.select("qid", "docid", "grade")
    qids, docids, grades = [], [], []
    for number, fields in _lines(path, content, 4, "qid 0 docid grade"):
        qids.append(fields[0])
        docids.append(fields[2])
        try:
            grades.append(_whole(fields[3]))
        except ValueError:
            raise TrecFileError(f"{path}:{number}: grade {fields[3]!r} must be a whole number.") from None
    schema = {"qid": pl.String, "docid": pl.String, "grade": pl.Int64}
    return pl.DataFrame({"qid": qids, "docid": docids, "grade": grades}, schema=schema)


def write_run(path: Path, run: pl.DataFrame, tag: str) -> None:
    """Write qid, docid, rank, score as a TREC run, whole or not at all.

    Raises TrecFileError where a qid, a docid or the tag is empty or holds white space: nobody could read the line.
    """
    lines = run_lines(run, tag, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def run_lines(run: pl.DataFrame, tag: str, path: Path) -> pl.Series:
    """Lines of a run from qid, docid, rank, score; `path` is where they go. Raises TrecFileError as `write_run`."""
    _refuse_blanks(run.select("qid", "docid", tag=pl.lit(tag)), path)
    score = pl.col("score").cast(pl.String)
    return run.select(pl.format("{} Q0 {} {} {} {}\n", "qid", "docid", "rank", score, pl.lit(tag))).to_series()


def qrels_lines(judgements: pl.DataFrame, path: Path) -> pl.Series:
    """Lines of qrels from qid, docid, grade; `path` is where they go. Raises TrecFileError as `write_run`."""
    _refuse_blanks(judgements.select("qid", "docid"), path)
    return judgements.select(pl.format("{} 0 {} {}\n", "qid", "docid", "grade")).to_series()


def _refuse_blanks(names: pl.DataFrame, path: Path) -> None:
    for name in names.iter_columns():
        broken = name.filter(name.is_null() | (name == "") | name.str.contains(r"[\t\n\x0B\x0C\r ]"))
        if broken.len():
            raise TrecFileError(
                f"{path}: the {name.name} {broken[0]!r} is empty or holds white space, which ends a field of a TREC "
                f"file. Write it as %20, in the run and in its qrels."
            )


def _whole(field: str) -> int:
    number = int(field)
    if not -(2**63) <= number < 2**63:
        raise ValueError(field)
    return number


def _number(field: str) -> float:
    number = float(field)
    if math.isnan(number):
        raise ValueError(field)
    return number


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrecFileError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _read_plain(content: bytes, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame | None:
    """The columns of a file whose fields stand one blank (or one tab) apart, as nearly all do; None for any other.

    Ten times as quick as going line by line, which is left to say what is wrong with a file and where.
    """
    separator = b"\t" if b"\t" in content else b" "
    others = b"\r\x0b\x0c" + (b" " if separator == b"\t" else b"")
    if any(bytes([other]) in content for other in others):
        return None
    try:
        if not content.isascii():
            content.decode("utf-8")
        frame = pl.read_csv(
            content,
            separator=separator.decode(),
            has_header=False,
            schema=schema,
            quote_char=None,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    return frame if frame.height and not any(frame.null_count().row(0)) else None


def _lines(path: Path, content: bytes, width: int, form: str) -> Iterator[tuple[int, list[str]]]:
    empty = True
    for number, line in enumerate(content.split(b"\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        empty = False
        if len(fields) != width:
            raise TrecFileError(
                f"{path}:{number}: {len(fields)} fields where {width} are expected. Write the line as: {form}."
            )
        try:
            yield number, [field.decode("utf-8") for field in fields]
        except UnicodeDecodeError:
            raise TrecFileError(f"{path}:{number}: not UTF-8. Save the file as UTF-8.") from None
    if empty:
        raise TrecFileError(f"{path}: holds no lines. Each line should read: {form}.")
