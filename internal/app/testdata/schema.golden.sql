CREATE TABLE access_head (
  id INTEGER NOT NULL PRIMARY KEY,
  version BIGINT NOT NULL
);

CREATE TABLE access_resource (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  category VARCHAR(190) NOT NULL,
  method VARCHAR(190) NOT NULL,
  route VARCHAR(190) NOT NULL,
  defaults BIGINT NOT NULL,
  allowed BIGINT NOT NULL,
  gone BIGINT NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

CREATE TABLE access_role (
  bit_number INTEGER NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  label VARCHAR(190) NOT NULL,
  retired_at BIGINT NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

CREATE TABLE admission_done (
  sale_id BIGINT NOT NULL,
  block INTEGER NOT NULL,
  bits MEDIUMBLOB NOT NULL,
  PRIMARY KEY (sale_id, block)
);

CREATE TABLE admission_lot (
  sale_id BIGINT NOT NULL,
  block INTEGER NOT NULL,
  lots MEDIUMBLOB NOT NULL,
  PRIMARY KEY (sale_id, block)
);

CREATE TABLE admission_room (
  sale_id INTEGER NOT NULL PRIMARY KEY,
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

CREATE TABLE bridge_out (
  name VARCHAR(190) NOT NULL,
  id BIGINT NOT NULL,
  event_key BIGINT NOT NULL,
  data MEDIUMTEXT NOT NULL,
  PRIMARY KEY (name, id)
);

CREATE TABLE bridge_parked (
  id INTEGER NOT NULL PRIMARY KEY,
  direction SMALLINT NOT NULL,
  topic VARCHAR(255) NOT NULL,
  message_id VARCHAR(255) NOT NULL,
  name VARCHAR(255) NOT NULL,
  event_key BIGINT NOT NULL,
  data MEDIUMTEXT NOT NULL,
  cut SMALLINT NOT NULL,
  reason TEXT NOT NULL,
  parked_at BIGINT NOT NULL
);

CREATE INDEX bridge_parked_direction ON bridge_parked (direction, id);

CREATE TABLE bridge_seen (
  digest VARCHAR(64) NOT NULL PRIMARY KEY,
  seen_at BIGINT NOT NULL
);

CREATE INDEX bridge_seen_at ON bridge_seen (seen_at);

CREATE TABLE catalog_movement (
  id INTEGER NOT NULL PRIMARY KEY,
  sku_id BIGINT NOT NULL,
  delta BIGINT NOT NULL,
  reason VARCHAR(40) NOT NULL,
  ref VARCHAR(190) NOT NULL,
  actor_id BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE INDEX catalog_movement_sku ON catalog_movement (sku_id, id);

CREATE TABLE catalog_picture (
  id INTEGER NOT NULL PRIMARY KEY,
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

CREATE TABLE catalog_product (
  id INTEGER NOT NULL PRIMARY KEY,
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
  id INTEGER NOT NULL PRIMARY KEY,
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

CREATE TABLE db_migration (
  owner VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  checksum CHAR(64) NOT NULL,
  applied_at BIGINT NOT NULL,
  PRIMARY KEY (owner, name)
);

CREATE TABLE event_chain (
  event_key INTEGER NOT NULL PRIMARY KEY,
  last_id BIGINT NOT NULL,
  previous BIGINT NOT NULL
);

CREATE TABLE event_inbox (
  event_id BIGINT NOT NULL,
  listener VARCHAR(190) NOT NULL,
  done SMALLINT NOT NULL,
  attempts INT NOT NULL,
  retry_at BIGINT NOT NULL,
  error TEXT NOT NULL,
  PRIMARY KEY (event_id, listener)
);

CREATE TABLE event_listener (
  listener VARCHAR(190) NOT NULL,
  event VARCHAR(190) NOT NULL,
  state SMALLINT NOT NULL,
  since BIGINT NOT NULL,
  cursor_at BIGINT NOT NULL,
  away SMALLINT NOT NULL,
  first_seen BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  PRIMARY KEY (listener, event)
);

CREATE TABLE event_log (
  seq INTEGER NOT NULL PRIMARY KEY,
  event_id BIGINT NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL,
  logged_at BIGINT NOT NULL
);

CREATE TABLE event_outbox (
  id INTEGER NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL
, previous BIGINT NOT NULL DEFAULT 0);

CREATE TABLE event_parked (
  event_id BIGINT NOT NULL,
  listener VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL,
  parked_at BIGINT NOT NULL,
  PRIMARY KEY (event_id, listener)
);

CREATE INDEX event_parked_at ON event_parked (parked_at);

CREATE INDEX event_parked_of ON event_parked (listener, event_id);

CREATE TABLE event_relay (
  id INTEGER NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL,
  lease_until BIGINT NOT NULL
, registry BIGINT NOT NULL DEFAULT 0);

CREATE TABLE event_replay (
  id INTEGER NOT NULL PRIMARY KEY,
  listener VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL
);

CREATE TABLE factor_account (
  user_id INTEGER NOT NULL PRIMARY KEY,
  totp VARCHAR(190) NOT NULL,
  totp_at BIGINT NOT NULL,
  totp_step BIGINT NOT NULL
);

CREATE TABLE factor_challenge (
  hash VARCHAR(190) NOT NULL PRIMARY KEY,
  purpose VARCHAR(190) NOT NULL,
  user_id BIGINT NOT NULL,
  session_id BIGINT NOT NULL,
  how VARCHAR(190) NOT NULL,
  mark VARCHAR(190) NOT NULL,
  data TEXT NOT NULL,
  expires_at BIGINT NOT NULL
);

CREATE INDEX factor_challenge_expiry ON factor_challenge (expires_at);

CREATE INDEX factor_challenge_user ON factor_challenge (user_id, expires_at);

CREATE TABLE factor_fresh (
  session_id INTEGER NOT NULL PRIMARY KEY,
  proven_at BIGINT NOT NULL
);

CREATE INDEX factor_fresh_proven ON factor_fresh (proven_at);

CREATE TABLE factor_passkey (
  id INTEGER NOT NULL PRIMARY KEY,
  user_id BIGINT NOT NULL,
  hash VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  credential TEXT NOT NULL,
  sign_count BIGINT NOT NULL,
  cloned_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  used_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX factor_passkey_hash ON factor_passkey (hash);

CREATE INDEX factor_passkey_user ON factor_passkey (user_id, id);

CREATE TABLE factor_recovery (
  user_id BIGINT NOT NULL,
  hash VARCHAR(190) NOT NULL,
  PRIMARY KEY (user_id, hash)
);

CREATE TABLE federation_attempt (
  state_hash   VARCHAR(190) NOT NULL PRIMARY KEY,
  browser_hash VARCHAR(190) NOT NULL,
  provider     VARCHAR(190) NOT NULL,
  verifier     VARCHAR(190) NOT NULL,
  nonce        VARCHAR(190) NOT NULL,
  return_to    VARCHAR(600) NOT NULL,
  link_session BIGINT       NOT NULL,
  expires_at   BIGINT       NOT NULL
);

CREATE INDEX federation_attempt_expires ON federation_attempt (expires_at);

CREATE TABLE federation_link (
  issuer    VARCHAR(190) NOT NULL,
  subject   VARCHAR(190) NOT NULL,
  user_id   BIGINT       NOT NULL,
  provider  VARCHAR(190) NOT NULL,
  called    VARCHAR(190) NOT NULL,
  linked_at BIGINT       NOT NULL,
  PRIMARY KEY (issuer, subject)
);

CREATE UNIQUE INDEX federation_link_user ON federation_link (user_id, issuer);

CREATE TABLE flow_joint (
  flow BIGINT NOT NULL,
  n INT NOT NULL,
  waits INT NOT NULL,
  failed INT NOT NULL,
  next INT NOT NULL,
  fed INT NOT NULL,
  stops SMALLINT NOT NULL,
  cancelled SMALLINT NOT NULL,
  begins TEXT NOT NULL,
  PRIMARY KEY (flow, n)
);

CREATE TABLE flow_result (
  id INTEGER NOT NULL PRIMARY KEY,
  result TEXT NULL,
  error TEXT NULL
);

CREATE TABLE flow_run (
  id INTEGER NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  state VARCHAR(20) NOT NULL,
  steps INT NOT NULL,
  dead INT NOT NULL,
  begun_at BIGINT NOT NULL,
  ended_at BIGINT NULL,
  keep_until BIGINT NULL
);

CREATE INDEX flow_run_keep ON flow_run (keep_until);

CREATE INDEX flow_run_state ON flow_run (state);

CREATE TABLE flow_step (
  id INTEGER NOT NULL PRIMARY KEY,
  flow BIGINT NOT NULL,
  n INT NOT NULL,
  kind VARCHAR(190) NOT NULL,
  lane VARCHAR(400) NOT NULL,
  args TEXT NOT NULL,
  after_us BIGINT NOT NULL,
  begins INT NOT NULL,
  counts INT NOT NULL,
  soft SMALLINT NOT NULL,
  state VARCHAR(20) NOT NULL,
  ended_at BIGINT NULL
);

CREATE INDEX flow_step_counts ON flow_step (flow, counts);

CREATE INDEX flow_step_flow ON flow_step (flow, n);

CREATE TABLE id_segment (
  tag VARCHAR(190) NOT NULL PRIMARY KEY,
  next BIGINT NOT NULL
);

CREATE TABLE id_space (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  number BIGINT NOT NULL,
  layout VARCHAR(190) NOT NULL
);

CREATE UNIQUE INDEX id_space_number ON id_space (number);

CREATE TABLE id_worker (
  worker INTEGER NOT NULL PRIMARY KEY,
  owner VARCHAR(190) NOT NULL,
  node VARCHAR(190) NOT NULL,
  horizon BIGINT NOT NULL,
  turn BIGINT NOT NULL
);

CREATE TABLE identity_audit (
  id           INTEGER       NOT NULL PRIMARY KEY,
  at           BIGINT       NOT NULL,
  actor_id     BIGINT       NOT NULL,
  action       VARCHAR(190) NOT NULL,
  subject_kind SMALLINT     NOT NULL,
  subject_id   BIGINT       NOT NULL,
  before_state TEXT         NOT NULL,
  after_state  TEXT         NOT NULL,
  address      VARCHAR(190) NOT NULL,
  request_id   VARCHAR(190) NOT NULL
, moved SMALLINT);

CREATE INDEX identity_audit_actor ON identity_audit (actor_id, id);

CREATE INDEX identity_audit_moved ON identity_audit (moved, id);

CREATE INDEX identity_audit_subject ON identity_audit (subject_id, id);

CREATE TABLE identity_credential (
  user_id    BIGINT       NOT NULL,
  kind       SMALLINT     NOT NULL,
  hash       VARCHAR(190) NOT NULL,
  changed_at BIGINT       NOT NULL,
  PRIMARY KEY (user_id, kind)
);

CREATE TABLE identity_foreign (
  issuer     VARCHAR(190) NOT NULL,
  subject    VARCHAR(190) NOT NULL,
  user_id    BIGINT       NOT NULL,
  created_at BIGINT       NOT NULL,
  PRIMARY KEY (issuer, subject)
);

CREATE INDEX identity_foreign_user ON identity_foreign (user_id);

CREATE TABLE identity_personal (
  id      INTEGER       NOT NULL PRIMARY KEY,
  user_id BIGINT       NOT NULL,
  name    VARCHAR(190) NOT NULL,
  scopes  TEXT         NOT NULL
);

CREATE TABLE identity_session (
  id            INTEGER       NOT NULL PRIMARY KEY,
  user_id       BIGINT       NOT NULL,
  kind          SMALLINT     NOT NULL,
  secret_hash   VARCHAR(190) NOT NULL,
  previous_hash VARCHAR(190) NOT NULL,
  salt          VARCHAR(190) NOT NULL,
  generation    BIGINT       NOT NULL,
  rotated_at    BIGINT       NOT NULL,
  address       VARCHAR(190) NOT NULL,
  agent         VARCHAR(190) NOT NULL,
  created_at    BIGINT       NOT NULL,
  seen_at       BIGINT       NOT NULL,
  expires_at    BIGINT       NOT NULL,
  ended_at      BIGINT,
  ended_why     VARCHAR(190) NOT NULL
);

CREATE INDEX identity_session_ended ON identity_session (ended_at, id) WHERE ended_at IS NOT NULL;

CREATE INDEX identity_session_expiry ON identity_session (expires_at);

CREATE INDEX identity_session_user ON identity_session (user_id, id);

CREATE TABLE identity_setup (
  id         INTEGER       NOT NULL PRIMARY KEY,
  hash       VARCHAR(190) NOT NULL,
  wrong      BIGINT       NOT NULL,
  expires_at BIGINT       NOT NULL
);

CREATE TABLE identity_user (
  id              INTEGER       NOT NULL PRIMARY KEY,
  name            VARCHAR(190) NOT NULL,
  name_key        VARCHAR(190),
  phone           VARCHAR(190),
  roles           BIGINT       NOT NULL,
  disabled        SMALLINT     NOT NULL,
  disabled_reason TEXT         NOT NULL,
  version         BIGINT       NOT NULL,
  created_at      BIGINT       NOT NULL,
  updated_at      BIGINT       NOT NULL
);

CREATE UNIQUE INDEX identity_user_name ON identity_user (name_key);

CREATE UNIQUE INDEX identity_user_phone ON identity_user (phone);

CREATE INDEX identity_user_roles ON identity_user (roles, id);

CREATE INDEX identity_user_updated ON identity_user (updated_at, id);

CREATE TABLE job_control (
  name VARCHAR(400) NOT NULL PRIMARY KEY,
  at BIGINT NOT NULL
);

CREATE TABLE job_dead (
  id INTEGER NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  unique_key VARCHAR(190) NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL,
  dead_at BIGINT NOT NULL
, source VARCHAR(190) NULL, failures TEXT NULL);

CREATE INDEX job_dead_at ON job_dead (dead_at);

CREATE TABLE job_done (
  id INTEGER NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  source VARCHAR(190) NULL,
  outcome VARCHAR(20) NOT NULL,
  attempts INT NOT NULL,
  node VARCHAR(190) NOT NULL,
  result TEXT NULL,
  failures TEXT NULL,
  began_at BIGINT NOT NULL,
  ended_at BIGINT NOT NULL,
  keep_until BIGINT NOT NULL
);

CREATE INDEX job_done_until ON job_done (keep_until);

CREATE TABLE job_limit (
  kind VARCHAR(190) NOT NULL PRIMARY KEY,
  n BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE TABLE job_period (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  every_us BIGINT NOT NULL,
  next_at BIGINT NOT NULL,
  lease_until BIGINT NOT NULL,
  fence BIGINT NOT NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL
);

CREATE TABLE job_runner (
  id INTEGER NOT NULL PRIMARY KEY,
  node VARCHAR(190) NOT NULL,
  beat BIGINT NOT NULL,
  still BIGINT NOT NULL
);

CREATE TABLE job_task (
  id INTEGER NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  unique_key VARCHAR(190) NULL,
  due_at BIGINT NULL,
  lease_until BIGINT NULL,
  fence BIGINT NOT NULL,
  attempts INT NOT NULL,
  crashes INT NOT NULL,
  error TEXT NOT NULL
, source VARCHAR(190) NULL, node VARCHAR(190) NULL, progress TEXT NULL, failures TEXT NULL, runner BIGINT NULL);

CREATE INDEX job_task_due ON job_task (pool, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX job_task_lease ON job_task (lease_until) WHERE lease_until IS NOT NULL;

CREATE INDEX job_task_source ON job_task (source) WHERE source IS NOT NULL;

CREATE UNIQUE INDEX job_task_unique ON job_task (unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE line_draw (
  sale_id INTEGER NOT NULL PRIMARY KEY,
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

CREATE TABLE line_entry (
  id INTEGER NOT NULL PRIMARY KEY,
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
, seq BIGINT NOT NULL DEFAULT 0);

CREATE INDEX line_entry_buyer ON line_entry (sale_id, buyer_id);

CREATE UNIQUE INDEX line_entry_holder ON line_entry (sale_id, holder);

CREATE INDEX line_entry_reservation ON line_entry (reservation_id);

CREATE INDEX line_entry_sale ON line_entry (sale_id, id);

CREATE INDEX line_entry_seq ON line_entry (sale_id, seq);

CREATE INDEX line_entry_turn ON line_entry (sale_id, state, place);

CREATE TABLE line_head (
  sale_id INTEGER NOT NULL PRIMARY KEY,
  draw SMALLINT NOT NULL,
  last_place BIGINT NOT NULL,
  state SMALLINT NOT NULL,
  created_at BIGINT NOT NULL
, seq BIGINT NOT NULL DEFAULT 0);

CREATE INDEX line_head_state ON line_head (state);

CREATE TABLE line_text (
  sale_id BIGINT NOT NULL,
  kind SMALLINT NOT NULL,
  part INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (sale_id, kind, part)
);

CREATE TABLE lock_entry (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL
);

CREATE TABLE lock_name (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL,
  state TEXT NOT NULL
);

CREATE TABLE node_common (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  value VARCHAR(190) NOT NULL
);

CREATE TABLE node_keep (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  member BIGINT NOT NULL,
  fence BIGINT NOT NULL,
  beat BIGINT NOT NULL
);

CREATE TABLE node_member (
  id INTEGER NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  address VARCHAR(190) NOT NULL,
  version VARCHAR(190) NOT NULL,
  beat BIGINT NOT NULL,
  started_at BIGINT NOT NULL
);

CREATE TABLE notify_attempt (
  delivery_id BIGINT NOT NULL,
  number INTEGER NOT NULL,
  at BIGINT NOT NULL,
  duration_us BIGINT NOT NULL,
  status INTEGER NOT NULL,
  answer TEXT NOT NULL,
  error VARCHAR(190) NOT NULL,
  PRIMARY KEY (delivery_id, number)
);

CREATE TABLE notify_delivery (
  id INTEGER NOT NULL PRIMARY KEY,
  webhook_id BIGINT NOT NULL,
  subject_kind SMALLINT NOT NULL,
  subject_id BIGINT NOT NULL,
  type VARCHAR(60) NOT NULL,
  version BIGINT NOT NULL,
  data TEXT NOT NULL,
  at BIGINT NOT NULL,
  state SMALLINT NOT NULL,
  attempts INTEGER NOT NULL,
  status INTEGER NOT NULL,
  due_at BIGINT NOT NULL,
  tried_at BIGINT NOT NULL,
  give_up_at BIGINT NOT NULL
);

CREATE INDEX notify_delivery_due ON notify_delivery (webhook_id, state, due_at);

CREATE UNIQUE INDEX notify_delivery_once ON notify_delivery (subject_id, webhook_id, type, version);

CREATE TABLE notify_heard (
  id INTEGER NOT NULL PRIMARY KEY,
  what VARCHAR(60) NOT NULL,
  data TEXT NOT NULL,
  done BIGINT NOT NULL
);

CREATE TABLE notify_notice (
  id INTEGER NOT NULL PRIMARY KEY,
  user_id BIGINT NOT NULL,
  kind VARCHAR(60) NOT NULL,
  order_id BIGINT NOT NULL,
  sale_id BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE INDEX notify_notice_user ON notify_notice (user_id, id);

CREATE TABLE notify_reader (
  user_id INTEGER NOT NULL PRIMARY KEY,
  up_to BIGINT NOT NULL
);

CREATE TABLE notify_webhook (
  id INTEGER NOT NULL PRIMARY KEY,
  url TEXT NOT NULL,
  events TEXT NOT NULL,
  description VARCHAR(190) NOT NULL,
  rehearsals SMALLINT NOT NULL,
  enabled SMALLINT NOT NULL,
  deleted SMALLINT NOT NULL,
  since_at BIGINT NOT NULL,
  secret VARCHAR(190) NOT NULL,
  old_secret VARCHAR(190) NOT NULL,
  old_until BIGINT NOT NULL,
  failures BIGINT NOT NULL,
  failing_since BIGINT NOT NULL,
  succeeded_at BIGINT NOT NULL,
  failed_at BIGINT NOT NULL,
  last_error VARCHAR(190) NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

CREATE TABLE order_head (
  id INTEGER NOT NULL PRIMARY KEY,
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

CREATE INDEX order_head_due ON order_head (due_at) WHERE due_at IS NOT NULL;

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

CREATE TABLE payment_attempt (
  id INTEGER NOT NULL PRIMARY KEY,
  order_id BIGINT NOT NULL,
  number SMALLINT NOT NULL,
  buyer_id BIGINT NOT NULL,
  provider VARCHAR(32) NOT NULL,
  state SMALLINT NOT NULL,
  paid_order SMALLINT NOT NULL,
  amount_minor BIGINT NOT NULL,
  currency CHAR(3) NOT NULL,
  provider_ref VARCHAR(190) NOT NULL,
  pay_by BIGINT NOT NULL,
  ask_at BIGINT,
  asked BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

CREATE INDEX payment_attempt_ask ON payment_attempt (ask_at);

CREATE UNIQUE INDEX payment_attempt_order ON payment_attempt (order_id, number);

CREATE TABLE payment_notification (
  id INTEGER NOT NULL PRIMARY KEY,
  provider VARCHAR(32) NOT NULL,
  notification_id VARCHAR(190) NOT NULL,
  attempt_id BIGINT NOT NULL,
  status SMALLINT NOT NULL,
  received_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX payment_notification_once ON payment_notification (provider, notification_id);

CREATE TABLE payment_refund (
  id INTEGER NOT NULL PRIMARY KEY,
  attempt_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  state SMALLINT NOT NULL,
  for_order SMALLINT NOT NULL,
  amount_minor BIGINT NOT NULL,
  currency CHAR(3) NOT NULL,
  reason VARCHAR(190) NOT NULL,
  actor_id BIGINT NOT NULL,
  due_at BIGINT,
  tries BIGINT NOT NULL,
  last_error VARCHAR(190) NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

CREATE INDEX payment_refund_attempt ON payment_refund (attempt_id);

CREATE INDEX payment_refund_due ON payment_refund (due_at);

CREATE TABLE payment_sandbox_key (
  id INTEGER NOT NULL PRIMARY KEY,
  merchant TEXT NOT NULL,
  provider TEXT NOT NULL,
  made_at BIGINT NOT NULL
);

CREATE TABLE payment_sandbox_refund (
  id INTEGER NOT NULL PRIMARY KEY,
  out_request_no VARCHAR(190) NOT NULL,
  trade_id BIGINT NOT NULL,
  amount_minor BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE UNIQUE INDEX payment_sandbox_refund_out ON payment_sandbox_refund (out_request_no);

CREATE INDEX payment_sandbox_refund_trade ON payment_sandbox_refund (trade_id);

CREATE TABLE payment_sandbox_trade (
  id INTEGER NOT NULL PRIMARY KEY,
  out_trade_no VARCHAR(190) NOT NULL,
  order_no VARCHAR(190) NOT NULL,
  amount_minor BIGINT NOT NULL,
  currency CHAR(3) NOT NULL,
  notify_url TEXT NOT NULL,
  state SMALLINT NOT NULL,
  expire_at BIGINT NOT NULL,
  pay_at BIGINT,
  paid_at BIGINT NOT NULL,
  notify_id BIGINT NOT NULL,
  notify_at BIGINT,
  notify_tries BIGINT NOT NULL
);

CREATE INDEX payment_sandbox_trade_notify ON payment_sandbox_trade (notify_at);

CREATE UNIQUE INDEX payment_sandbox_trade_out ON payment_sandbox_trade (out_trade_no);

CREATE INDEX payment_sandbox_trade_pay ON payment_sandbox_trade (pay_at);

CREATE TABLE phone_code (
  phone      VARCHAR(190) NOT NULL,
  purpose    VARCHAR(190) NOT NULL,
  request    VARCHAR(190) NOT NULL,
  user_id    BIGINT       NOT NULL,
  hash       VARCHAR(190) NOT NULL,
  sealed     VARCHAR(190) NOT NULL,
  sending    SMALLINT     NOT NULL,
  tries      SMALLINT     NOT NULL,
  expires_at BIGINT       NOT NULL,
  PRIMARY KEY (phone, purpose)
);

CREATE INDEX phone_code_expiry ON phone_code (expires_at);

CREATE UNIQUE INDEX phone_code_request ON phone_code (request);

CREATE TABLE phone_proof (
  phone     VARCHAR(190) NOT NULL PRIMARY KEY,
  user_id   BIGINT       NOT NULL,
  proven_at BIGINT       NOT NULL
);

CREATE UNIQUE INDEX phone_proof_user ON phone_proof (user_id);

CREATE TABLE sale_act (
  id INTEGER NOT NULL PRIMARY KEY,
  sale_id BIGINT NOT NULL,
  act VARCHAR(40) NOT NULL,
  units BIGINT NOT NULL,
  reason VARCHAR(190) NOT NULL,
  detail TEXT NOT NULL,
  actor_id BIGINT NOT NULL,
  at BIGINT NOT NULL
);

CREATE INDEX sale_act_sale ON sale_act (sale_id, id);

CREATE TABLE sale_head (
  id INTEGER NOT NULL PRIMARY KEY,
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
, mode VARCHAR(10) NOT NULL DEFAULT 'race', draw_at BIGINT NOT NULL DEFAULT 0, waiting_list SMALLINT NOT NULL DEFAULT 1, room SMALLINT NOT NULL DEFAULT 0, room_order VARCHAR(10) NOT NULL DEFAULT 'arrival', room_pace INTEGER NOT NULL DEFAULT 100, room_multiple INTEGER NOT NULL DEFAULT 3, brake VARCHAR(10) NOT NULL DEFAULT 'none', brake_bits INTEGER NOT NULL DEFAULT 16, per_address INTEGER NOT NULL DEFAULT 0);

CREATE INDEX sale_head_state ON sale_head (state, ends_at);

CREATE TABLE sale_ledger (
  id INTEGER NOT NULL PRIMARY KEY,
  sale_id BIGINT NOT NULL,
  kind VARCHAR(20) NOT NULL,
  quantity BIGINT NOT NULL,
  reservation_id BIGINT NOT NULL,
  actor_id BIGINT NOT NULL,
  reason VARCHAR(190) NOT NULL,
  at BIGINT NOT NULL
, seq BIGINT NOT NULL DEFAULT 0, last_id BIGINT NOT NULL DEFAULT 0);

CREATE INDEX sale_ledger_sale ON sale_ledger (sale_id, id);

CREATE UNIQUE INDEX sale_ledger_seq ON sale_ledger (sale_id, seq);

CREATE TABLE sale_reservation (
  id INTEGER NOT NULL PRIMARY KEY,
  sale_id BIGINT NOT NULL,
  buyer_id BIGINT NOT NULL,
  quantity INTEGER NOT NULL,
  state SMALLINT NOT NULL,
  key_hash BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
, seq BIGINT NOT NULL DEFAULT 0);

CREATE INDEX sale_reservation_buyer ON sale_reservation (sale_id, buyer_id);

CREATE TABLE sale_stock (
  sale_id INTEGER NOT NULL PRIMARY KEY,
  offered BIGINT NOT NULL,
  remaining BIGINT NOT NULL,
  reserved BIGINT NOT NULL,
  sold BIGINT NOT NULL,
  withdrawn BIGINT NOT NULL
, seq BIGINT NOT NULL DEFAULT 0);

CREATE TABLE schedule_entry (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  trigger_text TEXT NOT NULL,
  note TEXT NOT NULL,
  grace BIGINT NOT NULL,
  coalesce_how SMALLINT NOT NULL,
  most INT NOT NULL,
  max_live INT NOT NULL,
  state SMALLINT NOT NULL,
  next_at BIGINT NULL,
  held_at BIGINT NULL,
  version BIGINT NOT NULL,
  declared VARCHAR(190) NOT NULL,
  changed SMALLINT NOT NULL,
  fired BIGINT NOT NULL,
  late BIGINT NOT NULL,
  merged BIGINT NOT NULL,
  busy BIGINT NOT NULL,
  last_at BIGINT NULL,
  last_run_at BIGINT NULL,
  last_job BIGINT NULL,
  skipped_at BIGINT NULL,
  skipped_why VARCHAR(190) NOT NULL,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  finished_at BIGINT NULL
);

CREATE INDEX schedule_entry_finished ON schedule_entry (finished_at);

CREATE INDEX schedule_entry_next ON schedule_entry (next_at, name);

CREATE TABLE throttle_rate (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  rate VARCHAR(190) NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

CREATE TABLE token_key (
  number       INTEGER       NOT NULL PRIMARY KEY,
  kid          VARCHAR(190) NOT NULL,
  algorithm    VARCHAR(190) NOT NULL,
  public_key   TEXT         NOT NULL,
  private_key  TEXT         NOT NULL,
  made_at      BIGINT       NOT NULL,
  signs_at     BIGINT       NOT NULL,
  retires_at   BIGINT       NOT NULL,
  gone_at      BIGINT       NOT NULL,
  withdrawn_at BIGINT       NOT NULL
);

CREATE TABLE token_once (
  hash       VARCHAR(190) NOT NULL PRIMARY KEY,
  purpose    VARCHAR(190) NOT NULL,
  subject    BIGINT       NOT NULL,
  expires_at BIGINT       NOT NULL
);

CREATE INDEX token_once_expiry ON token_once (expires_at);

CREATE INDEX token_once_subject ON token_once (purpose, subject);

CREATE TABLE trail_block (
  first_seq INTEGER       NOT NULL PRIMARY KEY,
  last_seq  BIGINT       NOT NULL,
  head      VARCHAR(190) NOT NULL,
  sealed_at BIGINT       NOT NULL,
  dropped   SMALLINT     NOT NULL,
  mark      VARCHAR(190) NOT NULL
);

CREATE TABLE trail_entry (
  id           INTEGER       NOT NULL PRIMARY KEY,
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

CREATE INDEX trail_entry_action ON trail_entry (action, id);

CREATE INDEX trail_entry_actor ON trail_entry (actor_id, id);

CREATE INDEX trail_entry_address ON trail_entry (address, id);

CREATE INDEX trail_entry_at ON trail_entry (at, id);

CREATE UNIQUE INDEX trail_entry_seq ON trail_entry (seq);

CREATE INDEX trail_entry_subject ON trail_entry (subject_id, id);

CREATE TABLE web_answer (
  actor_id BIGINT NOT NULL,
  route VARCHAR(190) NOT NULL,
  idem_key VARCHAR(190) NOT NULL,
  body_hash CHAR(64) NOT NULL,
  answer TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (actor_id, route, idem_key)
);

CREATE INDEX web_answer_created ON web_answer (created_at);
