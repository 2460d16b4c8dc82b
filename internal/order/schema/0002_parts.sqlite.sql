-- Rows of an order lie beside each other in one tree: no hidden row number, no second index.
CREATE TABLE order_item (
  order_id BIGINT NOT NULL,
  line SMALLINT NOT NULL,
  sku_id BIGINT NOT NULL,
  product_id BIGINT NOT NULL,
  title VARCHAR(190) NOT NULL,
  quantity BIGINT NOT NULL,
  price_minor BIGINT NOT NULL,
  PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
-- Every transition after creation. version is the order's version after it, so no step can be written twice.
CREATE TABLE order_history (
  order_id BIGINT NOT NULL,
  version BIGINT NOT NULL,
  from_state SMALLINT NOT NULL,
  to_state SMALLINT NOT NULL,
  actor_id BIGINT NOT NULL,
  ref BIGINT NOT NULL,
  reason VARCHAR(190) NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (order_id, version)
) WITHOUT ROWID;
-- Only unpaid orders are in here.
CREATE INDEX order_head_due ON order_head (due_at) WHERE due_at IS NOT NULL;
