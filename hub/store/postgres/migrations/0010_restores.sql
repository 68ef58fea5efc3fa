-- usable from 7
-- 1: the hub was restored, and may have lost uses of the token.
ALTER TABLE join_tokens ADD COLUMN paused bigint NOT NULL DEFAULT 0;

-- Devices with a certificate of this hub whose rows were lost by a restore, until they onboard again.
CREATE TABLE lost_devices (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    owner       text COLLATE "C" NOT NULL,
    token       text COLLATE "C" NOT NULL,
    certificate bytea NOT NULL,
    issued      bigint NOT NULL,
    first_seen  bigint NOT NULL,
    last_seen   bigint NOT NULL,
    addr        text COLLATE "C" NOT NULL
);
