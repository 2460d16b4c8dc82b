package mysqlconn

import (
	"fmt"
	"slices"
	"strings"

	"levee/internal/platform/db/sqltext"
)

// Translate turns a statement of a schema into MySQL's. What is the same in all schemas is settled here once: each table is InnoDB with
// a collation in which texts are equal only when their bytes are, as in SQLite; an INTEGER has 64 bits; a TEXT has room for 16 MiB and
// not 64 KiB; a CHAR keeps its trailing spaces, so it is a VARCHAR. VARCHAR(n) and SMALLINT are bounds here that SQLite
// does not know: MySQL refuses what goes beyond them, and cuts nothing.
func Translate(st sqltext.Statement, collation string) (string, error) {
	var b strings.Builder
	var words []string // the first three
	before, plain := "", true
	piece := func(s string) { b.WriteString(s) }
	for i := 0; i < len(st.Text); {
		c := st.Text[i]
		switch {
		case c == '\'' || c == '"' || c == '`':
			j := sqltext.SkipTo(st.Text, i+1, string(c))
			piece(st.Text[i:j])
			before, plain, i = string(c), c != '\'', j // a name in quotes is a name
		case strings.HasPrefix(st.Text[i:], "--"):
			i = sqltext.SkipTo(st.Text, i+2, "\n")
			piece("\n")
		case strings.HasPrefix(st.Text[i:], "/*"):
			i = sqltext.SkipTo(st.Text, i+2, "*/")
			piece(" ")
		case sqltext.IsWord(c):
			j := i
			for j < len(st.Text) && sqltext.IsWord(st.Text[j]) {
				j++
			}
			w := strings.ToUpper(st.Text[i:j])
			if len(words) < 3 {
				words = append(words, w)
			}
			switch w {
			case "ENGINE", "CHARSET", "COLLATE":
				return "", fmt.Errorf("%s is settled by the database part, not by a schema", w)
			}
			typ, ok := mysqlTypes[w]
			if ok && plain && before != "" && !slices.Contains(namesFollow, before) {
				piece(typ) // a type stands behind a name; a name like it stands behind a comma or a bracket
			} else {
				piece(st.Text[i:j])
			}
			before, plain, i = w, true, j
		default:
			piece(string(c))
			if c > ' ' {
				before, plain = "", true
			}
			i++
		}
	}
	text := strings.TrimSpace(b.String())
	if len(words) > 1 && words[0] == "CREATE" && words[1] == "TABLE" {
		text += " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=" + collation + " ROW_FORMAT=DYNAMIC"
	}
	return text, nil
}

var (
	mysqlTypes  = map[string]string{"INT": "BIGINT", "INTEGER": "BIGINT", "TEXT": "MEDIUMTEXT", "CHAR": "VARCHAR", "BLOB": "MEDIUMBLOB"}
	namesFollow = []string{"ADD", "COLUMN", "MODIFY", "CHANGE", "RENAME", "TO", "DROP", "TABLE", "ON", "INDEX", "CONSTRAINT", "KEY"}
)
