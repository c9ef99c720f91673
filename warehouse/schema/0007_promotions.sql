-- Which model is the champion, and why: one row a decision, never altered. decision is promoted, challenger or
-- rolled_back; against is what the model was compared with, or what stands in its place again (bm25: no model); who is
-- `rule` or a person. snapshot holds the scores that were compared, evidence is their hash and that of the rule's bounds.
CREATE TABLE promotions (
    number BIGINT, model VARCHAR, recipe VARCHAR, stage VARCHAR, decision VARCHAR, against VARCHAR, reason VARCHAR,
    measure VARCHAR, value DOUBLE, queries BIGINT, difference DOUBLE, low DOUBLE, high DOUBLE, p DOUBLE, who VARCHAR,
    snapshot BIGINT, evidence VARCHAR, created_at VARCHAR
);
