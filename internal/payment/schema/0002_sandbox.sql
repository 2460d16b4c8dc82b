-- The test provider's own books. No row of these is ever read by the rest of the room, as with a provider elsewhere.
-- state: 1 waiting, 2 paid, 3 closed. pay_at is when a late payer pays; notify_at when the merchant is next told.
CREATE TABLE payment_sandbox_trade (
  id BIGINT NOT NULL PRIMARY KEY,
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
CREATE UNIQUE INDEX payment_sandbox_trade_out ON payment_sandbox_trade (out_trade_no);
CREATE INDEX payment_sandbox_trade_notify ON payment_sandbox_trade (notify_at);
CREATE INDEX payment_sandbox_trade_pay ON payment_sandbox_trade (pay_at);

CREATE TABLE payment_sandbox_refund (
  id BIGINT NOT NULL PRIMARY KEY,
  out_request_no VARCHAR(190) NOT NULL,
  trade_id BIGINT NOT NULL,
  amount_minor BIGINT NOT NULL,
  at BIGINT NOT NULL
);
CREATE UNIQUE INDEX payment_sandbox_refund_out ON payment_sandbox_refund (out_request_no);
CREATE INDEX payment_sandbox_refund_trade ON payment_sandbox_refund (trade_id);
