-- Rates that an administrator has set. A limit that is not here has the rate of the configuration.
CREATE TABLE throttle_rate (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  rate VARCHAR(190) NOT NULL,
  changed_by BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);
