package levee

import (
	"fmt"
	"math"
	"math/bits"
)

// Money is an amount in the minor unit of a currency (cent, fen). Minor is never a fraction; Currency is an ISO 4217 code.
type Money struct {
	Minor    int64
	Currency string
}

// Times returns the amount n times. It fails with CodeInvalid when the result would not fit into 63 bits.
func (m Money) Times(n int64) (Money, error) {
	if m.Minor < 0 || n < 0 {
		return Money{}, E(CodeInvalid, "an amount times a quantity needs both to be zero or more, got %d times %d", m.Minor, n)
	}
	hi, lo := bits.Mul64(uint64(m.Minor), uint64(n))
	if hi != 0 || lo > math.MaxInt64 {
		return Money{}, E(CodeInvalid, "the amount %d times %d is too large", m.Minor, n)
	}
	return Money{Minor: int64(lo), Currency: m.Currency}, nil
}

// Plus adds two amounts of one currency. It fails with CodeInvalid on different currencies or when the sum does not fit.
func (m Money) Plus(o Money) (Money, error) {
	if m.Currency != o.Currency {
		return Money{}, E(CodeInvalid, "amounts in %q and %q cannot be added", m.Currency, o.Currency)
	}
	if (o.Minor > 0 && m.Minor > math.MaxInt64-o.Minor) || (o.Minor < 0 && m.Minor < math.MinInt64-o.Minor) {
		return Money{}, E(CodeInvalid, "the sum of %d and %d is too large", m.Minor, o.Minor)
	}
	return Money{Minor: m.Minor + o.Minor, Currency: m.Currency}, nil
}

// String shows the amount in minor units, for logs.
func (m Money) String() string { return fmt.Sprintf("%d %s", m.Minor, m.Currency) }
