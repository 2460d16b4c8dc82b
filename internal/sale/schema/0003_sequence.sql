-- The ledger's rows are numbered: 1, 2, 3 … within each sale, without gaps, in the order of their commits. sale_stock.seq is the last
-- number that was given; it is counted under the row's lock. Gates that several nodes share follow the ledger by these numbers.
-- A row about several reservations names the first and the last of them (last_id; 0 for a row about one or none): they are those between
-- whose own seq is the row's. Reservations from before have the seq 0; gates are never loaded from that far back.
ALTER TABLE sale_stock ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sale_reservation ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sale_ledger ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sale_ledger ADD COLUMN last_id BIGINT NOT NULL DEFAULT 0;

-- By way of a table of its own: not every engine lets an UPDATE read the table that it changes.
CREATE TABLE sale_ledger_number (
    id BIGINT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL
);
INSERT INTO sale_ledger_number (id, seq) SELECT id, ROW_NUMBER() OVER (PARTITION BY sale_id ORDER BY id) FROM sale_ledger;
UPDATE sale_ledger SET seq = (SELECT n.seq FROM sale_ledger_number n WHERE n.id = sale_ledger.id);
DROP TABLE sale_ledger_number;
CREATE UNIQUE INDEX sale_ledger_seq ON sale_ledger (sale_id, seq);
UPDATE sale_stock SET seq = (SELECT COALESCE(MAX(l.seq), 0) FROM sale_ledger l WHERE l.sale_id = sale_stock.sale_id);
