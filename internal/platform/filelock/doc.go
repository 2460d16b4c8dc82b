// Package filelock keeps other processes off what a file stands for, by the lock that the kernel gives on it.
//
// It works between processes of one machine. On network file systems it is as good as theirs.
package filelock
