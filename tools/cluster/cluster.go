package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"levee/deploy"
	"levee/internal/platform/backends"
)

// cluster is a house of several nodes with all that they stand on, on this machine.
type cluster struct {
	levee   string // the program
	address string // of the load balancer, HOST:PORT
	data    string // absolute
	mysql   *backends.MySQLServer
	dbURL   string // where nodes reach it
	redis   *backends.RedisServer
	nodes   []*node
	nginx   *backends.Program
}

// node is one server of the house. Each build that runs on its address is a program of its own.
type node struct {
	number int
	addr   *backends.Address
	*backends.Program
}

const (
	stopPatience = 35 * time.Second // a node may take 30 s to stop
	database     = "levee"
)

// start starts everything, with so many nodes and replicas of MariaDB; what was started before a failure is stopped.
func start(ctx context.Context, levee, address, data string, nodes, replicas int) (_ *cluster, err error) {
	c := &cluster{address: address}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	// Before anything is started for nothing.
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the address of the load balancer cannot be had; choose another with --addr: %w", err)
	}
	_ = l.Close()
	if c.data, err = filepath.Abs(data); err != nil {
		return nil, err
	}
	if c.levee, err = filepath.Abs(levee); err != nil { // each node runs in a folder of its own
		return nil, err
	}
	if err := c.keepSecret(); err != nil {
		return nil, err
	}
	if c.mysql, err = backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true, Replicas: replicas, Settings: map[string]string{"max_connections": "500"}}); err != nil {
		return nil, err
	}
	if err := c.mysql.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return nil, err
	}
	c.dbURL = c.mysql.URL() + database
	if c.redis, err = backends.StartRedis(ctx, backends.RedisOptions{Durable: true, AOF: true}); err != nil {
		return nil, err
	}
	for i := range nodes {
		addr, err := backends.TakeAddress()
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, &node{number: i + 1, addr: addr})
	}
	// The first one brings the demonstration; the others find it.
	if err := c.startNode(ctx, 0, "demo"); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	errs := make([]error, nodes)
	for i := 1; i < nodes; i++ {
		wg.Go(func() { errs[i] = c.startNode(ctx, i, "serve") })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, errors.Join(c.startNginx(ctx), c.writeEnvironment())
}

// keepSecret makes the secret of the nodes, once for a folder.
func (c *cluster) keepSecret() error {
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(c.secretFile()); err == nil {
		return nil
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	if err := os.WriteFile(c.secretFile()+".new", []byte(hex.EncodeToString(raw)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(c.secretFile()+".new", c.secretFile())
}

func (c *cluster) secretFile() string { return filepath.Join(c.data, "secret") }

// environment is what makes a node one of this house.
func (c *cluster) environment() []string {
	return []string{
		"LEVEE_MODE=distributed",
		"LEVEE_DB=" + c.dbURL,
		"LEVEE_REDIS=" + c.redis.URL(),
		"LEVEE_SECRET_FILE=" + c.secretFile(),
		"LEVEE_DATA=" + c.data,
		"LEVEE_HTTP__PUBLIC_URL=http://" + c.address,
		"LEVEE_HTTP__TRUSTED_PROXIES=127.0.0.1",
		"LEVEE_PAYMENT__SANDBOX__ENABLED=true",
		"LEVEE_LOG__LEVEL=info",
	}
}

// startNode starts one node with serve or demo, in place of the build that ran there, and waits until it takes requests, and until demo has
// told that all is there.
func (c *cluster) startNode(ctx context.Context, i int, command string) error {
	n := c.nodes[i]
	addr := n.addr.String()
	args := []string{command}
	if command == "demo" {
		args = append(args, "--addr", addr, "--data", c.data)
	}
	if err := n.Close(); err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		if command == "demo" && !strings.Contains(n.Log(), "Stop with Ctrl-C.") {
			return errors.New("the demonstration's data is not there yet")
		}
		return get(ctx, "http://"+addr+"/readyz", nil)
	}
	var err error
	n.Program, err = backends.PrepareProgram(backends.ProgramOptions{Name: fmt.Sprintf("node %d", n.number), Path: c.levee, Args: args, Ready: ready,
		Env: append(append(os.Environ(), c.environment()...), fmt.Sprintf("LEVEE_NODE__NAME=node-%d", n.number), "LEVEE_HTTP__ADDR="+addr), Patience: stopPatience})
	if err != nil {
		return err
	}
	return n.Restart(ctx)
}

func (c *cluster) startNginx(ctx context.Context) (err error) {
	given := deploy.Nginx{Listen: c.address}
	for _, n := range c.nodes {
		given.Nodes = append(given.Nodes, n.addr.String())
	}
	c.nginx, err = given.Start(ctx, func(ctx context.Context) error { return get(ctx, "http://"+c.address+"/v1/time", nil) })
	return err
}

// writeEnvironment notes down how a command such as levee doctor finds this house.
func (c *cluster) writeEnvironment() error {
	var b strings.Builder
	for _, line := range c.environment() {
		name, value, _ := strings.Cut(line, "=")
		fmt.Fprintf(&b, "%s='%s'\n", name, value)
	}
	return os.WriteFile(c.environmentFile(), []byte(b.String()), 0o600)
}

func (c *cluster) environmentFile() string { return filepath.Join(c.data, "environment") }

// accounts returns the passwords of the demonstration by name.
func (c *cluster) accounts() (accounts map[string]string, err error) {
	text, err := os.ReadFile(filepath.Join(c.data, "accounts.json"))
	if err == nil {
		err = json.Unmarshal(text, &accounts)
	}
	return accounts, err
}

// openSale returns the sale of the demonstration that is open.
func (c *cluster) openSale(ctx context.Context) (string, error) {
	var list struct {
		Items []struct{ ID, Phase string }
	}
	if err := get(ctx, "http://"+c.address+"/v1/sales", &list); err != nil {
		return "", err
	}
	at := slices.IndexFunc(list.Items, func(s struct{ ID, Phase string }) bool { return s.Phase == "open" })
	if at < 0 {
		return "", errors.New("no sale of the demonstration is open")
	}
	return list.Items[at].ID, nil
}

// stop stops what runs, the load balancer first and the servers last.
func (c *cluster) stop() {
	ctx := context.Background()
	report := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "cluster: stopping %s: %v\n", what, err)
		}
	}
	if c.nginx != nil {
		report("nginx", c.nginx.End(ctx))
		report("nginx", c.nginx.Close())
	}
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() {
			if n.Program != nil {
				report(fmt.Sprintf("node %d", n.number), n.End(ctx))
				report(fmt.Sprintf("node %d", n.number), n.Close())
			}
			n.addr.Free()
		})
	}
	wg.Wait()
	if c.redis != nil {
		report("Redis", c.redis.Close())
	}
	if c.mysql != nil {
		report("MariaDB", c.mysql.Close())
	}
	if c.data != "" {
		_ = os.Remove(c.environmentFile()) // it names servers that are gone
	}
}

// get asks for a page that must answer 200 within two seconds, and reads its JSON.
func get(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, answer.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(into)
}
