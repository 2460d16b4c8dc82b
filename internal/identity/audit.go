package identity

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// maxAuditState bounds before and after of one entry, in bytes.
const maxAuditState = 4000

// Act is something that an administrator or an operator did, or that happened to an account's safety.
type Act struct {
	// Action is a dotted word: "user.disabled". At most 190 bytes.
	Action string
	// Kind and Subject say what it was done to.
	Kind    levee.Kind
	Subject int64
	// Before and After are what changed, as values that encode to JSON of at most 4,000 bytes; nil for none. They must not
	// hold a secret.
	Before, After any
}

// AuditEntry is one line of the trail. Before and After are JSON, or "".
type AuditEntry struct {
	ID            int64
	At            time.Time
	Actor         levee.UserID // levee.System.User for what no person did; 0 for visitors
	Action        string
	Kind          levee.Kind
	Subject       int64
	Before, After string
	Address       string
	RequestID     string
}

// AuditFilter chooses entries; zero fields choose all.
type AuditFilter struct {
	Actor   levee.UserID
	Subject int64
	Action  string
	Page    levee.Page
}

// RecordTx appends an act of the context's actor to the trail, in the caller's transaction: the act and its trace are kept
// together or not at all. Any room above this one may call it.
func (s *Service) RecordTx(ctx context.Context, tx *db.Tx, act Act, from Origin) (err error) {
	defer levee.Wrap(&err, "identity.RecordTx(%s)", act.Action)
	if act.Action == "" || len(act.Action) > 190 {
		return levee.Invalid("action", "1 to 190 bytes", act.Action)
	}
	id, err := s.ids.Next()
	if err != nil {
		return err
	}
	e := AuditEntry{
		ID: id, At: s.now(), Actor: levee.ActorFrom(ctx).User, Action: act.Action, Kind: act.Kind, Subject: act.Subject,
		Address: from.address(), RequestID: levee.Shorten(from.RequestID, 180),
	}
	if e.Before, err = auditState(act.Before); err != nil {
		return err
	}
	if e.After, err = auditState(act.After); err != nil {
		return err
	}
	return insertAudit(ctx, tx, e)
}

// Record is RecordTx in a transaction of its own.
func (s *Service) Record(ctx context.Context, act Act, from Origin) error {
	return s.db.Tx(ctx, "identity.record", func(ctx context.Context, tx *db.Tx) error { return s.RecordTx(ctx, tx, act, from) })
}

func auditState(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(text) > maxAuditState {
		return "", levee.Invalid("audit state", "at most 4000 bytes of JSON", len(text))
	}
	return string(text), nil
}

// Audit lists the trail, newest first, and tells whether there is more. For administrators; else CodeForbidden.
func (s *Service) Audit(ctx context.Context, f AuditFilter) (list []AuditEntry, more bool, err error) {
	defer levee.Wrap(&err, "identity.Audit")
	if err := require(levee.ActorFrom(ctx), levee.RoleAdministrator); err != nil {
		return nil, false, err
	}
	f.Page = f.Page.Normal()
	list, err = listAudit(ctx, s.db.Query, f)
	return cut(list, f.Page.Limit), len(list) > f.Page.Limit, err
}

// cut drops the row that was read only to see whether there are more.
func cut[T any](list []T, n int) []T { return list[:min(n, len(list))] }
