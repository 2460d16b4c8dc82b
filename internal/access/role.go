package access

import (
	"context"
	"fmt"
	"math/bits"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/permit"
)

// forgetAfter is how long a retired role's bit rests before another role may have it: longer than any node goes by what it knew of an account.
const forgetAfter = time.Minute

// maxLabel bounds what a role is called on pages, in characters.
const maxLabel = 60

var roleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,39}$`)

// nameAllowed is what roleName says, in words. Names by number are what a role that is gone is called.
const nameAllowed = "1 to 40 of a-z, A-Z, 0-9, '_', '.', ':' and '-', beginning with a letter or digit, not role_ and a number"

var numbered = regexp.MustCompile(`(?i)^role_[0-9]+$`)

// Role is a set of permissions that accounts can have.
type Role struct {
	Name, Label string
	// Ready roles are the program's: they cannot be renamed or removed. Their label is "".
	Ready bool
	// By and At say who made or last changed it; zero for a ready one.
	By levee.UserID
	At time.Time
}

func (r roleRow) role() Role { return Role{Name: r.name, Label: r.label, By: r.by, At: r.at} }

// Roles lists the roles: the ready ones, then those that were made. CodeUnavailable when SQL is away.
func (s *Service) Roles(ctx context.Context) (all []Role, err error) {
	defer levee.Wrap(&err, "access.Roles")
	for _, n := range levee.ReadyRoles.Names() {
		all = append(all, Role{Name: n, Ready: true})
	}
	rows, err := readRoles(db.Primary(ctx), s.DB.Query)
	for _, r := range rows {
		if r.retired.IsZero() {
			all = append(all, r.role())
		}
	}
	return all, err
}

// auditedRole is what the trail says of a role.
type auditedRole struct {
	Role  string `json:"role"`
	Label string `json:"label"`
}

// CreateRole makes a role that may nothing yet. CodeInvalid names the field that is not allowed; CodeConflict for a name that is taken, in any
// case of letters, and when there are as many roles as there can be.
func (s *Service) CreateRole(ctx context.Context, name, label string) (r Role, err error) {
	defer levee.Wrap(&err, "access.CreateRole(%s)", levee.Shorten(name, 40))
	if label, err = checkLabel(label); err != nil {
		return Role{}, err
	}
	err = s.change(ctx, func(w *world) error {
		row, err := w.create(name, label)
		r = row.role()
		return err
	})
	return r, err
}

func checkName(name string) error {
	if !roleName.MatchString(name) || numbered.MatchString(name) {
		return levee.Invalid("name", nameAllowed, name)
	}
	return nil
}

func checkLabel(label string) (string, error) {
	label = strings.TrimSpace(label)
	if utf8.RuneCountInString(label) > maxLabel || !utf8.ValidString(label) || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' }) {
		return "", levee.Invalid("label", fmt.Sprintf("at most %d characters on one line", maxLabel), label)
	}
	return label, nil
}

func (w *world) create(name, label string) (roleRow, error) {
	if err := checkName(name); err != nil {
		return roleRow{}, err
	}
	taken := map[int]bool{}
	resting := -1 // the bit that rests longest and may be had again
	var since time.Time
	for _, n := range levee.ReadyRoles.Names() {
		if strings.EqualFold(n, name) {
			return roleRow{}, levee.E(levee.CodeConflict, "there is a role %q", n)
		}
	}
	for _, r := range w.roles {
		taken[r.bit] = true
		if r.retired.IsZero() && strings.EqualFold(r.name, name) {
			return roleRow{}, levee.E(levee.CodeConflict, "there is a role %q", r.name)
		}
		if !r.retired.IsZero() && r.retired.Add(forgetAfter).Before(w.now) && (resting < 0 || r.retired.Before(since)) {
			held, err := w.s.Identity.HeldTx(w.ctx, w.tx, 1<<r.bit)
			if err != nil {
				return roleRow{}, err
			}
			if !held {
				resting, since = r.bit, r.retired
			}
		}
	}
	bit := bits.Len32(uint32(levee.ReadyRoles))
	for taken[bit] {
		bit++
	}
	if bit >= permit.MaxRoles {
		if bit = resting; bit < 0 {
			return roleRow{}, levee.E(levee.CodeConflict, "there can be %d roles, and there are; one that was removed makes room after a minute", permit.MaxRoles)
		}
	}
	r := roleRow{bit: bit, name: name, label: label, by: w.actor.User, at: w.now}
	if err := putRole(w.ctx, w.tx, w.s.DB.Dialect(), r); err != nil {
		return r, err
	}
	w.put(r)
	return r, w.s.Audit(w.ctx, w.tx, "access.role_created", "", nil, auditedRole{name, label})
}

// put replaces the role of the bit among w.roles, or adds it.
func (w *world) put(r roleRow) {
	for i := range w.roles {
		if w.roles[i].bit == r.bit {
			w.roles[i] = r
			return
		}
	}
	w.roles = append(w.roles, r)
}

// made finds a role that was made; CodeNotFound, and CodeConflict for a ready one.
func (w *world) made(name string) (roleRow, error) {
	for _, r := range w.roles {
		if r.retired.IsZero() && r.name == name {
			return r, nil
		}
	}
	if _, ready := w.role(name); ready {
		return roleRow{}, levee.E(levee.CodeConflict, "%s is one of the ready roles: it stays as it is", name)
	}
	return roleRow{}, levee.E(levee.CodeNotFound, "there is no role %q", levee.Shorten(name, 40))
}

// LabelRole gives a role another label. CodeNotFound, CodeConflict for a ready role, CodeInvalid.
func (s *Service) LabelRole(ctx context.Context, name, label string) (r Role, err error) {
	defer levee.Wrap(&err, "access.LabelRole(%s)", levee.Shorten(name, 40))
	if label, err = checkLabel(label); err != nil {
		return Role{}, err
	}
	err = s.change(ctx, func(w *world) error {
		row, err := w.made(name)
		if err != nil || row.label == label {
			r = row.role()
			return err
		}
		before := auditedRole{name, row.label}
		row.label, row.by, row.at = label, w.actor.User, w.now
		r = row.role()
		if err := putRole(w.ctx, w.tx, s.DB.Dialect(), row); err != nil {
			return err
		}
		return s.Audit(w.ctx, w.tx, "access.role_changed", "", before, auditedRole{name, label})
	})
	return r, err
}

// RemoveRole removes a role that no account has; its grants go with it. CodeNotFound, CodeConflict for a ready role and while an account has it.
func (s *Service) RemoveRole(ctx context.Context, name string) (err error) {
	defer levee.Wrap(&err, "access.RemoveRole(%s)", levee.Shorten(name, 40))
	return s.change(ctx, func(w *world) error {
		row, err := w.made(name)
		if err != nil {
			return err
		}
		role := levee.Roles(1) << row.bit
		if held, err := s.Identity.HeldTx(w.ctx, w.tx, role); err != nil {
			return err
		} else if held {
			return levee.E(levee.CodeConflict, "there are accounts that have the role %s: take it from them first", name)
		}
		for _, r := range w.resources {
			if r.allowed.Has(role) {
				r.allowed &^= role
				if err := putResource(w.ctx, w.tx, s.DB.Dialect(), r); err != nil {
					return err
				}
			}
		}
		row.retired, row.by, row.at = w.now, w.actor.User, w.now
		if err := putRole(w.ctx, w.tx, s.DB.Dialect(), row); err != nil {
			return err
		}
		return s.Audit(w.ctx, w.tx, "access.role_removed", "", auditedRole{name, row.label}, nil)
	})
}
