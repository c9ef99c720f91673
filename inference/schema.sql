CREATE TABLE IF NOT EXISTS exchanges (
    key TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    model TEXT NOT NULL,
    served_model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    sampling TEXT NOT NULL,
    messages TEXT NOT NULL,
    content TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    usd REAL NOT NULL,
    latency_s REAL NOT NULL,
    attempts INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    fault TEXT,
    repair_of TEXT,
    logprobs TEXT
);
CREATE INDEX IF NOT EXISTS exchanges_repair_of ON exchanges (repair_of) WHERE repair_of IS NOT NULL;
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    scope TEXT NOT NULL,
    usd REAL NOT NULL,
    tokens INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS claims_owner ON claims (owner);
CREATE INDEX IF NOT EXISTS claims_scope ON claims (scope);
CREATE TABLE IF NOT EXISTS spend (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('answer', 'presumed')),
    usd REAL NOT NULL,
    tokens INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (
    scope TEXT PRIMARY KEY,
    usd REAL NOT NULL DEFAULT 0,
    tokens INTEGER NOT NULL DEFAULT 0,
    reserved_usd REAL NOT NULL DEFAULT 0,
    reserved_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS asked_again (
    key TEXT PRIMARY KEY,
    generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    batch TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    scope TEXT NOT NULL,
    model TEXT NOT NULL,
    price TEXT NOT NULL,
    requests INTEGER NOT NULL,
    filed_at TEXT NOT NULL,
    sender TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    sender_until REAL NOT NULL,
    creating_at REAL,
    remote TEXT,
    ended_as TEXT
);
CREATE INDEX IF NOT EXISTS batches_open ON batches (endpoint) WHERE ended_as IS NULL;
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL,
    key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    repair_of TEXT,
    attempt INTEGER NOT NULL,
    messages TEXT NOT NULL,
    sampling TEXT NOT NULL,
    PRIMARY KEY (batch, key)
);
CREATE TABLE IF NOT EXISTS batch_files (
    file TEXT PRIMARY KEY,
    batch TEXT NOT NULL
);
