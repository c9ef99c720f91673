-- The last window of a query asked twice, the second time shown from its end: what was shown, what was made of it, what
-- was made of it turned round, and Kendall's tau of the two orders (null where one of the answers was malformed).
CREATE TABLE position_probes (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, domain VARCHAR, qid VARCHAR, shown VARCHAR[],
    ordered VARCHAR[], turned VARCHAR[], tau DOUBLE, fault VARCHAR
);
ALTER TABLE leaderboard ADD COLUMN position_tau DOUBLE;
ALTER TABLE leaderboard ADD COLUMN position_probes BIGINT;
