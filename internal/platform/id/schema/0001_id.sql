-- One row per worker number that was ever in use (0 to 1023). Ids of this number below the horizon (milliseconds since the
-- epoch of the ids) may have been given; whoever takes the number over starts there. owner is a random word of the life that
-- holds it, '' when it was given back; node tells people where that is. turn rises with every write.
CREATE TABLE id_worker (
  worker BIGINT NOT NULL PRIMARY KEY,
  owner VARCHAR(190) NOT NULL,
  node VARCHAR(190) NOT NULL,
  horizon BIGINT NOT NULL,
  turn BIGINT NOT NULL
);
