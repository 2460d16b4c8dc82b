package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"levee/internal/platform/contract"
)

// rules are the refusals of what the document allows that are meant: what no schema can say, because it hangs on what the house holds, on
// two fields at once or on a grammar. The key is the operation, or * for all; the values are patterns of the fields that it may refuse.
var rules = map[string][]string{
	"*": {
		`header\.Idempotency-Key`, // enough of it must be random
	},
	"batch":               {`body\.requests\[\]\.(path|headers.*|body)`},   // paths of operations that take and answer JSON; each header once
	"listAudit":           {`query\.(actor|subject|after|address|before)`}, // ids that the house gave, an address, before after from
	"verifyAudit":         {`query\.(head|after)`},                         // a place that the chain has
	"exportAudit":         {`query\.after`},
	"setGrants":           {`body\.roles.*`}, // roles that there are
	"explainAccess":       {`query\.(user|resource)`},
	"createRole":          {`body\.name`},
	"createMyToken":       {`body\.(scopes.*|expires_at|name)`},
	"resetPassword":       {`body\.(password|token)`},
	"importPolicy":        {`body\.policy`},
	"createPasswordReset": {`path\.id`},
	"actOnSale":           {`body\.units`},                         // only with the acts that move units
	"adjustStock":         {`body\.delta`},                         // not 0
	"changePassword":      {`body\.(current|password)`},            // the right one; another, and hard to guess
	"createUser":          {`body\.(name|phone|password|roles.*)`}, // one of name and phone; hard to guess; roles that there are
	"setPassword":         {`body\.password`},                      // hard to guess
	"setUp":               {`body\.(name|password|code)`},          // as above
	"signIn":              {`body\.(name|phone|password)`},         // one of name and phone
	"askPhoneCode":        {`body\.phone`},                         // a number, of a country that codes are sent to
	"signInByPhone":       {`body\.phone`},
	"bindPhone":           {`body\.(phone|code)`},                             // the code that was sent there
	"signInSecond":        {`body\.(code|recovery_code|assertion|challenge)`}, // one of the three, and right
	"stepUp":              {`body\.(password|code|assertion)`},
	"setRoles":            {`body\.roles.*`}, // some of those that there are
	"disableUser":         {`body\.reason`},  // one line
	"createSale":          {saleTerms},
	"changeSale":          {saleTerms},
	"duplicateSale":       {saleTerms},
	"rehearseSale":        {saleTerms},
	"createSchedule":      {`body\.(trigger|kind|name|args|max_live|most|coalesce|grace_ms|note)`}, // grammar and registered kinds
	"changeSchedule":      {`body\.(trigger|kind|name|args|max_live|most|coalesce|grace_ms|note)`},
	"resumeSchedule":      {`body\.from`},
	"explainTrigger":      {`query\.(text|after)`},       // the grammar of triggers
	"createIds":           {`query\.(count|layout|tag)`}, // layout not with tag; 1 to 10,000
	"explainId":           {`path\.id`},                  // below 2^63
	"joinSaleLine":        {`body\.quantity`},            // the sale's limit per buyer
	"buyInSale":           {`body\.quantity`},
	"createOrder":         {`body\.lines.*`},       // SKUs that are on sale, each once, in one currency
	"addPasskey":          {`body\.name`},          // of spaces alone it is empty
	"createProduct":       {`body\.(code|skus.*)`}, // codes once each, one currency
	"createSKU":           {`body\.(code|price.*)`},
	"updateProduct":       {`body(\..*)?`}, // something to change
	"updateSKU":           {`body(\..*)?`},
	"importProducts":      {`.*`},                 // lines of the file
	"createPicture":       {`query\.alt`, `body`}, // at most 150 characters; what the bytes are
	"setLimit":            {`body\.rate`},         // the grammar of rates, each limit's bounds
	"startPayment":        {`body\.provider`},     // the providers of this house
	"replayWebhook":       {`body\.(from|to)`},    // in order, not the future
	"replayEvents":        {`body\.since`, `path\.listener`},
	"createWebhook":       {`body\.(url|events.*)`}, // https, public; known names, each once
	"updateWebhook":       {`body(\.(url|events.*))?`},
	"takeLock":            {`body\.(permits|max_hold_ms|ttl_ms)`}, // not with shared; in order
	"listOrders":          {`query\.(source|from|to)`},
	"listUsers":           {`query\.(phone(__in)?|name|role)`}, // phone numbers, roles that there are
	"listJobs":            {`query\.(kind|pool|source)`},
	"admitBuyer":          {`body\.(proof.*|ticket)`},
	"getFile":             {`query\.(expires|signature|size)`}, // what the house signed
	"putFile":             {`query\.(expires|signature|size)`},
	"inventBuyers":        {`body\.buyers`},
	"readNotices":         {`body\.up_to`},
	"beginSignIn":         {`body\.(provider|return_to)`}, // the providers of this house; a local path
	"beginLink":           {`body\.(provider|return_to)`},
	"signInFederated":     {`body\.provider`},
	"link":                {`body\.provider`},
}

// codes are refusals with a word of their own: the request was understood.
var codes = []string{"idempotency_mismatch", "admission_invalid", "challenge_failed"}

// saleTerms are rules of terms over several fields: order of times, at most one mode's fields, an id of a SKU.
const saleTerms = `body(\.(sku|title|price.*|units|per_buyer|starts_at|ends_at|draw_at|mode|admission.*|pay_within_seconds|waiting_list|token_needed|version|lasts_seconds|starts_in_ms))?`

// together are refusals of questions to lists for what no parameter's schema can say: which of them go together, how deep pages go, that a name
// comes once, that an id or cursor is one that the house gave.
var together = regexp.MustCompile(`left out with|left out of an export|given with|such that at most|each once|one direction, or as many|without signs|` +
	`rising or falling, with these|at most 50 values|a moment such as|with the same filters|a public id|the key of|whole number from -`)

// inBytes are refusals of texts for what the document says of all texts at its beginning: length in bytes, control characters.
var inBytes = regexp.MustCompile(`bytes|control characters|one line`)

var index = regexp.MustCompile(`\[\d+\]`)

// ruled reports whether a refusal is one of the rules; else it names the field that is none.
func ruled(o *contract.Operation, p problem) (string, bool) {
	op := o.ID
	for _, c := range codes {
		if p.Code == c {
			return "", true
		}
	}
	if p.Code == "malformed" && len(p.Errors) == 1 && p.Errors[0].Field == "header.Idempotency-Key" {
		return "", true // enough of it must be random
	}
	if p.Code != "invalid" || len(p.Errors) == 0 {
		return "", false
	}
	for _, f := range p.Errors {
		field := index.ReplaceAllString(f.Field, "[]")
		ok := inBytes.MatchString(f.Allowed) || strings.HasPrefix(field, "query.") && lists(o) && together.MatchString(f.Allowed)
		for _, pattern := range append(rules[op], rules["*"]...) {
			if regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(field) {
				ok = true
			}
		}
		if !ok {
			return field, false
		}
	}
	return "", true
}

// lists reports whether an operation answers with a list of the house's one form.
func lists(op *contract.Operation) bool {
	return slices.ContainsFunc(op.Parameters, func(p contract.Parameter) bool { return p.In == "query" && p.Name == "fields" })
}

// alone are operations that change what everybody may, or what all others depend on: nothing else is asked while they are tried, and tidy
// undoes them.
var alone = map[string]bool{"setGrants": true, "grant": true, "revoke": true, "importPolicy": true, "setLimit": true, "pauseJobs": true, "retireSigningKey": true,
	"rollSigningKey": true}

// tame keeps allowed requests from what would make the run useless: long waits and crowds.
func (c *campaign) tame(m *maker, r *request) {
	o, _ := r.tree.(map[string]any)
	at := func(name string, most int) {
		if _, ok := o[name]; ok && m != nil {
			o[name] = json.Number(fmt.Sprint(m.IntN(most) + 10))
		}
	}
	switch r.op.ID {
	case "takeLock":
		at("wait_ms", 50)
	case "inventBuyers":
		at("buyers", 10)
	}
}

// tidy undoes what would stand in the way of all that follows.
func (c *campaign) tidy(t trial) {
	admin := func(method, path string) {
		r := request{op: t.op, actor: administrator, method: method, path: t.path}
		r.op = c.doc.Named(path)
		if r.op != nil {
			_, _ = r.send(c.t.Context(), c.house.Base, c.token(administrator))
		}
	}
	switch t.op.ID {
	case "setLimit":
		admin("DELETE", "resetLimit")
	case "pauseJobs":
		admin("DELETE", "resumeJobs")
	case "setGrants", "grant", "revoke", "importPolicy":
		c.restoreGrants()
	}
}

// restoreGrants gives every resource the roles again that it has when nobody changes it.
func (c *campaign) restoreGrants() {
	resources := c.doc.Named("listResources")
	a, err := request{op: resources, actor: administrator, method: http.MethodGet}.send(c.t.Context(), c.house.Base, c.token(administrator))
	var all struct {
		Items []struct {
			Name       string
			Open, Gone bool
			Roles      []string
			Default    []string `json:"default_roles"`
		}
	}
	if err != nil || json.Unmarshal(a.Body, &all) != nil {
		c.t.Errorf("who may what was not told: %v %.200s", err, a.Body)
		return
	}
	for _, r := range all.Items {
		slices.Sort(r.Roles)
		slices.Sort(r.Default)
		if r.Open || r.Gone || slices.Equal(r.Roles, r.Default) {
			continue
		}
		put := request{op: c.doc.Named("setGrants"), actor: administrator, method: http.MethodPut, path: map[string]string{"name": r.Name}, hasBody: true,
			media: "application/json", tree: map[string]any{"roles": r.Default}}
		if a, err := put.send(c.t.Context(), c.house.Base, c.token(administrator)); err != nil || a.Status != http.StatusOK {
			c.t.Errorf("%s could not be given its roles again: %v %.200s", r.Name, err, a.Body)
		}
	}
}
