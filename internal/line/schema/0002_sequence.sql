-- Each change of a line has a number, 1, 2, 3 … without gaps in the order of the commits: line_head.seq is the last one, counted under
-- the row's lock, and line_entry.seq is that of the entry's last change, 0 for one that has not changed since before. Every node
-- follows the lines by these numbers. The places that a draw writes before its results are public have none.
ALTER TABLE line_head ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE line_entry ADD COLUMN seq BIGINT NOT NULL DEFAULT 0;
CREATE INDEX line_entry_seq ON line_entry (sale_id, seq);
