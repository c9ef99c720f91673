"""Data Docs that keep to themselves: no script, style, font or picture from elsewhere, and an index of all releases.

    keep_to_itself(docs, page)              # a page as Great Expectations wrote it, made self-contained
    enter_history(docs, validations)        # history.json, and index.html made from it

As they are written, the pages load styles and scripts from six hosts, are empty without them, and show a picture that
tells the vendor of every look at them; switching analytics off changes none of that. Deliberately absent: buttons that
need a script; what they hide and show is shown.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warehouse.pages.reports import write_report

STYLE = "audit.css"
HISTORY = "history.json"
_REMOTE = re.compile(
    r"<script\b.*?</script>"  # all of them: the local ones call libraries that the remote ones bring
    r"|<link\b[^>]*\bhref=\"https?://[^>]*>"
    r"|<img\b[^>]*\bsrc=\"https?://[^>]*>"
    r"|@import[^;]*;|\burl\(['\"]?https?://[^)]*\)[^;]*;"
    r"|<footer\b.*?</footer>|<a\b[^>]*utm_[^>]*>.*?</a>",
    re.DOTALL,
)
_CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5a6775; --line: #e4e7eb; --wash: #f5f7fa; --good: #2f7d4f;
  --bad: #b42318; --blue: #2f6f9f; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a3aeba; --line: #313a44; --wash: #1f262d;
  --good: #6fc28f; --bad: #f2897d; --blue: #6aa7d4; --paper: #14181d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }
a { color: var(--blue); } h4 { font-size: 1.3rem; margin: .4rem 0; } h5 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--wash); } ol, ul { padding-left: 1.2rem; } .breadcrumb { list-style: none; padding: 0;
  display: flex; flex-wrap: wrap; gap: .3rem 1rem; color: var(--soft); } .navbar { height: auto !important; }
.badge, .popover, code { background: var(--wash); padding: .05rem .35rem; border-radius: 3px; }
.fa-check-circle::before { content: "\\2713"; color: var(--good); font-weight: 700; font-style: normal; }
.fa-times::before, .fa-times-circle::before { content: "\\2717"; color: var(--bad); font-weight: 700;
  font-style: normal; }
.fa-exclamation-triangle::before { content: "!"; color: var(--bad); font-weight: 700; font-style: normal; }
.cooltip .top, a[data-toggle], .btn, .btn-group, #ge-cta-footer, .modal, .sticky { display: none; }
"""


def keep_to_itself(docs: Path, page: Path) -> None:
    """Take everything from `page` that asks another host, and give it the stylesheet that lies in `docs`."""
    text = _REMOTE.sub("", page.read_text("utf-8"))
    up = "../" * len(page.relative_to(docs).parent.parts)
    head = (
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{up}{STYLE}"></head>'
    )
    _write(page, text.replace("</head>", head, 1))


def enter_history(docs: Path, validations: Sequence[Mapping[str, Any]]) -> None:
    """Add `validations` (suite, release, moment, page, expectations, failed) to the history, and show all of it."""
    path = docs / HISTORY
    history = json.loads(path.read_text("utf-8")) if path.is_file() else []
    history += [dict(entry) for entry in validations]
    _write(docs / STYLE, _CSS)
    _write(path, json.dumps(history))
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in sorted(history, key=lambda entry: str(entry["suite"])):
        runs.setdefault((entry["moment"], entry["release"]), []).append(entry)
    shown = [
        {"moment": moment, "release": release, "suites": entries}
        for (moment, release), entries in sorted(runs.items(), reverse=True)
    ]
    write_report(docs / "index.html", "data_docs.html.j2", {"runs": shown})


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    part.replace(path)
