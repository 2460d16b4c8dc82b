-- One row per order. state: 1 created, 2 paid, 3 shipped, 4 done, 5 refunding, 6 refunded, 7 cancelled.
-- What every new order shares has a default, so that the settlement of a sale binds as few values as it can.
-- due_at is when an unpaid order is next looked at for expiry; NULL once the order has left "created". It begins as the moment by
-- which the order must be paid; postponed is what was added since because the payment provider could not be asked.
CREATE TABLE order_head (
  id BIGINT NOT NULL PRIMARY KEY,
  buyer_id BIGINT NOT NULL,
  source VARCHAR(32) NOT NULL,
  source_ref BIGINT NOT NULL,
  state SMALLINT NOT NULL DEFAULT 1,
  total_minor BIGINT NOT NULL,
  currency CHAR(3) NOT NULL,
  due_at BIGINT,
  postponed BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL DEFAULT 0,
  version BIGINT NOT NULL DEFAULT 1
);
CREATE INDEX order_head_buyer ON order_head (buyer_id, id);
