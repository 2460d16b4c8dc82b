// Package id makes the numbers that things are known by: strictly rising 64-bit ids inside, sealed opaque ids outside.
//
// It owns the folder of worker files, the horizon rule that keeps ids unique over restarts, kills and steps of the clock,
// and the sealing of public ids. It does not own the kinds of things that are numbered (levee.Kind) nor any table.
//
// The horizon rule is that of the timestamp oracle of TiDB's placement driver, applied to each worker number: before an id
// is given, a time above it is on disk; a new life of the worker starts at that time, whatever its clock says. Two lives of
// one worker number can therefore never share a millisecond, and within a life the numbers only grow.
package id
