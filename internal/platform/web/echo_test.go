package web

import "context"

// echo answers a body with itself.
func echo[B any](_ context.Context, in *struct{ Body B }) (*struct{ Body B }, error) {
	return &struct{ Body B }{in.Body}, nil
}
