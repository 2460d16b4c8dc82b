-- What a waiting room must remember over a restart, one row a sale. Numbers up to horizon may have been given (written before
-- they are); given and served are where the counters stood at the last write. tokens were out then, until tokens_until at the latest.
-- drawn: how many had lots, -1 before they are drawn. Times in microseconds.
CREATE TABLE admission_room (
    sale_id BIGINT NOT NULL PRIMARY KEY,
    order_kind VARCHAR(20) NOT NULL,
    horizon BIGINT NOT NULL,
    given BIGINT NOT NULL,
    served BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    tokens_until BIGINT NOT NULL,
    drawn BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX admission_room_ends ON admission_room (ends_at);

-- Which numbers are done: had their turn, left, or forfeited it. One bit a number, 8192 numbers a row.
CREATE TABLE admission_done (
    sale_id BIGINT NOT NULL,
    block INTEGER NOT NULL,
    bits MEDIUMBLOB NOT NULL,
    PRIMARY KEY (sale_id, block)
);

-- The lots that were drawn, in order: the number of a lot is its place in them. 8 bytes each, big endian, 1024 a row.
CREATE TABLE admission_lot (
    sale_id BIGINT NOT NULL,
    block INTEGER NOT NULL,
    lots MEDIUMBLOB NOT NULL,
    PRIMARY KEY (sale_id, block)
);
