"""The contestant `distilabel`: a pipeline of one TextGeneration step over its OpenAI model.

A batch of `in_flight` rows is what it keeps in flight. Cache off, in a fresh folder. Its pipeline starts a process for
each step when it is run, and that start is on the clock: there is no other way to run it.
"""

from __future__ import annotations

from collections.abc import Callable

from contest import MAX_TOKENS, Task, compete
from datasets import Dataset
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps.tasks import TextGeneration


def prepare(task: Task) -> Callable[[], list[str]]:
    """A pipeline and its data set."""
    prompts = Dataset.from_dict({"instruction": task.prompts})
    with Pipeline(name="perf", cache_dir=task.folder) as pipeline:
        TextGeneration(
            llm=OpenAILLM(
                model=task.model,
                base_url=task.base_url,
                api_key="none",
                generation_kwargs={"max_new_tokens": MAX_TOKENS, "temperature": 0.0},
            ),
            input_batch_size=task.in_flight,
            add_raw_input=False,
            add_raw_output=False,
        )

    def ask() -> list[str]:
        made = pipeline.run(dataset=prompts, use_cache=False, dataset_batch_size=task.in_flight)
        contents: list[str] = made["default"]["train"]["generation"][:]
        return contents

    return ask


if __name__ == "__main__":
    compete(prepare)
