-- What a champion is chosen by: scores of the runs that no fusion changed, over dev queries; of a domain that has none,
-- over its test queries.
CREATE TABLE dev_scores (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, model VARCHAR, domain VARCHAR, qid VARCHAR, fused BOOLEAN,
    measure VARCHAR, value DOUBLE
);
