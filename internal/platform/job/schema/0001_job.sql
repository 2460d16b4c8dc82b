-- One row per job that waits or runs; it is deleted when the job is done. Exactly one of due_at (it waits until then) and
-- lease_until (it runs, and is somebody else's after that) is set, so that each index holds only what its query looks for
-- and a million jobs of tomorrow cost the claim nothing. fence rises with every claim. Times are microseconds UTC.
CREATE TABLE job_task (
  id BIGINT NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  unique_key VARCHAR(190) NULL,
  due_at BIGINT NULL,
  lease_until BIGINT NULL,
  fence BIGINT NOT NULL,
  attempts INT NOT NULL,
  crashes INT NOT NULL,
  error TEXT NOT NULL
);

CREATE INDEX job_task_due ON job_task (pool, due_at);

CREATE INDEX job_task_lease ON job_task (lease_until);

CREATE UNIQUE INDEX job_task_unique ON job_task (unique_key);

-- Jobs that were given up and wait for a person.
CREATE TABLE job_dead (
  id BIGINT NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  pool VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  unique_key VARCHAR(190) NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL,
  dead_at BIGINT NOT NULL
);

CREATE INDEX job_dead_at ON job_dead (dead_at);

-- Periodic work: next_at is compared and set by whoever fires; lease_until 0 means that nobody runs it.
CREATE TABLE job_period (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  every_us BIGINT NOT NULL,
  next_at BIGINT NOT NULL,
  lease_until BIGINT NOT NULL,
  fence BIGINT NOT NULL,
  attempts INT NOT NULL,
  error TEXT NOT NULL
);
