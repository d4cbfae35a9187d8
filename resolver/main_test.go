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
	for end := time.Now().Add(5 * time.Second); code == 0 && runtime.NumGoroutine() > 1; runtime.Gosched() {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			if strings.Contains(stacks, "testing.(*M).startAlarm") && runtime.NumGoroutine() == 2 {
				break
			}
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", stacks)
			code = 1
		}
	}
	os.Exit(code)
}
