"""Reporting: plain lines on stderr alone, log lines through Pipes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.reporting import LineReporter, line, open_reporter

ROOT = Path(__file__).parents[2]


def test_a_line_names_stage_step_and_numbers() -> None:
    assert line("sft", 3, 25, {"loss": 2.1, "lr": 1e-5}) == "sft 3/25  loss 2.1  lr 1e-05"


def test_without_pipes_lines_go_to_stderr_and_stdout_stays_free(capsys: pytest.CaptureFixture[str]) -> None:
    with open_reporter() as reporter:
        reporter.step("rl", 1, 2, {"reward": 0.5})
    assert isinstance(reporter, LineReporter)
    assert capsys.readouterr() == ("", "rl 1/2  reward 0.5\n")


def test_through_pipes_a_step_is_a_log_line(tmp_path: Path) -> None:
    import dagster_pipes

    messages = tmp_path / "messages"
    context = {
        "asset_keys": ["sft_model"],
        "code_version_by_asset_key": {"sft_model": None},
        "provenance_by_asset_key": {"sft_model": None},
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "r",
        "job_name": None,
        "retry_number": 0,
        "extras": {},
    }
    environment = {
        "DAGSTER_PIPES_CONTEXT": dagster_pipes.encode_param({"data": context}),
        "DAGSTER_PIPES_MESSAGES": dagster_pipes.encode_param({"path": str(messages)}),
    }
    code = "from training.reporting import open_reporter as o\n"
    code += "with o() as r: r.step('sft', 1, 2, {'loss': 0.5}); r.fail('no')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    sent = [json.loads(text) for text in messages.read_text().splitlines()]
    logged = [(m["params"]["message"], m["params"]["level"]) for m in sent if m["method"] == "log"]
    assert logged == [("sft 1/2  loss 0.5", "INFO"), ("no", "ERROR")]
