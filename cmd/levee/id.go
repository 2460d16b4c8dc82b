package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/platform/id"
)

type idCmd struct {
	Next     idNextCmd     `cmd:"" help:"Give new ids, one a line."`
	Explain  idExplainCmd  `cmd:"" help:"Take an id apart: time, worker, sequence."`
	Segments idSegmentsCmd `cmd:"" help:"Give the next dense numbers of a name (invoices, coupon batches), one a line."`
}

// idCountMost is the most that one command gives.
const idCountMost = 10_000_000

type idNextCmd struct {
	Count  int    `arg:"" optional:"" default:"1" help:"How many, 1 to 10000000. Default 1."`
	Layout string `default:"default" placeholder:"LAYOUT" help:"default, or js53: ids that JavaScript's numbers hold."`
}

func (c *idNextCmd) Help() string {
	return "Claims a worker number where the configuration says (the data folder, or the database, Redis or etcd of the nodes), gives ids and\n" +
		"gives the number back. A server that runs on the same folder or database goes on beside it, and no id is given twice."
}

func (c *idNextCmd) Run(env *common) error {
	if err := idCount(c.Count); err != nil {
		return err
	}
	return withIDs(env, func(ids *app.IDs) error {
		s, err := ids.Generator(env.ctx, c.Layout)
		if err != nil {
			return err
		}
		return idLines(env, c.Count, s.NextN)
	})
}

type idSegmentsCmd struct {
	Name  string `arg:"" help:"What is numbered: 1 to 100 letters, digits and ._:/-, beginning with a letter or digit."`
	Count int    `arg:"" optional:"" default:"1" help:"How many, 1 to 10000000. Default 1."`
}

func (c *idSegmentsCmd) Help() string {
	return "Numbers of a name begin at 1 and are given once. They are counted in the database that the configuration names. A server that runs\n" +
		"takes its numbers in segments, so this command's numbers may lie above some that the server has still to give."
}

func (c *idSegmentsCmd) Run(env *common) error {
	if err := idCount(c.Count); err != nil {
		return err
	}
	return withIDs(env, func(ids *app.IDs) error {
		s, err := ids.Numbers(env.ctx)
		if err != nil {
			return err
		}
		return idLines(env, c.Count, func(dst []int64) error { return s.NextN(env.ctx, c.Name, dst) })
	})
}

type idExplainCmd struct {
	ID     string `arg:"" help:"The id, in decimal."`
	Layout string `default:"default" placeholder:"LAYOUT" help:"default, or js53."`
}

func (c *idExplainCmd) Run(env *common) error {
	layouts := map[string]id.Layout{"default": id.Default, "js53": id.JS53}
	layout, ok := layouts[c.Layout]
	if !ok {
		return levee.Invalid("--layout", `"default" or "js53"`, c.Layout)
	}
	given, err := id.Parse(c.ID)
	if err != nil {
		return err
	}
	p, err := layout.Explain(int64(given))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.stdout, "id        %s\ntime      %s\nworker    %d\nsequence  %d\nlayout    %s\n", given, p.Time.Format("2006-01-02T15:04:05.000Z07:00"), p.Worker,
		p.Sequence, layout)
	return err
}

func idCount(n int) error {
	if n < 1 || n > idCountMost {
		return levee.Invalid("COUNT", "a number from 1 to "+strconv.Itoa(idCountMost), n)
	}
	return nil
}

// withIDs opens what the configuration says about ids, for one command.
func withIDs(env *common, do func(*app.IDs) error) error {
	cfg, err := env.config()
	if err != nil {
		return err
	}
	if cfg.Log.Level == "" {
		cfg.Log.Level = "warn" // what a server tells of its start is not asked for here
	}
	ids, err := app.OpenIDs(cfg, env.stderr)
	if err != nil {
		return err
	}
	err = do(ids)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(env.ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, ids.Close(ctx))
}

// idLines writes count ids, a thousand at a time.
func idLines(env *common, count int, next func([]int64) error) error {
	out := bufio.NewWriter(env.stdout)
	buf := make([]int64, 1000)
	var line []byte
	for count > 0 {
		if err := env.ctx.Err(); err != nil {
			return err
		}
		dst := buf[:min(count, len(buf))]
		if err := next(dst); err != nil {
			return errors.Join(err, out.Flush())
		}
		for _, n := range dst {
			line = append(strconv.AppendInt(line[:0], n, 10), '\n')
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		count -= len(dst)
	}
	return out.Flush()
}
