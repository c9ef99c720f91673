-- The lake's first schema. Every statement is run in one transaction; names are the field's own.

CREATE TABLE queries (
    domain VARCHAR, qid VARCHAR, text VARCHAR, source VARCHAR, split VARCHAR, gold_answer VARCHAR,
    excluded_docids VARCHAR[], license VARCHAR, url VARCHAR, text_sha256 VARCHAR
);
CREATE TABLE passages (
    domain VARCHAR, docid VARCHAR, title VARCHAR, text VARCHAR, source VARCHAR, license VARCHAR, url VARCHAR,
    text_sha256 VARCHAR
);
-- origin is human or teacher; role is qrels, positive or hard_negative; a teacher's row names the exchange behind it.
CREATE TABLE judgements (
    domain VARCHAR, qid VARCHAR, docid VARCHAR, grade BIGINT, origin VARCHAR, role VARCHAR, judge VARCHAR,
    exchange_key VARCHAR, prompt_sha256 VARCHAR
);
CREATE TABLE candidates (
    domain VARCHAR, qid VARCHAR, docid VARCHAR, rank BIGINT, score DOUBLE, retriever VARCHAR
);
-- One row a paid model call, copied from the exchange store; `key` is the hash of model, messages, sampling, generation.
CREATE TABLE exchanges (
    domain VARCHAR, purpose VARCHAR, key VARCHAR, request_id VARCHAR, model VARCHAR, served_model VARCHAR,
    messages VARCHAR, sampling VARCHAR, generation BIGINT, content VARCHAR, reasoning VARCHAR, finish_reason VARCHAR,
    fault VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, usd DOUBLE, latency_s DOUBLE,
    attempts BIGINT, created_at VARCHAR, prompt_sha256 VARCHAR
);
-- A teacher's ranking of one list. consistency and alpha are set on the rows that passed the filter.
CREATE TABLE rankings (
    domain VARCHAR, ranking_id VARCHAR, qid VARCHAR, initial_list VARCHAR[], final_list VARCHAR[],
    relevant_docids VARCHAR[], reasoning VARCHAR, judged_by VARCHAR, list_seed BIGINT, judge VARCHAR,
    exchange_key VARCHAR, prompt_sha256 VARCHAR
);
CREATE TABLE consistent_rankings (
    domain VARCHAR, ranking_id VARCHAR, qid VARCHAR, consistency DOUBLE, alpha DOUBLE
);
CREATE TABLE rejections (
    asset VARCHAR, partition_key VARCHAR, stage VARCHAR, key VARCHAR, reason VARCHAR, detail VARCHAR
);
-- A row of a release is whole in itself: a release can be read and trained on without any other table.
CREATE TABLE training_rows (
    release VARCHAR, row_id VARCHAR, domain VARCHAR, qid VARCHAR, split VARCHAR, query VARCHAR, docids VARCHAR[],
    passages VARCHAR[], final_order BIGINT[], relevant BIGINT[], reasoning VARCHAR, ranking_id VARCHAR,
    exchange_key VARCHAR, prompt_sha256 VARCHAR, judge VARCHAR, consistency DOUBLE, source VARCHAR, license VARCHAR,
    passage_licenses VARCHAR[], url VARCHAR
);
CREATE TABLE releases (
    release VARCHAR, created_at VARCHAR, rows BIGINT, sft BIGINT, rl BIGINT, dev BIGINT, domains VARCHAR[],
    licenses VARCHAR[], read_snapshot BIGINT, settings VARCHAR, code_version VARCHAR
);
CREATE TABLE benchmarks (
    benchmark VARCHAR, qid VARCHAR, text VARCHAR, location VARCHAR
);
CREATE TABLE models (
    model VARCHAR, recipe VARCHAR, recipe_sha256 VARCHAR, stage VARCHAR, parent VARCHAR, release VARCHAR,
    job_sha256 VARCHAR, weights_sha256 VARCHAR, path VARCHAR, seed BIGINT, steps BIGINT, tokens BIGINT,
    seconds DOUBLE, versions VARCHAR, history VARCHAR, created_at VARCHAR
);
CREATE TABLE rerank_runs (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, domain VARCHAR, qid VARCHAR, docid VARCHAR,
    rank BIGINT, score DOUBLE
);
-- One row a window: what the model was shown and what it wrote, malformed or not.
CREATE TABLE rerank_calls (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, domain VARCHAR, qid VARCHAR, docids VARCHAR[],
    messages_sha256 VARCHAR, completion VARCHAR, fault VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT,
    seconds DOUBLE
);
CREATE TABLE scores (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, domain VARCHAR, qid VARCHAR, fused BOOLEAN,
    measure VARCHAR, value DOUBLE
);
CREATE TABLE leaderboard (
    recipe VARCHAR, domain VARCHAR, stage VARCHAR, fused BOOLEAN, model VARCHAR, release VARCHAR, split VARCHAR,
    queries BIGINT, measures VARCHAR, low DOUBLE, high DOUBLE, versus_bm25 DOUBLE, versus_low DOUBLE,
    versus_high DOUBLE, malformed_rate DOUBLE, calls_per_query DOUBLE, tokens_per_query DOUBLE,
    seconds_per_query DOUBLE, settings VARCHAR
);
-- What was made, from what, and how the counts add up: the ledger behind "hash, then work" and behind the law checks.
CREATE TABLE materializations (
    asset VARCHAR, partition_key VARCHAR, input_sha256 VARCHAR, content_sha256 VARCHAR, read_snapshot BIGINT,
    rows_in BIGINT, rows_out BIGINT, rows_rejected BIGINT, figures VARCHAR, shown VARCHAR, seconds DOUBLE, run_id VARCHAR,
    code_version VARCHAR, created_at VARCHAR
);
