package backends

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// A port is kept from the choice of the server's address until the server is closed, also while the server is down: a restarted server
// must come back where its clients look for it.
//
// The same port number of UDP on 127.0.0.1 is the lock between processes. It is free of files, and ends with the process that holds it.
type port struct {
	number int
	once   sync.Once
	held   net.PacketConn
}

// Below the range from which Linux, macOS and the BSDs take the ports of outgoing connections: one of those could sit on the port of a
// server that is down for a moment.
const (
	firstPort = 20000
	lastPort  = 32000
)

func takePort() (*port, error) {
	var last error
	for range 200 {
		n := firstPort + rand.IntN(lastPort-firstPort)
		held, err := net.ListenPacket("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(n)))
		if err != nil {
			last = err
			continue
		}
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(n)))
		if err != nil {
			last = err
			_ = held.Close()
			continue
		}
		_ = l.Close()
		return &port{number: n, held: held}, nil
	}
	return nil, fmt.Errorf("no free port between %d and %d: %w", firstPort, lastPort, errors.Join(last))
}

func (p *port) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

func (p *port) free() {
	if p != nil {
		p.once.Do(func() { _ = p.held.Close() })
	}
}
