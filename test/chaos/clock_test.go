package chaos

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Go asks the kernel for the time and not the C library, so nothing outside a program can step the clock of one process. The program of these
// tests is built with another clock: ahead of the machine's by the whole seconds that the file CHAOS_CLOCK says, looked at every 10 ms. As when
// somebody sets a machine's clock, the wall time steps and the monotonic one does not: the first word of a reading that has both holds the
// seconds above its lowest 30 bits.
var settableClock = []fault{
	{"internal/platform/obs/obs.go", "import (\n", `import (
	chaosos "os"
	chaosconv "strconv"
	chaosatomic "sync/atomic"
	chaosunsafe "unsafe"
`},
	{"internal/platform/obs/obs.go", "Clock: time.Now, Tracer:", "Clock: chaosClock(), Tracer:"},
	{"internal/platform/obs/obs.go", "// Obs is what a part is given to be seen.", `func chaosClock() Clock {
	file := chaosos.Getenv("CHAOS_CLOCK")
	if file == "" {
		return time.Now
	}
	ahead := new(chaosatomic.Int64)
	look := func() {
		text, err := chaosos.ReadFile(file)
		if n, e := chaosconv.ParseInt(string(text), 10, 64); err == nil && e == nil {
			ahead.Store(n)
		}
	}
	look()
	go func() {
		for ; ; time.Sleep(10 * time.Millisecond) {
			look()
		}
	}()
	return func() time.Time {
		t := time.Now()
		*(*uint64)(chaosunsafe.Pointer(&t)) += uint64(ahead.Load()) << 30
		return t
	}
}

// Obs is what a part is given to be seen.`},
}

// clockFile is read by a node in its own folder, where it runs.
const clockFile = "clock"

// setClock has a node's clock be ahead of the machine's, also over its restarts.
func (m *member) setClock(seconds int) error {
	m.ahead.Store(int64(seconds))
	path := filepath.Join(m.program.Dir(), clockFile)
	if err := os.WriteFile(path+".new", []byte(strconv.Itoa(seconds)), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// clockOff is how far a node's clock is ahead; not known when the node does not answer at once, for another fault.
func (m *member) clockOff(ctx context.Context) (ahead time.Duration, known bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr.String()+"/v1/time", nil)
	if err != nil {
		return 0, false
	}
	asked := time.Now()
	a, err := m.asker.Do(req)
	if err != nil {
		return 0, false
	}
	defer a.Body.Close()
	var said struct{ Time time.Time }
	err = json.NewDecoder(a.Body).Decode(&said)
	took := time.Since(asked)
	return said.Time.Sub(asked.Add(took / 2)), err == nil && a.StatusCode == http.StatusOK && took < 500*time.Millisecond
}
