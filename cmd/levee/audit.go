package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"levee"
)

type auditCmd struct {
	Verify auditVerifyCmd `cmd:"" help:"Check the chain of the audit trail."`
}

type auditVerifyCmd struct {
	remote
	Head string `placeholder:"PLACE:HEX" help:"A head that you noted earlier: the chain must pass it."`
}

func (c *auditVerifyCmd) Help() string {
	return "Asks a running server to check its trail, some 20,000 entries at a time, and shows how far it is. Exit code 1 if something was changed,\n" +
		"deleted or put in; it says what and where. Note the head that it prints, outside of the house, and give it with --head the next time:\n" +
		"without one it cannot be seen that the end was cut off. What is found and what is not stands in docs/audit.md."
}

func (c *auditVerifyCmd) Run(env *common) error {
	return c.with(env, func(r *caller) error {
		wrong, entries, after := 0, int64(0), int64(0)
		for {
			var v struct {
				To       int64
				Entries  int64
				Head     string
				Problems []struct {
					Seq         int64
					Entry, What string
				}
				Done     bool
				Unsealed int64
			}
			query := url.Values{"after": {strconv.FormatInt(after, 10)}}
			if c.Head != "" {
				query.Set("head", c.Head)
			}
			if err := r.call(env.ctx, http.MethodGet, "/v1/audit/verification?"+query.Encode(), nil, &v); err != nil {
				return err
			}
			for _, p := range v.Problems {
				fmt.Fprintf(env.stdout, "place %d %s: %s\n", p.Seq, p.Entry, p.What)
			}
			wrong, entries = wrong+len(v.Problems), entries+v.Entries
			if !v.Done {
				fmt.Fprintf(env.stderr, "%d entries\n", entries)
				if v.To <= after {
					return levee.E(levee.CodeMalformed, "the server's answer cannot be read: is this Levee?")
				}
				after = v.To
				continue
			}
			if wrong > 0 {
				return levee.E(levee.CodeConflict, "the trail does not verify: %d problems in %d entries", wrong, entries)
			}
			_, err := fmt.Fprintf(env.stdout, "%d entries verify, %d wait for their place. The head is %s\n", entries, v.Unsealed, v.Head)
			return err
		}
	})
}
