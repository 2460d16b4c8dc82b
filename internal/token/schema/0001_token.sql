-- The keys that sign access tokens, numbered in the order in which they were made. Private keys are sealed with a key that is derived from the
-- house's one secret, and erased once they sign no more. 0 in a time: not yet.
CREATE TABLE token_key (
    number       BIGINT       NOT NULL PRIMARY KEY,
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

-- Tokens that are good once, for one purpose and one subject. Only their hashes are here.
CREATE TABLE token_once (
    hash       VARCHAR(190) NOT NULL PRIMARY KEY,
    purpose    VARCHAR(190) NOT NULL,
    subject    BIGINT       NOT NULL,
    expires_at BIGINT       NOT NULL
);
CREATE INDEX token_once_subject ON token_once (purpose, subject);
CREATE INDEX token_once_expiry ON token_once (expires_at);
