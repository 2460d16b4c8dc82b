package access

import (
	"context"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

// Routes adds the room's operations. Warm goes by all routes of srv: it comes after those of all rooms.
func (s *Service) Routes(srv *web.Server) {
	s.srv = srv
	add := func(method, path, id, summary string, status int, errs ...int) web.Route {
		r := web.Route{Method: method, Path: path, ID: id, Tag: "access", Summary: summary, Status: status, Roles: levee.RoleAdministrator,
			Limit: limit.Write, BodyMax: 16 << 10, Errors: errs}
		if method == "GET" {
			r.Limit = limit.Read
		} else {
			r.Fresh = true
		}
		return r
	}
	listing.Add(srv, add("GET", "/v1/roles", "listRoles", "The roles that accounts can have", 200), listing.New[roleView](listing.Spec{Name: "roles", Whole: true}), s.getRoles)
	web.Add(srv, add("POST", "/v1/roles", "createRole", "Make a role; it may nothing yet", 201, 409, 422), s.postRole)
	web.Add(srv, add("PATCH", "/v1/roles/{role}", "changeRole", "Give a role another label", 200, 404, 409, 422), s.patchRole)
	r := add("DELETE", "/v1/roles/{role}", "removeRole", "Remove a role that no account has", 204, 404, 409)
	r.Description = "409: it is a ready role, or there are accounts that have it."
	web.Add(srv, r, s.deleteRole)
	listing.Add(srv, add("GET", "/v1/resources", "listResources", "Operations and abilities, and which roles may", 200),
		listing.New[resourceView](listing.Spec{Name: "resources", Whole: true}), s.getResources)
	r = add("PUT", "/v1/resources/{name}/roles", "setGrants", "Let exactly these roles use a resource, at once and on all nodes", 200, 403, 404, 409, 422)
	r.Description = "403: it would give what you may not yourself. 409: the resource is for anybody, or administrators would lose it."
	web.Add(srv, r, s.putGrants)
	web.Add(srv, add("PUT", "/v1/resources/{name}/roles/{role}", "grant", "Let a role use a resource", 200, 403, 404, 409), s.putGrant)
	web.Add(srv, add("DELETE", "/v1/resources/{name}/roles/{role}", "revoke", "Let a role use a resource no more", 200, 404, 409), s.deleteGrant)
	r = add("GET", "/v1/users/{id}/permissions", "getUserPermissions", "What an account may beside what is for anybody", 200, 404)
	r.Others = levee.AccountsOfOthers
	web.Add(srv, r, s.getPermissions)
	web.Add(srv, add("GET", "/v1/access/explanation", "explainAccess", "Why somebody may do something, or why not", 200, 404, 422), s.getExplanation)
	r = add("POST", "/v1/access/policy-imports", "importPolicy", "Take over a policy file of Casbin", 200, 403, 413, 422)
	r.BodyMax = 2*MaxPolicyBytes + 1<<10 // as JSON it is longer
	r.Description = "Lines p, role, path, method and g, member, role. It only adds. With dry_run, or with a fault in any line, nothing is done."
	web.Add(srv, r, s.postPolicy)
}

type roleView struct {
	Name      string     `json:"name"`
	Label     string     `json:"label" doc:"What it is called on pages; empty for ready roles, whose names pages know"`
	Ready     bool       `json:"ready" doc:"Every house has it; it cannot be removed"`
	ChangedBy string     `json:"changed_by,omitempty"`
	ChangedAt *time.Time `json:"changed_at,omitempty"`
}

func (s *Service) viewRole(r Role) roleView {
	v := roleView{Name: r.Name, Label: r.Label, Ready: r.Ready}
	if !r.At.IsZero() {
		v.ChangedBy, v.ChangedAt = s.Sealer.Seal(levee.KindUser, int64(r.By)), &r.At
	}
	return v
}

func (s *Service) getRoles(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[roleView], error) {
	all, err := s.Roles(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]roleView, len(all))
	for i, r := range all {
		views[i] = s.viewRole(r)
	}
	return listing.Whole(views), nil
}

type roleRequest struct {
	Body struct {
		Name  string `json:"name" minLength:"1" maxLength:"40" doc:"Letters, digits, '_', '.', ':' and '-'"`
		Label string `json:"label,omitempty" maxLength:"60"`
	}
}

type roleAnswer struct{ Body roleView }

func (s *Service) postRole(ctx context.Context, in *roleRequest) (*roleAnswer, error) {
	return s.answerRole(s.CreateRole(ctx, in.Body.Name, in.Body.Label))
}

func (s *Service) answerRole(r Role, err error) (*roleAnswer, error) {
	if err != nil {
		return nil, problem.InBody(err)
	}
	return &roleAnswer{s.viewRole(r)}, nil
}

type rolePath struct {
	Role string `path:"role" maxLength:"40"`
}

type labelRequest struct {
	Role string `path:"role" maxLength:"40"`
	Body struct {
		Label string `json:"label" maxLength:"60"`
	}
}

func (s *Service) patchRole(ctx context.Context, in *labelRequest) (*roleAnswer, error) {
	return s.answerRole(s.LabelRole(ctx, in.Role, in.Body.Label))
}

func (s *Service) deleteRole(ctx context.Context, in *rolePath) (*struct{}, error) {
	return nil, s.RemoveRole(ctx, in.Role)
}

type resourceView struct {
	Name      string     `json:"name" doc:"The operation's name, or the ability's"`
	Category  string     `json:"category" enum:"product,order,marketing,permission,content,other"`
	Kind      string     `json:"kind" enum:"operation,ability"`
	Method    string     `json:"method,omitempty"`
	Route     string     `json:"route,omitempty"`
	Summary   string     `json:"summary,omitempty"`
	Others    string     `json:"others,omitempty" doc:"The ability that reaching things of other people takes besides"`
	Open      bool       `json:"open" doc:"For anybody, also for visitors: there is nothing to allow"`
	Gone      bool       `json:"gone" doc:"The program has it no more"`
	Roles     []string   `json:"roles" nullable:"false" doc:"Who may"`
	Default   []string   `json:"default_roles" nullable:"false" doc:"Who may when nobody changes it"`
	ChangedBy string     `json:"changed_by,omitempty"`
	ChangedAt *time.Time `json:"changed_at,omitempty"`
}

func (s *Service) viewResource(r Resource) resourceView {
	v := resourceView{Name: r.Name, Category: r.Category, Kind: "operation", Method: r.Method, Route: r.Route, Summary: r.Summary, Others: r.Others.String(),
		Open: r.Open, Gone: r.Gone, Roles: r.Roles, Default: r.DefaultRoles}
	if r.Method == "" {
		v.Kind = "ability"
	}
	if !r.At.IsZero() {
		v.ChangedBy, v.ChangedAt = s.Sealer.Seal(levee.KindUser, int64(r.By)), &r.At
	}
	return v
}

func (s *Service) getResources(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[resourceView], error) {
	all, err := s.Resources(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]resourceView, len(all))
	for i, r := range all {
		views[i] = s.viewResource(r)
	}
	return listing.Whole(views), nil
}

type grantsRequest struct {
	Name string `path:"name" maxLength:"190"`
	Body struct {
		Roles []string `json:"roles" maxItems:"32" nullable:"false" doc:"All roles that may from now on; administrator must be one of them"`
	}
}

type grantPath struct {
	Name string `path:"name" maxLength:"190"`
	Role string `path:"role" maxLength:"40"`
}

type resourceAnswer struct{ Body resourceView }

func (s *Service) putGrants(ctx context.Context, in *grantsRequest) (*resourceAnswer, error) {
	r, err := s.Allow(ctx, in.Name, in.Body.Roles)
	return s.answerResource(r, problem.InBody(err))
}

func (s *Service) putGrant(ctx context.Context, in *grantPath) (*resourceAnswer, error) {
	return s.answerResource(s.Grant(ctx, in.Name, in.Role, true))
}

func (s *Service) deleteGrant(ctx context.Context, in *grantPath) (*resourceAnswer, error) {
	return s.answerResource(s.Grant(ctx, in.Name, in.Role, false))
}

func (s *Service) answerResource(r Resource, err error) (*resourceAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &resourceAnswer{s.viewResource(r)}, nil
}

type userPath struct {
	ID string `path:"id" doc:"Public id, usr_…" maxLength:"64"`
}

type permissionsView struct {
	Body struct {
		User        string   `json:"user"`
		Disabled    bool     `json:"disabled" doc:"A disabled account may nothing"`
		Roles       []string `json:"roles" nullable:"false"`
		Permissions []string `json:"permissions" nullable:"false" doc:"Names of operations and abilities, beside what is for anybody"`
	}
}

func (s *Service) getPermissions(ctx context.Context, in *userPath) (*permissionsView, error) {
	id, err := s.Sealer.Open(levee.KindUser, in.ID)
	if err != nil {
		return nil, err
	}
	u, names, err := s.Permissions(ctx, levee.UserID(id))
	if err != nil {
		return nil, err
	}
	out := &permissionsView{}
	out.Body.User, out.Body.Disabled, out.Body.Roles, out.Body.Permissions = in.ID, u.Disabled, s.Permits.Names(u.Roles), names
	return out, nil
}

type explanationRequest struct {
	User     string `query:"user" required:"true" maxLength:"64" doc:"Public id, usr_…, or visitor"`
	Resource string `query:"resource" required:"true" maxLength:"190" doc:"The name of an operation or ability"`
}

type becauseView struct {
	Role   string `json:"role"`
	Allows bool   `json:"allows"`
}

type othersView struct {
	Ability string   `json:"ability"`
	Reaches bool     `json:"reaches" doc:"Whether he reaches things of other people too"`
	Roles   []string `json:"roles" nullable:"false" doc:"Who has the ability"`
}

type explanationView struct {
	Body struct {
		User     string        `json:"user"`
		Name     string        `json:"name,omitempty" doc:"What the account is called"`
		Resource string        `json:"resource"`
		Method   string        `json:"method,omitempty"`
		Route    string        `json:"route,omitempty"`
		Allowed  bool          `json:"allowed"`
		Open     bool          `json:"open" doc:"For anybody, also for visitors"`
		Roles    []becauseView `json:"roles" nullable:"false" doc:"Each role of the account, and whether it allows it"`
		Missing  string        `json:"missing,omitempty" enum:"account,enabled,role" doc:"What is missing: an account, that it is enabled, a role"`
		Enough   []string      `json:"enough" nullable:"false" doc:"Roles any one of which would do"`
		Others   *othersView   `json:"others,omitempty" doc:"Where it is about things that belong to somebody: his own he reaches always"`
	}
}

func (s *Service) getExplanation(ctx context.Context, in *explanationRequest) (*explanationView, error) {
	var user int64
	if in.User != "visitor" {
		var err error
		if user, err = s.Sealer.Open(levee.KindUser, in.User); err != nil {
			return nil, levee.Invalid("query.user", "a user's public id, or visitor", in.User)
		}
	}
	e, err := s.Explain(ctx, levee.UserID(user), in.Resource)
	if err != nil {
		return nil, err
	}
	out := &explanationView{}
	b := &out.Body
	b.User, b.Name, b.Resource, b.Method, b.Route = in.User, e.User.Name, e.Resource.Name, e.Resource.Method, e.Resource.Route
	b.Allowed, b.Open, b.Missing, b.Enough, b.Roles = e.Allowed, e.Resource.Open, e.Missing, e.Enough, []becauseView{}
	for _, r := range e.Roles {
		b.Roles = append(b.Roles, becauseView(r))
	}
	if x := e.Resource.Others; x != levee.NoAbility {
		b.Others = &othersView{x.String(), e.Others, e.OthersBy}
	}
	return out, nil
}

type policyRequest struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		Policy string `json:"policy" doc:"The file's text; at most 1 MiB and 10,000 lines"`
		DryRun bool   `json:"dry_run,omitempty" doc:"Only tell what it would change"`
	}
}

type grantView struct {
	Role     string `json:"role"`
	Resource string `json:"resource"`
}

type givenView struct {
	User string `json:"user"`
	Name string `json:"name,omitempty"`
	Role string `json:"role"`
}

type faultView struct {
	Line    int    `json:"line" doc:"From 1; 0 is about the whole"`
	Message string `json:"message"`
}

type importView struct {
	Body struct {
		Done       bool        `json:"done" doc:"Whether it was carried out"`
		Roles      []string    `json:"roles" nullable:"false" doc:"Roles that are made"`
		Grants     []grantView `json:"grants" nullable:"false" doc:"What roles are allowed besides"`
		Given      []givenView `json:"given" nullable:"false" doc:"Roles that accounts get"`
		Known      int         `json:"known" doc:"How many grants of the policy stood already"`
		Faults     []faultView `json:"faults" nullable:"false" doc:"The first 100 lines that cannot be taken over"`
		FaultCount int         `json:"fault_count"`
	}
}

func (s *Service) postPolicy(ctx context.Context, in *policyRequest) (*importView, error) {
	p, err := s.ImportPolicy(ctx, in.Body.Policy, in.Body.DryRun, identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, problem.InBody(err)
	}
	out := &importView{}
	b := &out.Body
	b.Done, b.Roles, b.Known, b.FaultCount = !in.Body.DryRun && p.FaultCount == 0, p.Roles, p.Known, p.FaultCount
	b.Grants, b.Given, b.Faults = []grantView{}, []givenView{}, []faultView{}
	for _, g := range p.Grants {
		b.Grants = append(b.Grants, grantView(g))
	}
	for _, g := range p.Given {
		b.Given = append(b.Given, givenView{s.Sealer.Seal(levee.KindUser, int64(g.User.ID)), g.User.Name, g.Role})
	}
	for _, f := range p.Faults {
		b.Faults = append(b.Faults, faultView(f))
	}
	return out, nil
}
