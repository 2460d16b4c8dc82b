package line

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
)

// Algorithm names the shuffle that docs/draw.md describes. A change of a single byte that it reads or writes needs another name.
//
// The order is that of a ticket for each entry, HMAC-SHA256 (RFC 2104) of its id under a key made of the seed and the digest of
// the whole entry list. A permutation by sorting independent, uniform keys is uniform but for ties, and a tie among a million
// entries has a chance of 2^-217; so there is no modulo, no rejection and no byte order that a second implementation could get
// wrong, which a Fisher–Yates walk over a stream of random numbers would have. The digest stands in the key, so that whoever
// knows the seed cannot look for entries with good tickets one by one: another entry makes every ticket another.
const Algorithm = "levee-draw-1"

// listed is one line of the entry list.
type listed struct {
	id       int64  // of its row; 0 in a verification
	entry    string // public id
	quantity int32
}

// placed is one line of the results; its rank is its index and one.
type placed struct {
	listed
	won int32
}

// sortEntries puts a list into the order of its canonical text: by the bytes of the entry's id.
func sortEntries(list []listed) {
	slices.SortFunc(list, func(a, b listed) int { return cmp.Compare(a.entry, b.entry) })
}

// entriesText writes the canonical entry list: for each entry its id, a space, its quantity and a line feed.
func entriesText(list []listed) []byte {
	text := make([]byte, 0, len(list)*34)
	for i := range list {
		text = append(text, list[i].entry...)
		text = append(text, ' ')
		text = strconv.AppendInt(text, int64(list[i].quantity), 10)
		text = append(text, '\n')
	}
	return text
}

// resultsText writes the canonical results: for each rank its number, the entry's id, the units won and a line feed.
func resultsText(list []placed) []byte {
	text := make([]byte, 0, len(list)*42)
	for i := range list {
		text = appendResult(text, i+1, list[i].entry, int64(list[i].won))
	}
	return text
}

func appendResult(text []byte, rank int, entry string, won int64) []byte {
	text = strconv.AppendInt(text, int64(rank), 10)
	text = append(text, ' ')
	text = append(text, entry...)
	text = append(text, ' ')
	text = strconv.AppendInt(text, won, 10)
	return append(text, '\n')
}

// digestOf is how a text is named: its SHA-256 in lower case hexadecimal.
func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// drawKey binds the seed to the algorithm, the sale and the frozen entry list.
func drawKey(seed []byte, sale, entriesDigest string) []byte {
	mac := hmac.New(sha256.New, seed)
	mac.Write([]byte(Algorithm + "\n" + sale + "\n" + entriesDigest + "\n"))
	return mac.Sum(nil)
}

// shuffle orders a sorted entry list by the tickets, and hands out the units down the ranks.
func shuffle(seed []byte, sale, entriesDigest string, list []listed, units int64) (ranks []placed, winners int64) {
	type ticket struct {
		at  int
		mac [sha256.Size]byte
	}
	tickets := make([]ticket, len(list))
	mac := hmac.New(sha256.New, drawKey(seed, sale, entriesDigest))
	for i := range list {
		mac.Reset()
		mac.Write([]byte(list[i].entry))
		tickets[i].at = i
		mac.Sum(tickets[i].mac[:0])
	}
	// The list is sorted by id, so the index decides a tie as the document says.
	slices.SortFunc(tickets, func(a, b ticket) int {
		return cmp.Or(bytes.Compare(a.mac[:], b.mac[:]), cmp.Compare(a.at, b.at))
	})
	ranks = make([]placed, len(list))
	for i, t := range tickets {
		ranks[i].listed = list[t.at]
		won := min(int64(ranks[i].quantity), units)
		units -= won
		ranks[i].won = int32(won)
		if won > 0 {
			winners++
		}
	}
	return ranks, winners
}
