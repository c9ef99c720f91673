"""The contestants `TRL` and `TRL, no grouping` of `training.py`: SFTTrainer as its documentation shows it.

The settings are ours, number by number, whatever of them is not TRL's default; only rows of like length are not put
together where that is asked for, as TRL does not by default.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from learning import Task, compete


def build(task: Task) -> Any:
    """SFTTrainer over prompts and completions."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    job = json.loads(task.job.read_text(encoding="utf-8"))
    objective, model = job["recipe"]["objective"], job["recipe"]["model"]
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(task.folder),
            learning_rate=objective["lr"],
            lr_scheduler_type=objective["scheduler"],
            warmup_steps=objective["warmup"],
            max_length=objective["max_tokens"],
            per_device_train_batch_size=task.batch,
            gradient_accumulation_steps=objective["accumulation"],
            gradient_checkpointing=model["gradient_checkpointing"],
            num_train_epochs=1,
            bf16=model["bf16"] and fast,
            fp16=False,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            train_sampling_strategy="random" if "--shuffled" in sys.argv else "group_by_length",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": e["prompt"], "completion": e["completion"]} for e in task.examples]
        ),
        processing_class=AutoTokenizer.from_pretrained(task.model),
    )


if __name__ == "__main__":
    compete(build)
