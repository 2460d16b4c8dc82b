// Package chaos kills the real thing: the built program, on a real disk, in the middle of a sale, again and again, and compares
// what buyers were told with what SQL holds. Kill -9 loses what is in the process and keeps what it gave to the kernel: it proves
// that no answer runs ahead of its commit, not that the disk keeps what it was told to flush.
//
//	go test ./test/chaos                                  25 kills
//	go test ./test/chaos -run TestKills -chaos.kills=200  the full run; -chaos.seed=N repeats one run's dice
//	go test ./test/chaos -run Control -chaos.control      broken engines, which must be caught
//	go test ./test/chaos -run Million -chaos.million      how soon a house with a million reservations is ready after a kill
//
// And several nodes on MariaDB and Redis behind nginx (frontConfig says how nginx must be set): a crowd of package rehearse buys, which asks with
// the same key until it has a definite answer, while nodes are killed and put to sleep, MariaDB and Redis are killed, restarted, paused and
// emptied, replicas that lag are promoted, and the links between are cut and slowed. When a fault comes is said in units sold, so that it
// comes in the middle of the selling. The audit asks the buyers, the product and, past it, MariaDB.
//
//	make chaos-nodes RUNS=50                                            10,000 units and 200,000 buyers, fifty times
//	go test ./test/chaos -run TestNodes -chaos.runs=1 -chaos.seed=N     one run again; -chaos.units, .buyers, .rate, .nodes, .redis, .faults, .only
//	go test ./test/chaos -run TestFailover -chaos.runs=1                the primary of Redis dies in front of a replica that lags
//	go test ./test/chaos -run TestRedisAway -chaos.runs=1               no Redis at all
//
// Clocks are not stepped here: a Go program asks the kernel for the time and not the C library, so libfaketime does not reach it, and a
// product with a back door for its clock is not wanted. The packages that could mind a clock step it in their own suites.
package chaos
