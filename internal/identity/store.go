package identity

import (
	"context"
	"embed"
	"errors"
	"strings"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
	"levee/internal/platform/permit"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables identity_*.
func Schema() db.Schema { return db.Schema{Owner: "identity", FS: schemaFS} }

// queryRow is QueryRow of a *db.DB or of a *db.Tx.
type queryRow func(ctx context.Context, query string, args ...any) *db.Row

// query is Query of a *db.DB or of a *db.Tx.
type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// credentialPassword is the kind of a credential that is an argon2id hash.
const credentialPassword = 1

// userRow is an account with its password's hash, "" when it has none.
type userRow struct {
	User
	hash string
}

const userColumns = `u.id, u.name, u.phone, u.roles, u.disabled, u.disabled_reason, u.version, u.created_at, u.updated_at`

func scanUser(row interface{ Scan(...any) error }, more ...any) (User, error) {
	var u User
	var phone db.NullString
	var disabled int
	var roles, created, updated int64
	err := row.Scan(append([]any{&u.ID, &u.Name, &phone, &roles, &disabled, &u.DisabledReason, &u.Version, &created, &updated}, more...)...)
	u.Phone, u.Roles, u.Disabled = phone.String, levee.Roles(roles), disabled != 0
	u.CreatedAt, u.UpdatedAt = at(created), at(updated)
	return u, err
}

// at turns microseconds of SQL into a time.
func at(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

// orNull turns "" into NULL, which is what the unique columns hold for "none".
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

const userByID = `SELECT ` + userColumns + `, COALESCE(c.hash, '') FROM identity_user u
	LEFT JOIN identity_credential c ON c.user_id = u.id AND c.kind = 1 WHERE u.id = ?`

// readUser returns the account, or CodeNotFound.
func readUser(ctx context.Context, q queryRow, id levee.UserID) (userRow, error) {
	return oneUser(q(ctx, userByID, int64(id)))
}

// readUserByLogin returns the account with this folded name, or with this phone number when the name is empty; CodeNotFound
// when there is none.
func readUserByLogin(ctx context.Context, q queryRow, key, phone string) (userRow, error) {
	if key != "" {
		return oneUser(q(ctx, `SELECT `+userColumns+`, COALESCE(c.hash, '') FROM identity_user u
			LEFT JOIN identity_credential c ON c.user_id = u.id AND c.kind = 1 WHERE u.name_key = ?`, key))
	}
	return oneUser(q(ctx, `SELECT `+userColumns+`, COALESCE(c.hash, '') FROM identity_user u
		LEFT JOIN identity_credential c ON c.user_id = u.id AND c.kind = 1 WHERE u.phone = ?`, phone))
}

func oneUser(row *db.Row) (userRow, error) {
	var hash string
	u, err := scanUser(row, &hash)
	if errors.Is(err, db.ErrNoRows) {
		return userRow{}, levee.E(levee.CodeNotFound, "there is no such user")
	}
	return userRow{User: u, hash: hash}, err
}

// insertUser stores a new account with its password's hash. A name or phone number that is taken is CodeConflict. It does not look
// for them first: that would lock the gaps into which all who sign up at this moment write.
func insertUser(ctx context.Context, tx *db.Tx, u User, key, hash string) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_user
		(id, name, name_key, phone, roles, disabled, disabled_reason, version, created_at, updated_at)
		VALUES (?, ?, ?, ?, ?, 0, '', 1, ?, ?)`,
		int64(u.ID), u.Name, orNull(key), orNull(u.Phone), int64(u.Roles), u.CreatedAt.UnixMicro(), u.CreatedAt.UnixMicro())
	if db.IsUnique(err) {
		return whatIsTaken(ctx, tx, key)
	}
	if err != nil || hash == "" { // of a foreign issuer: it has no password
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO identity_credential (user_id, kind, hash, changed_at) VALUES (?, ?, ?, ?)`,
		int64(u.ID), credentialPassword, hash, u.CreatedAt.UnixMicro())
	return err
}

// whatIsTaken names what a unique index refused of a new account: the folded name, or else the phone number.
func whatIsTaken(ctx context.Context, tx *db.Tx, key string) error {
	if key == "" {
		return takenError("phone")
	}
	var id int64
	switch err := tx.QueryRow(ctx, `SELECT id FROM identity_user WHERE name_key = ?`, key).Scan(&id); {
	case err == nil:
		return takenError("name")
	case errors.Is(err, db.ErrNoRows):
		return takenError("phone")
	default:
		return err
	}
}

// readForeign returns the account of a foreign subject, or 0.
func readForeign(ctx context.Context, q queryRow, issuer, subject string) (id levee.UserID, err error) {
	err = q(ctx, `SELECT user_id FROM identity_foreign WHERE issuer = ? AND subject = ?`, issuer, subject).Scan(&id)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return id, err
}

// readForeignSubject returns the subject of an account, or "".
func readForeignSubject(ctx context.Context, q queryRow, issuer string, id levee.UserID) (subject string, err error) {
	err = q(ctx, `SELECT subject FROM identity_foreign WHERE user_id = ? AND issuer = ?`, int64(id), issuer).Scan(&subject)
	if errors.Is(err, db.ErrNoRows) {
		return "", nil
	}
	return subject, err
}

func insertForeign(ctx context.Context, tx *db.Tx, issuer, subject string, u User) error {
	_, err := tx.Exec(ctx, `INSERT INTO identity_foreign (issuer, subject, user_id, created_at) VALUES (?, ?, ?, ?)`,
		issuer, subject, int64(u.ID), u.CreatedAt.UnixMicro())
	return err
}

func takenError(field string) error {
	e := levee.E(levee.CodeConflict, "this %s is taken", field)
	e.Fields = []levee.Field{{Field: field, Allowed: "one that nobody has"}}
	return e
}

// updateUser stores roles and disabled of u, if it is still at u.Version, and raises the version.
func updateUser(ctx context.Context, tx *db.Tx, u *User, now time.Time) error {
	disabled := 0
	if u.Disabled {
		disabled = 1
	}
	r, err := tx.Exec(ctx, `UPDATE identity_user SET roles = ?, disabled = ?, disabled_reason = ?, version = version + 1, updated_at = ?
		WHERE id = ? AND version = ?`, int64(u.Roles), disabled, u.DisabledReason, now.UnixMicro(), int64(u.ID), u.Version)
	return raised(r, err, u, now)
}

// updateHandles stores the name and the phone number of u, if it is still at u.Version, and raises the version.
func updateHandles(ctx context.Context, tx *db.Tx, u *User, now time.Time) error {
	r, err := tx.Exec(ctx, `UPDATE identity_user SET name = ?, name_key = ?, phone = ?, version = version + 1, updated_at = ? WHERE id = ? AND version = ?`,
		u.Name, orNull(handle.Fold(u.Name)), orNull(u.Phone), now.UnixMicro(), int64(u.ID), u.Version)
	if db.IsUnique(err) {
		return levee.E(levee.CodeConflict, "this name or phone number is taken")
	}
	return raised(r, err, u, now)
}

// raised sees to it that an update of one version of u was one, and raises the version.
func raised(r db.Result, err error, u *User, now time.Time) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return errors.Join(levee.E(levee.CodeConflict, "the account was changed at the same time, try again"), err)
	}
	u.Version++
	u.UpdatedAt = at(now.UnixMicro())
	return nil
}

// updatePassword replaces the hash, if it is still the old one, and reports whether it was.
func updatePassword(ctx context.Context, tx *db.Tx, id levee.UserID, old, hash string, now time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE identity_credential SET hash = ?, changed_at = ? WHERE user_id = ? AND kind = ? AND hash = ?`,
		hash, now.UnixMicro(), int64(id), credentialPassword, old)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// rolesWith lists the sets of roles in use that have any of the given ones, so that a search by role can use an index. It takes one look at
// the index per set in use.
func rolesWith(ctx context.Context, q query, wanted levee.Roles) (sets []any, err error) {
	for last := int64(-1); ; {
		next, err := scanIDs(q(ctx, `SELECT roles FROM identity_user WHERE roles > ? ORDER BY roles LIMIT 1`, last))
		if err != nil || len(next) == 0 {
			return sets, err
		}
		if last = next[0]; levee.Roles(last).Has(wanted) {
			sets = append(sets, last)
		}
	}
}

// places returns n question marks with commas.
func places(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// holders returns how many accounts have any of the roles, up to two; those that are disabled only when they are asked for too.
func holders(ctx context.Context, q query, roles levee.Roles, disabledToo bool) (n int, err error) {
	sets, err := rolesWith(ctx, q, roles)
	if err != nil || len(sets) == 0 {
		return 0, err
	}
	open := "disabled = 0 AND "
	if disabledToo {
		open = ""
	}
	ids, err := scanIDs(q(ctx, `SELECT id FROM identity_user WHERE `+open+`roles IN (`+places(len(sets))+`) LIMIT 2`, sets...))
	return len(ids), err
}

// countAdministrators returns how many accounts can administrate, up to two.
func countAdministrators(ctx context.Context, q query) (n int, err error) {
	return holders(ctx, q, levee.RoleAdministrator, false)
}

// scanIDs reads the one column of all rows.
func scanIDs(rows *db.Rows, err error) ([]int64, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func userList(sealer *id.Sealer, permits *permit.Table, country string) *listing.List[userView] {
	return listing.New[userView](listing.Spec{Name: "users", Open: sealer.Open, ScanMost: 20_000, Export: true,
		Fields: []listing.Field{
			{Name: "id", Type: listing.ID, Kind: levee.KindUser, Column: "u.id", Doc: "Public id, usr_…"},
			{Name: "name", Is: nameBegins, Fold: handle.Fold, Doc: "How the name begins, without case"},
			{Name: "phone", Column: "u.phone", Nullable: true, Doc: "The whole number",
				Read: func(field, text string) (any, error) { return handle.ParsePhone(field, text, country) }},
			{Name: "role", Scans: true, Is: hasRole, Doc: "Has this role, perhaps among others", Read: func(field, text string) (any, error) {
				role, ok := permits.Role(text)
				if !ok {
					return nil, levee.Invalid(field, "one of "+strings.Join(permits.Names(permits.Known()), ", "), text)
				}
				return int64(role), nil
			}},
			{Name: "disabled", Type: listing.Bool, Column: "u.disabled", Scans: true, Doc: "Whether it is shut"},
			{Name: "created_at", Type: listing.Time, Column: "u.created_at", Scans: true, Doc: "When it was made"},
			{Name: "updated_at", Type: listing.Time, Column: "u.updated_at", Scans: true, Doc: "When it last changed"},
		},
		Search: []string{"u.name_key"}, Fold: handle.Fold,
		Keys: []listing.Key{{Name: "id", Column: "u.id"}, {Name: "updated_at", Column: "u.updated_at"}}, Order: "-id", Unique: "id"})
}

func nameBegins(prefix any) (string, []any) {
	return "u.name_key >= ? AND u.name_key < ?", []any{prefix, prefix.(string) + "\U0010FFFF"} //nolint:errcheck // a text field
}

func hasRole(role any) (string, []any) { return "u.roles & ? <> 0", []any{role} }

func listUsers(ctx context.Context, q query, asked *listing.Query) (*listing.Found[User], error) {
	return listing.Rows(ctx, listing.Reader(q), asked, userColumns, "identity_user u", func(row listing.Row) (User, error) { return scanUser(row) })
}

// changedUsers returns accounts that were changed after the given moment in microseconds (or in it, with a higher id), in that
// order, at most n. One that was only made is not among them.
func changedUsers(ctx context.Context, q query, at, after int64, n int) ([]User, error) {
	return scanUsers(q(ctx, `SELECT `+userColumns+` FROM identity_user u WHERE u.updated_at >= ? AND (u.updated_at > ? OR u.id > ?)
		AND u.version > 1 ORDER BY u.updated_at, u.id LIMIT ?`, at, at, after, n))
}

func scanUsers(rows *db.Rows, err error) ([]User, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []User
	for rows.Next() {
		u, err := scanUser(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, rows.Err()
}
