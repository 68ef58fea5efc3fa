-- +goose Up
CREATE TABLE saved_views (
    owner   TEXT    NOT NULL,
    name    TEXT    NOT NULL COLLATE NOCASE,
    query   TEXT    NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

-- For the tokens of an owner that expire soon.
CREATE INDEX join_tokens_expires ON join_tokens (owner, expires);

-- +goose Down
DROP INDEX join_tokens_expires;
DROP TABLE saved_views;
