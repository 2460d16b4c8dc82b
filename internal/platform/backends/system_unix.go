//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package backends

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

const (
	signalKill   = syscall.SIGKILL
	signalEnd    = syscall.SIGTERM
	signalPause  = syscall.SIGSTOP
	signalResume = syscall.SIGCONT
)

func signalGroup(pid int, s syscall.Signal) error { return syscall.Kill(-pid, s) }

// sessionAttributes detach the watchdog from the terminal and from the group of the test.
func sessionAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// lockFile opens the file and locks it until it is closed or the process ends. It returns nil when another one holds the lock.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	// Whoever removed the file between opening and locking left us a lock on nothing.
	now, err := os.Stat(name)
	if err != nil {
		_ = f.Close()
		return nil, nil
	}
	if then, err := f.Stat(); err != nil || !os.SameFile(now, then) {
		_ = f.Close()
		return nil, nil
	}
	return f, nil
}

// mine says whether the file belongs to the user who runs this.
func mine(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Getuid()
}
