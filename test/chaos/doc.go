// Package chaos kills the real thing: the built program, on a real disk, in the middle of a sale, again and again, and compares
// what buyers were told with what SQL holds. Kill -9 loses what is in the process and keeps what it gave to the kernel: it proves
// that no answer runs ahead of its commit, not that the disk keeps what it was told to flush.
//
//	go test ./test/chaos                                  25 kills
//	go test ./test/chaos -run TestKills -chaos.kills=200  the full run; -chaos.seed=N repeats one run's dice
//	go test ./test/chaos -run Control -chaos.control      broken engines, which must be caught
//	go test ./test/chaos -run Million -chaos.million      how soon a house with a million reservations is ready after a kill
package chaos
