-- The event of the same key that was emitted before this one and may not have been delivered then; 0: none.
ALTER TABLE event_outbox ADD COLUMN previous BIGINT NOT NULL DEFAULT 0;

-- The last event of each key that is or was a moment ago in the outbox. Where many write at once, an emission locks its key's row
-- until the commit: so the events of one key are committed in the order of their ids, and each names the one before it. On
-- an engine with one writer it stays empty.
CREATE TABLE event_chain (
  event_key BIGINT NOT NULL PRIMARY KEY,
  last_id BIGINT NOT NULL,
  previous BIGINT NOT NULL
);
