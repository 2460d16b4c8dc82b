-- The answers kept for Idempotency-Key: one row per caller, operation and key, written in the transaction of the effect.
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
