package mysqlconn

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"levee"
)

// kind of a column: how its values become those that SQLite gives.
const (
	asIs     = iota // integers and floats, as the driver parsed them
	asString        // texts
	asBytes         // BLOB
	asNumber        // DECIMAL: sums of integers
)

func kindsOf(rs driver.Rows) []uint8 {
	kinds := make([]uint8, len(rs.Columns()))
	typed, _ := rs.(driver.RowsColumnTypeDatabaseTypeName)
	for i := range kinds {
		switch name := typed.ColumnTypeDatabaseTypeName(i); {
		case name == "DECIMAL":
			kinds[i] = asNumber
		case strings.HasSuffix(name, "BLOB") || strings.HasSuffix(name, "BINARY") || name == "BIT":
			kinds[i] = asBytes
		case strings.HasSuffix(name, "INT") || name == "DOUBLE" || name == "YEAR":
		default:
			kinds[i] = asString
		}
	}
	return kinds
}

// sameAsSQLite turns a value into the type that SQLite gives: int64, float64, string or []byte.
func sameAsSQLite(v driver.Value, kind uint8) driver.Value {
	b, ok := v.([]byte)
	if !ok {
		switch x := v.(type) {
		case uint64:
			if x < 1<<63 {
				return int64(x)
			}
		case float32:
			return float64(x)
		}
		return v
	}
	switch kind {
	case asNumber:
		s := string(b)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && strings.Contains(s, ".") {
			return f
		}
		return s
	case asString:
		return string(b)
	}
	return v
}

// streamed are the rows of a reader: each is fetched when it is asked for.
type streamed struct {
	driver.Rows
	ctx   context.Context
	c     *Conn
	query string
	kinds []uint8
}

// Next steps to the next row.
func (s *streamed) Next(dest []driver.Value) error {
	err := s.Rows.Next(dest)
	if err != nil {
		if err == io.EOF {
			return err
		}
		return s.c.fail(s.ctx, s.query, err)
	}
	for i := range dest {
		dest[i] = sameAsSQLite(dest[i], s.kinds[i])
	}
	return nil
}

// ColumnTypeDatabaseTypeName is asked for by scanners into maps and any.
func (s *streamed) ColumnTypeDatabaseTypeName(i int) string { return typeName(s.kinds[i]) }

// ColumnTypeScanType is asked for by scanners into maps and any.
func (s *streamed) ColumnTypeScanType(i int) reflect.Type { return scanType(s.kinds[i]) }

// kept is a result that was read as a whole.
type kept struct {
	c      *Conn
	names  []string
	kinds  []uint8
	values []driver.Value // row after row
	over   bool           // its transaction is
}

// keep reads all rows.
func keep(rs driver.Rows) (k *kept, err error) {
	defer func() {
		if e := rs.Close(); err == nil {
			err = e
		}
	}()
	k = &kept{names: rs.Columns(), kinds: kindsOf(rs)}
	n, size := len(k.names), 0
	for n > 0 {
		from := len(k.values)
		for range n {
			k.values = append(k.values, nil)
		}
		row := k.values[from:]
		if err := rs.Next(row); err != nil {
			k.values = k.values[:from]
			if err == io.EOF {
				break
			}
			return nil, err
		}
		size += n * 16
		for i := range row {
			v := sameAsSQLite(row[i], k.kinds[i])
			if b, ok := v.([]byte); ok {
				v = append([]byte{}, b...) // the driver's buffer is used again
				size += len(b)
			} else if s, ok := v.(string); ok {
				size += len(s)
			}
			row[i] = v
		}
		if size > keptMax {
			return nil, levee.E(levee.CodeTooLarge, "a result of more than %d bytes inside a transaction: read it in pages", keptMax)
		}
	}
	return k, nil
}

// Columns returns the names.
func (k *kept) Columns() []string { return k.names }

// Next steps to the next row.
func (k *kept) Next(dest []driver.Value) error {
	switch {
	case k.over:
		return errors.New("these rows are closed: their transaction is over")
	case len(k.values) == 0:
		return io.EOF
	}
	k.values = k.values[copy(dest, k.values[:len(k.names)]):]
	return nil
}

// Close lets the rows go.
func (k *kept) Close() error {
	if k.c != nil {
		delete(k.c.open, k)
	}
	k.values = nil
	return nil
}

// ColumnTypeDatabaseTypeName is asked for by scanners into maps and any.
func (k *kept) ColumnTypeDatabaseTypeName(i int) string { return typeName(k.kinds[i]) }

// ColumnTypeScanType is asked for by scanners into maps and any.
func (k *kept) ColumnTypeScanType(i int) reflect.Type { return scanType(k.kinds[i]) }

func typeName(kind uint8) string {
	return [...]string{asIs: "BIGINT", asString: "TEXT", asBytes: "BLOB", asNumber: "DECIMAL"}[kind]
}

func scanType(kind uint8) reflect.Type {
	switch kind {
	case asString:
		return reflect.TypeFor[sql.NullString]()
	case asBytes:
		return reflect.TypeFor[[]byte]()
	}
	return reflect.TypeFor[any]()
}

// Text returns a value of Ask as text.
func Text(v driver.Value) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}
