package levee

// Page asks for a part of a list, newest first. After is the id of the last row of the page before (0: from the top).
type Page struct {
	After int64
	Limit int
}

// The bounds of a page.
const (
	DefaultPageLimit = 20
	MaxPageLimit     = 100
)

// Normal returns the page with its limit inside the bounds: 0 or less becomes the default, more than the most the most.
func (p Page) Normal() Page {
	switch {
	case p.Limit <= 0:
		p.Limit = DefaultPageLimit
	case p.Limit > MaxPageLimit:
		p.Limit = MaxPageLimit
	}
	return p
}
