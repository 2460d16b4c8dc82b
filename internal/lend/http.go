package lend

import (
	"net/http"
	"strings"

	"levee"
	"levee/internal/platform/web"
)

// Routes adds the room's operations to the server.
func (s *Service) Routes(srv *web.Server) {
	s.idRoutes(srv)
	s.lockRoutes(srv)
}

// Takes reports whether a request is for this room, which knows its callers by secrets of their own: what else it carries in Authorization
// is not for the house to judge.
func Takes(r *http.Request) bool {
	return r.URL.Path == "/v1/ids" || strings.HasPrefix(r.URL.Path, "/v1/ids/") || strings.HasPrefix(r.URL.Path, "/v1/locks/")
}

// caller returns the name of the program that asks, by Authorization: Bearer SECRET. CodeNotFound where nobody may; CodeUnauthenticated
// without a good secret.
func (s *Service) caller(r *http.Request) (name string, err error) {
	header := ""
	if headers := r.Header["Authorization"]; len(headers) == 1 {
		header = headers[0]
	}
	return s.callerBy(header)
}

// callerBy is caller for a header that was read already.
func (s *Service) callerBy(header string) (name string, err error) {
	if len(s.clients) == 0 {
		return "", levee.E(levee.CodeNotFound, "this house lends nothing to other programs: lend.clients names none")
	}
	scheme, secret, _ := strings.Cut(header, " ")
	if strings.EqualFold(scheme, "Bearer") {
		if name, ok := s.client(secret); ok {
			return name, nil
		}
	}
	return "", levee.E(levee.CodeUnauthenticated, "the Authorization header must be one: Bearer <the secret of a program that lend.clients names>")
}
