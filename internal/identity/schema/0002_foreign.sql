-- Whose account a subject of a foreign issuer's tokens is. Subjects are told apart byte by byte.
CREATE TABLE identity_foreign (
    issuer     VARCHAR(190) NOT NULL,
    subject    VARCHAR(190) NOT NULL,
    user_id    BIGINT       NOT NULL,
    created_at BIGINT       NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identity_foreign_user ON identity_foreign (user_id);
