package main

import (
	"fmt"
	"time"

	"levee/internal/rehearse"
)

type rehearseCmd struct {
	Server       string        `default:"http://127.0.0.1:8080" placeholder:"URL" help:"The running server."`
	User         string        `placeholder:"NAME" help:"An operator's name; the password comes from --password-file or LEVEE_PASSWORD."`
	PasswordFile string        `placeholder:"FILE" help:"File with the operator's password."`
	Token        string        `env:"LEVEE_TOKEN" placeholder:"TOKEN" help:"An operator's access token instead of name and password."`
	Sale         string        `required:"" placeholder:"ID" help:"The sale to rehearse. It is copied, not touched."`
	Rate         float64       `help:"Arrivals a second, whatever the answers (1 to 200000). Default 1000; with --queue, so that all come within --duration."`
	Buyers       int           `help:"How many people there are (1 to 1000000). Default: one for each arrival."`
	Duration     time.Duration `default:"30s" help:"How long people keep coming (1s to 1h)."`
	Connections  int           `default:"256" help:"Connections kept open (1 to 16384)."`
	Units        int64         `help:"Units of the copy. Default: as the sale."`
	PerBuyer     int           `help:"Limit per buyer of the copy. Default: as the sale."`
	Quantity     int           `default:"1" help:"Units each press asks for."`
	Early        time.Duration `help:"How long before the opening the first people come (0 to 1m)."`
	Pay          float64       `help:"Share of the winners who pay (0 to 1)."`
	Double       float64       `help:"Share of the people who press twice (0 to 1)."`
	Poll         bool          `help:"Everybody asks for an answer at once and polls for it."`
	Patience     time.Duration `default:"30s" help:"How long a person goes on trying while told to wait (1s to 10m)."`
	Settle       time.Duration `default:"60s" help:"The most time for open answers after the last arrival (1s to 10m)."`
	Timeout      time.Duration `default:"20s" help:"How long one answer may take (100ms to 2m)."`
	Seed         uint64        `default:"1" help:"The same seed presses at the same moments."`
	Queue        int           `placeholder:"N" help:"N people come to the sale's waiting room, wait, and buy when it is their turn (1 to 1000000)."`
	Listen       float64       `help:"Share of those who wait who also follow the public counter, each on a connection of his own (0 to 1)."`
	Max          bool          `help:"As many attempts as the server takes, instead of --rate: for benchmarks."`
	Depth        int           `default:"1" help:"With --max: requests on a connection before the first answer (1 to 64)."`
	Report       string        `default:"rehearsal.html" placeholder:"FILE" help:"Write the report with plots here; empty: none."`
	JSON         string        `name:"json" placeholder:"FILE" help:"Write all figures here."`
	Quiet        bool          `short:"q" help:"Print the result only."`
}

func (c *rehearseCmd) Help() string {
	return "Copies the sale, sends a crowd of invented buyers at the copy, and audits: what every buyer was told against what the\n" +
		"server holds. Latency counts from the moment a buyer meant to send. Exit code 1 says that something differs.\n\n" +
		"Where the sale has a waiting room, everybody comes once, keeps his place, asks again when he is told to, and buys when it is\n" +
		"his turn; who still waits shortly before the end of --settle goes home. An operator may open the copy in a browser and take part.\n\n" +
		"Example: LEVEE_PASSWORD=… levee rehearse --user operator --sale sal_… --rate 20000 --buyers 200000 --duration 10s\n" +
		"         LEVEE_PASSWORD=… levee rehearse --user operator --sale sal_… --queue 50000 --duration 20s --settle 5m"
}

func (c *rehearseCmd) Run(env *common) error {
	password, err := readPassword(c.PasswordFile)
	if err != nil {
		return err
	}
	if c.Queue != 0 {
		c.Buyers = c.Queue
	}
	report, err := rehearse.Run(env.ctx, rehearse.Config{Server: c.Server, User: c.User, Password: password, Token: c.Token, Sale: c.Sale,
		Rate: c.Rate, Buyers: c.Buyers, Duration: c.Duration, Connections: c.Connections, Units: c.Units, PerBuyer: c.PerBuyer, Quantity: c.Quantity,
		Early: c.Early, Pay: c.Pay, Double: c.Double, Poll: c.Poll, Patience: c.Patience, Settle: c.Settle, Timeout: c.Timeout, Seed: c.Seed, Queue: c.Queue != 0, Listen: c.Listen, Max: c.Max, Depth: c.Depth, Quiet: c.Quiet}, env.stdout)
	if err != nil {
		return err
	}
	if c.JSON != "" {
		if err := report.WriteJSON(c.JSON); err != nil {
			return err
		}
	}
	if c.Report != "" {
		if err := report.WriteHTML(c.Report); err != nil {
			return err
		}
		fmt.Fprintln(env.stdout, "report:", c.Report)
	}
	if !report.OK() {
		return fmt.Errorf("the audit found differences; see the report")
	}
	return nil
}
