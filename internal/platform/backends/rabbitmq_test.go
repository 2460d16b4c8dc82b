package backends

import (
	"context"
	"testing"
	"time"
)

// A server starts, is killed and comes back at its address.
func TestRabbitMQ(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts twice")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := StartRabbitMQ(ctx)
	if err != nil {
		if MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := greetAMQP(ctx, s.Addr()); err == nil {
		t.Fatal("it answers after Kill")
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatalf("%v\n%s", err, s.Said())
	}
	if err := greetAMQP(ctx, s.Addr()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := greetAMQP(ctx, s.Addr()); err == nil {
		t.Fatal("it answers after Close")
	}
	if err := reach(ctx, s.own[1].String()); err == nil {
		t.Fatal("its port mapper answers after Close")
	}
}
