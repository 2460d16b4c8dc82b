package job

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkFleet lets nodes of 16 slots each claim, run and complete jobs that do nothing.
func BenchmarkFleet(b *testing.B) {
	for _, nodes := range []int{1, 3, 8} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			f := fleetOf(b, nodes, true, Config{}, func(*fleet, *node, context.Context, args) error { return nil }, nil)
			for _, nd := range f.nodes {
				nd.off.Store(0)
			}
			fill(b, f.house, f.nodes[0].kind, b.N)
			before := f.db.Stats()
			b.ResetTimer()
			for _, nd := range f.nodes {
				f.start(nd)
			}
			for f.count(`SELECT COUNT(*) FROM job_task`) > 0 {
				time.Sleep(5 * time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			b.ReportMetric(float64(f.db.Stats().Reruns-before.Reruns)/float64(b.N)*1000, "reruns/1000")
		})
	}
}
