//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package backends

import (
	"errors"
	"syscall"
	"time"
)

const memoryFolder = ""

func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func freeBytes(string) (int64, error) { return 0, errors.ErrUnsupported }

var kernelKills = false // nothing ends a child with its parent but the watchdog

// stopped gives the signal time to be felt: there is no portable way to ask.
func stopped(int) bool {
	time.Sleep(50 * time.Millisecond)
	return true
}

func hasAttributes(string) bool { return false }
