package app_test

import (
	"bufio"
	"net/http"
	"testing"
	"time"

	"levee/internal/app/apptest"
)

// listen opens a stream and returns what is closed when it ends. It is open when listen returns.
func listen(t *testing.T, h *apptest.House, path, name, value string) (over <-chan struct{}) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", h.Base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(name, value)
	way := &http.Transport{} // a stream has no end that the recorder could wait for
	t.Cleanup(way.CloseIdleConnections)
	a, err := way.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if a.StatusCode != 200 {
		t.Fatalf("%s answered %d", path, a.StatusCode)
	}
	body := bufio.NewReader(a.Body)
	if _, err := body.ReadString('\n'); err != nil { // the first word of the stream
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer a.Body.Close()
		for {
			if _, err := body.ReadString('\n'); err != nil {
				return
			}
		}
	}()
	return ended
}

// TestStreamsEndWithWhatLetThemIn: the stream of a session that has ended, of an account that was shut, of roles that were changed and of a
// permission that was taken away ends soon, and nobody else's does.
func TestStreamsEndWithWhatLetThemIn(t *testing.T) {
	h := apptest.Start(t)
	admin := chief(t, h)
	const path = "/v1/notices/events"
	open := func(c *apptest.Client) <-chan struct{} { return listen(t, h, path, "Authorization", "Bearer "+c.Token) }
	ends := func(what string, over <-chan struct{}) {
		t.Helper()
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Errorf("%s: the stream goes on", what)
		}
	}
	id := func(c *apptest.Client) string {
		var me struct{ ID string }
		c.Do("GET", "/v1/me", nil).Want(200).Into(&me)
		return me.ID
	}
	staying := map[string]<-chan struct{}{"an operator's": open(h.Operator), "an administrator's": open(admin)}
	goesOn := func(after string) {
		t.Helper()
		for whose, over := range staying {
			select {
			case <-over:
				t.Errorf("%s: %s stream ended", after, whose)
			default:
			}
		}
	}

	ended := h.NewCustomer(t, "ended")
	over := open(ended)
	h.SignIn(t, "ended").Do("DELETE", "/v1/sessions", nil).Want(200)
	ends("a session that its owner ended elsewhere", over)
	goesOn("a session ended")

	shut := h.NewCustomer(t, "shut")
	over = open(shut)
	admin.Do("POST", "/v1/users/"+id(shut)+"/disable", map[string]any{"reason": "for a test"}).Want(200)
	ends("an account that was shut", over)
	goesOn("an account was shut")

	raised := h.NewCustomer(t, "raised")
	over = open(raised)
	admin.Do("PUT", "/v1/users/"+id(raised)+"/roles", map[string]any{"roles": []string{"customer", "order_administrator"}}).Want(200)
	ends("an account with other roles", over)
	over = open(raised) // the same token lets him in again, with the roles that he has now

	token := personal(t, h.Customer, "watchNotices")
	withToken := listen(t, h, path, "Authorization", "Bearer "+token.Token)
	h.Customer.Do("DELETE", "/v1/me/tokens/"+token.ID, nil).Want(204)
	ends("a personal access token that was revoked", withToken)
	goesOn("a token was revoked")

	plain := open(h.NewCustomer(t, "plain"))
	admin.Do("DELETE", "/v1/resources/watchNotices/roles/customer", nil).Want(200)
	ends("a permission that was taken away", plain)
	select {
	case <-over:
		t.Error("who may by another role lost his stream with the first one")
	default:
	}
	admin.Do("DELETE", "/v1/resources/watchNotices/roles/order_administrator", nil).Want(200)
	ends("the last permission that was taken away", over)
	goesOn("permissions were taken away")
}
