-- One row per name that was ever locked over SQL, or got its fence from here. fence is that of the last grant and only rises. state lists
-- who holds and who waits, a line each, in order.
CREATE TABLE lock_name (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL,
  state TEXT NOT NULL
);

-- What is protected by a named lock and has no column of its own for it: the highest fence that has entered.
CREATE TABLE lock_entry (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL
);
