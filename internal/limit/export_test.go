package limit

import "time"

// SetBudget changes how long a request waits for the store, for tests on machines that are busy with others.
func (l *Link) SetBudget(d time.Duration) { l.budget = d }
