// Package leaktest detects goroutine leaks in the tests of the examples.
package leaktest

import (
	"flag"
	"os"
	"runtime"
	"time"
)

// Exit ends a test program. If code is 0 and more than allowed goroutines are still running after a second, it prints them
// and exits with status 1. While fuzzing it does not count goroutines: the fuzzer handles signals on one that never ends.
func Exit(code, allowed int) {
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code)
	}
	for range 100 { // goroutines may still be exiting
		if code != 0 || runtime.NumGoroutine() <= allowed {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := make([]byte, 1<<20)
	println("leaked goroutines:\n" + string(b[:runtime.Stack(b, true)]))
	os.Exit(1)
}
