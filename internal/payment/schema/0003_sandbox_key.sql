-- The keys of both sides of the test provider where it runs inside the house (PEM): every node signs and checks with the same ones.
-- There is one row. No money moves by them.
CREATE TABLE payment_sandbox_key (
  id BIGINT NOT NULL PRIMARY KEY,
  merchant TEXT NOT NULL,
  provider TEXT NOT NULL,
  made_at BIGINT NOT NULL
);
