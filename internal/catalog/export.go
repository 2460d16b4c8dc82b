package catalog

import (
	"bufio"
	"context"
	"encoding/json"
	"io"

	"levee"
)

// Export writes all products with their SKUs and stock, oldest first, as they stand in one snapshot, and returns how many lines. What it
// writes, Import reads back to the same; pictures are not part of it. For operators. It holds a database reader until w has taken
// everything, so w should be a file rather than a slow connection.
func (s *Service) Export(ctx context.Context, w io.Writer, f Format) (lines int, err error) {
	defer levee.Wrap(&err, "catalog.Export(%s)", shown(string(f)))
	b := bufio.NewWriterSize(w, 64<<10)
	var write func(r *Row) error
	switch f {
	case CSV:
		writeCSVHeader(b)
		write = func(r *Row) error { return writeCSV(b, r) }
	case JSONL:
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		write = func(r *Row) error { return writeJSONL(e, r) }
	default:
		return 0, levee.Invalid("format", "csv or jsonl", shown(string(f)))
	}
	err = allRows(ctx, s.DB.Query, func(r *Row) error {
		lines++
		return write(r)
	})
	if err != nil {
		return lines, err
	}
	return lines, b.Flush()
}
