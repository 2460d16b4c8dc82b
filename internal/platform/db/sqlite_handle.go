package db

import (
	"errors"
	"os"
	"sync"
)

// handle is one open descriptor of a database file, over which the keeper flushes it. SQLite's file locks belong to the
// process and the file, and closing any descriptor of the file drops them all (POSIX). So a file has at most one handle in the
// process, shared by all who opened it, and it is closed after the last connection.
type handle struct {
	file *os.File
	info os.FileInfo
	uses int // guarded by handlesMu
}

var (
	handlesMu sync.Mutex
	handles   []*handle // guarded by handlesMu; one per open database
)

// openHandle returns the handle of the file at path.
func openHandle(path string) (*handle, error) {
	handlesMu.Lock()
	defer handlesMu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	for _, h := range handles {
		if os.SameFile(h.info, info) {
			h.uses++
			return h, nil
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	h := &handle{file: f, info: info, uses: 1}
	handles = append(handles, h)
	return h, nil
}

// sync flushes the file.
func (h *handle) sync() error { return h.file.Sync() }

// close lets the handle go. The connections of its user must be closed before.
func (h *handle) close() error {
	handlesMu.Lock()
	defer handlesMu.Unlock()
	h.uses--
	if h.uses > 0 {
		return nil
	}
	for i, other := range handles {
		if other == h {
			handles = append(handles[:i], handles[i+1:]...)
			return h.file.Close()
		}
	}
	return errors.New("handle closed twice")
}
