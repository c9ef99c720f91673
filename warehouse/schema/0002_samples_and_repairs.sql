-- A list may be ranked several times, shown in different orders: a row a usable sample of a ranking.
CREATE TABLE ranking_samples (
    domain VARCHAR, ranking_id VARCHAR, qid VARCHAR, exchange_key VARCHAR, initial_list VARCHAR[], final_list VARCHAR[]
);
-- Kendall's W over the samples of a list; null where it was ranked once.
ALTER TABLE rankings ADD COLUMN agreement DOUBLE;
ALTER TABLE training_rows ADD COLUMN agreement DOUBLE;
-- With these an exchange store can be rebuilt from the lake: which answer a repair turn mends, and who served it.
ALTER TABLE exchanges ADD COLUMN repair_of VARCHAR;
ALTER TABLE exchanges ADD COLUMN fingerprint VARCHAR;
