"""The contestant `openai`: the OpenAI SDK over its aiohttp transport, the faster of its two.

As many workers as may be in flight over one client; its retries as they come. Run by `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from contest import MAX_TOKENS, Task, compete, run
from openai import AsyncOpenAI, DefaultAioHttpClient
from peers.workers import answer_all


def prepare(task: Task) -> Callable[[], list[str]]:
    """Nothing is built before the event loop runs."""

    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=task.base_url, api_key="none", http_client=DefaultAioHttpClient()) as client:

            async def answer(prompt: str) -> str:
                completion = await client.chat.completions.create(
                    model=task.model,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0.0,
                    max_tokens=MAX_TOKENS,
                )
                return completion.choices[0].message.content or ""

            return await answer_all(task, answer)

    return lambda: run(ask())


if __name__ == "__main__":
    compete(prepare)
