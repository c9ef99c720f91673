"""Where a lake is, and how DuckDB attaches to it: catalog, folder or bucket of Parquet files, extensions.

    place = Place(f"sqlite:{folder / 'meta.sqlite'}", f"{folder / 'data'}/")         # embedded
    place = Place("postgres:dbname=lake host=db user=mill", "s3://bucket/lake/", Bucket(...))
    connection = place.attach(read_only=False)

The extensions come from their PyPI wheels; nothing is downloaded at run time. A password of PostgreSQL stands in
PGPASSWORD or ~/.pgpass, where libpq looks for it, and never in the catalog's address, which errors quote.

Deliberately absent: the tables (migrations.py), reading and committing (lake.py).
"""

import contextlib
import importlib.util
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
from pydantic import SecretStr

RETRIES = 12
_SETTINGS = (
    "SET autoinstall_known_extensions = false",
    "SET enable_progress_bar = false",  # it would stand in the output of `lake query --json`
    "SET arrow_large_buffer_size = true",  # a read may hold more than 2 GiB of one column's text
    "SET python_enable_replacements = false",  # a name in a query is a table, never a variable of this module
)
# What a catalog says while another process is making it or holds it.
_FULL = ("no space left", "disk is full", "disk i/o error")  # SQLite cannot even read where it cannot write beside
_BUSY = ("locked", "already exists", "duplicate key", "could not serialize")


class LakeError(RuntimeError):
    """The lake cannot be opened, read or written; the message says which and what to do."""


@dataclass(frozen=True)
class Bucket:
    """How an S3-compatible store is reached; `endpoint` is host and port, with scheme, of one that is not Amazon's."""

    key_id: str
    secret: SecretStr
    session_token: SecretStr | None = None
    region: str = "us-east-1"
    endpoint: str | None = None

    def secret_sql(self) -> str:
        """The statement that hands the credentials to DuckDB, for this connection alone."""
        parts = ["TYPE s3", f"KEY_ID {quoted(self.key_id)}", f"SECRET {quoted(self.secret.get_secret_value())}"]
        parts.append(f"REGION {quoted(self.region)}")
        if self.session_token is not None:
            parts.append(f"SESSION_TOKEN {quoted(self.session_token.get_secret_value())}")
        if self.endpoint is not None:
            scheme, _, host = self.endpoint.rpartition("://")
            parts += [f"ENDPOINT {quoted(host.rstrip('/'))}", "URL_STYLE 'path'", f"USE_SSL {scheme != 'http'}"]
        return f"CREATE TEMPORARY SECRET bucket ({', '.join(parts)})"


@dataclass(frozen=True)
class Place:
    """`catalog` is what DuckLake attaches to, `data_path` the folder or s3:// prefix of the Parquet files."""

    catalog: str
    data_path: str
    bucket: Bucket | None = None

    @property
    def remote(self) -> bool:
        """Whether the files lie in a bucket and not in a folder of this machine."""
        return self.data_path.startswith("s3://")

    @property
    def extensions(self) -> tuple[str, ...]:
        """The DuckDB extensions that this place needs."""
        catalog = "postgres_scanner" if self.catalog.startswith("postgres:") else "sqlite_scanner"
        return ("ducklake", catalog, *(("httpfs",) if self.remote else ()))

    def attach(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        """A connection with the lake attached as `lake` and in use. Raises LakeError."""
        if not self.remote:
            Path(self.data_path).mkdir(parents=True, exist_ok=True)
        connection = duckdb.connect(":memory:")
        for setting in _SETTINGS:
            connection.execute(setting)
        for extension in self.extensions:
            connection.execute(f"LOAD {quoted(str(extension_path(extension)))}")
        if self.bucket is not None:
            connection.execute(self.bucket.secret_sql())
        # In SQLite's WAL mode a reader never waits for a writer.
        journal = ", META_JOURNAL_MODE 'WAL'" if self.catalog.startswith("sqlite:") else ""
        mode = ", READ_ONLY" if read_only else journal
        for attempt in range(RETRIES):
            try:
                connection.execute(
                    f"ATTACH {quoted(f'ducklake:{self.catalog}')} AS lake (DATA_PATH {quoted(self.data_path)}, "
                    f"OVERRIDE_DATA_PATH TRUE, DATA_INLINING_ROW_LIMIT 0{mode})"
                )
                break
            except duckdb.Error as error:
                if attempt == RETRIES - 1 or not any(sign in str(error).lower() for sign in _BUSY):
                    raise LakeError(
                        f"the lake at {self.catalog} cannot be opened: {error}. {remedy_of(error)}"
                    ) from error
                time.sleep(0.1 * (attempt + 1) * (0.5 + random.random()))
        connection.execute("USE lake")
        if read_only:
            connection.execute(f"SET allowed_directories = [{quoted(self.data_path)}]")
            connection.execute("SET enable_external_access = false")
        return connection


def remedy_of(error: duckdb.Error) -> str:
    """What to do about an error of catalog or files."""
    told = str(error).lower()
    if any(sign in told for sign in _FULL):
        return "Its disk is probably full: look with `df -h`, free space, and run the same command again."
    if "locked" in told:
        return (
            "Another program holds the catalog: `fuser -v` shows which. Run the same command again when it has ended."
        )
    return "Run the same command again; if it persists, `rankmill doctor` looks for the cause."


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction: committed at the end of the block, rolled back whatever is raised in it."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise


def quoted(text: str) -> str:
    """A path as a string of SQL; ATTACH, LOAD and SET take no bound parameters."""
    return "'" + text.replace("'", "''") + "'"


def extension_path(name: str) -> Path:
    """The DuckDB extension file inside its PyPI wheel. Raises LakeError naming the package when it is missing."""
    package = f"duckdb_extension_{name}"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in Path(folder).glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"):
            return path
    raise LakeError(
        f"DuckDB {duckdb.__version__} has no extension {name!r} installed. "
        f"Install it: pip install {package.replace('_', '-')}=={duckdb.__version__}"
    )
