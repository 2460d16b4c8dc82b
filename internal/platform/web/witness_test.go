package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"levee"
	"levee/internal/platform/obs"
)

// The witness hears of what nobody told: of each refusal of somebody who is signed in, and of each success that only staff can have.
func TestTheWitness(t *testing.T) {
	var heard []Outcome
	var by []levee.UserID
	s, err := New(Config{}, Parts{Obs: obs.Test(t), Authenticate: testAuthenticate, Witness: func(ctx context.Context, o Outcome) {
		heard, by = append(heard, o), append(by, levee.ActorFrom(ctx).User)
	}})
	if err != nil {
		t.Fatal(err)
	}
	type path struct {
		ID string `path:"id" maxLength:"64"`
	}
	var fail error
	add := func(method, id string, roles levee.Roles, reads, tells bool) {
		Add(s, Route{Method: method, Path: "/" + id + "/{id}", ID: id, Summary: id, Tag: "test", Roles: roles, Reads: reads, Status: 204},
			func(ctx context.Context, _ *path) (*struct{}, error) {
				if tells {
					Told(ctx)
				}
				return nil, fail
			})
	}
	add("POST", "act", levee.RoleOperator, false, false)
	add("POST", "told", levee.RoleOperator, false, true)
	add("POST", "check", levee.RoleOperator, true, false)
	add("GET", "look", levee.RoleOperator, false, false)
	add("POST", "buy", levee.RoleOperator|levee.RoleCustomer, false, false)
	add("POST", "anybody", 0, false, false)
	h := s.Handler()
	for _, c := range []struct {
		method, path, token string
		fail                error
		status              int
		want                *Outcome
	}{
		{"POST", "/act/ord_1", "operator", nil, 204, &Outcome{Route: "act", Subject: "ord_1"}},
		{"POST", "/act/name", "operator", nil, 204, &Outcome{Route: "act"}},
		{"POST", "/act/ord_1", "operator", levee.E(levee.CodeConflict, "no"), 409, nil},
		{"POST", "/act/ord_1", "buyer", nil, 403, &Outcome{Route: "act", Refused: true, Subject: "ord_1"}},
		{"POST", "/act/ord_1", "", nil, 401, nil},
		{"POST", "/told/ord_1", "operator", nil, 204, nil},
		{"POST", "/check/ord_1", "operator", nil, 204, nil},
		{"GET", "/look/ord_1", "operator", nil, 204, nil},
		{"GET", "/look/ord_1", "buyer", nil, 403, &Outcome{Route: "look", Refused: true, Subject: "ord_1"}},
		{"POST", "/buy/ord_1", "operator", nil, 204, nil},
		{"POST", "/buy/ord_1", "buyer", levee.E(levee.CodeForbidden, "not yours"), 403, &Outcome{Route: "buy", Refused: true, Subject: "ord_1"}},
		{"POST", "/anybody/ord_1", "operator", nil, 204, nil},
	} {
		heard, by, fail = nil, nil, c.fail
		r := httptest.NewRequest(c.method, c.path, http.NoBody)
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var want []Outcome
		if c.want != nil {
			want = []Outcome{*c.want}
		}
		if w.Code != c.status || !slices.Equal(heard, want) || c.want != nil && by[0] != tokens[c.token].User {
			t.Errorf("%s %s by %q: %d, and the witness heard %+v of %v, want %d and %+v", c.method, c.path, c.token, w.Code, heard, by, c.status, want)
		}
	}
}
