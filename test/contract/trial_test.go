package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"levee/internal/platform/contract"
)

// trial makes the n-th trial of an operation: every other one is allowed, the rest are wrong in one way.
func (c *campaign) trial(m *maker, op *contract.Operation, n int) (trial, bool) {
	t := trial{request: c.allowed(m, op), check: positive}
	if n%2 == 0 {
		return t, true
	}
	ways := []func(*maker, *trial) bool{c.wrongBody, c.wrongBody, c.wrongBody, c.wrongText, c.wrongForm, c.wrongQuery, c.wrongQuery, c.wrongPath, c.wrongHeader, c.wrongAccept,
		c.wrongCaller, c.wrongMethod, c.wrongMedia}
	for range 30 {
		x := t
		x.request = t.request.clone()
		x.query = slices.DeleteFunc(x.query, func(q pair) bool { return !t.needs("query", q.name) }) // wrong in one way
		if pick(m, ways)(m, &x) {
			return x, true
		}
	}
	return t, false
}

// allowed makes a request that the document allows, from somebody who may.
func (c *campaign) allowed(m *maker, op *contract.Operation) request {
	r := request{op: op, method: op.Method, path: map[string]string{}, actor: c.caller(m, op)}
	for _, p := range op.Parameters {
		if strings.EqualFold(p.Name, "Authorization") {
			continue // the actor's
		}
		switch p.In {
		case "path":
			known := c.values(op, p.Name)
			if len(known) > 0 && !m.one(12) {
				r.path[p.Name] = pick(m, known)
				if m.one(2) {
					r.path[p.Name] = known[len(known)-1]
				}
				continue
			}
			for r.path[p.Name] == "" || r.path[p.Name] == "/" { // "/" alone is no step of a path, however it is escaped (net/http's router)
				r.path[p.Name] = fmt.Sprint(m.valid(p.Schema, p.Name, 0))
			}
		case "query":
			if !p.Required && !m.one(3) {
				continue
			}
			if p.Name == "after" || p.Name == "cursor" {
				if known := c.cursors(op.ID); len(known) > 0 && !m.one(5) {
					r.query = append(r.query, pair{p.Name, pick(m, known)})
				} else if m.one(4) {
					r.query = append(r.query, pair{p.Name, plain(m.valid(p.Schema, p.Name, 0))})
				}
				continue
			}
			v := m.valid(p.Schema, p.Name, 0)
			if l, ok := v.([]any); ok {
				for _, x := range l {
					r.query = append(r.query, pair{p.Name, plain(x)})
				}
				continue
			}
			r.query = append(r.query, pair{p.Name, plain(v)})
		case "header":
			if p.Name == "If-Match" || p.Name == "If-None-Match" {
				continue // below: it goes by the path
			}
			if p.Name == "Idempotency-Key" {
				if !m.one(4) {
					r.headers = append(r.headers, pair{p.Name, "contract-" + strconv.FormatUint(m.Uint64(), 36)})
				}
			} else if p.Required || m.one(4) {
				r.headers = append(r.headers, pair{p.Name, headerText(plain(m.valid(p.Schema, p.Name, 0)))})
			}
		}
	}
	if len(op.Bodies) > 0 && (op.BodyRequired || !m.one(3)) {
		r.media = pick(m, slices.Sorted(maps.Keys(op.Bodies)))
		r.hasBody = true
		schema := op.Bodies[r.media]
		switch {
		case op.ID == "batch":
			r.tree = c.batch(m, r.actor)
		case r.media == patchType:
			r.tree = m.patch(op.Bodies["application/json"])
		case r.media == "application/json" || r.media == mergeType || (r.media == formType || r.media == multipartType) && schema != nil && kindOf(schema.Raw) == "object":
			r.tree = m.valid(schema, "", 0)
			if r.media == formType || r.media == multipartType {
				if formable(r.tree); form(r.tree) == "" {
					r.media = "application/json" // an empty form is no body
				}
			}
			if o, _ := r.tree.(map[string]any); o["file"] != nil && r.media == multipartType {
				media := pick(m, slices.DeleteFunc(slices.Sorted(maps.Keys(op.Bodies)), func(mt string) bool { return mt == multipartType }))
				o["file"] = file{media, m.bytes(media)}
			}
		default:
			r.raw = m.bytes(r.media)
		}
	}
	c.precondition(m, &r)
	agree(m, &r)
	c.tame(m, &r)
	return r
}

// guarded reports whether a change must say which version it is about.
func guarded(op *contract.Operation) bool {
	return op.Responses[http.StatusPreconditionRequired] != nil
}

// precondition adds what is known of the thing's entity tag, mostly.
func (c *campaign) precondition(m *maker, r *request) {
	for _, p := range r.op.Parameters {
		if p.In != "header" || p.Name != "If-Match" && p.Name != "If-None-Match" || !guarded(r.op) && !m.one(3) || m.one(6) {
			continue
		}
		path, _, _ := strings.Cut(r.url(), "?")
		v := c.tag(path)
		if v == "" || m.one(5) {
			v = pick(m, []string{"*", `"7"`, `W/"7.x"`, `"1", "2"`})
		}
		r.headers = append(r.headers, pair{p.Name, v})
	}
}

// exclusive are parameters of lists that say the same in different ways: one of each row is enough.
var exclusive = [][]string{{"cursor", "after"}, {"cursor", "page"}, {"cursor", "per_page"}, {"cursor", "offset"}, {"after", "page"}, {"after", "per_page"}, {"after", "offset"},
	{"limit", "page"}, {"limit", "per_page"}, {"offset", "page"}, {"offset", "per_page"}, {"sort", "sortby"}, {"sort", "order"}}

// agree takes out, mostly, what contradicts the rest of a list's question: what the document cannot forbid.
func agree(m *maker, r *request) {
	has := func(name string) bool {
		return slices.ContainsFunc(r.query, func(q pair) bool { return q.name == name })
	}
	drop := func(name string) {
		r.query = slices.DeleteFunc(r.query, func(q pair) bool { return q.name == name })
	}
	if m.one(8) {
		return
	}
	for _, e := range exclusive {
		if has(e[0]) && has(e[1]) {
			drop(pick(m, e))
		}
	}
	if has("order") && !has("sortby") {
		drop("order")
	}
	if has("export") {
		for _, name := range []string{"limit", "offset", "page", "per_page", "cursor", "after", "meta"} {
			drop(name)
		}
	}
	if has("cursor") || has("after") { // it goes with the filters that it was made for
		r.query = slices.DeleteFunc(r.query, func(q pair) bool {
			return q.name != "cursor" && q.name != "after" && q.name != "limit" && q.name != "fields" && q.name != "meta" && !(trial{request: *r}).needs("query", q.name)
		})
	}
}

// patch makes a JSON patch (RFC 6902) of what a body of the schema could change.
func (m *maker) patch(s *contract.Schema) any {
	props, _ := s.Raw["properties"].(map[string]any)
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(props)), func(name string) bool { return name == "version" })
	all := []any{}
	for range m.IntN(3) + 1 {
		name := pick(m, names)
		step := map[string]any{"op": pick(m, []any{"replace", "replace", "replace", "add", "test", "remove", "copy", "move"}), "path": "/" + name}
		switch step["op"] {
		case "copy", "move":
			step["from"] = "/" + pick(m, names)
		case "remove":
		default:
			step["value"] = m.valid(s.Inner("properties", name), name, 1)
		}
		all = append(all, step)
	}
	return all
}

// batch puts requests of other operations into one.
func (c *campaign) batch(m *maker, actor string) any {
	parts := []any{}
	for n := 0; n < 60 || len(parts) == 0; n++ {
		if len(parts) > 0 && m.one(3) {
			break
		}
		op := pick(m, c.doc.Operations)
		if op.ID == "batch" || op.ID == "takeLock" || alone[op.ID] || strings.HasSuffix(op.Path, "/events") || !answersJSON(op) || c.caller(m, op) == program || !c.may(op, actor) {
			continue
		}
		r := c.allowed(m, op)
		if r.hasBody && !strings.HasSuffix(r.media, "json") {
			continue
		}
		part := map[string]any{"id": fmt.Sprint(len(parts)), "method": r.method, "path": r.url()}
		headers := map[string]any{}
		for _, h := range r.headers {
			headers[h.name] = h.value
		}
		if r.hasBody {
			headers["Content-Type"], part["body"] = r.media, r.tree
		}
		if len(headers) > 0 {
			part["headers"] = headers
		}
		parts = append(parts, part)
	}
	o := map[string]any{"requests": parts}
	if m.one(3) {
		o["stop_on_error"] = true
	}
	return o
}

func answersJSON(op *contract.Operation) bool {
	for status, r := range op.Responses {
		if status < 300 && len(r.Content) > 0 && r.Content["application/json"] == nil {
			return false
		}
	}
	return len(op.Bodies) == 0 || op.Bodies["application/json"] != nil
}

// may reports whether an actor has a role that the document names.
func (c *campaign) may(op *contract.Operation, actor string) bool {
	return len(op.Roles) == 0 || slices.ContainsFunc(accounts[actor].Names(), func(role string) bool { return slices.Contains(op.Roles, role) })
}

// formable drops what a form cannot say: null and the empty list.
func formable(tree any) {
	o, _ := tree.(map[string]any)
	for k, v := range o {
		if l, ok := v.([]any); v == nil || ok && len(l) == 0 {
			delete(o, k)
		}
	}
}

func plain(v any) string { return fmt.Sprint(v) }

// headerText keeps what may stand in a header.
func headerText(v string) string {
	v = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return 'x'
		}
		return r
	}, v)
	return strings.TrimSpace(v)
}

// bytes makes a body that is no JSON.
func (m *maker) bytes(media string) []byte {
	switch {
	case strings.HasPrefix(media, "image/") || media == "application/octet-stream":
		return onePicture
	case media == "text/csv":
		return []byte("product_code,title,sku_code,price,currency,on_hand\nLAMP-9,Lamp,LAMP-9-" + strconv.Itoa(m.IntN(5)) + ",9900,CNY,5\n")
	case media == "application/x-ndjson":
		return []byte(`{"product_code":"LAMP-8","title":"Lamp","sku_code":"LAMP-8-1","price":9900,"currency":"CNY","on_hand":5}` + "\n")
	case media == formType:
		return []byte("out_trade_no=" + m.run(alphabets[0], 1, 20) + "&sign=" + m.run(alphabets[0], 10, 40))
	}
	return []byte(m.run(alphabets[0], 0, 40))
}

func (c *campaign) caller(m *maker, op *contract.Operation) string {
	for _, p := range op.Parameters {
		if p.In == "header" && p.Name == "Authorization" || strings.HasPrefix(op.Path, "/v1/locks/") || strings.HasPrefix(op.Path, "/v1/ids") {
			return program
		}
	}
	may := []string{visitor, customer, stranger, operator, administrator}
	return pick(m, slices.DeleteFunc(may, func(a string) bool { return !c.may(op, a) }))
}

func (c *campaign) cursors(id string) []string {
	c.scene.mu.Lock()
	defer c.scene.mu.Unlock()
	return slices.Clone(c.next[id])
}

func (c *campaign) wrongBody(m *maker, t *trial) bool {
	schema := t.op.Bodies["application/json"]
	if schema == nil {
		return false
	}
	t.media, t.hasBody, t.raw = "application/json", true, nil
	switch {
	case t.op.ID == "batch":
		t.tree = c.batch(m, t.actor)
	case t.op.Bodies[patchType] != nil && m.one(4):
		t.media, t.tree, schema = patchType, m.patch(schema), t.op.Bodies[patchType]
	default:
		t.tree = m.valid(schema, "", 0)
	}
	c.tame(m, &t.request)
	body := clone(t.tree)
	where, how := m.spoil(schema, &body)
	if where == "" {
		return false
	}
	t.tree, t.check, t.where, t.how = body, negative, where, how
	return true
}

// wrongForm sends a form with a field that the schema forbids, one that it does not know, or one twice; or a form that is cut short.
func (c *campaign) wrongForm(m *maker, t *trial) bool {
	media := pick(m, []string{formType, multipartType})
	schema := t.op.Bodies[media]
	if schema == nil || kindOf(schema.Raw) != "object" {
		return false
	}
	o, _ := m.valid(schema, "", 0).(map[string]any)
	formable(o)
	t.media, t.hasBody, t.raw, t.tree, t.check = media, true, nil, o, negative
	if o["file"] != nil {
		o["file"] = file{"image/png", onePicture}
	}
	props, _ := schema.Raw["properties"].(map[string]any)
	name := pick(m, slices.Sorted(maps.Keys(props)))
	switch m.IntN(4) {
	case 0:
		o["is_admin"] = "true"
		t.where, t.how = "body.is_admin", "an unknown field of a form"
	case 1:
		if kindOf(schema.Inner("properties", name).Raw) == "array" || name == "file" {
			return false
		}
		v := m.valid(schema.Inner("properties", name), name, 1)
		if v == nil {
			return false
		}
		o[name] = []any{v, v}
		t.where, t.how = "body."+name, "a field of a form twice"
	case 2:
		if media != multipartType {
			return false
		}
		whole := t.request.body()
		t.raw, t.tree, t.how, t.want = whole[:len(whole)-len(boundary)/2-4], nil, "a form that is cut short", []int{400, 403, 404, 409, 410, 412, 415, 422, 428}
	default:
		inner := schema.Inner("properties", name)
		kind := pick(m, []string{"enum", "short", "long", "low", "high", "pattern", "format"})
		v, ok := wrongs[kind](m, inner, nil)
		if !ok || v == "" || inner.Validate(typedAs(inner, plain(v))) == nil || name == "file" { // an empty field of a form is one that was left out
			return false
		}
		o[name], t.where, t.how = v, "body."+name, kind+" in a form"
	}
	return true
}

// wrongText sends a body that is no JSON, or not one value of it.
func (c *campaign) wrongText(m *maker, t *trial) bool {
	schema := t.op.Bodies["application/json"]
	if schema == nil || kindOf(schema.Raw) != "object" {
		return false
	}
	t.media, t.hasBody = "application/json", true
	t.tree = m.valid(schema, "", 0)
	c.tame(m, &t.request)
	good := string(t.request.clone().body())
	first, _, _ := strings.Cut(strings.TrimPrefix(good, "{"), ",")
	first = strings.TrimSuffix(first, "}")
	kinds := map[string]string{
		"cut short": good[:len(good)-1], "two values": good + "{}", "rubbish after it": good + "x", "deep nesting": `{"a":` + strings.Repeat("[", 3000),
		"not UTF-8": "{\"\xff\xfe\":1}", "a lone surrogate": `{"\ud800":1}`, "a comment": good + "// no", "NaN": `{"a":NaN}`,
	}
	if good != "{}" && strings.Count(first, "{")+strings.Count(first, "[") == 0 {
		kinds["a key twice"] = "{" + first + "," + good[1:]
	}
	if t.op.BodyRequired {
		kinds["nothing"] = ""
	}
	t.how = pick(m, slices.Sorted(maps.Keys(kinds)))
	t.raw, t.tree, t.check, t.want = []byte(kinds[t.how]), nil, negative, []int{400, 404, 409, 410, 413, 415, 422}
	return true
}

func (c *campaign) wrongQuery(m *maker, t *trial) bool {
	t.check, t.want = negative, []int{400, 422}
	var known []contract.Parameter
	for _, p := range t.op.Parameters {
		if p.In == "query" {
			known = append(known, p)
		}
	}
	if len(known) == 0 || m.one(4) {
		name := "x-" + m.run(alphabets[0], 1, 6)
		t.query, t.where, t.how = append(t.query, pair{name, "1"}), "query."+name, "unknown"
		return true
	}
	p := pick(m, known)
	if t.media == multipartType && t.op.Bodies["application/json"] == nil {
		return false // an upload's form says the same, and goes before
	}
	t.where = "query." + p.Name
	t.query = slices.DeleteFunc(t.query, func(q pair) bool { return q.name == p.Name })
	switch m.IntN(4) {
	case 0:
		if p.List {
			return false
		}
		v := plain(m.valid(p.Schema, p.Name, 0))
		t.query, t.how = append(t.query, pair{p.Name, v}, pair{p.Name, v}), "twice"
		return true
	case 1:
		if !p.Required {
			return false
		}
		t.how = "missing"
		return true
	}
	for range 20 {
		how := pick(m, slices.Sorted(maps.Keys(wrongs)))
		v, ok := wrongs[how](m, p.Schema, nil)
		if !ok || v == nil {
			continue
		}
		if _, isText := v.(string); !isText {
			if _, isNumber := v.(json.Number); !isNumber {
				continue
			}
		}
		s := plain(v)
		if p.Schema.Validate(typedAs(p.Schema, s)) == nil {
			continue
		}
		t.query, t.how = append(t.query, pair{p.Name, s}), how
		return true
	}
	return false
}

// typedAs reads a parameter as its schema's type.
func typedAs(s *contract.Schema, v string) any {
	switch kindOf(s.Raw) {
	case "integer", "number", "boolean":
		if x, err := contract.Decode([]byte(v)); err == nil {
			return x
		}
	case "array":
		return []any{v}
	}
	return v
}

func (c *campaign) wrongPath(m *maker, t *trial) bool {
	for _, p := range t.op.Parameters {
		if p.In != "path" {
			continue
		}
		v := pick(m, []string{m.run(alphabets[m.IntN(4)], 400, 700), "no-such-thing", "0", "ord_00000000000000000000000000", "%00", "..", "a/b", "\x00", "' OR 1=1--"})
		if slices.Contains(c.values(t.op, p.Name), v) {
			continue
		}
		t.path[p.Name], t.check, t.how, t.where = v, negative, "no such id", ""
		t.want = []int{400, 404, 405, 409, 410, 412, 422, 428} // 405: another operation's path
		if p.Schema.Validate(v) == nil && !sealedPath(t.op, p.Name) {
			t.want = nil
			return false // names of one's own are no ids
		}
		return true
	}
	return false
}

// sealedPath reports whether the parameter is an id that the house gave.
func sealedPath(op *contract.Operation, name string) bool {
	return name == "id" || name == "sale" || name == "reservation"
}

func (c *campaign) wrongHeader(m *maker, t *trial) bool {
	var known []contract.Parameter
	for _, p := range t.op.Parameters {
		if p.In == "header" && !strings.EqualFold(p.Name, "Authorization") {
			known = append(known, p)
		}
	}
	if m.one(3) {
		t.headers = append(t.headers, pair{"Api-Version", "99"})
		t.check, t.where, t.how, t.want = negative, "header.Api-Version", "no such version", []int{406}
		return true
	}
	if len(known) == 0 {
		return false
	}
	p := pick(m, known)
	t.headers = slices.DeleteFunc(t.headers, func(h pair) bool { return h.name == p.Name })
	if p.Name == "If-Match" && guarded(t.op) {
		t.headers = append(t.headers, pair{p.Name, pick(m, []string{`"no-such-version"`, `"0"`, `"999999999.x"`})})
		t.check, t.how, t.want = negative, "a tag of another version", []int{400, 404, 409, 410, 412, 422}
		return true
	}
	t.where = "header." + p.Name
	if p.Required {
		t.check, t.how = needsHeader, "missing"
		return true
	}
	long := int(bound(p.Schema.Raw, "maxLength", -1))
	if long < 0 {
		return false
	}
	t.headers = append(t.headers, pair{p.Name, m.run(alphabets[0], long+1, long+1)})
	t.check, t.how = negative, "long"
	return true
}

func (c *campaign) wrongAccept(m *maker, t *trial) bool {
	t.headers = append(t.headers, pair{"Accept", pick(m, []string{"application/xml", "text/html;q=0.9, image/avif", "application/json;q=0, */*;q=0"})})
	t.check, t.how, t.want = negative, "an Accept that allows nothing", []int{406}
	return true
}

// givesCredentials are operations that do not look at the Authorization header, where clients often leave the very token that they come to replace.
var givesCredentials = map[string]bool{"signIn": true, "refreshToken": true, "setUp": true, "resetPassword": true, "signInByPhone": true,
	"signInFederated": true, "signInSecond": true, "enrolAtSignIn": true}

func (c *campaign) wrongCaller(m *maker, t *trial) bool {
	t.check = noAuth
	switch {
	case givesCredentials[t.op.ID]:
		return false
	case t.actor == program:
		t.actor, t.want, t.how = visitor, []int{401, 403, 404}, "no secret"
	case len(t.op.Roles) == 0 || m.one(3):
		t.headers = append(t.headers, pair{"Authorization", pick(m, []string{"Bearer nonsense", "Bearer a.b.c", "Bearer ", "Bearer eyJhbGciOiJub25lIn0.e30."})})
		t.actor, t.want, t.how = visitor, []int{401}, "a token that is none"
	case !slices.Contains(t.op.Roles, "customer") && m.one(2):
		t.actor, t.want, t.how = customer, []int{403}, "not of the role"
		if t.op.ID == "retireSigningKey" {
			t.want = []int{401, 403} // an earlier request may have taken the key of his session out of use
		}
	default:
		t.actor, t.want, t.how = visitor, []int{401}, "nobody"
	}
	return true
}

func (c *campaign) wrongMethod(m *maker, t *trial) bool {
	method := pick(m, []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "QUERY"})
	path, _, _ := strings.Cut(t.url(), "?")
	if decoded, err := url.PathUnescape(path); err != nil || strings.ContainsAny(decoded, "\x00") {
		return false
	}
	if op, _, others := c.doc.Find(method, path); op != nil || others == nil {
		return false
	}
	t.method, t.query, t.hasBody, t.media = method, nil, false, ""
	t.check, t.how, t.want = badMethod, method, []int{405}
	return true
}

func (c *campaign) wrongMedia(m *maker, t *trial) bool {
	if len(t.op.Bodies) == 0 {
		return false
	}
	if t.op.ID == "notifyPayment" {
		return false // what a provider sends is judged by its signature, whatever it calls it
	}
	t.media = pick(m, []string{"application/xml", "text/yaml", "application/octet-strea", "image/x-none"})
	t.hasBody, t.raw, t.tree = true, []byte("<a>1</a>"), nil
	t.check, t.how, t.want = negative, "the media type", []int{415}
	if t.op.Bodies["application/json"] == nil {
		t.want = []int{404, 415} // an upload: its handler looks at the product first
	}
	return true
}
