-- Whose account a subject of a third party is. The issuer says within which house the subject is unique: an OpenID provider's issuer, or a word
-- for WeChat. Subjects are told apart byte by byte.
CREATE TABLE federation_link (
    issuer    VARCHAR(190) NOT NULL,
    subject   VARCHAR(190) NOT NULL,
    user_id   BIGINT       NOT NULL,
    provider  VARCHAR(190) NOT NULL,
    called    VARCHAR(190) NOT NULL,
    linked_at BIGINT       NOT NULL,
    PRIMARY KEY (issuer, subject)
);
-- An account has one subject of an issuer.
CREATE UNIQUE INDEX federation_link_user ON federation_link (user_id, issuer);

-- Ways to a third party that have begun and not ended: what its answer is held against. A row is taken away by the answer that it is for.
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
