-- The audit trail has a room of its own. What stands here, and what nodes of the version before still write here, is copied over; the
-- table itself goes with a later version.
ALTER TABLE identity_audit ADD COLUMN moved SMALLINT;
CREATE INDEX identity_audit_moved ON identity_audit (moved, id);
