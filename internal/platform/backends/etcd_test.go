package backends

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"levee"
)

func etcdClient(t *testing.T, s *EtcdServer) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Addr()}, DialTimeout: 2 * time.Second})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// get asks for a key; a client's connection comes back on its own after a restart.
func etcdGet(t *testing.T, c *clientv3.Client, key string) (value string, found bool) {
	t.Helper()
	eventually(t, 10*time.Second, "get "+key, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answer, err := c.Get(ctx, key)
		if err == nil {
			if found = len(answer.Kvs) == 1; found {
				value = string(answer.Kvs[0].Value)
			}
		}
		return err
	})
	return value, found
}

func TestEtcdKillRestartPause(t *testing.T) {
	ctx := t.Context()
	s, err := StartEtcd(ctx, EtcdOptions{Settings: map[string]string{"auto-compaction-retention": "1"}})
	if MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	c := etcdClient(t, s)
	_, err = c.Put(ctx, "k", "v")
	must(t, err)
	before := s.URL()
	must(t, s.Kill())
	if etcdHealthy(ctx, s.Addr()) == nil {
		t.Error("a killed server answers")
	}
	must(t, s.Restart(ctx))
	if s.URL() != before || !strings.HasPrefix(before, "etcd://127.0.0.1:") {
		t.Errorf("the restarted server is at %s, was at %s", s.URL(), before)
	}
	if v, found := etcdGet(t, c, "k"); !found || v != "v" {
		t.Errorf("after kill -9 and a restart the key is %q, %v", v, found)
	}
	must(t, s.Restart(ctx)) // orderly
	if v, found := etcdGet(t, c, "k"); !found || v != "v" {
		t.Errorf("after an orderly restart the key is %q, %v", v, found)
	}
	must(t, s.Pause())
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := c.Get(short, "k"); err == nil {
		t.Error("a paused server answers")
	}
	must(t, s.Resume())
	etcdGet(t, c, "k")
	// The control: the same restart without its data.
	must(t, s.RestartEmpty(ctx))
	if _, found := etcdGet(t, c, "k"); found {
		t.Error("a server restarted empty has the key")
	}
	must(t, s.Close())
	if err := s.Restart(ctx); err == nil {
		t.Error("a closed server can be restarted")
	}
	if exists(s.dir) {
		t.Errorf("%s is left after Close", s.dir)
	}
}

func TestEtcdIsSharedAndRefusesBadOptions(t *testing.T) {
	s, err := Etcd(t.Context())
	if MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	again, err := Etcd(t.Context())
	must(t, err)
	if s != again {
		t.Error("the second call gave another server")
	}
	_, err = etcdClient(t, s).Put(t.Context(), "shared", "1")
	must(t, err)
	for _, o := range []EtcdOptions{{Settings: map[string]string{"--name": ""}}, {Settings: map[string]string{"name": "a\nb"}}} {
		var e *levee.Error
		if _, err := StartEtcd(t.Context(), o); !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 {
			t.Errorf("%v gave %v", o, err)
		}
	}
	if _, err := StartEtcd(t.Context(), EtcdOptions{Settings: map[string]string{"no-such-flag": "1"}}); err == nil || !strings.Contains(err.Error(), "ended before it answered") {
		t.Errorf("an unknown flag gave %v", err)
	}
	for _, given := range []string{"", "127.0.0.1:1", "http://127.0.0.1:1", "etcd://", "etcd://a:b@h:1", "etcd://h:1/x"} {
		if _, err := namedEtcd(t.Context(), given); err == nil || !strings.Contains(err.Error(), "LEVEE_TEST_ETCD must be") {
			t.Errorf("%q gave %v", given, err)
		}
	}
}
