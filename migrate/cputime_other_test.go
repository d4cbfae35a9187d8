//go:build !unix

package migrate

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
