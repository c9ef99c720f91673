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
    repair_of TEXT
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
    usd REAL NOT NULL,
    tokens INTEGER NOT NULL
);
