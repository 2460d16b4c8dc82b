package backends

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	signalKill   = syscall.SIGKILL
	signalEnd    = syscall.SIGTERM
	signalPause  = syscall.Signal(0)
	signalResume = syscall.Signal(0)
	memoryFolder = ""
)

// Neither server is made for Windows; what works there is naming servers that run elsewhere.
var errSystem = fmt.Errorf("%w: private servers are started on Linux and other Unix systems only; name running ones in LEVEE_TEST_MYSQL and LEVEE_TEST_REDIS", ErrMissing)

func signalGroup(int, syscall.Signal) error   { return errSystem }
func sessionAttributes() *syscall.SysProcAttr { return nil }
func childAttributes() *syscall.SysProcAttr   { return nil }
func lockFile(string) (*os.File, error)       { return nil, errSystem }
func mine(fs.FileInfo) bool                   { return false }
func freeBytes(string) (int64, error)         { return 0, errSystem }
func stopped(int) bool                        { return false }

func hasAttributes(string) bool { return false }
