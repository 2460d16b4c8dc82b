-- Events on their way out, until the broker has acknowledged them. The id is also the message's id; in the order of ids they go.
CREATE TABLE bridge_out (
  name VARCHAR(190) NOT NULL,
  id BIGINT NOT NULL,
  event_key BIGINT NOT NULL,
  data MEDIUMTEXT NOT NULL,
  PRIMARY KEY (name, id)
);

-- Messages that came in, by a digest of their source and id, for as long as a repetition is to be known.
CREATE TABLE bridge_seen (
  digest VARCHAR(64) NOT NULL PRIMARY KEY,
  seen_at BIGINT NOT NULL
);

CREATE INDEX bridge_seen_at ON bridge_seen (seen_at);

-- Messages that wait for a person: incoming ones (direction 0) that nobody here can read, outgoing ones (1) that the broker refuses for
-- ever. cut 1: the data were too long to be kept whole.
CREATE TABLE bridge_parked (
  id BIGINT NOT NULL PRIMARY KEY,
  direction SMALLINT NOT NULL,
  topic VARCHAR(255) NOT NULL,
  message_id VARCHAR(255) NOT NULL,
  name VARCHAR(255) NOT NULL,
  event_key BIGINT NOT NULL,
  data MEDIUMTEXT NOT NULL,
  cut SMALLINT NOT NULL,
  reason TEXT NOT NULL,
  parked_at BIGINT NOT NULL
);

CREATE INDEX bridge_parked_direction ON bridge_parked (direction, id);
