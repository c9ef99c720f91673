-- What a blocking check found in a release: a row whenever its answer changes, the newest of a check counts. A release
-- of which one has failed is kept, marked, and never trained on.
CREATE TABLE audits (
    number BIGINT, release VARCHAR, name VARCHAR, passed BOOLEAN, detail VARCHAR, audited_at VARCHAR
);
