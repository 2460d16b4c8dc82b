package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	for words, want := range map[string]wanted{
		"":                          {mysql: true, redis: "redis"},
		"durable":                   {mysql: true, redis: "redis", durable: true},
		"mysql":                     {mysql: true},
		"mysql-replicas=2 cluster":  {mysql: true, replicas: 2, redis: "cluster"},
		"redis redis mysql durable": {mysql: true, redis: "redis", durable: true},
	} {
		if got, err := parse(strings.Fields(words)); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", words, got, err, want)
		}
	}
	for _, words := range []string{"postgres", "mysql=2", "mysql-replicas", "mysql-replicas=two", "sentinel cluster"} {
		if _, err := parse(strings.Fields(words)); !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), "help") {
			t.Errorf("%q: %v", words, err)
		}
	}
}

func TestUsage(t *testing.T) {
	var out strings.Builder
	if code, err := run(nil, &out, io.Discard); code != 0 || err != nil || out.String() != help {
		t.Errorf("without words: %d, %v", code, err)
	}
	for _, args := range []string{"down", "exec", "exec --", "exec mysql", "exec postgres -- true", "up postgres", "check all"} {
		if code, err := run(strings.Fields(args), io.Discard, io.Discard); code != codeUsage || err == nil {
			t.Errorf("%q: %d, %v", args, code, err)
		}
	}
	if code, err := run([]string{"exec", "--", "no-such-command"}, io.Discard, io.Discard); code != 127 || err == nil {
		t.Errorf("a command that is not there: %d, %v", code, err)
	}
	if code, err := run([]string{"up", "mysql-replicas=9"}, io.Discard, io.Discard); code != codeFailed || err == nil || !strings.Contains(err.Error(), "from 0 to 5") {
		t.Errorf("too many replicas: %d, %v", code, err)
	}
}

func TestExecGivesTheServersAndReturnsTheCode(t *testing.T) {
	t.Setenv("LEVEE_TEST_MYSQL", "")
	t.Setenv("LEVEE_TEST_REDIS", "")
	var log strings.Builder
	code, err := run([]string{"exec", "--", "sh", "-c", `case "$LEVEE_TEST_MYSQL $LEVEE_TEST_REDIS" in "mysql://root@127.0.0.1:"*"/ redis://127.0.0.1:"*) exit 7;; esac; exit 1`}, io.Discard, &log)
	if code != 7 || err != nil {
		t.Errorf("the command's code 7 came back as %d, %v", code, err)
	}
	if !strings.Contains(log.String(), "MariaDB (ready after ") {
		t.Errorf("it said %q", log.String())
	}
	code, err = run([]string{"exec", "mysql-replicas=1", "--", "sh", "-c", `test -z "$LEVEE_TEST_REDIS" && test -n "$LEVEE_TEST_MYSQL_REPLICAS"`}, io.Discard, io.Discard)
	if code != 0 || err != nil {
		t.Errorf("with a replica: %d, %v", code, err)
	}
	code, err = run([]string{"exec", "redis", "--", "sh", "-c", "kill -9 $$"}, io.Discard, io.Discard)
	if code != 128+9 || err != nil {
		t.Errorf("a command that was killed: %d, %v", code, err)
	}
	// A server that is named already is used; one that does not answer is an error, and the command does not run.
	t.Setenv("LEVEE_TEST_MYSQL", "mysql://root@127.0.0.1:1/")
	ran := t.TempDir() + "/ran"
	code, err = run([]string{"exec", "mysql", "--", "touch", ran}, io.Discard, io.Discard)
	if code != codeFailed || err == nil || !strings.Contains(err.Error(), "LEVEE_TEST_MYSQL does not answer") {
		t.Errorf("a named server that is down: %d, %v", code, err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command ran without its server")
	}
}
