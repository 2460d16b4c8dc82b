-- Totals by kind and name. n is the total. epoch and applied say how much of what a life of the key in Redis has counted is in n already,
-- so that writing it again adds nothing. ver rises with every change that did not come from there.
CREATE TABLE count_value (
  kind VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  n BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  applied BIGINT NOT NULL,
  ver BIGINT NOT NULL,
  PRIMARY KEY (kind, name)
);

-- The members of boards.
CREATE TABLE count_member (
  kind VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  member VARCHAR(190) NOT NULL,
  score BIGINT NOT NULL,
  PRIMARY KEY (kind, name, member)
);

-- One row per lane of Redis. turn rises with every writing: what was read before another's writing is not written.
CREATE TABLE count_lane (
  lane BIGINT NOT NULL PRIMARY KEY,
  turn BIGINT NOT NULL
);

-- The last batch that each process has written by itself: one whose answer was lost is written once.
CREATE TABLE count_writer (
  id BIGINT NOT NULL PRIMARY KEY,
  batch BIGINT NOT NULL,
  at BIGINT NOT NULL
);

-- The correction of a kind that runs: one that a later one overtook writes nothing more.
CREATE TABLE count_run (
  kind VARCHAR(64) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL
);

-- Differences that a correction has found and not yet applied.
CREATE TABLE count_fix (
  kind VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  d BIGINT NOT NULL,
  PRIMARY KEY (kind, name)
);
