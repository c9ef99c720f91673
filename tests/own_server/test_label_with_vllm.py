"""A small set labelled by a real model behind a real vLLM; `make test-vllm` runs it, the default test run does not.

SmolLM2-135M-Instruct answers mostly in a form that cannot be used, which is the point: every such answer is kept, got
its repair turn, and is paid for once. The figures of the run are printed (`pytest -s` shows them).
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from inference.archive import everything
from inference.breaker import BreakerSettings
from inference.budget import Budget
from inference.endpoint import Endpoint
from inference.engine import Engine, ask_all
from inference.exchange import Exchange, Request, Sampling
from inference.pace import PaceSettings
from inference.prices import Price, Prices
from inference.progress import Progress
from inference.store import ExchangeStore
from inference.vllm import VllmSettings, VllmUnusable, serving_vllm
from ranking.parsing import describe_list_fault, parse_ranking
from ranking.prompts import load_template, titled
from training.student import load_tokenizer

pytestmark = pytest.mark.vllm

MODEL = "smollm2-135m-instruct"
SEED = Path(__file__).resolve().parents[2] / "seed" / "web_search"
QUESTIONS, PASSAGES, TOKENS = 12, 4, 64
FREE = Price(input=0, cached=0, output=0, source="a server of one's own")
PARENT = """
import sys
from pathlib import Path
from inference.vllm import VllmSettings, serving_vllm

with serving_vllm(VllmSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2])):
    pass
"""


@pytest.fixture
def settings(python: str, checkpoint: Path) -> VllmSettings:
    return VllmSettings(
        model=str(checkpoint),
        served_name=MODEL,
        python=python,
        # A CPU without bfloat16 instructions emulates them, several times slower than this.
        dtype="float32",
        max_model_len=2048,
        cpu_kv_cache_gib=1,
        start_timeout_s=400,
        extra_args=("--enforce-eager",),
    )


def questions() -> list[Request]:
    """Ranking questions over the shipped seed: a query, and the passages that people judged for it."""
    texts = {
        row["docid"]: titled(row.get("title"), row["text"])
        for row in map(json.loads, (SEED / "passages.jsonl").read_text("utf-8").splitlines())
    }
    judged: dict[str, list[str]] = {}
    for line in (SEED / "qrels.tsv").read_text("utf-8").splitlines():
        qid, _, docid, _ = line.split()
        judged.setdefault(qid, []).append(docid)
    sampling = Sampling(MODEL, temperature=0.0, top_p=1.0, max_tokens=TOKENS)
    template = load_template("rank_teacher")
    asked = []
    for row in map(json.loads, (SEED / "queries.jsonl").read_text("utf-8").splitlines()):
        shown = [texts[docid] for docid in judged.get(row["qid"], [])][:PASSAGES]
        if len(shown) == PASSAGES:
            asked.append(Request(row["qid"], tuple(template.messages(row["text"], shown)), sampling))
    return asked[:QUESTIONS]


def whole_list(_request: Request, content: str) -> str | None:
    return describe_list_fault(content, PASSAGES)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def server_processes(checkpoint: Path) -> set[int]:
    """The processes of the session that serves a checkpoint; vLLM's workers have other command lines than it."""
    found: dict[int, tuple[int, bool]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                session = int((entry / "stat").read_text("utf-8").rsplit(")", 1)[1].split()[3])
            except (FileNotFoundError, ProcessLookupError):
                continue
            is_server = str(checkpoint).encode() in words and not any(b"vllm_guard" in word for word in words)
            found[int(entry.name)] = (session, is_server)
    serving = {session for session, is_server in found.values() if is_server}
    return {pid for pid, (session, _) in found.items() if session in serving}


def wait_until(happened: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_small_set_is_labelled_malformed_answers_and_all(
    settings: VllmSettings, checkpoint: Path, tmp_path: Path
) -> None:
    asked = questions()
    assert len(asked) == QUESTIONS
    seen: list[Progress] = []
    with ExchangeStore(tmp_path / "exchanges.sqlite") as store:

        def engine(base_url: str) -> Engine:
            return Engine(
                Endpoint(base_url=base_url, api_key="none", timeout_s=300),
                store,
                Budget(usd=0.0),
                Prices.load().with_price(MODEL, FREE),
                PaceSettings(max_in_flight=8, max_attempts=2),
                BreakerSettings(share=1),
            )

        started = time.monotonic()
        with serving_vllm(settings, tmp_path / "vllm.log") as base_url:
            ready_s = time.monotonic() - started
            processes = server_processes(checkpoint)
            assert len(processes) >= 2, "the server and its engine"
            outcomes = ask_all(engine(base_url), asked, whole_list, on_progress=seen.append)
        bought = seen[-1]
        wait_until(lambda: not any(map(alive, processes)), 5)
        address = (urlsplit(base_url).hostname, urlsplit(base_url).port)
        with socket.socket() as knock:
            assert knock.connect_ex(address) != 0

        # The server is gone, so whatever still comes is from the store.
        again = ask_all(engine(base_url), asked, whole_list, on_progress=seen.append)
        rows = list(everything(store))

    answers = [outcome for outcome in outcomes if isinstance(outcome, Exchange)]
    assert len(answers) == QUESTIONS, [outcome for outcome in outcomes if not isinstance(outcome, Exchange)]
    tokenizer = load_tokenizer(checkpoint)
    for row in rows:
        prompt = tokenizer.apply_chat_template([dict(m) for m in row.messages], add_generation_prompt=True)
        # Counted by vLLM as its own tokenizer does; what no endpoint reports would stand here at its worst case.
        assert row.exchange.prompt_tokens == len(prompt["input_ids"])
        assert 1 <= row.exchange.completion_tokens <= TOKENS
        assert row.exchange.served_model == MODEL and row.exchange.usd == 0
    first = {row.exchange.key: row.exchange for row in rows if row.exchange.repair_of is None}
    second = {row.exchange.repair_of: row.exchange for row in rows if row.exchange.repair_of is not None}
    assert first.keys() == {request.key for request in asked}
    assert second.keys() == {key for key, exchange in first.items() if exchange.fault is not None}
    for answer in answers:
        assert (answer.fault is None) == (parse_ranking(answer.content, PASSAGES).order is not None)
        assert answer.fault is None or answer.repair_of is not None
    faulty = [answer for answer in answers if answer.fault is not None]
    assert faulty, "a 135M model that makes no mistake is another model"
    assert all(answer.content.strip() for answer in faulty)

    assert bought.calls == len(rows) and (bought.usd, bought.spent.usd) == (0, 0)
    assert bought.prompt_tokens == sum(row.exchange.prompt_tokens for row in rows)
    assert bought.completion_tokens == sum(row.exchange.completion_tokens for row in rows)
    assert (seen[-1].calls, seen[-1].stored) == (0, QUESTIONS)
    assert [(a.content, a.fault) for a in again if isinstance(a, Exchange)] == [(a.content, a.fault) for a in answers]
    print(
        f"\nready after {ready_s:.0f} s; {bought.calls} calls in {bought.elapsed_s:.1f} s, "
        f"{bought.prompt_tokens} prompt and {bought.completion_tokens} completion tokens, "
        f"{bought.completion_tokens / bought.elapsed_s:.0f} written a second; first answers malformed: "
        f"{len(second)} of {QUESTIONS}, after the repair turn: {len(faulty)}"
    )
    for answer in answers[:3]:
        print(f"{answer.request_id}: {answer.fault}: {answer.content[:100]!r}")


def test_a_folder_that_holds_no_model_is_refused_in_vllms_own_words(settings: VllmSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(VllmUnusable, match=r"ended with exit code 1 before it was ready(.|\n)*Error") as raised,
        serving_vllm(settings.model_copy(update={"model": str(tmp_path / "empty")}), tmp_path / "vllm.log"),
    ):
        pass
    print(f"\n{raised.value}")


def test_the_server_dies_with_a_parent_that_is_killed_while_it_loads(
    settings: VllmSettings, checkpoint: Path, tmp_path: Path
) -> None:
    log = tmp_path / "vllm.log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, settings.model_dump_json(), str(log)])
    # Once the engine has a process of its own, there is more than one to end.
    wait_until(lambda: len(server_processes(checkpoint)) >= 2, 120)
    processes = server_processes(checkpoint)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(map(alive, processes | server_processes(checkpoint))), settings.stop_timeout_s + 5)
