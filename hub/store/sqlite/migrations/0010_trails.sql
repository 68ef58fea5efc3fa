-- +goose Up
CREATE TABLE trails (
    device   TEXT    NOT NULL PRIMARY KEY,
    owner    TEXT    NOT NULL,
    rev      INTEGER NOT NULL, -- of the newest step
    reported INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    touched  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX trails_owner ON trails (owner, device);

-- The long columns stand last, so that a step is judged by its status without
-- reading them. progress_time 0 is no report yet.
CREATE TABLE steps (
    id            INTEGER PRIMARY KEY,
    device        TEXT    NOT NULL,
    owner         TEXT    NOT NULL,
    rev           INTEGER NOT NULL,
    status        TEXT    NOT NULL,
    step_time     INTEGER NOT NULL,
    progress_time INTEGER NOT NULL,
    modified      INTEGER NOT NULL,
    state_sum     BLOB    NOT NULL,
    committer     TEXT    NOT NULL,
    commit_msg    TEXT    NOT NULL,
    progress      BLOB    NOT NULL,
    meta          BLOB    NOT NULL,
    state         BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX steps_rev ON steps (device, rev);
-- What a device asks for every few seconds, however long its history is.
CREATE INDEX steps_open ON steps (device, rev)
    WHERE status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING');

CREATE TABLE step_objects (
    owner  TEXT    NOT NULL,
    sum    BLOB    NOT NULL,
    device TEXT    NOT NULL,
    rev    INTEGER NOT NULL,
    PRIMARY KEY (owner, sum, device, rev)
) STRICT, WITHOUT ROWID;
CREATE INDEX step_objects_step ON step_objects (device, rev);

CREATE TABLE objects (
    owner    TEXT    NOT NULL,
    sum      BLOB    NOT NULL,
    size     INTEGER NOT NULL,
    stored   INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    name     TEXT    NOT NULL,
    mime     TEXT    NOT NULL,
    PRIMARY KEY (owner, sum)
) STRICT, WITHOUT ROWID;
CREATE INDEX objects_sum ON objects (sum);
CREATE INDEX objects_modified ON objects (modified);

CREATE TABLE condemned (
    sum BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- What counts against an owner's quota, kept up by whoever adds or removes.
CREATE TABLE usage (
    owner TEXT    NOT NULL PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    device  TEXT    NOT NULL,
    owner   TEXT    NOT NULL,
    created INTEGER NOT NULL,
    sec     INTEGER NOT NULL,
    nano    INTEGER NOT NULL,
    level   TEXT    NOT NULL,
    source  TEXT    NOT NULL,
    plat    TEXT    NOT NULL,
    rev     TEXT    NOT NULL,
    message TEXT    NOT NULL
) STRICT;
CREATE INDEX logs_owner ON logs (owner, created, seq);
CREATE INDEX logs_device ON logs (device, created, seq);
CREATE INDEX logs_created ON logs (created);

CREATE TABLE log_usage (
    device TEXT    NOT NULL PRIMARY KEY,
    rows   INTEGER NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE log_usage;
DROP TABLE logs;
DROP TABLE usage;
DROP TABLE condemned;
DROP TABLE objects;
DROP TABLE step_objects;
DROP TABLE steps;
DROP TABLE trails;
