package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"levee"
)

type readyCmd struct {
	Addr string `placeholder:"HOST:PORT" help:"Ask here. Default: where the configuration says that it listens."`
}

func (c *readyCmd) Help() string {
	return "Asks the server on this machine whether it takes requests, for health checks of containers: exit code 0 is yes."
}

func (c *readyCmd) Run(env *common) error {
	addr := c.Addr
	if addr == "" {
		cfg, err := env.config()
		if err != nil {
			return err
		}
		addr = cfg.HTTP.Addr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return levee.Invalid("addr", "HOST:PORT", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	client := http.Client{Timeout: 3 * time.Second}
	answer, err := client.Get("http://" + net.JoinHostPort(host, port) + "/readyz")
	if err != nil {
		return levee.E(levee.CodeUnavailable, "it does not answer").Because(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it is not ready: %s %s", answer.Status, strings.TrimSpace(string(text)))
	}
	_, err = fmt.Fprintln(env.stdout, "ready")
	return err
}
