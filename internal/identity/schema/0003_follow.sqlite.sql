-- For nodes that follow what others changed. Only sessions that have ended are in the first.
CREATE INDEX identity_session_ended ON identity_session (ended_at, id) WHERE ended_at IS NOT NULL;
CREATE INDEX identity_user_updated ON identity_user (updated_at, id);
