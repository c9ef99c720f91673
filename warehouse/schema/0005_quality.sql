-- What the quality suites found: one row an expectation of a table, for one state of the tables that were looked at.
-- state_sha256 covers the suites, the domains, the release and the newest change of every table; with the same state
-- nothing is validated again. keys are the first offending rows; docs is the page in Data Docs, below the home.
CREATE TABLE quality_results (
    state_sha256 VARCHAR, release VARCHAR, snapshot BIGINT, suite VARCHAR, asset VARCHAR, expectation VARCHAR,
    says VARCHAR, severity VARCHAR, passed BOOLEAN, rows BIGINT, offending BIGINT, keys VARCHAR[], observed VARCHAR,
    remedy VARCHAR, docs VARCHAR, created_at VARCHAR
);
