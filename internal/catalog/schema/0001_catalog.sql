CREATE TABLE catalog_product (
  id BIGINT NOT NULL PRIMARY KEY,
  code VARCHAR(190) NOT NULL,
  title VARCHAR(190) NOT NULL,
  title_key VARCHAR(190) NOT NULL,
  description TEXT NOT NULL,
  state VARCHAR(16) NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX catalog_product_code ON catalog_product (code);

CREATE INDEX catalog_product_state ON catalog_product (state, id);

CREATE INDEX catalog_product_title ON catalog_product (title_key, id);

CREATE TABLE catalog_sku (
  id BIGINT NOT NULL PRIMARY KEY,
  product_id BIGINT NOT NULL,
  code VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  price_minor BIGINT NOT NULL,
  currency CHAR(3) NOT NULL,
  on_hand BIGINT NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CONSTRAINT catalog_sku_on_hand CHECK (on_hand >= 0)
);

CREATE UNIQUE INDEX catalog_sku_code ON catalog_sku (code);

CREATE INDEX catalog_sku_product ON catalog_sku (product_id, id);

CREATE TABLE catalog_picture (
  id BIGINT NOT NULL PRIMARY KEY,
  product_id BIGINT NOT NULL,
  alt VARCHAR(190) NOT NULL,
  media_type VARCHAR(32) NOT NULL,
  width BIGINT NOT NULL,
  height BIGINT NOT NULL,
  size BIGINT NOT NULL,
  sha256 CHAR(64) NOT NULL,
  created_at BIGINT NOT NULL,
  data MEDIUMBLOB NOT NULL
);

CREATE INDEX catalog_picture_product ON catalog_picture (product_id, id);

CREATE TABLE catalog_movement (
  id BIGINT NOT NULL PRIMARY KEY,
  sku_id BIGINT NOT NULL,
  delta BIGINT NOT NULL,
  reason VARCHAR(40) NOT NULL,
  ref VARCHAR(190) NOT NULL,
  actor_id BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE INDEX catalog_movement_sku ON catalog_movement (sku_id, id);
