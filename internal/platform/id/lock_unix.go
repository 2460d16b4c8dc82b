//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package id

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// tryLock takes the exclusive lock of an open file without waiting. The lock belongs to the open file, so two generators of
// one process exclude each other too, and the kernel frees it when the process dies.
func tryLock(f *os.File) (bool, error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, err
		}
	}
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flush the folder %s: %w", dir, err)
	}
	return nil
}
