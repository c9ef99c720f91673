"""What the columns of a table hold, in a few words each: the UI shows them beside names and types.

A name that means the same wherever it stands is said once; what a table means by a name of its own goes before.
Deliberately absent: types, which are the schema's (warehouse/schema).
"""

from collections.abc import Mapping

from warehouse.pages.croissant import DESCRIPTIONS

EVERYWHERE: Mapping[str, str] = {
    "domain": "Domain of the query.",
    "qid": "The query's id within its domain.",
    "docid": "The passage's id within its domain.",
    "source": "Where the text comes from.",
    "license": "SPDX id of the text's licence.",
    "url": "Address of the text, where known.",
    "text_sha256": "Hash of the text.",
    "judge": "Who judged or ranked: the model that answered, by the name that it gave.",
    "exchange_key": "The exchange with the teacher behind it: `key` in `exchanges`.",
    "prompt_sha256": "Hash of the prompt's template.",
    "ranking_id": "Names the ranking of one list and no other.",
    "recipe": "Name of the recipe: the system that was built.",
    "recipe_sha256": "Hash of the recipe's choices that shape the weights.",
    "stage": "bm25 (the first stage), base (untouched), sft or rl; +fused and ~twin where a recipe has them.",
    "model": "Names the weights: a hash of job and weights; the base model and bm25 by their own names.",
    "release": "The release that it was trained on: sha256 over its rows.",
    "created_at": "When the row was written, UTC.",
    "queries": "How many held-out queries were measured.",
}
OF_A_TABLE: Mapping[str, Mapping[str, str]] = {
    "queries": {
        "text": "What is searched for.",
        "split": "train (labelled and trained on), dev or test (held out).",
        "gold_answer": "The answer, where known: the teacher sees it when it mines, never when it ranks.",
        "excluded_docids": "Passages that are never candidates of this query, such as its own page.",
    },
    "passages": {
        "domain": "Domain whose queries search it.",
        "title": "Title, where there is one.",
        "text": "The body.",
    },
    "judgements": {
        "grade": "How relevant: 0 is not; people's grades are those of the qrels, the teacher's are 0 and 1.",
        "origin": "human or teacher.",
        "role": "qrels (people's), positive or hard_negative (the teacher's).",
    },
    "benchmarks": {
        "benchmark": "Benchmark and part, such as BRIGHT/biology.",
        "qid": "Id of the item within its part.",
        "text": "What no training row may overlap.",
        "location": "Where it was read: the folder given, or the registry.",
        "unit": "query or passage.",
    },
    "candidates": {
        "rank": "Place in the first stage's order, from 1.",
        "score": "The first stage's score.",
        "retriever": "The first stage and its parameters.",
    },
    "rankings": {
        "initial_list": "Ids of the passages in the order in which the teacher saw them.",
        "final_list": "The same in the teacher's order, best first.",
        "relevant_docids": "Those of them that the judgements call relevant.",
        "reasoning": "The teacher's chain.",
        "judged_by": "Whose judgements count here: mined, human, or both.",
        "list_seed": "Seed of the order in which the list was shown.",
        "agreement": DESCRIPTIONS["agreement"],
    },
    "consistent_rankings": {"consistency": DESCRIPTIONS["consistency"], "alpha": "The least that was let through."},
    "training_rows": DESCRIPTIONS,
    "models": {
        "stage": "sft or rl.",
        "parent": "The weights that training began with: their hash, or the base model's name.",
        "job_sha256": "Hash of the job that made them: recipe, release, parent, seed, version of the stage.",
        "weights_sha256": "Hash of the weights.",
        "path": "Folder of the checkpoint, below the home.",
        "seed": "Seed of the training.",
        "steps": "Optimizer steps taken.",
        "tokens": "Tokens trained on.",
        "seconds": "How long the process ran.",
        "versions": "Versions of the code, Python and the libraries, and the hardware; JSON.",
        "history": "Loss, reward and the like, by step; JSON.",
    },
    "rerank_runs": {
        "run": "Names the reranking; its calls, scores and settings have the same name.",
        "rank": "Place in the order, from 1.",
        "score": "What the order is sorted by, highest first.",
        "value": "The score that the model gave, where its decoder has any.",
    },
    "leaderboard": {
        "domain": "A domain, or all: their queries together.",
        "fused": "Whether the first stage's order is blended in.",
        "split": "The split that was measured: test where a domain has one, else dev.",
        "measures": "Means over the queries, by measure (trec_eval's semantics); JSON.",
        "low": "Lower end of the 95 % bootstrap interval of NDCG@10, over queries.",
        "high": "Upper end of it.",
        "versus_bm25": "Mean paired difference in NDCG@10 to the first stage.",
        "versus_low": "Lower end of its 95 % interval.",
        "versus_high": "Upper end of its 95 % interval.",
        "p": "Paired randomisation test against the first stage.",
        "p_holm": "The same, corrected by Holm over every comparison on the board.",
        "wins": "Queries above the first stage.",
        "ties": "Queries level with it.",
        "losses": "Queries below it.",
        "malformed_rate": "Share of the answers that were not in the form asked for.",
        "malformed": "Malformed answers by kind; JSON.",
        "calls_per_query": "Model calls a query.",
        "depth_per_query": "How many of them wait for one another.",
        "tokens_per_query": "Tokens read and written a query.",
        "input_tokens_per_query": "Tokens read a query.",
        "output_tokens_per_query": "Tokens written a query.",
        "cached_tokens_per_query": "Tokens that the engine had cached; null where it does not tell.",
        "seconds_per_query": "Seconds that a query keeps the machine busy: a call's are its share of its batch.",
        "seconds_p50": "The same, median over queries.",
        "seconds_p95": "The same, 95th percentile.",
        "usd_per_query": "Price a query; 0 for a local model.",
        "ece": "Pointwise recipes: expected calibration error of the scores as probabilities.",
        "tpr": "Pointwise recipes: share of the relevant passages scored above 0.5.",
        "tnr": "Pointwise recipes: share of the others scored below it.",
        "calibration": "Pointwise recipes: the bins behind `ece`; JSON.",
        "position_tau": "Kendall's tau of a window's orders, shown from either end; 1: the order decides nothing.",
        "position_probes": "How many windows were asked both ways.",
        "settings": "What the scores depend on beside the model; JSON.",
    },
    "promotions": {
        "number": "Counts the decisions, from 1.",
        "decision": "promoted, challenger or rolled_back.",
        "against": "What the model was compared with, or what stands in its place again; bm25 where there is no model.",
        "reason": "Why, in words.",
        "measure": "What was compared.",
        "value": "Its mean, over the queries compared.",
        "difference": "Mean paired difference to `against`.",
        "low": "Lower end of its 95 % interval.",
        "high": "Upper end of its 95 % interval.",
        "p": "Paired randomisation test of the difference, corrected by Holm.",
        "queries": "How many queries were measured alike for both.",
        "who": "rule, or the person who decided.",
        "snapshot": "The snapshot that holds the scores compared.",
        "evidence": "Hash of the scores and of the rule's bounds: the same evidence is judged once.",
    },
}


def meaning(table: str, column: str) -> str:
    """What a column of a table holds. Raises KeyError for one that is described nowhere."""
    own = OF_A_TABLE.get(table, {})
    return own[column] if column in own else EVERYWHERE[column]
