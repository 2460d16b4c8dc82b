package rehearse

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"strconv"
)

// workMost is the most zero bits that the generator looks for: some 16 million hashes.
const workMost = 24

// solve finds the smallest number whose decimal digits, after the challenge and a dot, make a SHA-256 that begins with so many
// zero bits. tries is how many it took, 2^zeros on average.
func solve(challenge string, zeros int) (answer string, tries int) {
	text := []byte(challenge + ".")
	for n := uint64(0); ; n++ {
		whole := strconv.AppendUint(text, n, 10)
		if sum := sha256.Sum256(whole); bits.LeadingZeros64(binary.BigEndian.Uint64(sum[:8])) >= zeros {
			return string(whole[len(text):]), int(n) + 1
		}
	}
}
