-- Codes that were sent, or are about to be: one of each purpose for a number.
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
CREATE UNIQUE INDEX phone_code_request ON phone_code (request);
CREATE INDEX phone_code_expiry ON phone_code (expires_at);

-- Which account has proven which number. A number that stands on an account without a row here was only typed.
CREATE TABLE phone_proof (
    phone     VARCHAR(190) NOT NULL PRIMARY KEY,
    user_id   BIGINT       NOT NULL,
    proven_at BIGINT       NOT NULL
);
CREATE UNIQUE INDEX phone_proof_user ON phone_proof (user_id);
