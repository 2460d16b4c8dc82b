package token

import "crypto"

// Signer gives tests the key that signs now, as its thief has it, and the header of its tokens.
func (s *Service) Signer() (kid, header string, private crypto.Signer) {
	k := s.ring.Load().signer(s.now())
	return k.kid, k.header, k.private
}
