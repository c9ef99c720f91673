"""The contestant `raw aiohttp`: as many workers as may be in flight over one session, and nothing else.

No retries, no store, no budget, no check: what HTTP and JSON alone cost in Python. Run by `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
from contest import MAX_TOKENS, Task, compete, run
from peers.workers import answer_all


def prepare(task: Task) -> Callable[[], list[str]]:
    """Nothing is built before the event loop runs."""

    async def ask() -> list[str]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:

            async def answer(prompt: str) -> str:
                body = {
                    "model": task.model,
                    "messages": [{"role": "user", "content": prompt}],
                    "temperature": 0.0,
                    "max_tokens": MAX_TOKENS,
                }
                async with session.post(f"{task.base_url}/chat/completions", json=body) as response:
                    completion = await response.json()
                content: str = completion["choices"][0]["message"]["content"]
                return content

            return await answer_all(task, answer)

    return lambda: run(ask())


if __name__ == "__main__":
    compete(prepare)
