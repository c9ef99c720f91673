-- What a system reached on a part of a benchmark here: one row a part, system and setting. measures and setting are JSON;
-- run is the path of the TREC file below the home, run_sha256 its hash.
CREATE TABLE benchmark_scores (
    part VARCHAR, system VARCHAR, model VARCHAR, queries BIGINT, measures VARCHAR, low DOUBLE, high DOUBLE,
    malformed_rate DOUBLE, setting VARCHAR, setting_sha256 VARCHAR, run VARCHAR, run_sha256 VARCHAR, created_at VARCHAR
);
