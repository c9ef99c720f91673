-- Every paid call stays in `exchanges`. Those behind the questions of a domain's newest campaign, its repair turns and
-- earlier generations included, stand here by key; until now there were no others.
CREATE TABLE campaign_exchanges (domain VARCHAR, purpose VARCHAR, key VARCHAR);
INSERT INTO campaign_exchanges SELECT domain, purpose, key FROM exchanges;
-- Rerankings by token are read from these; an exchange store is rebuilt with them.
ALTER TABLE exchanges ADD COLUMN logprobs VARCHAR;
-- What was spent and no row of `exchanges` shows: kind is presumed (a request that ended without its answer and may have
-- been charged) or answer (one that was paid a second time).
CREATE TABLE charges (created_at VARCHAR, key VARCHAR, kind VARCHAR, usd DOUBLE, tokens BIGINT);
