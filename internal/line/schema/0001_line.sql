-- A sale's line, one row each: made with its draw or with the first who joins. last_place is the highest place given out; it is
-- the row that those who join one sale change in turn. state: 1 alive, 2 over.
CREATE TABLE line_head (
    sale_id BIGINT NOT NULL PRIMARY KEY,
    draw SMALLINT NOT NULL,
    last_place BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX line_head_state ON line_head (state);

-- Who wants units. place is his rank by the line's order, 0 before a draw; holder is the buyer while the entry is alive and
-- NULL afterwards, so that nobody stands in one line twice. want is what the next offer asks for. reservation_id is his offer's,
-- and the number of its order.
-- draw tells that the line is a draw's. state: 1 entered, 2 waiting, 3 offered, 4 ordered, 5 lapsed, 6 lost, 7 left, 8 over.
CREATE TABLE line_entry (
    id BIGINT NOT NULL PRIMARY KEY,
    sale_id BIGINT NOT NULL,
    buyer_id BIGINT NOT NULL,
    holder BIGINT NULL,
    draw SMALLINT NOT NULL,
    quantity INTEGER NOT NULL,
    want INTEGER NOT NULL,
    place BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    reason VARCHAR(40) NOT NULL,
    reservation_id BIGINT NULL,
    given INTEGER NOT NULL,
    pay_by BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX line_entry_holder ON line_entry (sale_id, holder);
CREATE INDEX line_entry_turn ON line_entry (sale_id, state, place);
CREATE INDEX line_entry_buyer ON line_entry (sale_id, buyer_id);
CREATE INDEX line_entry_sale ON line_entry (sale_id, id);
CREATE INDEX line_entry_reservation ON line_entry (reservation_id);

-- A draw. seed_sealed is the seed under AES-256-GCM until it is drawn, seed is the same in the open afterwards.
-- state: 1 taking entries, 2 closed, 3 listed (the entry list is published), 4 drawn.
CREATE TABLE line_draw (
    sale_id BIGINT NOT NULL PRIMARY KEY,
    state SMALLINT NOT NULL,
    seed_hash CHAR(64) NOT NULL,
    seed_sealed VARCHAR(190) NOT NULL,
    seed VARCHAR(64) NOT NULL,
    entries BIGINT NOT NULL,
    units BIGINT NOT NULL,
    winners BIGINT NOT NULL,
    entries_digest VARCHAR(64) NOT NULL,
    results_digest VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    closed_at BIGINT NOT NULL,
    drawn_at BIGINT NOT NULL
);

-- The texts of a draw as they were published, in parts. kind: 1 entry list, 2 results.
CREATE TABLE line_text (
    sale_id BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    part INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (sale_id, kind, part)
);
