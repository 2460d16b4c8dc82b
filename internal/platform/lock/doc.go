// Package lock owns named locks over goroutines, processes and machines: who may work on a thing now, and by which number (the fence)
// what is protected tells a holder of today from one of yesterday.
//
// It does not own what is protected. A lease ends by time, so a holder that is paused for longer than its lease works on beside the
// next one, and no lock service in the world can stop it (M. Kleppmann, "How to do distributed locking", 2016). What stops it is the
// fence: what is protected remembers the highest one that entered and refuses lower ones. The entering must come before the
// first read, not only with the write: see Enter. A lock without a fence saves work; it does not keep data right.
//
// Where data lies in the SQL database anyway, its own means are better than a lock: a conditional UPDATE, a version column, or
// SELECT … FOR UPDATE inside db.Tx.
//
// The contract is the same for each driver; what they promise when a server dies is told at Open, OpenRedis, OpenSQL, OpenEtcd
// and OpenQuorum; what the last one leaves out, too.
package lock
