"""The loop around a bare client: a fixed number of workers that take one prompt after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from contest import Task


async def answer_all(task: Task, answer: Callable[[str], Awaitable[str]]) -> list[str]:
    """The contents of all answers, in the order in which they came."""
    waiting = iter(task.prompts)
    contents: list[str] = []

    async def work() -> None:
        # One iterator for all: a prompt that is taken is gone.
        for prompt in waiting:
            contents.append(await answer(prompt))

    await asyncio.gather(*(work() for _ in range(task.in_flight)))
    return contents
