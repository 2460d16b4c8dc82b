package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func embeddedRows(ctx context.Context) (rows []row, err error) {
	if *part == "all" || *part == "engine" {
		if rows, err = insideRows(ctx); err != nil {
			return nil, err
		}
	}
	if *part != "engine" {
		h, err := startDemo(ctx)
		if err != nil {
			return nil, err
		}
		defer h.stop()
		if *part != "flood" {
			over, err := h.rows(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, over...)
		}
		beside, err := h.floodRows(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, beside...)
	}
	return rows, nil
}

// insideRows runs the engine's own benchmarks: the gate, its memory, committed purchases, and a start with a million buyers.
func insideRows(ctx context.Context) ([]row, error) {
	f := map[string]float64{}
	for _, b := range []struct{ room, name, times string }{{"gate", "Gate$", "3000000x"}, {"gate", "GateMemory$", "3x"}, {"sale", "Orders$", "300000x"},
		{"sale", "LoadGate$", "3x"}, {"sale", "Growth$", "100000x"}} {
		if err := goBench(ctx, f, b.room, b.name, b.times); err != nil {
			return nil, err
		}
	}
	gate, bare := 1e3/f["Gate/gate"], 1e3/f["Gate/mutex_and_map"]
	orders, rows := f["Orders/engine,_512_buyers_at_once orders/s"], f["Orders/bare_rows,_100_a_transaction orders/s"]
	small, large := f["Growth/1000_units"], f["Growth/100000_units"]
	return []row{
		{"gate decisions that take, with their settlement's accounting", fmt.Sprintf("%.1f M/s", gate), fmt.Sprintf("mutex and map: %.1f M/s", bare), fmt.Sprintf("%.2f", gate/bare), "≥ 0.7"},
		{"gate decisions, sold out", fmt.Sprintf("%.0f M/s", 1e3/f["Gate/gate,_sold_out"]), "–", "–", "–"},
		{"committed purchases in process, 512 buyers at once", fmt.Sprintf("%.0f k/s", orders/1e3), fmt.Sprintf("the same rows, 100 a transaction: %.0f k/s", rows/1e3), fmt.Sprintf("%.2f", orders/rows), "≥ 0.6"},
		{"memory of the gate per buyer who took", fmt.Sprintf("%.0f bytes", f["GateMemory bytes/buyer"]), "–", "–", "≤ 64 bytes"},
		{"loading a gate with 1 M buyers", fmt.Sprintf("%.2f s", f["LoadGate"]/1e9), "–", "–", "< 2 s"},
		{"cost per purchase, stock and crowd 100 times larger", fmt.Sprintf("%.1f µs", large/1e3), fmt.Sprintf("%.1f µs", small/1e3), fmt.Sprintf("%.2f", large/small), "0.8 to 1.2"},
	}, nil
}

// startDemo starts the demonstration, and takes one of its sales as the one that rehearsals copy.
func startDemo(ctx context.Context) (*house, error) {
	dir, err := os.MkdirTemp("", "levee-bench-")
	if err != nil {
		return nil, err
	}
	h := &house{dir: dir, env: quiet()}
	p := h.node("demo", filepath.Join(dir, "data"))
	err = p.start(ctx)
	if err == nil {
		err = h.enter()
	}
	if err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

// enter waits for the demonstration's sales and signs the operator in.
func (h *house) enter() error {
	deadline := time.Now().Add(30 * time.Second)
	for h.sale == "" {
		if time.Now().After(deadline) {
			return errors.New("the demonstration did not become ready within 30 s")
		}
		time.Sleep(200 * time.Millisecond)
		text, err := os.ReadFile(filepath.Join(h.dir, "data", "accounts.json"))
		if err != nil {
			continue
		}
		accounts := map[string]string{}
		if json.Unmarshal(text, &accounts) != nil || h.signIn("operator", accounts["operator"]) != nil {
			continue
		}
		var list struct{ Items []struct{ ID, Phase string } }
		if h.call("GET", "/v1/sales?live=true", nil, &list) != nil {
			continue
		}
		for _, s := range list.Items {
			if s.Phase == "open" {
				h.sale = s.ID
			}
		}
	}
	return nil
}

func (h *house) rows(ctx context.Context) ([]row, error) {
	length := time.Duration(*seconds) * time.Second
	limit, stop, err := startConstant(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	refused, floor, all, err := h.refusals(limit, length)
	if err != nil {
		return nil, err
	}
	rows := []row{{"sold-out refusals over HTTP, signed-in buyers", fmt.Sprintf("%.0f k/s", refused/1e3), fmt.Sprintf("bare net/http, a constant: %.0f k/s", floor/1e3), fmt.Sprintf("%.2f", refused/floor), "≥ 0.85, ≥ 90 k/s"}}

	mixed, err := h.crowd(20_000, 400_000)
	if err != nil {
		return nil, err
	}
	m, err := send(h.addrs(), mixed.requests, 256, 0)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("mixed attempts over HTTP: 400,000 buyers, 20,000 units (%d won)", m.status[201]), fmt.Sprintf("%.0f k/s", m.rate()/1e3), "–", "–", "≥ 60 k/s"})

	winners, err := h.crowd(200_000, 200_000)
	if err != nil {
		return nil, err
	}
	w, err := send(h.addrs(), winners.requests, 512, 0)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("committed purchases over HTTP (%d of 200,000 won)", w.status[201]), fmt.Sprintf("%.1f k/s", w.won()/1e3), "–", "–", "≥ 20 k/s"})

	half := w.won() / 2
	p, err := h.paced(half, length)
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{fmt.Sprintf("p50 and p99 of a purchase at half of that rate (%.1f k/s), from the intended moment", half/1e3),
		p, "–", "–", "p99 ≤ 25 ms"})
	return rows, errors.Join(all.only("losers"), m.only("mixed"), w.only("winners"))
}
