-- The log entries of one request are one row: they have one time and the numbers first to first + n - 1.
-- bytes is their size as it counts against the bounds. The first byte of data says how the rest is encoded:
-- see sqlstore/logbatch.go. A hub without this migration would look for the table logs, so it must not use
-- the database any more.
CREATE TABLE log_batches (
    first   bigint NOT NULL PRIMARY KEY,
    n       bigint NOT NULL,
    device  text COLLATE "C" NOT NULL,
    owner   text COLLATE "C" NOT NULL,
    created bigint NOT NULL,
    bytes   bigint NOT NULL,
    data    bytea  NOT NULL
);

INSERT INTO log_batches (first, n, device, owner, created, bytes, data)
SELECT seq, 1, device, owner, created, 64 + text_size(level || source || plat || rev || message),
    convert_to('j' || json_build_array(sec, nano, level, source, plat, rev, message)::text, 'UTF8')
FROM logs;

-- The number of the last entry. Numbers are not used again, even if all entries are removed, because clients
-- remember them.
CREATE TABLE log_counter (
    id   bigint NOT NULL PRIMARY KEY,
    last bigint NOT NULL
);
INSERT INTO log_counter (id, last) SELECT 1, nextval(pg_get_serial_sequence('logs', 'seq'));

DROP TABLE logs;
CREATE INDEX log_batches_owner ON log_batches (owner, created, first);
CREATE INDEX log_batches_device ON log_batches (device, created, first);
CREATE INDEX log_batches_created ON log_batches (created);
