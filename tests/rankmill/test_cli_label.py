"""`rankmill label` as a process that is told to end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))

from mills import write_folder

from inference.standin.faults import Faults
from inference.standin.server import running_standin


def test_sigterm_ends_a_campaign_as_ctrl_c_does_and_keeps_the_answers_on_their_way(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "sources" / "sea", 40)
    with running_standin(Faults(latency_s=1.0)) as server:
        teacher = {"base_url": server.base_url, "pace": {"max_in_flight": 4}}
        profile = tmp_path / "mine.yaml"
        profile.write_text(json.dumps({"extends": "offline", "description": "mine", "teacher": teacher}), "utf-8")
        options = [
            "--profile",
            str(profile),
            "--home",
            str(tmp_path / "home"),
            "--sources",
            str(source),
            "--budget-usd",
            "0",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "rankmill.cli", "label", *options],
            env={**os.environ, "OPENAI_API_KEY": "none"}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not server.counts["answered"]:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        answered = server.counts["answered"]
    assert process.returncode == 130 and "stopped; what is done is kept." in said
    (store,) = (tmp_path / "home").rglob("exchanges.sqlite")
    with sqlite3.connect(store) as con:
        assert con.execute("SELECT kind, count(*) FROM spend GROUP BY kind").fetchall() == [("answer", answered)]
    assert 4 <= answered < 39
