package access

import (
	"context"
	"embed"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the tables access_*.
func Schema() db.Schema { return db.Schema{Owner: "access", FS: schemaFS} }

// query is Query of a *db.DB or of a *db.Tx.
type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// roleRow is a role that somebody made. retired is zero for one that is in use.
type roleRow struct {
	bit         int
	name, label string
	retired     time.Time
	by          levee.UserID
	at          time.Time
}

// resourceRow is who may do something, as SQL has it.
type resourceRow struct {
	name, category, method, route string
	defaults, allowed             levee.Roles
	gone                          bool
	by                            levee.UserID
	at                            time.Time
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// readVersion returns the version of the whole; 0 before the first.
func readVersion(ctx context.Context, d *db.DB) (version int64, err error) {
	err = d.QueryRow(ctx, `SELECT version FROM access_head WHERE id = 1`).Scan(&version)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return version, err
}

// lockHead makes everybody else who would change something wait until this transaction ends.
func lockHead(ctx context.Context, tx *db.Tx, d db.Dialect) error {
	if _, err := tx.Exec(ctx, d.InsertIgnore("access_head", "id", "version"), 1, 0); err != nil {
		return err
	}
	var version int64
	return tx.QueryRow(ctx, `SELECT version FROM access_head WHERE id = 1`+d.ForUpdate()).Scan(&version)
}

func raiseVersion(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE access_head SET version = version + 1 WHERE id = 1`)
	return err
}

// readRoles returns all roles that were made, retired ones too, by their bits.
func readRoles(ctx context.Context, q query) (all []roleRow, err error) {
	rows, err := q(ctx, `SELECT bit_number, name, label, retired_at, changed_by, changed_at FROM access_role ORDER BY bit_number`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r roleRow
		var retired, at int64
		if err := rows.Scan(&r.bit, &r.name, &r.label, &retired, &r.by, &at); err != nil {
			return nil, err
		}
		r.retired, r.at = timeOf(retired), timeOf(at)
		all = append(all, r)
	}
	return all, rows.Err()
}

func putRole(ctx context.Context, tx *db.Tx, d db.Dialect, r roleRow) error {
	_, err := tx.Exec(ctx, d.Upsert("access_role", []string{"bit_number"}, []string{"name", "label", "retired_at", "changed_by", "changed_at"},
		"bit_number", "name", "label", "retired_at", "changed_by", "changed_at"), r.bit, r.name, r.label, micros(r.retired), int64(r.by), micros(r.at))
	return err
}

// readResources returns all resources that there are or were, by name.
func readResources(ctx context.Context, q query) (all []resourceRow, err error) {
	rows, err := q(ctx, `SELECT name, category, method, route, defaults, allowed, gone, changed_by, changed_at FROM access_resource ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r resourceRow
		var defaults, allowed, gone, at int64
		if err := rows.Scan(&r.name, &r.category, &r.method, &r.route, &defaults, &allowed, &gone, &r.by, &at); err != nil {
			return nil, err
		}
		r.defaults, r.allowed, r.gone, r.at = levee.Roles(defaults), levee.Roles(allowed), gone != 0, timeOf(at)
		all = append(all, r)
	}
	return all, rows.Err()
}

func putResource(ctx context.Context, tx *db.Tx, d db.Dialect, r resourceRow) error {
	gone := 0
	if r.gone {
		gone = 1
	}
	set := []string{"category", "method", "route", "defaults", "allowed", "gone", "changed_by", "changed_at"}
	_, err := tx.Exec(ctx, d.Upsert("access_resource", []string{"name"}, set, append([]string{"name"}, set...)...),
		r.name, r.category, r.method, r.route, int64(r.defaults), int64(r.allowed), gone, int64(r.by), micros(r.at))
	return err
}
