-- An account that has a second factor. totp is the shared secret, sealed, or ''; totp_step the last step whose code was taken.
CREATE TABLE factor_account (
  user_id BIGINT NOT NULL PRIMARY KEY,
  totp VARCHAR(190) NOT NULL,
  totp_at BIGINT NOT NULL,
  totp_step BIGINT NOT NULL
);
-- Codes that are not used yet, as hashes.
CREATE TABLE factor_recovery (
  user_id BIGINT NOT NULL,
  hash VARCHAR(190) NOT NULL,
  PRIMARY KEY (user_id, hash)
);
CREATE TABLE factor_passkey (
  id BIGINT NOT NULL PRIMARY KEY,
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
-- What somebody was asked and has not answered. data is what the answer is checked against.
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
CREATE INDEX factor_challenge_user ON factor_challenge (user_id, expires_at);
CREATE INDEX factor_challenge_expiry ON factor_challenge (expires_at);
-- Sessions whose holder proved himself again after they began.
CREATE TABLE factor_fresh (
  session_id BIGINT NOT NULL PRIMARY KEY,
  proven_at BIGINT NOT NULL
);
CREATE INDEX factor_fresh_proven ON factor_fresh (proven_at);
