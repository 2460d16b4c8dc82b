package cache

import "syscall"

// spent is the processor time that this process has used, in nanoseconds: it says something also on a machine that has other things to do.
func spent() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
