package backends

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// The control of the word "threads" above: started by a thread that ends, a child with the same attributes dies although the process
// lives. This is what the keeper's one thread is for.
func TestAChildOfAThreadThatEndsDies(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	var begin func()
	begin = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if syscall.Gettid() == os.Getpid() {
			// The first thread of a process cannot end before it; another goroutine gets another one while this one is held here.
			go begin()
			<-t.Context().Done()
			return
		}
		started <- cmd.Start()
	}
	go begin()
	must(t, <-started)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("the child lives: the death signal is not bound to the thread here, and the tests of the keeper show less than they say")
	}
}
