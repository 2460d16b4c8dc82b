package main

import (
	"os"
	"testing"

	"levee/internal/platform/backends"
)

// A server that was started answers, one that was killed does not, and of one that was closed nothing is left.
func TestPostgres(t *testing.T) {
	ctx := t.Context()
	s, err := startPostgres(ctx)
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if err := s.answers(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Kill(); err != nil {
		t.Error(err)
	}
	if s.answers(ctx) == nil {
		t.Error("a killed server answers")
	}
	if err := s.Restart(ctx); err != nil {
		t.Error(err)
	}
	s.close()
	if _, err := os.Stat(s.Dir()); !os.IsNotExist(err) || s.answers(ctx) == nil {
		t.Errorf("something is left of a closed server: %v", err)
	}
}
