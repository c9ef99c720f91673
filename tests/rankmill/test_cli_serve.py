"""`rankmill rerank` and `rankmill serve` as processes: the same file whatever happens, a server that can be called."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cohere
import pytest
from toy_checkpoint import KEYS, make_checkpoint, write_lists, write_profile

COUNT = 60
COMMAND = [sys.executable, "-m", "rankmill.cli"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, the profile that fits it, and lists to order."""
    folder = tmp_path_factory.mktemp("toy")
    make_checkpoint(folder / "checkpoint")
    write_profile(folder / "toy.yaml")
    write_lists(folder, COUNT)
    return folder


def words(toy: Path, home: Path, out: Path, *more: str) -> list[str]:
    files = ["--run", "in.trec", "--queries", "queries.jsonl", "--passages", "passages.jsonl"]
    paths = [word if word.startswith("--") else str(toy / word) for word in files]
    place = ["--home", str(home), "--profile", str(toy / "toy.yaml"), "--model", str(toy / "checkpoint")]
    return [*COMMAND, "rerank", *paths, *place, "--out", str(out), *more]


def rerank(toy: Path, home: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(toy, home, out, *more), capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def whole(toy: Path) -> bytes:
    """What comes out with a batch of one, where no list has a neighbour."""
    result = rerank(toy, toy / "alone", toy / "alone.trec", "--batch", "1")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"{COUNT} queries, {2 * COUNT} calls" in result.stdout
    assert f"{COUNT} of {COUNT} lists" in result.stderr
    return (toy / "alone.trec").read_bytes()


def test_the_model_decides_and_every_candidate_keeps_a_place(whole: bytes) -> None:
    lines = [line.split() for line in whole.decode().splitlines()]
    assert len(lines) == 6 * COUNT
    ranked: dict[str, list[str]] = {}
    for qid, _, docid, rank, score, tag in lines:
        ranked.setdefault(qid, []).append(docid)
        assert (
            int(rank) == len(ranked[qid]) and float(score) == 7 - int(rank) and tag.startswith("rankmill-reasonrank-")
        )
    orders = {tuple(docid.rpartition("-")[2] for docid in docids) for docids in ranked.values()}
    assert len(orders) > 4 and all(order[5] == "6" for order in orders)  # the toy's top is five


def test_the_batch_changes_nothing_in_the_file(toy: Path, whole: bytes, tmp_path: Path) -> None:
    result = rerank(toy, tmp_path, tmp_path / "out.trec", "--batch", "64")
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "out.trec").read_bytes() == whole


def test_a_killed_rerank_goes_on_where_it_stopped(toy: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.trec"
    running = subprocess.Popen(words(toy, tmp_path, out, "--batch", "1"), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while journalled(tmp_path) < 10:
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not out.exists() and 10 <= journalled(tmp_path) < COUNT
    until_gone(children)
    kept = journalled(tmp_path)
    (journal,) = (tmp_path / "work").glob("reranked-*.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    result = rerank(toy, tmp_path, out, "--batch", "16")
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"{COUNT} queries, {kept} of them kept from before" in result.stdout
    assert out.read_bytes() == whole
    again = rerank(toy, tmp_path, tmp_path / "again.trec")
    assert f"{COUNT} of them kept" in again.stdout and (tmp_path / "again.trec").read_bytes() == whole
    assert len(journal.read_bytes().splitlines()) == COUNT


def journalled(home: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in home.glob("work/reranked-*.jsonl"))


def until_gone(pids: list[str]) -> None:
    assert pids
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/status").exists() for pid in pids):
        assert time.monotonic() < end, "the model's process outlives the command"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("queries.jsonl", '{"qid": "q0", "text": "x"}\n', r"qid 'q1' and 58 others are not in .*queries.jsonl"),
        ("queries.jsonl", '{"qid": "q0"\n', r"queries.jsonl:1: not JSON"),
        ("passages.jsonl", '{"docid": "d0-1"}\n', r"passages.jsonl:1: no text field 'text'"),
        ("passages.jsonl", '{"docid": "d0-1", "text": "x"}\n' * 2, r"docid 'd0-1' stands more than once"),
        ("in.trec", "q0 Q0 d0-1 1 2.0 t\nq0 Q0 d0-1 2 1.0 t\n", r"in.trec: docid 'd0-1' stands more than once"),
    ],
)
def test_files_that_do_not_fit_are_named(toy: Path, tmp_path: Path, file: str, content: str, said: str) -> None:
    for name in ("in.trec", "queries.jsonl", "passages.jsonl", "toy.yaml", "checkpoint"):
        (tmp_path / name).symlink_to(toy / name)
    (tmp_path / file).unlink()
    (tmp_path / file).write_text(content)
    result = rerank(tmp_path, tmp_path / "home", tmp_path / "out.trec")
    assert result.returncode == 1 and re.search(said, result.stderr), result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out.trec").exists()


@pytest.fixture(scope="module")
def served(toy: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    place = ["--home", str(toy / "home"), "--profile", str(toy / "toy.yaml"), "--model", str(toy / "checkpoint")]
    environment = os.environ | {"RANKMILL_API_KEY": "geheim", "PYTHONUNBUFFERED": "1"}
    command = [*COMMAND, "serve", *place, "--port", "0", "--exact"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        url = running.stdout.readline().split()[0]
        assert running.stdout.readline() == f"{url}/v1/rerank is ready\n"
        yield running, url
        running.kill()


def test_a_served_checkpoint_orders_a_list_as_rerank_does(
    toy: Path, whole: bytes, served: tuple[subprocess.Popen[str], str]
) -> None:
    client = cohere.ClientV2(api_key="geheim", base_url=served[1])
    ranked: dict[str, list[str]] = {}
    for line in whole.decode().splitlines():
        ranked.setdefault(line.split()[0], []).append(line.split()[2])
    texts = [json.loads(line) for line in (toy / "passages.jsonl").read_text().splitlines()]
    for number in range(5):
        mine = [row for row in texts if row["docid"].startswith(f"d{number}-")][:5]
        answer = client.rerank(
            model="checkpoint", query=f"what is {KEYS[number]} ?", documents=[row["text"] for row in mine]
        )
        assert [mine[result.index]["docid"] for result in answer.results] == ranked[f"q{number}"][:5]
        assert answer.meta.tokens.output_tokens > 0


def test_the_server_ends_at_a_signal_and_takes_the_model_with_it(served: tuple[subprocess.Popen[str], str]) -> None:
    running, url = served
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0
    until_gone(children)
    host, port = url.removeprefix("http://").split(":")
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), 1)


def test_what_others_can_reach_is_not_served_without_a_key(toy: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANKMILL_API_KEY"}
    command = [*COMMAND, "serve", "--model", str(toy / "checkpoint"), "--home", str(toy / "home"), "--host", "0.0.0.0"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert result.returncode == 1 and "RANKMILL_API_KEY" in result.stderr and "Traceback" not in result.stderr


def test_a_model_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    command = [*COMMAND, "serve", "--model", "nobody/rl", "--home", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "no model 'nobody/rl'. Models of this home: none yet" in result.stderr
