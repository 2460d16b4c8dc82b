// Program api measures a small JSON POST through the whole of the house's request contract beside a bare handler of net/http that does the same
// work, and beside a service of Django REST framework. Each server is a process of its own, so that what it costs can be told from what asking costs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
	"levee/test/table"
)

//go:embed drf/service.py drf/requirements.txt
var drfFiles embed.FS

const (
	command     = "make bench-peers PEERS_OF=api"
	connections = 4
	rounds      = 5
	each        = 3 * time.Second // of a round; the first, which warms up, is left out
)

// The body of the comparison.
type post struct {
	Title   string   `json:"title" minLength:"1" maxLength:"100"`
	Channel string   `json:"channel_id" minLength:"3"`
	Type    string   `json:"type" enum:"article,photo,video"`
	Tags    []string `json:"tags" maxItems:"5"`
	Content string   `json:"content" maxLength:"1000"`
}

const postBody = `{"title":"A short title of an article","channel_id":"chn_4711","type":"article","tags":["go","http","json"],"content":"` +
	"Some words about the matter at hand, long enough to be more than a toy, and short enough to be sent by many at the same time." + `"}`

type answer struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Tags  int    `json:"tags"`
}

func main() {
	write := flag.String("write", "", "the page to write the table into")
	serve := flag.String("serve", "", "be this server, on a port of its own: bare or levee")
	flag.Parse()
	if err := run(*write, *serve); err != nil {
		slog.Error("api", "error", err)
		os.Exit(1)
	}
}

func run(page, serve string) error {
	switch serve {
	case "bare":
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/posts", bare)
		return listen(mux)
	case "levee":
		h, err := house()
		if err != nil {
			return err
		}
		return listen(h)
	}
	ctx := context.Background()
	python, err := openPython(ctx)
	if err != nil {
		return err
	}
	defer python.folder.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var rows [][]string
	floor := 0.0
	for _, s := range []server{
		{name: "bare net/http, encoding/json", path: "/v1/posts", start: func() *exec.Cmd { return exec.Command(self, "-serve", "bare") }},
		{name: "Levee: caller, permission, rate, checks, request log", path: "/v1/posts", start: func() *exec.Cmd { return exec.Command(self, "-serve", "levee") }},
		{name: "Django REST framework: caller, permission, serializer", path: "/v1/posts", start: python.gunicorn},
		{name: "the same with a rate per caller", path: "/v1/throttled", start: python.gunicorn},
	} {
		fmt.Fprintln(os.Stderr, "measuring", s.name)
		m, err := s.measure(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if floor == 0 {
			floor = m.cpu
		}
		rows = append(rows, []string{s.name, fmt.Sprintf("%.1f", m.cpu), fmt.Sprintf("%.1f", m.cpuMost), fmt.Sprintf("%.2f", m.cpu/floor), fmt.Sprintf("%.0f", m.rate)})
	}
	return table.Publish(page, "bench", command, fmt.Sprintf("%d connections that ask again when they are answered, %d rounds of %v, of which the first is left out; the median of the others, and "+
		"the most. CPU is what the server's processes used, with the kernel's share of their connections. %s, one worker.", connections, rounds, each, python.version(ctx)),
		table.Markdown([]string{"server", "CPU µs a request", "most", "× bare", "requests a second"}, rows))
}

// bare is what one would write by hand: the same body, a few checks.
func bare(w http.ResponseWriter, r *http.Request) {
	var p post
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&p); err != nil || p.Title == "" || len(p.Channel) < 3 {
		http.Error(w, "bad", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(answer{"art_1", p.Title, len(p.Tags)})
}

// house is the same operation behind all that the house does with a request.
func house() (http.Handler, error) {
	o, err := obs.Open(obs.Config{Level: "info", Format: "json"}, io.Discard)
	if err != nil {
		return nil, err
	}
	limits, err := limit.Open(limit.Config{Rates: map[string]string{"write": "1000000/s"}}, o)
	if err != nil {
		return nil, err
	}
	callers := map[string]levee.Actor{"Bearer x": {User: 7, Roles: levee.RoleCustomer}}
	s, err := web.New(web.Config{}, web.Parts{Obs: o, Limits: limits, Authenticate: func(r *http.Request) (levee.Actor, error) {
		a, ok := callers[r.Header.Get("Authorization")]
		if !ok {
			return a, levee.E(levee.CodeUnauthenticated, "sign in first")
		}
		return a, nil
	}})
	if err != nil {
		return nil, err
	}
	web.Add(s, web.Route{Method: "POST", Path: "/v1/posts", ID: "createPost", Status: 201, Roles: levee.RoleCustomer, Limit: limit.Write},
		func(_ context.Context, in *struct{ Body post }) (*struct{ Body answer }, error) {
			return &struct{ Body answer }{answer{"art_1", in.Body.Title, len(in.Body.Tags)}}, nil
		})
	return s.Handler(), nil
}

// listen serves on a free port, whose number it prints.
func listen(h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, h) //nolint:gosec // for a measurement on one machine
}

// server is one of those that are measured. It prints its address as its first line.
type server struct {
	name, path string
	start      func() *exec.Cmd
}

type figures struct{ cpu, cpuMost, rate float64 } // µs a request, requests a second

func (s server) measure(ctx context.Context) (f figures, err error) {
	cmd := s.start()
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return f, err
	}
	if err := cmd.Start(); err != nil {
		return f, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return f, fmt.Errorf("it did not say where it listens: %w", err)
	}
	addr = strings.TrimSpace(addr)
	var cpus, rates []float64
	for i := range rounds {
		before, err := cpuOf(cmd.Process.Pid)
		if err != nil {
			return f, err
		}
		n, took, err := ask(ctx, addr, s.path)
		if err != nil {
			return f, err
		}
		after, err := cpuOf(cmd.Process.Pid)
		if err != nil {
			return f, err
		}
		if i > 0 {
			cpus, rates = append(cpus, float64((after-before).Microseconds())/float64(n)), append(rates, float64(n)/took.Seconds())
		}
	}
	slices.Sort(cpus)
	slices.Sort(rates)
	return figures{cpu: cpus[len(cpus)/2], cpuMost: cpus[len(cpus)-1], rate: rates[len(rates)/2]}, nil
}

// ask sends requests for a round and returns how many were answered 201.
func ask(ctx context.Context, addr, path string) (n int64, took time.Duration, err error) {
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, addr, len(postBody), postBody)
	ctx, cancel := context.WithTimeout(ctx, each+10*time.Second)
	defer cancel()
	var answered atomic.Int64
	errs := make([]error, connections)
	began := time.Now()
	var work sync.WaitGroup
	for i := range connections {
		work.Go(func() {
			errs[i] = func() error {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err != nil {
					return err
				}
				defer conn.Close()
				in := bufio.NewReader(conn)
				for time.Since(began) < each {
					if _, err := conn.Write(request); err != nil {
						return err
					}
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						return err
					}
					text, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != http.StatusCreated || !bytes.Contains(text, []byte(`"art_1"`)) {
						return fmt.Errorf("answered %d %s (%w)", resp.StatusCode, text, err)
					}
					answered.Add(1)
				}
				return nil
			}()
		})
	}
	work.Wait()
	return answered.Load(), time.Since(began), errors.Join(errs...)
}

// cpuOf is what a process and its children have used so far.
func cpuOf(pid int) (total time.Duration, err error) {
	const hertz = 100 // of /proc on Linux, whatever the kernel's own
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	type process struct {
		parent int
		used   time.Duration
	}
	all := map[int]process{}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		id, _ := strconv.Atoi(strings.Split(name, "/")[2])
		if len(fields) < 13 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		kernel, _ := strconv.ParseInt(fields[12], 10, 64)
		all[id] = process{parent, time.Duration(user+kernel) * time.Second / hertz}
	}
	if _, ok := all[pid]; !ok {
		return 0, fmt.Errorf("the process %d has ended", pid)
	}
	for id, p := range all {
		if id == pid || p.parent == pid {
			total += p.used
		}
	}
	return total, nil
}

// python is a virtual environment with the service.
type python struct {
	folder *backends.Program // only its folder is used
	path   string
}

func openPython(ctx context.Context) (_ *python, err error) {
	p := &python{}
	if p.folder, err = backends.PrepareProgram(backends.ProgramOptions{Name: "python", Durable: true}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.folder.Close())
		}
	}()
	for _, name := range []string{"service.py", "requirements.txt"} {
		text, err := drfFiles.ReadFile("drf/" + name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(p.folder.Dir(), name), text, 0o600); err != nil {
			return nil, err
		}
	}
	venv := filepath.Join(p.folder.Dir(), "venv")
	p.path = filepath.Join(venv, "bin", "python")
	for _, c := range [][]string{
		{"python3", "-m", "venv", "--without-pip", venv},
		{"python3", "-m", "pip", "--python", p.path, "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "-r", filepath.Join(p.folder.Dir(), "requirements.txt")},
	} {
		cmd := exec.CommandContext(ctx, c[0], c[1:]...)
		cmd.WaitDelay = 5 * time.Second
		if said, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w; it said: %s", c[0], err, levee.Shorten(string(said), 1000))
		}
	}
	return p, nil
}

// gunicorn is the service in one worker of one thread that keeps its connections. The shell prints the address once the port answers.
func (p *python) gunicorn() *exec.Cmd {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(p.path, "-c", `
import subprocess, sys, socket, time, os
addr = sys.argv[1]
host, port = addr.split(":")
if os.fork() == 0:
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    print(addr, flush=True)
    os._exit(0)
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--bind", addr, "--workers", "1", "--threads", "`+strconv.Itoa(connections)+`", "--worker-class", "gthread", "--keep-alive", "75", "--log-level", "error", "service:application"])
`, addr)
	cmd.Dir = p.folder.Dir()
	return cmd
}

func (p *python) version(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, p.path, "-c",
		"import platform,django,rest_framework,gunicorn;print('Django',django.__version__,'REST framework',rest_framework.VERSION,'gunicorn',gunicorn.__version__,'Python',platform.python_version())")
	text, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
