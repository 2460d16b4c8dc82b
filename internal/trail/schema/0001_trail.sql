-- What was done by whom. seq is the row's place in the chain; NULL until the sealer gives it one.
CREATE TABLE trail_entry (
    id           BIGINT       NOT NULL PRIMARY KEY,
    seq          BIGINT,
    at           BIGINT       NOT NULL,
    times        BIGINT       NOT NULL,
    actor_id     BIGINT       NOT NULL,
    action       VARCHAR(190) NOT NULL,
    subject_kind SMALLINT     NOT NULL,
    subject_id   BIGINT       NOT NULL,
    before_state TEXT         NOT NULL,
    after_state  TEXT         NOT NULL,
    address      VARCHAR(190) NOT NULL,
    request_id   VARCHAR(190) NOT NULL,
    mark         VARCHAR(190) NOT NULL
);
CREATE UNIQUE INDEX trail_entry_seq ON trail_entry (seq);
CREATE INDEX trail_entry_actor ON trail_entry (actor_id, id);
CREATE INDEX trail_entry_subject ON trail_entry (subject_id, id);
CREATE INDEX trail_entry_action ON trail_entry (action, id);
CREATE INDEX trail_entry_address ON trail_entry (address, id);
CREATE INDEX trail_entry_at ON trail_entry (at, id);

-- The chain, block by block. Two sealers that begin at the same place exclude each other by the key.
CREATE TABLE trail_block (
    first_seq BIGINT       NOT NULL PRIMARY KEY,
    last_seq  BIGINT       NOT NULL,
    head      VARCHAR(190) NOT NULL,
    sealed_at BIGINT       NOT NULL,
    dropped   SMALLINT     NOT NULL,
    mark      VARCHAR(190) NOT NULL
);
