-- A sale offers units of one SKU at one price between two moments, with a limit per buyer.
CREATE TABLE sale_head (
    id BIGINT NOT NULL PRIMARY KEY,
    title VARCHAR(190) NOT NULL,
    product_id BIGINT NOT NULL,
    sku_id BIGINT NOT NULL,
    price_minor BIGINT NOT NULL,
    currency CHAR(3) NOT NULL,
    planned_units BIGINT NOT NULL,
    per_buyer INTEGER NOT NULL,
    starts_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    pay_within_us BIGINT NOT NULL,
    state VARCHAR(20) NOT NULL,
    forced_sold_out SMALLINT NOT NULL,
    admission SMALLINT NOT NULL,
    rehearsal SMALLINT NOT NULL,
    version BIGINT NOT NULL,
    created_by BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX sale_head_state ON sale_head (state, ends_at);

-- The stock of a sale, one row each: offered - withdrawn = remaining + reserved + sold at every commit. It stands apart from
-- sale_head because it is the one hot row: a batch of purchases updates it once.
CREATE TABLE sale_stock (
    sale_id BIGINT NOT NULL PRIMARY KEY,
    offered BIGINT NOT NULL,
    remaining BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    withdrawn BIGINT NOT NULL
);

-- What a buyer took. The order that it became has the same number, so neither has to store the other's.
-- state: 1 reserved, 2 sold, 3 released. key_hash: the first 8 bytes of the SHA-256 of the idempotency key.
CREATE TABLE sale_reservation (
    id BIGINT NOT NULL PRIMARY KEY,
    sale_id BIGINT NOT NULL,
    buyer_id BIGINT NOT NULL,
    quantity INTEGER NOT NULL,
    state SMALLINT NOT NULL,
    key_hash BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX sale_reservation_buyer ON sale_reservation (sale_id, buyer_id);

-- Every movement of stock: offered, reserved, sold, released, returned, withdrawn. A batch of reservations is one row.
CREATE TABLE sale_ledger (
    id BIGINT NOT NULL PRIMARY KEY,
    sale_id BIGINT NOT NULL,
    kind VARCHAR(20) NOT NULL,
    quantity BIGINT NOT NULL,
    reservation_id BIGINT NOT NULL,
    actor_id BIGINT NOT NULL,
    reason VARCHAR(190) NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX sale_ledger_sale ON sale_ledger (sale_id, id);

-- What operators did to a sale, who and why.
CREATE TABLE sale_act (
    id BIGINT NOT NULL PRIMARY KEY,
    sale_id BIGINT NOT NULL,
    act VARCHAR(40) NOT NULL,
    units BIGINT NOT NULL,
    reason VARCHAR(190) NOT NULL,
    detail TEXT NOT NULL,
    actor_id BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX sale_act_sale ON sale_act (sale_id, id);
