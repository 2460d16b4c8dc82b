-- One row per schedule. next_at is set while it is active and null otherwise, so that the index holds only what can come due; a paused
-- one keeps in held_at where it was. Who fires compares next_at and version and sets them. declared is the fingerprint of what the
-- program itself declares, '' for what was added at run time. Times are microseconds UTC.
CREATE TABLE schedule_entry (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  kind VARCHAR(190) NOT NULL,
  args TEXT NOT NULL,
  trigger_text TEXT NOT NULL,
  note TEXT NOT NULL,
  grace BIGINT NOT NULL,
  coalesce_how SMALLINT NOT NULL,
  most INT NOT NULL,
  max_live INT NOT NULL,
  state SMALLINT NOT NULL,
  next_at BIGINT NULL,
  held_at BIGINT NULL,
  version BIGINT NOT NULL,
  declared VARCHAR(190) NOT NULL,
  changed SMALLINT NOT NULL,
  fired BIGINT NOT NULL,
  late BIGINT NOT NULL,
  merged BIGINT NOT NULL,
  busy BIGINT NOT NULL,
  last_at BIGINT NULL,
  last_run_at BIGINT NULL,
  last_job BIGINT NULL,
  skipped_at BIGINT NULL,
  skipped_why VARCHAR(190) NOT NULL,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  finished_at BIGINT NULL
);

CREATE INDEX schedule_entry_next ON schedule_entry (next_at, name);

CREATE INDEX schedule_entry_finished ON schedule_entry (finished_at);
