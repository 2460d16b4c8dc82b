// Package deploy holds the files with which Levee is put on machines: a load balancer's configuration, a compose file, a unit of systemd and
// manifests of Kubernetes. Its code only gives them to whoever runs or checks them, so that what is tried is what is shipped.
package deploy

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"levee/internal/platform/backends"
)

//go:embed nginx.conf
var nginxConf string

var (
	nginxNode   = regexp.MustCompile(`(?m)^(\s*server )\S+( max_fails=.*)$`)
	nginxListen = regexp.MustCompile(`(?m)^(\s*listen )80( .*)$`)
	nginxTLS    = regexp.MustCompile(`(?m)^(\s*)# TLS: (.*)$`)
)

// Nginx says how [Nginx.Conf] changes deploy/nginx.conf: addresses and folders only.
type Nginx struct {
	// Listen is the HOST:PORT to listen on. Nodes are the nodes', at least one.
	Listen string
	Nodes  []string
	// Dir is an absolute folder for the files that nginx writes; [Nginx.Start] makes one.
	Dir string
	// TLS, a HOST:PORT, switches the lines marked TLS on; Certificate and Key are then absolute paths of PEM files.
	TLS, Certificate, Key string
}

// Conf returns the configuration, or an error when the file has changed so that its addresses are not found any more.
func (n Nginx) Conf() (string, error) {
	text := nginxConf
	if len(nginxNode.FindAllString(text, -1)) != 3 || len(nginxListen.FindAllString(text, -1)) != 1 || len(nginxTLS.FindAllString(text, -1)) != 6 {
		return "", fmt.Errorf("deploy/nginx.conf has not the three nodes, the one listen and the six TLS lines that are replaced here")
	}
	var servers []string
	line := nginxNode.FindString(text)
	for _, node := range n.Nodes {
		servers = append(servers, nginxNode.ReplaceAllString(line, "${1}"+node+"${2}"))
	}
	first := true
	text = nginxNode.ReplaceAllStringFunc(text, func(string) string {
		if !first {
			return ""
		}
		first = false
		return strings.Join(servers, "\n")
	})
	text = nginxListen.ReplaceAllString(text, "${1}"+n.Listen+"${2}")
	if n.TLS != "" {
		text = nginxTLS.ReplaceAllString(text, "${1}${2}")
		text = strings.NewReplacer("listen 443 ", "listen "+n.TLS+" ", "/etc/nginx/levee.crt", n.Certificate, "/etc/nginx/levee.key", n.Key).Replace(text)
	}
	var folders strings.Builder
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&folders, "    %s_temp_path %s/%s;\n", what, n.Dir, what)
	}
	return strings.Replace(text, "http {\n", "http {\n"+folders.String(), 1), nil
}

// Start installs nginx when it is missing and that is possible, starts it with this configuration and returns when ready succeeds, or when it
// takes connections if that is nil. It ends with this process, or by Close.
func (n Nginx) Start(ctx context.Context, ready func(context.Context) error) (*backends.Program, error) {
	path, err := backends.Nginx(ctx)
	if err != nil {
		return nil, err
	}
	if ready == nil {
		ready = func(ctx context.Context) error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", n.Listen)
			if err == nil {
				err = c.Close()
			}
			return err
		}
	}
	p, err := backends.PrepareProgram(backends.ProgramOptions{Name: "nginx", Path: path, Ready: ready, Patience: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	n.Dir = p.Dir()
	text, err := n.Conf()
	file := filepath.Join(n.Dir, "nginx.conf")
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err == nil {
		directives := "daemon off; pid " + filepath.Join(n.Dir, "pid") + ";"
		if os.Geteuid() == 0 {
			directives += " user root;" // its folder is for this user alone
		}
		p.SetArgs("-p", n.Dir, "-c", file, "-e", "stderr", "-g", directives)
		err = p.Restart(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}
