-- Events that were kept beyond their delivery, in the order in which the relay wrote them down: for one key the order of their commits. Only
-- the one relay gives the numbers. The last row always stays, so that they never go back.
CREATE TABLE event_log (
  seq BIGINT NOT NULL PRIMARY KEY,
  event_id BIGINT NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL,
  logged_at BIGINT NOT NULL
);

-- Every listener that some program has registered, for each event that it hears. state 0: it hears live. 1: it gets what lies in the log
-- behind the number since, and has got what is up to cursor_at. 2: it stayed away for longer than events are kept. away 1: the program that
-- relays does not know it.
CREATE TABLE event_listener (
  listener VARCHAR(190) NOT NULL,
  event VARCHAR(190) NOT NULL,
  state SMALLINT NOT NULL,
  since BIGINT NOT NULL,
  cursor_at BIGINT NOT NULL,
  away SMALLINT NOT NULL,
  first_seen BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  PRIMARY KEY (listener, event)
);

-- Events of the log on their way to one listener once more. The ids are new: above those of all that this listener has yet to handle.
CREATE TABLE event_replay (
  id BIGINT NOT NULL PRIMARY KEY,
  listener VARCHAR(190) NOT NULL,
  name VARCHAR(190) NOT NULL,
  event_key BIGINT NOT NULL,
  payload TEXT NOT NULL
);

CREATE INDEX event_parked_of ON event_parked (listener, event_id);

-- Counts the changes of event_listener that a relay must know before it delivers anything more.
ALTER TABLE event_relay ADD COLUMN registry BIGINT NOT NULL DEFAULT 0;
