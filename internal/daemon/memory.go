package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// spareHeap is what may be allocated between two collections however little is alive. An idle gateway holds a few
// megabytes; by the default rule it would collect each time it has allocated as much again, which is a few hundred
// answers, and a fifth of its processor time would go into that.
const spareHeap = 32 << 20

// spaceOut sets the distance between collections after each of them: as much as is alive, and spareHeap at least. So
// memory stays bounded as by the default rule when much is alive. Who sets GOGC has decided for themselves.
func spaceOut() {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := 100
	adjust := func() {
		metrics.Read(live)
		percent := max(100, int(spareHeap*100/max(live[0].Value.Uint64(), 1<<20))) //nolint:gosec // at most 3200
		if percent < now*9/10 || percent > now*11/10 || percent == 100 && now != 100 {
			now = percent
			debug.SetGCPercent(percent)
		}
	}
	type sentinel struct{ _ *byte } // no tiny object: those share a block, and are not collected by themselves
	var again func(*sentinel)
	again = func(s *sentinel) {
		adjust()
		runtime.SetFinalizer(s, again) // found dead once per collection
	}
	again(&sentinel{})
}
