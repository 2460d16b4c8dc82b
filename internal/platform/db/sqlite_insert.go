package db

import (
	"database/sql/driver"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

const (
	// insertRowsMax is the most rows of one INSERT. Beyond it a row hardly gets cheaper, and each size keeps a prepared statement.
	insertRowsMax = 64
	// insertParamsMax keeps a statement under the 999 parameters that every build of SQLite takes.
	insertParamsMax = 900
)

// insertPlan holds the texts of one table's INSERT of 1, 2, 4, … 64 rows.
type insertPlan struct {
	columns []string
	largest int // exponent of the most rows in one statement
	texts   [7]string
}

// InsertRows is for Tx.InsertRows.
func (c *conn) InsertRows(table string, columns []string, rows [][]any) error {
	p := c.insertPlan(table, columns)
	for len(rows) > 0 {
		e := min(bits.Len(uint(len(rows)))-1, p.largest)
		n := 1 << e
		if err := c.insert(p.texts[e], len(columns), rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// insertPlan returns the texts for a table and columns, which it keeps.
func (c *conn) insertPlan(table string, columns []string) *insertPlan {
	for _, p := range c.inserts[table] {
		if slices.Equal(p.columns, columns) {
			return p
		}
	}
	p := &insertPlan{columns: slices.Clone(columns)}
	one := "(" + strings.Repeat("?,", len(columns)-1) + "?)"
	for e := range p.texts {
		n := 1 << e
		if n > insertRowsMax || n > 1 && n*len(columns) > insertParamsMax {
			break
		}
		p.largest = e
		p.texts[e] = "INSERT INTO " + table + " (" + strings.Join(columns, ",") + ") VALUES " + strings.Repeat(one+",", n-1) + one
	}
	c.inserts[table] = append(c.inserts[table], p)
	return p
}

// insert runs one INSERT of several rows.
func (c *conn) insert(text string, columns int, rows [][]any) error {
	c.args = c.args[:0]
	for i, row := range rows {
		if len(row) != columns {
			return fmt.Errorf("row %d has %d values for %d columns", i+1, len(row), columns)
		}
		for _, v := range row {
			switch v.(type) {
			case int64, string:
			default:
				var err error
				if v, err = toValue(v); err != nil {
					return fmt.Errorf("row %d: %w", i+1, err)
				}
			}
			c.args = append(c.args, driver.NamedValue{Ordinal: len(c.args) + 1, Value: v})
		}
	}
	s, err := c.prepared(text)
	if err != nil {
		return err
	}
	_, err = c.execStmt(background, s, c.args)
	return err
}
