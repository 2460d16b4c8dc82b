// Package id makes the numbers that things are known by: strictly rising 64-bit ids inside, dense numbers by tag, sealed opaque ids outside.
//
// It owns the worker numbers (a folder of worker files where one machine writes, a table, etcd or a hash in Redis where several nodes do), the horizon rule that keeps ids unique over restarts, kills, pauses and steps of the clock, and the
// sealing of public ids. It does not own the kinds of things that are numbered (levee.Kind).
//
// The horizon rule is that of the timestamp oracle of TiDB's placement driver, applied to each worker number: before an id
// is given, a time above it is durable; a new life of the worker starts at that time, whatever its clock says. Two lives of
// one worker number can therefore never share a millisecond, and within a life the numbers only grow. Neither clocks nor the
// length of a lease have a part in it: a life that was paused, and whose number was taken over meanwhile, meets its own
// horizon and cannot move it.
package id
