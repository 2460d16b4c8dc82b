package rehearse

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms": duration, "count": func(n int64) string { return thousands(uint64(max(0, n))) },
	"upper": strings.ToUpper,
}).Parse(pageText))

// pageView is what the page shows.
type pageView struct {
	Report
	Tiles                    []tile
	Outcomes, Replies        []tile
	Answers, Latency, Curves template.HTML
	Waiting                  template.HTML
	RoomTiles                []tile
	Legend                   []tile
}

type tile struct{ Label, Value, Hint string }

func (r Report) html() ([]byte, error) {
	v := pageView{Report: r, Tiles: r.tiles(), Answers: r.plotAnswers(), Latency: r.plotLatency(), Curves: r.plotCurves()}
	if r.Room != nil {
		v.RoomTiles, v.Waiting = r.Room.tiles(), r.Room.plot()
	}
	for f := range finals {
		if n := r.Outcomes[finalNames[f]]; n > 0 {
			v.Outcomes = append(v.Outcomes, tile{Label: finalLabels[f], Value: thousands(n)})
		}
	}
	for c := range classes {
		if n := r.Answers[classNames[c]]; n > 0 {
			v.Legend = append(v.Legend, tile{classLabels[c], thousands(n), "c-" + classNames[c]})
		}
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (r Report) tiles() []tile {
	rate := tile{"presses a second", thousands(uint64(r.ArrivalsPerSecond)), thousands(r.Arrivals) + " presses in " + seconds(r.CameFor)}
	if r.Config.Max {
		rate = tile{"answers a second", thousands(uint64(r.AnswersPerSecond)), thousands(total(r.Answers)) + " answers in " + seconds(r.CameFor)}
	}
	reserved := r.Account.Stock.Reserved + r.Account.Stock.Sold
	list := []tile{rate, {"orders", thousands(uint64(max(0, reserved))), "units of " + thousands(uint64(max(0, r.Units))) + " offered"}}
	if r.SoldOutAfter != nil {
		list = append(list, tile{"sold out after", seconds(max(0, *r.SoldOutAfter-r.OpenedAfter)), "from the opening to the first “sold out”"})
	}
	if l, ok := r.Latency(measureNames[ofOrders]); ok {
		list = append(list, tile{"orders, p99", duration(l.P99), "half of them within " + duration(l.P50)})
	}
	if l, ok := r.Latency(measureNames[ofRefusals]); ok {
		list = append(list, tile{"refusals, p99", duration(l.P99), "half of them within " + duration(l.P50)})
	}
	return list
}

func seconds(s float64) string { return duration(s * 1000) }

func (r Report) settings() []Setting {
	c := r.Config
	list := []Setting{{"server", c.Server}, {"sale", r.Sale}, {"rehearsal copy", r.Rehearsal},
		{"units, per buyer", fmt.Sprintf("%d, %d", r.Units, r.PerBuyer)}, {"buyers", thousands(uint64(c.Buyers))}}
	if c.Max {
		list = append(list, Setting{"mode", fmt.Sprintf("as much as the server takes, %d under way on each connection", c.Depth)})
	} else {
		list = append(list, Setting{"rate", number(c.Rate) + " a second, Poisson"}, Setting{"press twice", share(c.Double)},
			Setting{"come before the opening", c.Early.String()})
	}
	poll := "hold the line for the commit"
	if c.Poll {
		poll = "ask for a reservation and poll it"
	}
	return append(list, Setting{"pay", share(c.Pay)}, Setting{"for", c.Duration.String()}, Setting{"connections", thousands(uint64(c.Connections))},
		Setting{"units a press", fmt.Sprint(c.Quantity)}, Setting{"people", poll},
		Setting{"patience, time to settle, time-out", fmt.Sprintf("%v, %v, %v", c.Patience, c.Settle, c.Timeout)},
		Setting{"seed", fmt.Sprint(c.Seed)}, Setting{"started", r.StartedAt.Format(time.RFC3339)})
}

func share(f float64) string { return number(math.Round(f*1e6)/1e4) + " %" }
