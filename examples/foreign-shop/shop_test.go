// Package foreignshop_test runs the example: a house, and beside it a shop of another make that sells through it.
package foreignshop_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"levee/internal/app"
	"levee/internal/app/apptest"
)

// freePort is one that nobody listens on, for the shop: its address stands in the house's configuration before it starts.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// beside configures a house for a shop on this port.
func beside(port string) func(*app.Config) {
	return func(c *app.Config) {
		shop := "http://127.0.0.1:" + port
		c.Identity.ForeignIssuer, c.Identity.ForeignAudience, c.Identity.ForeignKeys = shop, "levee", shop+"/.well-known/jwks.json"
		c.Identity.ForeignKeysInsecure, c.Identity.ForeignNameClaim = []string{"127.0.0.1"}, "preferred_username"
		c.Notify.AllowHosts = []string{"127.0.0.1"}
		c.Notify.RetryFirst, c.Notify.RetryMost = 200*time.Millisecond, time.Second
	}
}

// day runs the shop's scripted day and returns what it printed and whether all agreed.
func day(t *testing.T, h *apptest.House, port string, more ...string) (string, bool) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the example shop needs Node 20 or later")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, append([]string{"shop.mjs", "--levee", h.Base, "--operator", "operator", "--port", port, "--data", t.TempDir()}, more...)...)
	cmd.Env = append(cmd.Environ(), "LEVEE_PASSWORD="+apptest.Password, "LEVEE_TOKEN=")
	out, err := cmd.CombinedOutput()
	t.Logf("the shop says:\n%s", out)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// The shop sells a sale through Levee with its own sign-in, is down in the middle of it, and its books agree in the end.
func TestForeignShop(t *testing.T) {
	port := freePort(t)
	h := apptest.Start(t, beside(port))
	out, agree := day(t, h, port)
	if !agree || !strings.Contains(out, "all agree") {
		t.Fatal("the shop's books do not agree with Levee's")
	}
	// What the shop says is also what the house says.
	var orders struct{ Items []struct{ State string } }
	h.Operator.Do("GET", "/v1/orders?limit=100", nil).Want(200).Into(&orders)
	states := map[string]int{}
	for _, o := range orders.Items {
		states[o.State]++
	}
	if fmt.Sprint(states) != "map[cancelled:1 created:1 paid:4]" {
		t.Errorf("the orders are %v", states)
	}
	var hooks struct {
		Items []struct {
			Links struct{ Deliveries string }
		}
	}
	h.Operator.Do("GET", "/v1/webhooks", nil).Want(200).Into(&hooks)
	var list struct {
		Items []struct {
			State string
			Tries int
		}
	}
	h.Operator.Do("GET", hooks.Items[0].Links.Deliveries+"?limit=100", nil).Want(200).Into(&list)
	again := 0
	for _, d := range list.Items {
		if d.State != "delivered" {
			t.Errorf("a delivery is %s", d.State)
		}
		if d.Tries > 1 {
			again++
		}
	}
	if len(list.Items) < 6+4+1 || again == 0 {
		t.Errorf("%d deliveries, %d of them tried again: the receiver was not down", len(list.Items), again)
	}
}

// The control: a house that was not told of the shop's keys sells to none of its customers, and the shop notices.
func TestForeignShopControl(t *testing.T) {
	port := freePort(t)
	h := apptest.Start(t, func(c *app.Config) {
		beside(port)(c)
		c.Identity.ForeignIssuer += "/another"
	})
	if out, agree := day(t, h, port); agree || !strings.Contains(out, "401") {
		t.Error("the shop did not notice that nobody could buy")
	}
}
