package rehearse

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// counter is one event of the public stream.
type counter struct {
	Served  int64 `json:"served"`
	Waiting int64 `json:"waiting"`
}

const (
	listenAgain   = time.Second // after a stream was cut
	lineMost      = 64 << 10
	listenersMost = 10_000
	boardEvery    = time.Second
	boardMost     = 4 * 3600 // samples kept: the longest rehearsal has fewer
)

// watch follows the counter of the waiting room and the operator's numbers until ctx ends, and lets a share of the people listen
// to the counter too, each on a connection of his own.
func (s *stage) watch(ctx context.Context) {
	if !s.room.policy.Room {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for range min(int(s.cfg.Listen*float64(s.cfg.Buyers)), listenersMost) {
		all.Go(func() { s.listener(ctx) })
	}
	var mu sync.Mutex // guards now, heard
	var now counter
	heard := false
	all.Go(func() {
		s.listen(ctx, func(c counter) {
			mu.Lock()
			now, heard = c, true
			mu.Unlock()
			s.room.keep(Board{At: s.now().Seconds(), Served: c.Served, Waiting: c.Waiting, Out: -1, Free: -1})
		})
	})
	for pause(ctx, boardEvery, nil) == nil {
		out, free, ok := s.op.live(ctx, s.copy.ID)
		mu.Lock()
		b := Board{At: s.now().Seconds(), Served: now.Served, Waiting: now.Waiting, Out: out, Free: free}
		known := heard
		mu.Unlock()
		if ok && known {
			s.room.keep(b)
		}
	}
}

// keep adds a sample.
func (r *room) keep(b Board) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.board) < boardMost {
		r.board = append(r.board, b)
	}
}

// listener is one person who watches the counter.
func (s *stage) listener(ctx context.Context) {
	last, heard := int64(0), false
	s.listen(ctx, func(c counter) {
		if heard && c.Served < last {
			s.room.lie(liePace, "the counter went back from %d to %d", last, c.Served)
		}
		last, heard = c.Served, true
	})
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if heard {
		s.room.listeners++
	} else {
		s.room.deaf++
	}
}

// listen reads the public stream of the waiting room, and again whenever it is cut, until ctx ends.
func (s *stage) listen(ctx context.Context, each func(counter)) {
	client := &http.Client{Transport: s.op.client.Transport}
	for ctx.Err() == nil {
		s.listenOnce(ctx, client, each)
		if pause(ctx, listenAgain, nil) != nil {
			return
		}
	}
}

func (s *stage) listenOnce(ctx context.Context, client *http.Client, each func(counter)) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.Server+s.room.path+"/admissions/events", nil)
	if err != nil {
		return
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	lines := bufio.NewScanner(io.Reader(resp.Body))
	lines.Buffer(make([]byte, 0, 1024), lineMost)
	kind := ""
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "event":
			kind = string(value)
		case "data":
			var c counter
			if kind == "line" && json.Unmarshal(value, &c) == nil {
				each(c)
			}
		case "":
			kind = ""
		}
	}
}

// live reads the operator's numbers of the moment; ok is false when the server does not tell.
func (o *operator) live(ctx context.Context, sale string) (out, free int64, ok bool) {
	resp, no, err := o.do(ctx, http.MethodGet, "/v1/sales/"+sale+"/live", o.token, "", nil)
	if err != nil || no != nil {
		return 0, 0, false
	}
	defer resp.Body.Close()
	var v struct {
		Stock struct {
			Remaining int64 `json:"remaining"`
		} `json:"stock"`
		Queue *struct {
			Admitted int64 `json:"admitted"`
		} `json:"queue"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, bodyRead)).Decode(&v) != nil || v.Queue == nil {
		return 0, 0, false
	}
	return v.Queue.Admitted, v.Stock.Remaining, true
}
