-- One row per event that some listener has not yet handled. The payload is JSON; the time of the event is in its id.
CREATE TABLE event_outbox (
  id BIGINT NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL
);

-- What single listeners have done with an event that is still in the outbox: done 1, or failed `attempts` times and due at
-- retry_at (microseconds). A row leaves together with its event.
CREATE TABLE event_inbox (
  event_id BIGINT NOT NULL,
  listener VARCHAR(190) NOT NULL,
  done SMALLINT NOT NULL,
  attempts INT NOT NULL,
  retry_at BIGINT NOT NULL,
  error TEXT NOT NULL,
  PRIMARY KEY (event_id, listener)
);

-- Deliveries that were given up after the last attempt and wait for a person.
CREATE TABLE event_parked (
  event_id BIGINT NOT NULL,
  listener VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL,
  parked_at BIGINT NOT NULL,
  PRIMARY KEY (event_id, listener)
);

CREATE INDEX event_parked_at ON event_parked (parked_at);

-- Who relays: one row. fence rises with every change of hands and is checked in each delivering transaction.
CREATE TABLE event_relay (
  id BIGINT NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL,
  lease_until BIGINT NOT NULL
);
