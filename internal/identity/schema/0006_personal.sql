-- What a personal access token is called and for. The rest of it is a session of kind 3 with the same id.
CREATE TABLE identity_personal (
    id      BIGINT       NOT NULL PRIMARY KEY,
    user_id BIGINT       NOT NULL,
    name    VARCHAR(190) NOT NULL,
    scopes  TEXT         NOT NULL
);
