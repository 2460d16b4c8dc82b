-- The one-time codes that make their bearer the first administrator: one row for each process that printed one.
CREATE TABLE identity_setup (
    id         BIGINT       NOT NULL PRIMARY KEY,
    hash       VARCHAR(190) NOT NULL,
    wrong      BIGINT       NOT NULL,
    expires_at BIGINT       NOT NULL
);
