-- One row per flow: steps of jobs, some of which begin when others are over. dead counts the steps that lie dead and wait for a person.
-- Times are microseconds UTC.
CREATE TABLE flow_run (
  id BIGINT NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  state VARCHAR(20) NOT NULL,
  steps INT NOT NULL,
  dead INT NOT NULL,
  begun_at BIGINT NOT NULL,
  ended_at BIGINT NULL,
  keep_until BIGINT NULL
);

CREATE INDEX flow_run_state ON flow_run (state);

CREATE INDEX flow_run_keep ON flow_run (keep_until);

-- A step leads from one joint to another: it begins when all that lead to the first are over, and counts down the second. Its id is that of
-- its job. soft: its death does not wait for a person.
CREATE TABLE flow_step (
  id BIGINT NOT NULL PRIMARY KEY,
  flow BIGINT NOT NULL,
  n INT NOT NULL,
  kind VARCHAR(190) NOT NULL,
  lane VARCHAR(400) NOT NULL,
  args TEXT NOT NULL,
  after_us BIGINT NOT NULL,
  begins INT NOT NULL,
  counts INT NOT NULL,
  soft SMALLINT NOT NULL,
  state VARCHAR(20) NOT NULL,
  ended_at BIGINT NULL
);

CREATE INDEX flow_step_flow ON flow_step (flow, n);

CREATE INDEX flow_step_counts ON flow_step (flow, counts);

-- waits counts what is not over yet, failed what ended badly. stops: failures go no further. begins lists the steps that begin here, next is the joint
-- that it counts down itself (0: none), fed how many joints do so to it. A joint leads to higher ones only.
CREATE TABLE flow_joint (
  flow BIGINT NOT NULL,
  n INT NOT NULL,
  waits INT NOT NULL,
  failed INT NOT NULL,
  next INT NOT NULL,
  fed INT NOT NULL,
  stops SMALLINT NOT NULL,
  cancelled SMALLINT NOT NULL,
  begins TEXT NOT NULL,
  PRIMARY KEY (flow, n)
);

-- What a step has left behind, if anything: the result of one that is done, the error of a dead one.
CREATE TABLE flow_result (
  id BIGINT NOT NULL PRIMARY KEY,
  result TEXT NULL,
  error TEXT NULL
);
