package blob

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// helper starts this test again as a process of its own, which does what its name says in a folder.
func helper(t *testing.T, what, dir string, attributes *syscall.SysProcAttr) (*exec.Cmd, io.Reader) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(os.Environ(), "BLOB_HELPER="+what, "BLOB_DIR="+dir)
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, attributes
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, out
}

// TestHelper is the other process.
func TestHelper(t *testing.T) {
	dir := os.Getenv("BLOB_DIR")
	open := func() *house {
		s, err := OpenFolder(dir, Config{}, testKey, obs.Test(t))
		must(t, err)
		return &house{Store: s, dir: dir}
	}
	switch os.Getenv("BLOB_HELPER") {
	case "writes": // until it is killed, and says what it was told is there
		s := open()
		for i := range uint64(1 << 40) {
			data := pngOf(int(20_000 + i%7*300_000))
			o, err := s.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
			must(t, err)
			fmt.Println("stored", o.Key)
		}
	case "large files fail": // as on a disk that is full, for files of more than 64 KiB
		signal.Ignore(syscall.SIGXFSZ)
		must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}))
		full(t, open())
	case "the disk is full": // a real one, of 256 KiB, which nobody else sees
		must(t, syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""))
		must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
		h := open()
		full(t, h)
		for n := 0; ; n++ {
			_, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(30_000))})
			if err != nil {
				wantCode(t, err, levee.CodeUnavailable)
				if len(h.left(t)) != n {
					t.Errorf("%d were stored, there are %q", n, h.left(t))
				}
				return
			}
		}
	default:
		t.Skip("for other tests")
	}
}

// full stores a file that does not fit and one that does.
func full(t *testing.T, h *house) {
	_, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(1 << 20))})
	if levee.CodeOf(err) != levee.CodeUnavailable || !strings.Contains(err.Error(), "full") {
		t.Errorf("want that it is full, got %v", err)
	}
	if all := h.left(t); len(all) > 0 {
		t.Errorf("left: %q", all)
	}
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(10_000))})
	must(t, err)
	must(t, h.Delete(t.Context(), o.Key))
	fmt.Println("full as it should be")
}

// TestDiskFull: a file that does not fit leaves nothing, and one that fits is stored.
func TestDiskFull(t *testing.T) {
	for what, attributes := range map[string]*syscall.SysProcAttr{"large files fail": nil, "the disk is full": {Unshareflags: syscall.CLONE_NEWNS}} {
		t.Run(what, func(t *testing.T) {
			if attributes != nil && os.Geteuid() != 0 {
				t.Skip("mounting a disk needs root")
			}
			cmd, out := helper(t, what, t.TempDir(), attributes)
			said, err := io.ReadAll(out)
			must(t, err)
			if err := cmd.Wait(); err != nil || !bytes.Contains(said, []byte("full as it should be")) {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
}

// TestKilledWhileWriting: whatever was acknowledged before a kill is there and whole, whatever is there is whole, and the rest goes with the sweep.
func TestKilledWhileWriting(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 4
	}
	dir := filepath.Join(t.TempDir(), "files")
	acknowledged, halves := map[Key]bool{}, 0
	for kill := range kills {
		cmd, out := helper(t, "writes", dir, nil)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); {
			if _, k, ok := strings.Cut(lines.Text(), "stored "); ok {
				acknowledged[Key(k)] = true
				if n++; n == 1 {
					go func() {
						time.Sleep(time.Duration(kill*7) * time.Millisecond)
						_ = cmd.Process.Kill()
					}()
				}
			}
		}
		_ = cmd.Wait()
		h := &house{dir: dir}
		var err error
		h.Store, err = OpenFolder(dir, Config{}, testKey, obs.Test(t))
		must(t, err)
		there := map[Key]bool{}
		list, err := h.List(t.Context(), "photo", "", listMost)
		must(t, err)
		for _, e := range list {
			there[e.Key] = true
			o, err := h.Stat(t.Context(), e.Key)
			must(t, err)
			if data := read(t, h, e.Key); sha256.Sum256(data) != o.SHA256 || int64(len(data)) != o.Size {
				t.Errorf("%s is not whole", e.Key)
			}
		}
		for k := range acknowledged {
			if !there[k] {
				t.Errorf("%s was acknowledged and is not there", k)
			}
		}
		n, err := h.driver.sweep(t.Context(), time.Now().Add(time.Minute))
		must(t, err)
		halves += n
		if len(h.left(t)) != len(there) {
			t.Errorf("left: %d files for %d objects", len(h.left(t)), len(there))
		}
	}
	t.Logf("%d files acknowledged over %d kills, %d halves swept", len(acknowledged), kills, halves)
	if len(acknowledged) < kills || halves == 0 && !testing.Short() {
		t.Errorf("no kill came in the middle of a write: the test shows nothing")
	}
}
