// Package patch changes a JSON document by a patch: a merge patch (RFC 7396) or a JSON patch (RFC 6902), and says what a patched document
// changes of the first one.
//
// It owns no HTTP and knows no resource: what the result may be, its user judges.
package patch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"levee"
)

// The media types.
const (
	MergeType = "application/merge-patch+json"
	JSONType  = "application/json-patch+json"
)

// MaxOps is the most operations of one JSON patch.
const MaxOps = 100

// maxCopied is the most bytes by which the copies of one JSON patch may let the document grow.
const maxCopied = 1 << 20

func init() {
	jsonpatch.SupportNegativeIndices = false // RFC 6902 knows none
	jsonpatch.AccumulatedCopySizeLimit = maxCopied
}

// Apply returns the document, a JSON object, as the patch of the media type leaves it. The patch must be JSON that body.Check has passed.
// CodeMalformed: it is no patch of its type. CodeInvalid: it has too many operations, names a place that is not there, or leaves no
// object; CodeConflict: a test of it does not hold. Each names the place in the patch.
func Apply(mediaType string, doc, patch []byte) ([]byte, error) {
	if mediaType == MergeType {
		return merge(doc, patch)
	}
	ops, err := read(patch)
	if err != nil {
		return nil, err
	}
	for i, op := range ops {
		if op.Kind() == "test" {
			if err := holds(i, op, doc); err != nil {
				return nil, err
			}
			continue
		}
		next, err := jsonpatch.Patch{op}.Apply(doc)
		if err != nil {
			return nil, refused(i, op, err)
		}
		if len(next) > len(doc) && len(next) > maxCopied {
			return nil, refuse(levee.CodeInvalid, at(i), fmt.Sprintf("a document of at most %d bytes", maxCopied), "more")
		}
		doc = next
	}
	if !isObject(doc) {
		return nil, refuse(levee.CodeInvalid, "body", "a patch that leaves an object", "none")
	}
	return doc, nil
}

func merge(doc, patch []byte) ([]byte, error) {
	if !isObject(patch) {
		return nil, refuse(levee.CodeMalformed, "body", "an object with what changes", shown(patch))
	}
	return laidOver(doc, patch)
}

// laidOver is the algorithm of RFC 7396, section 2. (The library's takes nulls out of lists too, whose objects are values, not patches.)
func laidOver(target, patch json.RawMessage) (json.RawMessage, error) {
	if !isObject(patch) {
		return patch, nil
	}
	was, changes := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if isObject(target) {
		if err := json.Unmarshal(target, &was); err != nil {
			return nil, fmt.Errorf("merge patch: %w", err)
		}
	}
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, fmt.Errorf("merge patch: %w", err)
	}
	for name, v := range changes {
		if isNull(v) {
			delete(was, name)
			continue
		}
		under, err := laidOver(was[name], v)
		if err != nil {
			return nil, err
		}
		was[name] = under
	}
	return json.Marshal(was)
}

// read reads the operations strictly: the library takes what lacks a member for a null.
func read(patch []byte) (ops jsonpatch.Patch, err error) {
	if err := json.Unmarshal(patch, &ops); err != nil || ops == nil { // null is read as no list
		return nil, refuse(levee.CodeMalformed, "body", "a list of operations", shown(patch)).Because(err)
	}
	if len(ops) > MaxOps {
		return nil, refuse(levee.CodeInvalid, "body", fmt.Sprintf("at most %d operations", MaxOps), fmt.Sprint(len(ops)))
	}
	for i, op := range ops {
		needs := []string{"path"}
		switch op.Kind() {
		case "add", "replace", "test":
			needs = append(needs, "value")
		case "move", "copy":
			needs = append(needs, "from")
		case "remove":
		default:
			return nil, refuse(levee.CodeMalformed, at(i)+".op", "add, remove, replace, move, copy or test", levee.Shorten(text(op["op"]), 40))
		}
		for name := range op {
			if !slices.Contains([]string{"op", "path", "from", "value"}, name) {
				return nil, refuse(levee.CodeMalformed, at(i)+"."+levee.Shorten(name, 40), "one of the known fields: from, op, path, value", name)
			}
		}
		for _, name := range needs {
			raw, ok := op[name]
			if !ok {
				return nil, refuse(levee.CodeMalformed, at(i)+"."+name, "given", "nothing")
			}
			if name == "value" {
				continue
			}
			var s string
			if raw == nil || json.Unmarshal(*raw, &s) != nil || s != "" && s[0] != '/' {
				return nil, refuse(levee.CodeMalformed, at(i)+"."+name, "a place such as /title (RFC 6901)", levee.Shorten(text(raw), 80))
			}
		}
	}
	return ops, nil
}

func refused(i int, op jsonpatch.Operation, err error) error {
	path, _ := op.Path()
	return refuse(levee.CodeInvalid, at(i), "an operation on what is there", op.Kind()+" "+path).Because(err)
}

// holds judges a test. (The library's comparison breaks down on a null beside a list.)
func holds(i int, op jsonpatch.Operation, doc []byte) error {
	path, _ := op.Path()
	here := value(doc)
	for step := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if path == "" {
			break
		}
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		ok := false
		switch in := here.(type) {
		case map[string]any:
			here, ok = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			if ok = err == nil && n >= 0 && n < len(in) && strconv.Itoa(n) == step; ok {
				here = in[n]
			}
		}
		if !ok {
			return refused(i, op, nil)
		}
	}
	var wanted any
	if raw := op["value"]; raw != nil {
		wanted = value(*raw)
	}
	if !reflect.DeepEqual(here, wanted) {
		return refuse(levee.CodeConflict, at(i), "a test that holds", "test "+path)
	}
	return nil
}

// value decodes JSON so that what means the same is the same: numbers by their value, exactly.
func value(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	_ = d.Decode(&v) // has been checked
	return exact(v)
}

// exactNumber is a number, told apart from a text of the same digits.
type exactNumber string

func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if len(v) <= 40 && !strings.ContainsAny(string(v), "eE") { // a short exponent may stand for a number that fills the memory
			if r, ok := new(big.Rat).SetString(string(v)); ok {
				return exactNumber(r.RatString())
			}
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for name := range v {
			v[name] = exact(v[name])
		}
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	}
	return v
}

// Changes returns an object with the members of after that before does not have, or has otherwise, and the members that after lacks or has as null, with what
// absent returns for them. Both are JSON objects; members that mean the same value in other words are no change.
func Changes(before, after []byte, absent func(name string, was json.RawMessage) (json.RawMessage, error)) ([]byte, error) {
	var was, is map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(before, &was), json.Unmarshal(after, &is)); err != nil {
		return nil, fmt.Errorf("changes: %w", err)
	}
	changed := map[string]json.RawMessage{}
	for name, v := range is {
		if old, ok := was[name]; !ok || !reflect.DeepEqual(value(old), value(v)) {
			changed[name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if v, ok := is[name]; ok && (!isNull(v) || isNull(was[name])) {
			continue
		}
		v, err := absent(name, was[name])
		if err != nil {
			return nil, err
		}
		changed[name] = v
	}
	return json.Marshal(changed)
}

func isNull(v []byte) bool { return string(bytes.Trim(v, " \t\r\n")) == "null" }

func isObject(doc []byte) bool {
	trimmed := bytes.TrimLeft(doc, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{'
}

func at(i int) string { return fmt.Sprintf("body[%d]", i) }

func shown(patch []byte) string { return levee.Shorten(string(patch), 40) }

func text(raw *json.RawMessage) string {
	if raw == nil {
		return "null"
	}
	return string(*raw)
}

func refuse(code levee.Code, field, allowed, given string) *levee.Error {
	e := levee.E(code, "%s must be %s, got %q", field, allowed, given)
	e.Fields = []levee.Field{{Field: field, Allowed: allowed, Given: given}}
	return e
}
