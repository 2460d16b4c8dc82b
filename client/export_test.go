package client

import "time"

// Age lets the access token be older by d.
func Age(c *Client, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = c.until.Add(-d)
}
