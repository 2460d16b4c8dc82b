package push

import "time"

// turn begins another epoch, or goes on in the same one beyond a gap: history up to floor is not known here. Unless silent, all who listen
// are told to read anew. A reader of another epoch, or from before floor, is told when he comes back.
func (h *Hub) turn(epoch uint64, floor int64, silent bool) {
	h.mu.Lock()
	for name, t := range h.topics {
		t.ring, t.next, t.elem, t.lost = nil, 0, nil, floor
		if t.refs == 0 {
			delete(h.topics, name)
		}
	}
	h.recent.Init()
	h.bytes = 0
	h.epoch, h.offset, h.lost = epoch, floor, floor
	h.serial++
	h.pending = append(h.pending, &frame{
		serial: h.serial, at: position{epoch: epoch, offset: floor}, kind: kindReset, data: []byte("null"), silent: silent,
	})
	h.mu.Unlock()
	if !silent {
		h.metrics.turns.Inc()
	}
	h.signal()
}

// skip passes over an offset that no frame has.
func (h *Hub) skip(offset int64) {
	h.mu.Lock()
	h.offset = offset
	h.mu.Unlock()
}

// head returns the position of the last frame.
func (h *Hub) head() position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return position{epoch: h.epoch, offset: h.offset}
}

// tellTurn queues a turn for all who listen. Called by the dispatcher.
func (h *Hub) tellTurn(f *frame, now time.Time) {
	h.mu.Lock()
	topics := make([]*topic, 0, len(h.topics))
	for _, t := range h.topics {
		if t.refs > 0 {
			topics = append(topics, t)
		}
	}
	h.mu.Unlock()
	for _, t := range topics {
		t.mu.Lock()
		for _, c := range t.subs {
			c.push(f, now)
		}
		t.mu.Unlock()
	}
}
