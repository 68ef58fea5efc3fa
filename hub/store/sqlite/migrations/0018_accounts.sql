-- +goose Up
ALTER TABLE accounts ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;

-- Where a session began, and by what: "page" or "api".
ALTER TABLE sessions ADD COLUMN addr TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN means TEXT NOT NULL DEFAULT '';

-- A nick outlives its account, so that nobody else is taken for its person.
CREATE TABLE retired_nicks (
    nick    TEXT    NOT NULL PRIMARY KEY COLLATE NOCASE,
    account TEXT    NOT NULL,
    retired INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- hash is the SHA-256 of the token. used is 0 for one that was never used.
CREATE TABLE api_tokens (
    hash      BLOB    NOT NULL PRIMARY KEY,
    id        TEXT    NOT NULL,
    account   TEXT    NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name      TEXT    NOT NULL,
    scopes    TEXT    NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    used      INTEGER NOT NULL DEFAULT 0,
    used_addr TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX api_tokens_id ON api_tokens (id);
CREATE UNIQUE INDEX api_tokens_name ON api_tokens (account, name);

-- +goose Down
DROP TABLE api_tokens;
DROP TABLE retired_nicks;
ALTER TABLE sessions DROP COLUMN means;
ALTER TABLE sessions DROP COLUMN addr;
ALTER TABLE accounts DROP COLUMN disabled;
