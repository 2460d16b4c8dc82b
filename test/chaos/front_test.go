package chaos

import (
	"context"

	"levee/deploy"
	"levee/internal/platform/backends"
)

// startFront starts nginx in front of all nodes, with the file that is shipped.
func (f *fleet) startFront(ctx context.Context) error {
	addr, err := backends.TakeAddress()
	if err != nil {
		return err
	}
	f.close = append(f.close, func() error { addr.Free(); return nil })
	f.base = "http://" + addr.String()
	given := deploy.Nginx{Listen: addr.String()}
	for _, m := range f.nodes {
		given.Nodes = append(given.Nodes, m.addr.String())
	}
	f.front, err = given.Start(ctx, nil)
	if err != nil {
		return err
	}
	f.close = append(f.close, f.front.Close)
	return nil
}
