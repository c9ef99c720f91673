"""A local model behind OpenAI's protocol, as a vLLM server has it: greedy, with log-probabilities, one request a time.

    with serving_model(model, tokenizer) as server: ... server.base_url, server.asked

`server.says` may give the words of an answer in place of the model's own; their probabilities are the model's all the
same. `server.also` are tokens that are listed whether or not they are among the likeliest: an endpoint without a limit.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ModelServer:
    """What is served, how it answers, and the bodies that it was asked with."""

    model: Any
    tokenizer: Any
    also: tuple[str, ...] = ()
    says: Callable[[str], str] | None = None
    cached: int | None = None
    tells: bool = True
    base_url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    # One thread computes: memory that a thread of its own for each request took stays with that thread's arena.
    _computes: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a chat completion request."""
        return self._computes.submit(self._completed, body).result()

    def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        template = self.tokenizer.apply_chat_template
        prompt = template(body["messages"], add_generation_prompt=True, tokenize=True, return_dict=False)
        self.asked.append(body)
        ids, rows = self._written(prompt, body)
        entries = [
            {**self._shown(token, row), "top_logprobs": self._top(row, body["top_logprobs"])}
            for token, row in zip(ids, rows, strict=True)
        ] if body.get("logprobs") and self.tells else []  # fmt: skip
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        usage: dict[str, Any] = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        choice = {
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": entries} if entries else None,
        }
        finish = "length" if len(ids) == body["max_tokens"] else "stop"
        return {"model": body["model"], "choices": [{**choice, "finish_reason": finish}], "usage": usage}

    def _written(self, prompt: list[int], body: dict[str, Any]) -> tuple[list[int], list[Any]]:
        """The tokens of an answer, each with the log-probabilities of the whole vocabulary at its place."""
        import torch

        forced = None
        if self.says is not None:
            words = self.says(body["messages"][-1]["content"])
            forced = self.tokenizer.encode(words, add_special_tokens=False)
        ids: list[int] = []
        rows = []
        with torch.inference_mode():
            for place in range(body["max_tokens"]):
                given = torch.tensor([prompt + ids])
                logits = self.model(input_ids=given, use_cache=False, logits_to_keep=1).logits[0, -1]
                row = logits.float().log_softmax(dim=-1)
                if forced is not None and place == len(forced):
                    break
                token = int(row.argmax()) if forced is None else forced[place]
                if token == self.tokenizer.eos_token_id:
                    break
                ids.append(token)
                rows.append(row)
        return ids, rows

    def _top(self, row: Any, most: int) -> list[dict[str, Any]]:
        likeliest = row.topk(most).indices.tolist() if most else []
        wanted = [self.tokenizer.encode(word, add_special_tokens=False)[0] for word in self.also]
        return [self._shown(token, row) for token in dict.fromkeys([*likeliest, *wanted])]

    def _shown(self, token: int, row: Any) -> dict[str, Any]:
        return {"token": self.tokenizer.decode([token]), "logprob": float(row[token])}


@contextmanager
def serving_model(model: Any, tokenizer: Any, **how: Any) -> Iterator[ModelServer]:
    """The server, while the context lasts."""
    served = ModelServer(model, tokenizer, **how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps(served.completion(body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
