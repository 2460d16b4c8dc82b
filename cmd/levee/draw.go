package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee"
	"levee/internal/line"
)

type drawCmd struct {
	Verify drawVerifyCmd `cmd:"" help:"Run a draw again from what was published, and compare."`
}

type drawVerifyCmd struct {
	Server   string `placeholder:"URL" help:"Where the sale is, for example https://shop.example."`
	Sale     string `placeholder:"SALE" help:"The sale's id (sal_…)."`
	Dir      string `placeholder:"DIR" type:"path" help:"Read draw.json, entries.txt and results.txt from here instead of a server."`
	Save     string `placeholder:"DIR" type:"path" help:"Keep what was read from the server in this folder."`
	SeedHash string `placeholder:"HEX" help:"The seed's hash as you noted it before the entries closed."`
	Entry    string `placeholder:"ENTRY" help:"Your entry (ent_…): tell whether it took part, its rank and what it won."`
}

func (c *drawVerifyCmd) Help() string {
	return "Runs the draw of a sale again from public data alone and compares it byte for byte: the seed with its hash, the entry list\n" +
		"with its digest, and every line of the results. It needs no account. Exit code 1 if anything differs; it says what and where.\n\n" +
		"What a draw that verifies proves, and what it cannot prove, stands in docs/draw.md."
}

// The files of a draw, as --dir and --save name them, and the most bytes read of each.
const (
	drawFile    = "draw.json"
	entriesFile = "entries.txt"
	resultsFile = "results.txt"
	drawMax     = 1 << 20
	textMax     = 256 << 20
)

func (c *drawVerifyCmd) Run(env *common) error {
	read := c.fromServer
	switch {
	case c.Dir != "" && (c.Server != "" || c.Save != ""):
		return levee.E(levee.CodeInvalid, "give --dir, or --server with --sale, not both")
	case c.Dir != "":
		read = c.fromDir
	case c.Server == "" || c.Sale == "":
		return levee.E(levee.CodeInvalid, "give --server and --sale, or --dir")
	}
	p, err := read(env.ctx)
	if err != nil {
		return err
	}
	failed := 0
	for _, check := range line.Verify(p, line.Expect{Sale: c.Sale, SeedHash: c.SeedHash}) {
		if check.Problem == "" {
			fmt.Fprintf(env.stdout, "ok      %s\n", check.What)
			continue
		}
		failed++
		fmt.Fprintf(env.stdout, "FAILED  %s\n        %s\n", check.What, check.Problem)
	}
	if failed > 0 {
		return fmt.Errorf("the draw does not hold: %d of its checks failed", failed)
	}
	if c.Entry != "" {
		rank, won, found := line.ResultOf(p.Results, c.Entry)
		if !found {
			return fmt.Errorf("the draw holds, but the entry %s took no part in it", c.Entry)
		}
		fmt.Fprintf(env.stdout, "        %s has rank %d and won %d\n", c.Entry, rank, won)
	}
	fmt.Fprintln(env.stdout, "The draw holds.")
	return nil
}

func (c *drawVerifyCmd) fromDir(context.Context) (p line.Published, err error) {
	for _, f := range []struct {
		name string
		into *[]byte
		most int64
	}{{drawFile, &p.Draw, drawMax}, {entriesFile, &p.Entries, textMax}, {resultsFile, &p.Results, textMax}} {
		file, err := os.Open(filepath.Join(c.Dir, f.name))
		if err != nil {
			return p, err
		}
		*f.into, err = readAtMost(file, f.most)
		if err = errors.Join(err, file.Close()); err != nil {
			return p, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return p, nil
}

func (c *drawVerifyCmd) fromServer(ctx context.Context) (p line.Published, err error) {
	base, err := url.Parse(strings.TrimRight(c.Server, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return p, levee.Invalid("--server", "a URL such as https://shop.example", c.Server)
	}
	client := &http.Client{Timeout: 5 * time.Minute}
	draw := base.JoinPath("v1", "sales", c.Sale, "draw")
	if p.Draw, err = fetch(ctx, client, draw, drawMax); err != nil {
		return p, err
	}
	// Before the draw there are no texts to ask for, and the document alone tells why.
	var state struct{ State string }
	if json.Unmarshal(p.Draw, &state) != nil || state.State != "drawn" {
		return p, nil
	}
	if p.Entries, err = fetch(ctx, client, draw.JoinPath("entries"), textMax); err != nil {
		return p, err
	}
	if p.Results, err = fetch(ctx, client, draw.JoinPath("results"), textMax); err != nil {
		return p, err
	}
	if c.Save == "" {
		return p, nil
	}
	if err := os.MkdirAll(c.Save, 0o755); err != nil {
		return p, err
	}
	return p, errors.Join(os.WriteFile(filepath.Join(c.Save, drawFile), p.Draw, 0o644),
		os.WriteFile(filepath.Join(c.Save, entriesFile), p.Entries, 0o644), os.WriteFile(filepath.Join(c.Save, resultsFile), p.Results, 0o644))
}

func fetch(ctx context.Context, client *http.Client, from *url.URL, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", from, res.Status)
	}
	body, err := readAtMost(res.Body, most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return body, nil
}

func readAtMost(r io.Reader, most int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(body)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return body, err
}
