// Package table writes what a benchmark measured: a Markdown table under a line that says when, on what and with which command, printed and
// put into a page of the documentation between its two marks.
package table

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Markdown is a table with a line of heads. A row has as many cells as there are heads.
func Markdown(heads []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(heads)
	line(strings.Split(strings.Repeat("--- ", len(heads)-1)+"---", " "))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

// Publish prints text under a line that says when, on what and with which command it was measured, and then how (whole sentences). If page is
// not empty, it writes both into that file, between the lines <!-- MARK: begin --> and <!-- MARK: end -->, which must be there.
func Publish(page, mark, command, how, text string) error {
	text = fmt.Sprintf("Measured %s on %s (%d cores), %s, with `%s`. %s\n\n%s", time.Now().UTC().Format("2006-01-02"),
		processor(), runtime.NumCPU(), runtime.Version(), command, how, text)
	fmt.Println(text)
	if page == "" {
		return nil
	}
	begin, end := "<!-- "+mark+": begin -->\n", "<!-- "+mark+": end -->\n"
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks %q and %q", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+text+end+after), 0o644)
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
