package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/patch"
)

// patchOperation documents one operation of a JSON patch.
type patchOperation struct {
	Op    string `json:"op" enum:"add,remove,replace,move,copy,test"`
	Path  string `json:"path" doc:"Where, as a JSON pointer (RFC 6901): /title"`
	From  string `json:"from,omitempty" doc:"From where, for move and copy"`
	Value any    `json:"value,omitempty" doc:"For add, replace and test"`
}

// readPatch turns the patch in buf into the body that means the same: what it changes of the thing as it stands. From there on it goes the way
// of every other body, through the same checks. The handler's precondition becomes the tag of what the patch was applied to, so that what
// somebody changes meanwhile is not lost.
func (rt *route) readPatch(c *call, buf *bytes.Buffer, r *http.Request, mediaType string) error {
	if err := body.Check(buf.Bytes(), nil); err != nil {
		return err
	}
	given := Precondition{IfMatch: r.Header.Get("If-Match")}
	if given.IfMatch == "" {
		return errNoPrecondition()
	}
	names := pathParams(rt.Path)
	doc, tag, err := rt.Current(c, r.PathValue(names[len(names)-1]))
	if err != nil {
		return err
	}
	if err := given.Seen(false)(tagVersion(tag)); err != nil {
		return err
	}
	before, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("the document to patch is no JSON: %w", err)
	}
	after, err := patch.Apply(mediaType, before, buf.Bytes())
	if err != nil {
		return err
	}
	changes, err := patch.Changes(before, after, func(name string, _ json.RawMessage) (json.RawMessage, error) {
		if at, _ := rt.shape.Field([]byte(name)); at != nil {
			if zero, ok := at.Zero(); ok {
				return json.RawMessage(zero), nil
			}
		}
		return nil, levee.Invalid("body."+name, "left in: it cannot be taken away", "nothing")
	})
	if err != nil {
		return err
	}
	c.seen = tag
	buf.Reset()
	buf.Write(changes)
	return nil
}

// offerPatches says in the answer to OPTIONS which patches the path takes (RFC 5789).
func (s *Server) offerPatches(w http.ResponseWriter, r *http.Request) {
	probe := http.Request{URL: r.URL, Host: r.Host, Method: http.MethodPatch}
	_, pattern := s.mux.Handler(&probe)
	if rt := s.byName[pattern]; rt != nil && rt.Current != nil {
		w.Header().Set("Accept-Patch", "application/json, "+patch.MergeType+", "+patch.JSONType)
	}
}
