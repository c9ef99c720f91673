-- What a run's scores depend on beside its model: one row a recipe and run, which scores, rerank_runs and rerank_calls
-- name. query_retrieved and query_reranked are fields of the query; window_size is the most passages that a call shows;
-- fusion_weight is the reranking's share; highest_score is the top of a pointwise model's scale. decoding and malformed
-- (answers by kind of fault) are JSON.
CREATE TABLE run_settings (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, first_stage VARCHAR, query_retrieved VARCHAR,
    query_reranked VARCHAR, decoder VARCHAR, decoding VARCHAR, window_size BIGINT, passage_tokens BIGINT,
    temperature DOUBLE, repeats BIGINT, fusion VARCHAR, fusion_weight DOUBLE, think BOOLEAN, template VARCHAR,
    prompt_sha256 VARCHAR, highest_score DOUBLE, engine VARCHAR, engine_version VARCHAR, hardware VARCHAR,
    recipe_sha256 VARCHAR, calls BIGINT, malformed VARCHAR, malformed_rate DOUBLE
);
-- The score that a model gave, where its decoder has any; what it was not asked about has the lowest of the query.
ALTER TABLE rerank_runs ADD COLUMN value DOUBLE;
-- Calls of a query that wait for one another stand in rounds, from 1. What an endpoint says of its cache and its price.
ALTER TABLE rerank_calls ADD COLUMN round BIGINT;
ALTER TABLE rerank_calls ADD COLUMN cached_tokens BIGINT;
ALTER TABLE rerank_calls ADD COLUMN usd DOUBLE;
-- Beside the first stage: p of the paired randomisation test, and that corrected by Holm over the whole board.
ALTER TABLE leaderboard ADD COLUMN p DOUBLE;
ALTER TABLE leaderboard ADD COLUMN p_holm DOUBLE;
ALTER TABLE leaderboard ADD COLUMN wins BIGINT;
ALTER TABLE leaderboard ADD COLUMN ties BIGINT;
ALTER TABLE leaderboard ADD COLUMN losses BIGINT;
ALTER TABLE leaderboard ADD COLUMN malformed VARCHAR;
ALTER TABLE leaderboard ADD COLUMN depth_per_query DOUBLE;
ALTER TABLE leaderboard ADD COLUMN input_tokens_per_query DOUBLE;
ALTER TABLE leaderboard ADD COLUMN output_tokens_per_query DOUBLE;
ALTER TABLE leaderboard ADD COLUMN cached_tokens_per_query DOUBLE;
ALTER TABLE leaderboard ADD COLUMN seconds_p50 DOUBLE;
ALTER TABLE leaderboard ADD COLUMN seconds_p95 DOUBLE;
ALTER TABLE leaderboard ADD COLUMN usd_per_query DOUBLE;
-- Pointwise recipes: how far the scores may be read as probabilities; calibration holds the bins, as JSON.
ALTER TABLE leaderboard ADD COLUMN ece DOUBLE;
ALTER TABLE leaderboard ADD COLUMN tpr DOUBLE;
ALTER TABLE leaderboard ADD COLUMN tnr DOUBLE;
ALTER TABLE leaderboard ADD COLUMN calibration VARCHAR;
