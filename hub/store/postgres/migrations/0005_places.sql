-- Where the bytes of each object are. An object from before has no row: its place is the empty one. Each
-- upload has a place of its own. A hub without this migration would look for all objects at the empty
-- place, so it must not use the database any more.
CREATE TABLE contents (
    sum   bytea NOT NULL PRIMARY KEY,
    place text COLLATE "C" NOT NULL
);

CREATE TABLE uploads (
    place text COLLATE "C" NOT NULL PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    sum   bytea  NOT NULL,
    begun bigint NOT NULL
);
CREATE INDEX uploads_begun ON uploads (begun);

-- A place that was given up is never used again, so nothing needs to be condemned.
DROP TABLE condemned;
