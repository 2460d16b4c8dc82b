package web

import (
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// linkOperations says in the document where an answer leads: from what makes a thing to the operations on it. A thing is known by the field
// that is called like the path's parameter, or else by its id.
func (s *Server) linkOperations() {
	for _, from := range s.routes {
		if from.Method != http.MethodPost || from.Hidden || from.op == nil {
			continue
		}
		resp := from.op.Responses["201"]
		if resp == nil || resp.Content["application/json"] == nil {
			continue
		}
		made := resp.Content["application/json"].Schema
		if made != nil && made.Ref != "" {
			made = s.api.OpenAPI().Components.Schemas.SchemaFromRef(made.Ref)
		}
		if made == nil {
			continue
		}
		for _, to := range s.routes {
			rest, under := strings.CutPrefix(to.Path, from.Path+"/{")
			param, rest, _ := strings.Cut(rest, "}")
			if !under || to.Hidden || strings.Contains(from.Path, "{") || strings.Contains(rest, "{") {
				continue
			}
			field := param
			if made.Properties[field] == nil {
				field = "id"
			}
			if made.Properties[field] == nil {
				continue
			}
			if resp.Links == nil {
				resp.Links = map[string]*huma.Link{}
			}
			resp.Links[to.ID] = &huma.Link{OperationID: to.ID, Parameters: map[string]any{param: "$response.body#/" + field}}
		}
	}
}
