-- What every filter decided about every ranking that came to a release: one row or more a filter and ranking.
CREATE TABLE decisions (
    release VARCHAR, domain VARCHAR, ranking_id VARCHAR, filter VARCHAR, outcome VARCHAR, reason VARCHAR,
    value DOUBLE, threshold DOUBLE, detail VARCHAR
);
-- Texts that are copies of one another, exactly or nearly: one row a member. unit is query or passage.
CREATE TABLE duplicate_clusters (
    release VARCHAR, unit VARCHAR, cluster VARCHAR, domain VARCHAR, id VARCHAR, representative BOOLEAN,
    similarity DOUBLE
);
-- What a list shares with a benchmark. unit and item_unit are query or passage; docid is null for a query.
CREATE TABLE benchmark_overlaps (
    release VARCHAR, domain VARCHAR, ranking_id VARCHAR, unit VARCHAR, docid VARCHAR, benchmark VARCHAR, item VARCHAR,
    item_unit VARCHAR, test VARCHAR, similarity DOUBLE, shared VARCHAR, exception VARCHAR
);
-- Benchmarks may come with their passages; a benchmark's item is a query or a passage.
ALTER TABLE benchmarks ADD COLUMN unit VARCHAR;
