-- Where other systems want to hear of what happens here. events: the wished types, with a space between. secret and old_secret are
-- sealed; the old one signs too until old_until. since_at: what happened before is not told. failures: in a row, up to now.
CREATE TABLE notify_webhook (
    id BIGINT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    description VARCHAR(190) NOT NULL,
    rehearsals SMALLINT NOT NULL,
    enabled SMALLINT NOT NULL,
    deleted SMALLINT NOT NULL,
    since_at BIGINT NOT NULL,
    secret VARCHAR(190) NOT NULL,
    old_secret VARCHAR(190) NOT NULL,
    old_until BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    failing_since BIGINT NOT NULL,
    succeeded_at BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    last_error VARCHAR(190) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- One thing to tell one webhook. subject_id is what it is about: those of one webhook and subject go one after the other, by id.
-- state: 0 behind another of its subject, 1 ready, 2 failed and due again, 3 delivered, 4 parked. due_at: from when it may be
-- sent; of what is over, when that was.
CREATE TABLE notify_delivery (
    id BIGINT NOT NULL PRIMARY KEY,
    webhook_id BIGINT NOT NULL,
    subject_kind SMALLINT NOT NULL,
    subject_id BIGINT NOT NULL,
    type VARCHAR(60) NOT NULL,
    version BIGINT NOT NULL,
    data TEXT NOT NULL,
    at BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    attempts INTEGER NOT NULL,
    status INTEGER NOT NULL,
    due_at BIGINT NOT NULL,
    tried_at BIGINT NOT NULL,
    give_up_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX notify_delivery_once ON notify_delivery (subject_id, webhook_id, type, version);
CREATE INDEX notify_delivery_due ON notify_delivery (webhook_id, state, due_at);

-- What came of each try. status 0: there was no answer, error says why.
CREATE TABLE notify_attempt (
    delivery_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    at BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    error VARCHAR(190) NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

-- What a user should know. order_id and sale_id are 0 where there is none.
CREATE TABLE notify_notice (
    id BIGINT NOT NULL PRIMARY KEY,
    user_id BIGINT NOT NULL,
    kind VARCHAR(60) NOT NULL,
    order_id BIGINT NOT NULL,
    sale_id BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX notify_notice_user ON notify_notice (user_id, id);

-- Up to which notice a user has read.
CREATE TABLE notify_reader (
    user_id BIGINT NOT NULL PRIMARY KEY,
    up_to BIGINT NOT NULL
);

-- What was heard and is not written out yet as notices and deliveries. done: how much of a batch is.
CREATE TABLE notify_heard (
    id BIGINT NOT NULL PRIMARY KEY,
    what VARCHAR(60) NOT NULL,
    data TEXT NOT NULL,
    done BIGINT NOT NULL
);
