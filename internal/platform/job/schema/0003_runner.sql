-- One row per process that runs jobs, while it does: beat rises as long as it lives, and still (microseconds) is for how long the others
-- have together watched it stand still.
CREATE TABLE job_runner (
  id BIGINT NOT NULL PRIMARY KEY,
  node VARCHAR(190) NOT NULL,
  beat BIGINT NOT NULL,
  still BIGINT NOT NULL
);

-- Whose row a running job hangs on; empty where a program of the version before claimed it.
ALTER TABLE job_task ADD COLUMN runner BIGINT NULL;
