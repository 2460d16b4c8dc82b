-- How far each follower has applied the server's binary log, as a GTID set in the server's own form.
CREATE TABLE binlog_position (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  flavor VARCHAR(16) NOT NULL,
  position TEXT NOT NULL,
  at BIGINT NOT NULL
);
