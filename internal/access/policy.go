package access

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/permit"
)

// The bounds of a policy.
const (
	MaxPolicyBytes = 1 << 20
	maxPolicyLines = 10_000
	maxFaults      = 100 // more are counted, not shown
)

// Grant is a resource that a role is allowed.
type Grant struct{ Role, Resource string }

// Given is a role that an account gets.
type Given struct {
	User identity.User
	Role string
}

// Fault is a line of a policy that cannot be taken over, and why.
type Fault struct {
	Line    int
	Message string
}

// Import is what a policy changes, or would.
type Import struct {
	// Roles are made, Grants added, Given given; Known is how many grants of the policy stood already.
	Roles  []string
	Grants []Grant
	Given  []Given
	Known  int
	// Faults are the first of the lines that cannot be taken over, FaultCount how many there are. With any, nothing is done.
	Faults     []Fault
	FaultCount int
}

func (p *Import) fault(line int, format string, args ...any) {
	p.FaultCount++
	if len(p.Faults) < maxFaults {
		p.Faults = append(p.Faults, Fault{line, fmt.Sprintf(format, args...)})
	}
}

// rule is a line of a policy: p, role, path, method or g, member, role.
type rule struct {
	line   int
	kind   string
	fields []string
}

// ImportPolicy takes over a policy file of Casbin: lines "p, role, path, method", whose path may hold :names and end in /* as keyMatch2 reads
// them (github.com/casbin/casbin, util/builtin_operators.go), and "g, member, role", whose member is an account's name or public id, or a role
// that may then what the other may. Roles that are not there are made. It only adds: what roles may already stays. All of it is done, or with a
// fault in any line nothing; with dry nothing is done in any case. Each grant and each account is judged as if it were changed alone:
// CodeForbidden for what would give more than the actor has. CodeTooLarge above MaxPolicyBytes, CodeInvalid above 10,000 lines.
func (s *Service) ImportPolicy(ctx context.Context, text string, dry bool, from identity.Origin) (p Import, err error) {
	defer levee.Wrap(&err, "access.ImportPolicy(%d bytes)", len(text))
	if len(text) > MaxPolicyBytes {
		return p, levee.E(levee.CodeTooLarge, "a policy may have at most %d bytes, got %d", MaxPolicyBytes, len(text))
	}
	if n := strings.Count(text, "\n") + 1; n > maxPolicyLines {
		return p, levee.Invalid("policy", fmt.Sprintf("at most %d lines", maxPolicyLines), n)
	}
	err = s.change(ctx, func(w *world) error {
		p = Import{Roles: []string{}, Grants: []Grant{}, Given: []Given{}, Faults: []Fault{}}
		wanted, members := w.read(text, &p)
		if err := w.plan(wanted, members, &p); err != nil {
			return err
		}
		if dry || p.FaultCount > 0 {
			return errOnlyLooked
		}
		return w.carryOut(p, from)
	})
	if errors.Is(err, errOnlyLooked) {
		err = nil
	}
	return p, err
}

// errOnlyLooked undoes the transaction of an import that is to change nothing.
var errOnlyLooked = levee.E(levee.CodeConflict, "nothing is to be changed")

// read collects what each role is to be allowed, and who is to have which role. Roles that get what others have are worked out.
func (w *world) read(text string, p *Import) (wanted map[string]map[string]bool, members []rule) {
	wanted = map[string]map[string]bool{}
	var groups []rule
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		in := csv.NewReader(strings.NewReader(line))
		in.TrimLeadingSpace, in.FieldsPerRecord = true, -1
		fields, err := in.Read()
		if err != nil {
			p.fault(i+1, "this is no line of comma-separated fields")
			continue
		}
		for k := range fields {
			fields[k] = strings.TrimSpace(fields[k])
		}
		r := rule{i + 1, fields[0], fields[1:]}
		switch {
		case r.kind == "p" && (len(r.fields) == 3 || len(r.fields) == 4):
			w.readGrant(r, wanted, p)
		case r.kind == "g" && len(r.fields) == 2:
			groups = append(groups, r)
		default:
			p.fault(r.line, "must be p, role, path, method or g, member, role; got %s", levee.Shorten(line, 60))
		}
	}
	return wanted, w.inherit(groups, wanted, p)
}

func (w *world) readGrant(r rule, wanted map[string]map[string]bool, p *Import) {
	role := r.fields[0]
	if err := checkName(role); err != nil {
		p.fault(r.line, "a role's name must be %s; got %s", nameAllowed, levee.Shorten(role, 40))
		return
	}
	if len(r.fields) == 4 && r.fields[3] != "allow" {
		p.fault(r.line, "the effect must be allow; got %s: what nobody allows is refused, so there is nothing to deny", levee.Shorten(r.fields[3], 20))
		return
	}
	pattern, err := pathPattern(r.fields[1])
	if err != nil {
		p.fault(r.line, "%s", err)
		return
	}
	methods, err := methodsOf(r.fields[2])
	if err != nil {
		p.fault(r.line, "%s", err)
		return
	}
	any := false
	for _, res := range w.s.Permits.Resources() {
		if res.Method == "" || !pattern.MatchString(sample(res.Route)) || (methods != nil && !slices.Contains(methods, res.Method)) {
			continue
		}
		if any = true; wanted[role] == nil {
			wanted[role] = map[string]bool{}
		}
		if !res.Open {
			wanted[role][res.Name] = true
		}
	}
	if !any {
		p.fault(r.line, "no operation is %s %s", levee.Shorten(r.fields[2], 40), levee.Shorten(r.fields[1], 80))
	}
}

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// sample is a path of a route, with parameters that no pattern can spell out: only a :name or a * takes them.
func sample(route string) string { return parameter.ReplaceAllString(route, "\x00") }

var colonName = regexp.MustCompile(`^:[^/]+$`)

// pathPattern reads a path with :names and a /* at the end or in the middle.
func pathPattern(path string) (*regexp.Regexp, error) {
	if path == "*" {
		path = "/*"
	}
	if !strings.HasPrefix(path, "/") || len(path) > 190 {
		return nil, fmt.Errorf("a path must begin with a slash and have at most 190 bytes; got %s", levee.Shorten(path, 40))
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for part := range strings.SplitSeq(path[1:], "/") {
		switch {
		case part == "*":
			b.WriteString(`/.*`)
		case colonName.MatchString(part):
			b.WriteString(`/[^/]+`)
		case strings.ContainsAny(part, "*:()[]{}|+?^$\\\x00"):
			return nil, fmt.Errorf("in a path each piece must be plain text, :name or *; got %s", levee.Shorten(part, 40))
		default:
			b.WriteString(`/` + regexp.QuoteMeta(part))
		}
	}
	b.WriteString(`$`)
	return regexp.Compile(b.String())
}

var knownMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}

// methodsOf reads GET, GET|POST, (GET)|(POST), * or .*; nil are all of them.
func methodsOf(text string) ([]string, error) {
	if text == "*" || text == ".*" {
		return nil, nil
	}
	var all []string
	for m := range strings.SplitSeq(text, "|") {
		m = strings.ToUpper(strings.TrimSpace(m))
		if strings.HasPrefix(m, "(") && strings.HasSuffix(m, ")") {
			m = m[1 : len(m)-1]
		}
		if !slices.Contains(knownMethods, m) {
			return nil, fmt.Errorf("a method must be one of %s, several with |, or *; got %s", strings.Join(knownMethods, ", "), levee.Shorten(text, 40))
		}
		all = append(all, m)
	}
	return all, nil
}

// inherit gives roles what the roles that they are members of are wanted to have and have, and returns the lines whose members are accounts.
func (w *world) inherit(groups []rule, wanted map[string]map[string]bool, p *Import) (members []rule) {
	// A role is there, is allowed something, or has members and is itself a member of a role.
	derived, right := map[string]bool{}, map[string]bool{}
	isRole := func(name string) bool {
		_, there := w.role(name)
		return there || wanted[name] != nil || derived[name]
	}
	for _, g := range groups {
		right[g.fields[1]] = true
	}
	for more := true; more; {
		more = false
		for _, g := range groups {
			if member := g.fields[0]; right[member] && !isRole(member) && isRole(g.fields[1]) {
				derived[member], more = true, true
			}
		}
	}
	parents := map[string][]string{}
	for _, g := range groups {
		member, role := g.fields[0], g.fields[1]
		switch {
		case !isRole(role):
			p.fault(g.line, "there is no role %s, and no line allows it anything", levee.Shorten(role, 40))
		case isRole(member):
			if err := checkName(member); err != nil {
				p.fault(g.line, "a role's name must be %s; got %s", nameAllowed, levee.Shorten(member, 40))
				continue
			}
			parents[member] = append(parents[member], role)
		default:
			members = append(members, g)
		}
	}
	for _, child := range slices.Sorted(maps.Keys(parents)) {
		seen, queue := map[string]bool{child: true}, slices.Clone(parents[child])
		if wanted[child] == nil {
			wanted[child] = map[string]bool{}
		}
		for len(queue) > 0 {
			role := queue[0]
			queue = queue[1:]
			if seen[role] {
				continue // also round a ring
			}
			seen[role] = true
			queue = append(queue, parents[role]...)
			for name := range wanted[role] {
				wanted[child][name] = true
			}
			if set, there := w.role(role); there {
				for name, r := range w.resources {
					if res, _, known := w.s.Permits.Find(name); known && !res.Open && r.allowed.Has(set) {
						wanted[child][name] = true
					}
				}
			}
		}
	}
	return members
}

// plan compares what is wanted with what is there.
func (w *world) plan(wanted map[string]map[string]bool, members []rule, p *Import) error {
	for _, role := range slices.Sorted(maps.Keys(wanted)) {
		set, there := w.role(role)
		if !there {
			p.Roles = append(p.Roles, role)
		}
		for _, name := range slices.Sorted(maps.Keys(wanted[role])) {
			if there && w.resources[name].allowed.Has(set) {
				p.Known++
				continue
			}
			p.Grants = append(p.Grants, Grant{role, name})
		}
	}
	given := map[Given]bool{}
	for _, g := range members {
		id, err := w.s.Sealer.Open(levee.KindUser, g.fields[0])
		if err != nil {
			id = 0
		}
		u, err := w.s.Identity.FindTx(w.ctx, w.tx, levee.UserID(id), g.fields[0])
		if levee.CodeOf(err) == levee.CodeNotFound {
			p.fault(g.line, "there is no account and no role %s", levee.Shorten(g.fields[0], 40))
			continue
		} else if err != nil {
			return err
		}
		set, there := w.role(g.fields[1])
		if v := (Given{u, g.fields[1]}); !given[v] && !(there && u.Roles.Has(set)) {
			given[v] = true
			p.Given = append(p.Given, v)
		}
	}
	if n := len(p.Roles) + len(w.roles) + len(levee.ReadyRoles.Names()); n > permit.MaxRoles {
		room := 0
		for _, r := range w.roles {
			if !r.retired.IsZero() && r.retired.Add(forgetAfter).Before(w.now) {
				room++
			}
		}
		if n-room > permit.MaxRoles {
			p.fault(0, "there can be %d roles; with those of the policy there would be more", permit.MaxRoles)
		}
	}
	return nil
}

func (w *world) carryOut(p Import, from identity.Origin) error {
	for _, name := range p.Roles {
		if _, err := w.create(name, ""); err != nil {
			return err
		}
	}
	add := map[string]levee.Roles{}
	for _, g := range p.Grants {
		set, _ := w.role(g.Role)
		add[g.Resource] |= set
	}
	for _, name := range slices.Sorted(maps.Keys(add)) {
		if err := w.allow(name, w.resources[name].allowed|add[name]); err != nil {
			return err
		}
	}
	// Somebody may get several: his row is written once, with all of them.
	roles, users := map[levee.UserID]levee.Roles{}, []levee.UserID{}
	for _, g := range p.Given {
		if _, there := roles[g.User.ID]; !there {
			roles[g.User.ID] = g.User.Roles
			users = append(users, g.User.ID)
		}
		set, _ := w.role(g.Role)
		roles[g.User.ID] |= set
	}
	slices.Sort(users)
	for _, id := range users {
		if err := w.mayGive(roles[id]); err != nil {
			return err
		}
		if _, err := w.s.Identity.SetRolesTx(w.ctx, w.tx, id, roles[id], from); err != nil {
			return err
		}
	}
	return nil
}

// mayGive is nil when the actor may all that the roles may in this transaction. Identity goes by the table, which does not have it yet.
func (w *world) mayGive(roles levee.Roles) error {
	for name, r := range w.resources {
		if r.allowed.Has(roles) && !r.gone && !w.actor.Roles.Has(r.allowed) {
			return levee.E(levee.CodeForbidden, "you cannot give %s: it has %s, and you do not", strings.Join(w.names(roles), " with "), name)
		}
	}
	return nil
}
