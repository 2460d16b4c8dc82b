package foreign

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

var client = &http.Client{
	Timeout:       readLimit,
	Transport:     &http.Transport{MaxResponseHeaderBytes: 16 << 10, IdleConnTimeout: time.Minute, MaxIdleConns: 1},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// readKeySet reads the bytes of a key set from its file or address.
func readKeySet(ctx context.Context, keys string) ([]byte, error) {
	from, err := openKeySet(ctx, keys)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	text, err := io.ReadAll(io.LimitReader(from, maxKeySet+1))
	if err == nil && len(text) > maxKeySet {
		err = fmt.Errorf("the key set has more than %d bytes", maxKeySet)
	}
	return text, err
}

func openKeySet(ctx context.Context, keys string) (io.ReadCloser, error) {
	if !isURL(keys) {
		return os.Open(keys)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, keys, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the key set's address answered %d", resp.StatusCode)
	}
	return resp.Body, nil
}
