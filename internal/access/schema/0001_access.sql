-- One row that every change locks and counts; nodes look at it to see whether there is anything new.
CREATE TABLE access_head (
  id BIGINT NOT NULL PRIMARY KEY,
  version BIGINT NOT NULL
);

-- Roles that administrators made. The ready ones are the program's. bit_number is the role's place in the set that accounts hold; that of a
-- retired role stays taken until no account and no node can remember it.
CREATE TABLE access_role (
  bit_number BIGINT NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  label VARCHAR(190) NOT NULL,
  retired_at BIGINT NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);

-- What roles are allowed: operations of the API and abilities. allowed is a set of roles; defaults is the set that the program named when the
-- row was last brought up to date, so that what it names anew follows and what an administrator changed stays.
CREATE TABLE access_resource (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  category VARCHAR(190) NOT NULL,
  method VARCHAR(190) NOT NULL,
  route VARCHAR(190) NOT NULL,
  defaults BIGINT NOT NULL,
  allowed BIGINT NOT NULL,
  gone BIGINT NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);
