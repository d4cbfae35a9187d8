package resolver

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package when a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	end := time.Now().Add(5 * time.Second)
	for left := leaked(); code == 0 && len(left) > 0; left = leaked() {
		if time.Now().After(end) {
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n\n%s\n", strings.Join(left, "\n\n"))
			code = 1
		}
		runtime.Gosched()
	}
	os.Exit(code)
}

// leaked returns the stacks of all goroutines but its own and the one with which the fuzzer waits for signals.
func leaked() (stacks []string) {
	buf := make([]byte, 1<<20)
	for _, s := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
		if !strings.Contains(s, "os/signal.loop") {
			stacks = append(stacks, s)
		}
	}
	return stacks
}
