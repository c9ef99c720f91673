"""The open batches of an exchange store.

python -m inference.batch STORE                  # what is open
python -m inference.batch STORE --give-up ID     # cancel one, keep what it has brought
"""

import argparse
import os
import sys
from pathlib import Path

from inference.batch.giving_up import give_up_now
from inference.batch.rows import open_rows
from inference.store import ExchangeStore


def main(arguments: list[str] | None = None) -> None:
    """List the open batches of a store, or give one up.

    The provider is asked to cancel it where OPENAI_BASE_URL is the address that the batch was filed for: a key is shown
    to no other.
    """
    parser = argparse.ArgumentParser(prog="python -m inference.batch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("store", type=Path, help="the exchange store, a SQLite file")
    parser.add_argument("--give-up", metavar="ID", help="cancel and end this batch; what is not known counts as spent")
    chosen = parser.parse_args(arguments)
    if not chosen.store.is_file():
        inside = chosen.store / "exchanges.sqlite"
        there = f"; {inside} is one" if inside.is_file() else ""
        parser.error(f"there is no exchange store at {chosen.store}{there}")
    with ExchangeStore(chosen.store) as store:
        rows = store.clerk.submit(lambda con: open_rows(con, store), writes=False).result()
        if chosen.give_up is None:
            if not rows:
                sys.stdout.write("no batch is open\n")
            for row in rows:
                known = row.remote or ("being sent" if row.sending else "cut short")
                asked = f"{row.requests:,} x {row.model}"
                sys.stdout.write(f"{row.batch}  {row.filed_at}  {asked}  {row.endpoint}  {known}\n")
            return
        wanted = next((row for row in rows if row.batch == chosen.give_up), None)
        if wanted is None:
            parser.error(f"no open batch {chosen.give_up} in {chosen.store}; leave out --give-up to see what is open")
        address, key = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "none")
        sys.stdout.write(f"{give_up_now(store, wanted.batch, address, key)}\n")


if __name__ == "__main__":
    main()
