package backends

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const memoryFolder = "/dev/shm"

// childAttributes: a group of its own, and killed by the kernel when the thread that started it ends.
func childAttributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if kernelKills {
		a.Pdeathsig = syscall.SIGKILL
	}
	return a
}

// kernelKills is switched off by the test that shows the watchdog at work alone.
var kernelKills = true

func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// stopped says whether every thread of the process stands still: a signal is sent before it is felt.
func stopped(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		// The name before the state is in brackets and may itself have any character.
		if at := strings.LastIndex(string(text), ") "); at < 0 || at+2 >= len(text) || text[at+2] != 'T' {
			return false
		}
	}
	return true
}

// hasAttributes reports whether files in the folder can be given attributes by whoever owns them.
func hasAttributes(dir string) bool {
	const name = "user.levee.test"
	return syscall.Setxattr(dir, name, []byte("1"), 0) == nil && syscall.Removexattr(dir, name) == nil
}
