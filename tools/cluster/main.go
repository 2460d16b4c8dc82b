// Command cluster runs a whole deployment on this machine: MariaDB, Redis, several nodes of Levee and nginx in front of them with
// deploy/nginx.conf, as an example to look at, and to try an upgrade on under load.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"levee/internal/platform/backends"
)

const help = `A deployment of Levee on this machine: MariaDB, Redis, nodes, and nginx in front of them.

  cluster up [--addr 127.0.0.1:8080] [--data data/cluster] [--nodes 3] [--levee bin/levee]
      start, print addresses and sign-ins, stop at Ctrl-C. The folder keeps the secret and the sign-ins for the next start; rows are gone
      with the servers.
  cluster upgrade --before FILE --after FILE [--addr 127.0.0.1:8080] [--rate 200] [--for 40s]
      start three nodes of one build, send a crowd through nginx, replace node after node by the other build, and let the rehearsal's
      audit judge. Exit code 1: something was lost, or a node did not stop in order.

MariaDB, Redis and nginx are installed from Debian's packages when they are missing and that is possible (LEVEE_TEST_INSTALL=no forbids
it). All of it ends with this command, also when it is killed.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, log io.Writer) int {
	command := "help"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("cluster "+command, flag.ContinueOnError)
	flags.SetOutput(log)
	addr := flags.String("addr", "127.0.0.1:8080", "where nginx listens")
	data := flags.String("data", "data/cluster", "folder that keeps secret and sign-ins")
	var err error
	switch command {
	case "up":
		nodes := flags.Int("nodes", 3, "how many nodes, 1 to 9")
		levee := flags.String("levee", "bin/levee", "the program")
		orphan := flags.Bool("with-parent", false, "stop when the process that started this one has ended")
		if flags.Parse(args) != nil || flags.NArg() > 0 || *nodes < 1 || *nodes > 9 {
			fmt.Fprint(log, help)
			return 2
		}
		if *orphan {
			ctx = withParent(ctx)
		}
		err = up(ctx, *levee, *addr, *data, *nodes, out)
	case "upgrade":
		u := upgrade{out: out}
		flags.StringVar(&u.before, "before", "", "the build that runs first")
		flags.StringVar(&u.after, "after", "", "the build that takes over")
		flags.Float64Var(&u.rate, "rate", 200, "presses a second")
		flags.DurationVar(&u.lasts, "for", 40*time.Second, "how long people come")
		if flags.Parse(args) != nil || flags.NArg() > 0 || u.before == "" || u.after == "" {
			fmt.Fprint(log, help)
			return 2
		}
		u.address = *addr
		err = u.run(ctx)
	case "help", "-h", "--help":
		fmt.Fprint(out, help)
		return 0
	default:
		fmt.Fprint(log, help)
		return 2
	}
	if err != nil {
		fmt.Fprintln(log, "cluster:", err)
		return 1
	}
	return 0
}

// withParent returns a context that ends with the process that started this one.
func withParent(ctx context.Context) context.Context {
	ctx, stop := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		defer stop()
		for os.Getppid() == parent && ctx.Err() == nil {
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return ctx
}

func up(ctx context.Context, levee, addr, data string, nodes int, out io.Writer) error {
	fmt.Fprintln(out, "starting MariaDB, Redis, the nodes and nginx …")
	begun := time.Now()
	c, err := start(ctx, levee, addr, data, nodes, 0)
	if err != nil {
		return err
	}
	defer c.stop()
	accounts, err := c.accounts()
	if err != nil {
		return err
	}
	sale, err := c.openSale(ctx)
	if err != nil {
		return err
	}
	base := "http://" + addr
	fmt.Fprintf(out, "\nLevee is ready on %d nodes (after %v).\n\n  storefront %s/\n  console    %s/console/\n  API        %s/docs\n\n",
		nodes, time.Since(begun).Round(100*time.Millisecond), base, base, base)
	for _, name := range []string{"administrator", "operator", "customer"} {
		fmt.Fprintf(out, "  sign in    %-14s password %s\n", name, accounts[name])
	}
	fmt.Fprintln(out)
	for i, n := range c.nodes {
		fmt.Fprintf(out, "  node %d     http://%s  its log %s\n", i+1, n.addr, filepath.Join(n.Dir(), "log"))
	}
	fmt.Fprintf(out, "  MariaDB    %s%s\n  Redis      %s\n\n", c.mysql.URL(), database, c.redis.URL())
	fmt.Fprintf(out, "  rehearse   LEVEE_PASSWORD=%s %s rehearse --server %s --user operator --sale %s --rate 2000 --buyers 20000 --duration 10s\n",
		accounts["operator"], levee, base, sale)
	fmt.Fprintf(out, "  examine    (set -a; . %s; %s doctor)\n\nStop with Ctrl-C.\n", c.environmentFile(), levee)
	// A node or nginx that ends by itself is told: the others go on, which is what they are there for.
	told := func(name string, p *backends.Program) {
		err := p.Wait(ctx)
		if ctx.Err() == nil {
			fmt.Fprintf(out, "%s has ended (%v); it said last:\n%s\n", name, err, p.Said())
		}
	}
	for _, n := range c.nodes {
		go told(fmt.Sprintf("node %d", n.number), n.Program)
	}
	go told("nginx", c.nginx)
	<-ctx.Done()
	fmt.Fprintln(out, "stopping …")
	return nil
}
