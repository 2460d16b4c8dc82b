package identity

import "levee"

// UserCreated is said when an account came to be, by sign-up or by an administrator.
type UserCreated struct {
	User  levee.UserID
	Roles levee.Roles
}

// EventName names the event.
func (UserCreated) EventName() string { return "identity.user_created.v1" }

// EventKey orders it by user.
func (e UserCreated) EventKey() int64 { return int64(e.User) }

// UserDisabled is said when an account was shut; all its sessions ended in the same transaction.
type UserDisabled struct{ User levee.UserID }

// EventName names the event.
func (UserDisabled) EventName() string { return "identity.user_disabled.v1" }

// EventKey orders it by user.
func (e UserDisabled) EventKey() int64 { return int64(e.User) }

// UserEnabled is said when a disabled account was opened again.
type UserEnabled struct{ User levee.UserID }

// EventName names the event.
func (UserEnabled) EventName() string { return "identity.user_enabled.v1" }

// EventKey orders it by user.
func (e UserEnabled) EventKey() int64 { return int64(e.User) }

// RolesChanged is said when an account was given other roles.
type RolesChanged struct {
	User          levee.UserID
	Before, After levee.Roles
}

// EventName names the event.
func (RolesChanged) EventName() string { return "identity.roles_changed.v1" }

// EventKey orders it by user.
func (e RolesChanged) EventKey() int64 { return int64(e.User) }

// SessionReused is said when a refresh token that had been replaced was shown again after the grace time. One of its two
// holders is a thief, so the session has ended; whoever owns it should be told.
type SessionReused struct {
	User    levee.UserID
	Address string
}

// EventName names the event.
func (SessionReused) EventName() string { return "identity.session_reused.v1" }

// EventKey orders it by user.
func (e SessionReused) EventKey() int64 { return int64(e.User) }
