-- Weights that were tried where a recipe has its fusion's weight chosen on dev: the mean of each over queries that are
-- not those it is reported on. fold is the part of the reported queries that the weight is for (test, half 1, half 2).
CREATE TABLE fusion_weights (
    run VARCHAR, recipe VARCHAR, stage VARCHAR, fold VARCHAR, weight DOUBLE, value DOUBLE, queries BIGINT,
    chosen BOOLEAN
);
