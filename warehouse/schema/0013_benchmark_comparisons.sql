-- Beside the first stage of the same part: difference, its interval, p and counted queries; and what a query took. JSON,
-- null for the first stage itself.
ALTER TABLE benchmark_scores ADD COLUMN versus VARCHAR;
ALTER TABLE benchmark_scores ADD COLUMN costs VARCHAR;
