"""The contestant `data-designer` (NVIDIA NeMo Data Designer): one LLM text column over a seed of prompts.

All rows in one row group, its quick template engine, its metrics port closed, its health check and telemetry off (by
environment, see `engine.py`). It writes a data set and profiles it, and that is on the clock: `create` does so always.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd
from contest import MAX_TOKENS, Task, compete
from data_designer.config import (
    ChatCompletionInferenceParams,
    DataDesignerConfigBuilder,
    DataFrameSeedSource,
    LLMTextColumnConfig,
    ModelConfig,
    ModelProvider,
    RunConfig,
)
from data_designer.config.run_config import JinjaRenderingEngine
from data_designer.interface import DataDesigner


def prepare(task: Task) -> Callable[[], list[str]]:
    """A designer and its configuration."""
    provider = ModelProvider(name="loopback", endpoint=task.base_url, api_key="none")
    limits = ChatCompletionInferenceParams(
        max_parallel_requests=task.in_flight, temperature=0.0, max_tokens=MAX_TOKENS, timeout=600
    )
    model = ModelConfig(alias="ranker", model=task.model, provider="loopback", inference_parameters=limits)
    config = DataDesignerConfigBuilder(model_configs=[model])
    config.with_seed_dataset(DataFrameSeedSource(df=pd.DataFrame({"prompt": task.prompts})))
    config.add_column(LLMTextColumnConfig(name="content", prompt="{{ prompt }}", model_alias="ranker"))
    designer = DataDesigner(artifact_path=task.folder, model_providers=[provider])
    designer.set_run_config(
        RunConfig(
            buffer_size=len(task.prompts),
            max_in_flight_tasks=max(1024, 2 * task.in_flight),
            jinja_rendering_engine=JinjaRenderingEngine.NATIVE,
            otel_metrics_port=None,
        )
    )
    logging.getLogger("data_designer").setLevel(logging.WARNING)

    def ask() -> list[str]:
        made = designer.create(config, num_records=len(task.prompts)).load_dataset()
        return [str(content) for content in made["content"]]

    return ask


if __name__ == "__main__":
    compete(prepare)
