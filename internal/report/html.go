package report

import (
	"bytes"
	_ "embed"
	"html/template"
	"strings"
)

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"ms": Duration, "count": func(n int64) string { return Thousands(uint64(max(0, n))) },
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
	for _, k := range Outcomes {
		if n := r.Outcomes[k.Name]; n > 0 {
			v.Outcomes = append(v.Outcomes, tile{Label: k.Label, Value: Thousands(n)})
		}
	}
	for _, k := range Answers {
		if n := r.Answers[k.Name]; n > 0 {
			v.Legend = append(v.Legend, tile{k.Label, Thousands(n), "c-" + k.Name})
		}
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (r Report) tiles() []tile {
	rate := tile{"presses a second", Thousands(uint64(r.ArrivalsPerSecond)), Thousands(r.Arrivals) + " presses in " + seconds(r.CameFor)}
	if r.Closed {
		rate = tile{"answers a second", Thousands(uint64(r.AnswersPerSecond)), Thousands(Total(r.Answers)) + " answers in " + seconds(r.CameFor)}
	}
	reserved := r.Account.Stock.Reserved + r.Account.Stock.Sold
	list := []tile{rate, {"orders", Thousands(uint64(max(0, reserved))), "units of " + Thousands(uint64(max(0, r.Units))) + " offered"}}
	if r.SoldOutAfter != nil {
		list = append(list, tile{"sold out after", seconds(max(0, *r.SoldOutAfter-r.OpenedAfter)), "from the opening to the first “sold out”"})
	}
	if l, ok := r.Latency("orders"); ok {
		list = append(list, tile{"orders, p99", Duration(l.P99), "half of them within " + Duration(l.P50)})
	}
	if l, ok := r.Latency("refusals"); ok {
		list = append(list, tile{"refusals, p99", Duration(l.P99), "half of them within " + Duration(l.P50)})
	}
	return list
}
