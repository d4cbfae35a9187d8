//go:build unix

package migrate

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of the CPUs: on a busy machine it says more than the clock.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
