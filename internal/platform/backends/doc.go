// Package backends starts private servers for tests, benches and rehearsals: MariaDB with replicas, Redis alone, under sentinels or as a
// cluster, etcd, RabbitMQ, and a proxy that puts faults between a client and a server.
//
// It owns the processes, folders and ports of those servers, and nothing of the product: it imports no other package of the house, and
// production code does not import it. Everything it starts ends with the process that started it, also when that process is killed:
// see keeper.
//
// [MySQL], [Redis] and [Etcd] give the one server a test process shares; the Start functions give private ones that a test may stop, kill and
// pause as it likes. All of them return errors: whether a missing server is a failure or a skip is for the test to say, with [MaySkip].
//
// Environment:
//
//	LEVEE_TEST_MYSQL            mysql://USER@HOST:PORT/: use this server instead of starting one
//	LEVEE_TEST_MYSQL_PASSWORD   its password, if it has one
//	LEVEE_TEST_MYSQL_COLLATION  the default collation of servers started here; utf8mb4_bin when empty
//	LEVEE_TEST_REDIS            redis://HOST:PORT (or redis+sentinel://…, redis+cluster://…): use this one instead of starting one
//	LEVEE_TEST_ETCD             etcd://HOST:PORT: use this one instead of starting one
//	LEVEE_TEST_AMQP             amqp://HOST:PORT: use this RabbitMQ, with its user guest, instead of starting one
//	LEVEE_TEST_INSTALL=no       never install a missing package
//	CI                          when set, a backend that cannot be had is never a reason to skip
package backends
