CREATE TABLE identity_user (
    id              BIGINT       NOT NULL PRIMARY KEY,
    name            VARCHAR(190) NOT NULL,
    name_key        VARCHAR(190),
    phone           VARCHAR(190),
    roles           BIGINT       NOT NULL,
    disabled        SMALLINT     NOT NULL,
    disabled_reason TEXT         NOT NULL,
    version         BIGINT       NOT NULL,
    created_at      BIGINT       NOT NULL,
    updated_at      BIGINT       NOT NULL
);
CREATE UNIQUE INDEX identity_user_name ON identity_user (name_key);
CREATE UNIQUE INDEX identity_user_phone ON identity_user (phone);
CREATE INDEX identity_user_roles ON identity_user (roles, id);

CREATE TABLE identity_credential (
    user_id    BIGINT       NOT NULL,
    kind       SMALLINT     NOT NULL,
    hash       VARCHAR(190) NOT NULL,
    changed_at BIGINT       NOT NULL,
    PRIMARY KEY (user_id, kind)
);

CREATE TABLE identity_session (
    id            BIGINT       NOT NULL PRIMARY KEY,
    user_id       BIGINT       NOT NULL,
    kind          SMALLINT     NOT NULL,
    secret_hash   VARCHAR(190) NOT NULL,
    previous_hash VARCHAR(190) NOT NULL,
    salt          VARCHAR(190) NOT NULL,
    generation    BIGINT       NOT NULL,
    rotated_at    BIGINT       NOT NULL,
    address       VARCHAR(190) NOT NULL,
    agent         VARCHAR(190) NOT NULL,
    created_at    BIGINT       NOT NULL,
    seen_at       BIGINT       NOT NULL,
    expires_at    BIGINT       NOT NULL,
    ended_at      BIGINT,
    ended_why     VARCHAR(190) NOT NULL
);
CREATE INDEX identity_session_user ON identity_session (user_id, id);
CREATE INDEX identity_session_expiry ON identity_session (expires_at);

CREATE TABLE identity_audit (
    id           BIGINT       NOT NULL PRIMARY KEY,
    at           BIGINT       NOT NULL,
    actor_id     BIGINT       NOT NULL,
    action       VARCHAR(190) NOT NULL,
    subject_kind SMALLINT     NOT NULL,
    subject_id   BIGINT       NOT NULL,
    before_state TEXT         NOT NULL,
    after_state  TEXT         NOT NULL,
    address      VARCHAR(190) NOT NULL,
    request_id   VARCHAR(190) NOT NULL
);
CREATE INDEX identity_audit_actor ON identity_audit (actor_id, id);
CREATE INDEX identity_audit_subject ON identity_audit (subject_id, id);
