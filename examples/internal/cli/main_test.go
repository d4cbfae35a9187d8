package cli

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails when goroutines are left.
func TestMain(m *testing.M) {
	code := m.Run()
	for range 100 { // what was told to end may take a moment
		if runtime.NumGoroutine() <= 2 { // os/signal keeps one
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if code == 0 {
		b := make([]byte, 1<<20)
		println("goroutines are left:\n" + string(b[:runtime.Stack(b, true)]))
		code = 1
	}
	os.Exit(code)
}
