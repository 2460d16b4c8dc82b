-- The nodes of the house that run now. beat rises while a node lives; who watches it needs no common clock.
CREATE TABLE node_member (
  id BIGINT NOT NULL PRIMARY KEY,
  name VARCHAR(190) NOT NULL,
  address VARCHAR(190) NOT NULL,
  version VARCHAR(190) NOT NULL,
  beat BIGINT NOT NULL,
  started_at BIGINT NOT NULL
);

-- Who keeps what only one node at a time may do. member 0: nobody. fence rises with every change of hands; beat while it is kept.
CREATE TABLE node_keep (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  member BIGINT NOT NULL,
  fence BIGINT NOT NULL,
  beat BIGINT NOT NULL
);

-- What all nodes must have the same, as the first one had it.
CREATE TABLE node_common (
  name VARCHAR(190) NOT NULL PRIMARY KEY,
  value VARCHAR(190) NOT NULL
);
