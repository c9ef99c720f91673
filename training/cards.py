"""The README.md of a checkpoint: where it comes from, what it learned from, and how other programs ask it.

The lines for transformers, vLLM and RankLLM are complete: whoever has the folder and the program can paste them.
RankLLM orders lists, so only what answers with an order gets lines for it. Deliberately absent: scores, which stand on
the leaderboard and change with what is measured.
"""

from collections.abc import Sequence
from textwrap import dedent

import yaml

from ranking.prompts import load_template
from training.jobs import RlJob, SftJob, TrainResult
from training.recipes import SEAMS, Recipe
from training.seams import FirstTokenWindow, Letters, RandomGroups, SlidingWindow, Written, YesNo

RANKLLM_METHODS = ("singleturn_listwise",)


def model_card(job: SftJob | RlJob, result: TrainResult, data: Sequence[tuple[str, str, int]]) -> str:
    """The card; `data` is (source, licence, rows) of what the stage read."""
    recipe = job.recipe
    choices = yaml.safe_dump(recipe.model_dump(include=set(SEAMS)), sort_keys=False, default_flow_style=None, width=110)
    last = result.history[-1] if result.history else {}
    final = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    chosen = "the last" if result.chosen_step is None else f"{result.chosen_step}, NDCG@10 {result.dev_ndcg:.4f} on dev"
    return "\n".join(
        [
            "---\nlibrary_name: transformers\npipeline_tag: text-generation",
            f"tags: [reranking, rankmill, {job.stage}]\n---",
            f"# {recipe.name}: {job.stage} checkpoint",
            recipe.description,
            "A reranker, to be asked with the messages of `prompt_template.yaml` (RankLLM's format).",
            "| what | value |\n|---|---|",
            *(
                f"| {name} | {value} |"
                for name, value in {
                    "stage": job.stage,
                    "starts from": f"{job.model.path.rsplit('/', 1)[-1]} ({job.model.sha256})",
                    "release": job.release,
                    "recipe sha256": recipe.sha256,
                    "job sha256": job.sha256,
                    "weights sha256": result.weights_sha256,
                    "prompt template sha256": load_template(recipe.contract.template).sha256,
                    "seed": job.seed,
                    "rows that fit / left out": f"{result.rows_used} / {len(result.rows_left_out)}",
                    "shortened to the recipe's budgets": result.shortened.words(),
                    "rows that a step drew": len(result.rows_seen),
                    "steps, tokens, seconds": f"{result.steps}, {result.tokens}, {result.seconds:.0f}",
                    "minutes of processor cores": f"{result.processor_seconds / 60:.1f}",
                    "step whose weights these are": chosen,
                    "hardware": result.hardware,
                    "last step": final,
                    **{f"{name} version": version for name, version in result.versions.items()},
                }.items()
            ),
            how_to_ask(recipe, job.folder.name),
            "\n## Training data\n",
            "| source | licence | rows |\n|---|---|---|",
            *(f"| {source} | {licence} | {count} |" for source, licence, count in data),
            f"\n## Recipe\n\n```yaml\n{choices}```\n",
        ]
    )


def how_to_ask(recipe: Recipe, folder: str) -> str:
    """Lines to paste, run beside the checkpoint's folder."""
    decoding = recipe.decoding
    tokens = decoding.max_new_tokens if isinstance(decoding, Written) else 1
    whole = _longest(recipe) + (tokens if isinstance(decoding, Written) else 64)
    blocks = [
        "\n## How to ask it\n",
        "The lines are run in the folder that holds this one. What the model was trained on, and other programs do not "
        f"know: passages of at most {decoding.passage_tokens or recipe.units.passage_tokens} tokens"
        + (f", queries of at most {recipe.units.query_tokens}" if recipe.units.query_tokens else "")
        + f", and {decoding.widest} passages in a call.\n",
        "transformers:\n",
        _python(_transformers(recipe, folder, tokens)),
        "\nvLLM:\n",
        f"```sh\nvllm serve {folder} --served-model-name {recipe.name} --max-model-len {whole}\n```",
        "\nThen POST the same `messages` to `/v1/chat/completions` with `temperature` 0.",
        "\nRankLLM:\n",
    ]
    if load_template(recipe.contract.template).method in RANKLLM_METHODS:
        blocks.append(_python(_rankllm(recipe, folder, tokens, whole)))
    else:
        blocks.append("It has no method for answers of this kind: it orders lists. `rankmill serve` asks this model.")
    return "\n".join(blocks)


def _transformers(recipe: Recipe, folder: str, tokens: int) -> str:
    alone = recipe.units.name == "pair"
    name = "chr(64 + number)" if isinstance(recipe.contract, Letters) else "number"
    # A score is the share of yes among the two logits at the first place of the answer.
    answer = """\
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    """
    if isinstance(recipe.contract, YesNo):
        answer = """\
            yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
            print(model(**inputs).logits[0, -1, [yes, no]].softmax(dim=0)[0].item())
        """
    opening = """\
        from pathlib import Path

        import yaml
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path("FOLDER")
        template = yaml.safe_load((folder / "prompt_template.yaml").read_text())
        query, passages = "why is the sea salty", PASSAGES
        shown = {"query": query, "num": len(passages)}
        body = "".join(template["body"].format(rank=NAME, candidate=text) for number, text in enumerate(passages, 1))
        messages = [
            {"role": "system", "content": template["system_message"].strip()},
            {"role": "user", "content": template["prefix"].format(**shown) + body + template["suffix"].format(**shown)},
        ]
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        chat = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True, "enable_thinking": THINK}
        inputs = tokenizer.apply_chat_template(messages, **chat)
    """
    passages = '["Rivers carry salt into it."]' if alone else '["The moon moves it.", "Rivers carry salt into it."]'
    lines = dedent(opening) + dedent(answer)
    given = {
        "FOLDER": folder,
        "PASSAGES": passages,
        "NAME": name,
        "TOKENS": str(tokens),
        "THINK": str(recipe.contract.think),
    }
    for word, value in given.items():
        lines = lines.replace(word, value)
    return lines


def _rankllm(recipe: Recipe, folder: str, tokens: int, whole: int) -> str:
    decoding, letters = recipe.decoding, isinstance(recipe.contract, Letters)
    step = decoding.step if isinstance(decoding, SlidingWindow | FirstTokenWindow) else decoding.widest
    answers = "use_alpha=True" if letters else f"is_thinking=True, reasoning_token_budget={tokens}"
    note = "" if not isinstance(decoding, RandomGroups) else "# This model was measured on random groups.\n"
    return note + dedent(f"""\
        from rank_llm.data import Candidate, Query, Request
        from rank_llm.rerank import Reranker
        from rank_llm.rerank.listwise import RankListwiseOSLLM

        model = RankListwiseOSLLM(
            model="{folder}",
            prompt_template_path="{folder}/prompt_template.yaml",
            context_size={whole},
            window_size={decoding.widest},
            stride={step},
            variable_passages=True,
            {answers},
        )
        texts = ["The moon moves it.", "Rivers carry salt into it."]
        candidates = [Candidate(docid=n, score=1.0 / n, doc={{"text": text}}) for n, text in enumerate(texts, 1)]
        asked = Request(query=Query(text="why is the sea salty", qid=1), candidates=candidates)
        print([one.docid for one in Reranker(model).rerank(asked, rank_end={decoding.top}).candidates])
        """)


def _longest(recipe: Recipe) -> int:
    """Tokens of the longest prompt that the recipe lets a student learn from."""
    if "rl" in recipe.stages:
        return recipe.grpo.max_prompt_tokens
    return recipe.supervised.max_tokens


def _python(lines: str) -> str:
    return f"```python\n{lines.rstrip()}\n```"
