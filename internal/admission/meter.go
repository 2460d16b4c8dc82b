package admission

import "time"

// meter counts admissions by second, for the pace that is told.
type meter struct {
	seconds [64]int32
	last    int64 // the second counted now
	first   int64 // the first second ever counted
	busy    int64 // the first second since which somebody could be admitted all the time
	any     bool
}

func (m *meter) move(now time.Duration) int64 {
	sec := int64(now / time.Second)
	if !m.any {
		m.any, m.first, m.last, m.busy = true, sec, sec, sec
	}
	for s := max(m.last+1, sec-63); s <= sec; s++ {
		m.seconds[s&63] = 0
	}
	m.last = max(m.last, sec)
	return sec
}

func (m *meter) add(now time.Duration, n int) {
	if n > 0 || m.any {
		m.seconds[m.move(now)&63] += int32(n)
	}
}

// rest tells that nobody was waiting, or could be admitted: what is measured from here on says what the line is worth.
func (m *meter) rest(now time.Duration) {
	if m.any {
		m.busy = m.move(now)
	}
}

// over is the pace over the last span whole seconds, or since the first one.
func (m *meter) over(now time.Duration, span int64) float64 {
	if !m.any {
		return 0
	}
	sec := m.move(now)
	return m.mean(sec, min(span, sec-m.first))
}

// worth is the pace of the last span seconds in which there was a line, and of how many that is.
func (m *meter) worth(now time.Duration, span int64) (perSecond float64, of int64) {
	if !m.any {
		return 0, 0
	}
	sec := m.move(now)
	of = min(span, sec-m.busy)
	return m.mean(sec, of), of
}

// mean of the last seconds before sec, of which at most 62 are kept.
func (m *meter) mean(sec, of int64) float64 {
	if of = min(of, 62); of <= 0 {
		return 0
	}
	var sum int64
	for s := sec - of; s < sec; s++ {
		sum += int64(m.seconds[s&63])
	}
	return float64(sum) / float64(of)
}

// due is a moment at which a place may change by itself.
type due struct {
	at   ds
	slot uint32
}

// deadlines is a binary heap, the soonest at the front. Entries of places that have moved on stay until their time comes.
type deadlines []due

func (d *deadlines) push(at ds, slot uint32) {
	h := append(*d, due{at, slot})
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if h[up].at <= h[i].at {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
	*d = h
}

func (d *deadlines) pop() due {
	h := *d
	top, end := h[0], len(h)-1
	h[0] = h[end]
	h = h[:end]
	for i := 0; ; {
		least := 2*i + 1
		if least >= end {
			break
		}
		if least+1 < end && h[least+1].at < h[least].at {
			least++
		}
		if h[i].at <= h[least].at {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*d = h
	return top
}
