-- One row per attempt to pay an order at a provider. state: 1 started, 2 paid, 3 failed, 4 closed, 5 refunding, 6 refunded.
-- number counts an order's attempts from 1, so two starts in the same moment cannot both win. paid_order is 1 for the attempt
-- that paid the order (money may come twice). ask_at is when the provider is next asked about it; NULL unless it is started.
CREATE TABLE payment_attempt (
  id BIGINT NOT NULL PRIMARY KEY,
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
CREATE UNIQUE INDEX payment_attempt_order ON payment_attempt (order_id, number);
CREATE INDEX payment_attempt_ask ON payment_attempt (ask_at);

-- Every notification that had its effect, so that it has it once.
CREATE TABLE payment_notification (
  id BIGINT NOT NULL PRIMARY KEY,
  provider VARCHAR(32) NOT NULL,
  notification_id VARCHAR(190) NOT NULL,
  attempt_id BIGINT NOT NULL,
  status SMALLINT NOT NULL,
  received_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX payment_notification_once ON payment_notification (provider, notification_id);

-- Money on its way back. state: 1 pending, 2 done, 3 refused for good. for_order is 1 when the order waits for it.
-- due_at is when the provider is next told or asked; NULL once it is over.
CREATE TABLE payment_refund (
  id BIGINT NOT NULL PRIMARY KEY,
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
