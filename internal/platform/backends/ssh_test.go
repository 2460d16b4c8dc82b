package backends

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestSSH: the one user gets in with his key and reaches what is on this machine, sees the new host key after it is rotated, and nothing is
// left after Close.
func TestSSH(t *testing.T) {
	s, err := StartSSH(t.Context())
	if MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	text, err := os.ReadFile(s.KeyFile())
	must(t, err)
	key, err := ssh.ParsePrivateKey(text)
	must(t, err)
	var shown string
	login := func(user string) (*ssh.Client, error) {
		return ssh.Dial("tcp", s.Addr(), &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, Timeout: 10 * time.Second,
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
				shown = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
				return nil
			},
		})
	}
	c, err := login(s.User())
	must(t, err)
	through, err := c.Dial("tcp", s.Addr())
	must(t, err)
	must(t, through.Close())
	first := s.HostKey()
	if shown != first {
		t.Errorf("the server shows %s, not %s", shown, first)
	}
	if _, err := login("nobodyatall"); err == nil {
		t.Error("anybody gets in")
	}
	must(t, s.RotateHostKey(t.Context()))
	if _, err := c.Dial("tcp", s.Addr()); err != nil {
		t.Errorf("the connection that stood: %v", err)
	}
	must(t, c.Close())
	c, err = login(s.User())
	must(t, err)
	must(t, c.Close())
	if shown != s.HostKey() || shown == first {
		t.Errorf("after the rotation the server shows %s, not %s", shown, s.HostKey())
	}
	must(t, s.Close())
	if exists(s.dir) {
		t.Error("the folder is left")
	}
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = c.Close()
		t.Error("the server is left")
	}
	if err := s.RotateHostKey(t.Context()); err == nil {
		t.Error("a closed server is rotated")
	}
}

// TestSSHIsMissing: without the program, and where fetching it is forbidden or fails, the error says so.
func TestSSHIsMissing(t *testing.T) {
	keep, kept := sbin, unpacked.program
	sbin, unpacked.program = nil, nil
	t.Cleanup(func() { sbin, unpacked.program = keep, kept })
	t.Setenv("PATH", t.TempDir())
	for _, install := range []string{"no", ""} {
		t.Setenv("LEVEE_TEST_INSTALL", install)
		s := &SSHServer{dir: t.TempDir()}
		_, err := s.program(context.Background())
		if err == nil || !strings.Contains(err.Error(), ErrMissing.Error()) || !strings.Contains(err.Error(), "Debian: openssh-server") {
			t.Errorf("LEVEE_TEST_INSTALL=%q: %v", install, err)
		}
	}
}
