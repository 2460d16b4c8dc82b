package id

import clientv3 "go.etcd.io/etcd/client/v3"

// Client returns the connection itself, for another part that keeps something in the same etcd. It lasts until Close.
func (e *Etcd) Client() *clientv3.Client { return e.client }

// Prefix returns what stands before each key.
func (e *Etcd) Prefix() string { return e.prefix }
