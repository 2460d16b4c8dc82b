//go:build !linux

package cache

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }

func spent() int64 { return 0 }
