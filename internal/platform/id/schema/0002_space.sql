-- Sets of ids that are unique among themselves. Worker numbers of a named space are the rows of id_worker from number * 65536 on; the
-- unnamed space, number 0, has no row here. layout is how its ids share out their bits, in words; it never changes.
CREATE TABLE id_space (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  number BIGINT NOT NULL,
  layout VARCHAR(190) NOT NULL
);
CREATE UNIQUE INDEX id_space_number ON id_space (number);

-- Dense numbers by business tag: numbers below next are handed out to a process, or were.
CREATE TABLE id_segment (
  tag VARCHAR(190) NOT NULL PRIMARY KEY,
  next BIGINT NOT NULL
);
