-- For nodes that follow what others changed.
CREATE INDEX identity_session_ended ON identity_session (ended_at, id);
CREATE INDEX identity_user_updated ON identity_user (updated_at, id);
