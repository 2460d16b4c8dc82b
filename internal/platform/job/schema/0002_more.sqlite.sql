-- pool names the lane in which a job waits: "pool" for priority 4, "pool|0" to "pool|9" for the others, "pool|4|kind" for a kind that is
-- limited or was paused. source says who gave the job, node who runs it, progress (JSON) how far it is, failures (JSON) how its last
-- attempts ended. The indexes hold only rows that their query looks for.
ALTER TABLE job_task ADD COLUMN source VARCHAR(190) NULL;

ALTER TABLE job_task ADD COLUMN node VARCHAR(190) NULL;

ALTER TABLE job_task ADD COLUMN progress TEXT NULL;

ALTER TABLE job_task ADD COLUMN failures TEXT NULL;

DROP INDEX job_task_due;

DROP INDEX job_task_lease;

DROP INDEX job_task_unique;

CREATE INDEX job_task_due ON job_task (pool, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX job_task_lease ON job_task (lease_until) WHERE lease_until IS NOT NULL;

CREATE UNIQUE INDEX job_task_unique ON job_task (unique_key) WHERE unique_key IS NOT NULL;

CREATE INDEX job_task_source ON job_task (source) WHERE source IS NOT NULL;

ALTER TABLE job_dead ADD COLUMN source VARCHAR(190) NULL;

ALTER TABLE job_dead ADD COLUMN failures TEXT NULL;

-- What is over, of kinds that keep it. It leaves in small steps by keep_until.
CREATE TABLE job_done (
  id BIGINT NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  source VARCHAR(190) NULL,
  outcome VARCHAR(20) NOT NULL,
  attempts INT NOT NULL,
  node VARCHAR(190) NOT NULL,
  result TEXT NULL,
  failures TEXT NULL,
  began_at BIGINT NOT NULL,
  ended_at BIGINT NOT NULL,
  keep_until BIGINT NOT NULL
);

CREATE INDEX job_done_until ON job_done (keep_until);

-- What people ask of running nodes: "pool:NAME" and "kind:NAME" pause, "job:ID" cancels a running job.
CREATE TABLE job_control (
  name VARCHAR(400) NOT NULL PRIMARY KEY,
  at BIGINT NOT NULL
);

-- One row per limited kind, locked by whoever claims one of it: how many were begun, and when the last.
CREATE TABLE job_limit (
  kind VARCHAR(190) NOT NULL PRIMARY KEY,
  n BIGINT NOT NULL,
  at BIGINT NOT NULL
);
