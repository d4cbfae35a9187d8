package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Interrupted returns a context that ends when the process is to leave: on the first Ctrl-C, SIGTERM or SIGHUP, which a closed
// window, a dropped connection or a logout sends. A SIGHUP that is ignored at the start, as under nohup, stays ignored.
//
// A Ctrl-C after the end of the context exits at once, and so does a SIGTERM after one of the two. A later SIGHUP does nothing: a
// terminal and its shell both send one. atExit, which may be nil, is called before an exit at once, and must not wait: it can
// restore the terminal.
//
// So that the process can also leave when the reader of its output has gone, a write to a broken pipe fails instead of ending
// the process.
func Interrupted(parent context.Context, atExit func()) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	wanted := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		wanted = append(wanted, syscall.SIGHUP)
	}
	signal.Notify(signals, wanted...)
	go func() {
		defer signal.Stop(signals)
		for asked := false; ; {
			select {
			case s := <-signals:
				switch {
				case s == os.Interrupt && ctx.Err() != nil, s == syscall.SIGTERM && asked:
					exit(s, atExit)
				case s != syscall.SIGHUP:
					asked = true
				}
				cancel()
			case <-parent.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

// exitPatience limits the time of atExit.
const exitPatience = 100 * time.Millisecond

// exit ends the process with the status that a shell reports for a signal.
func exit(s os.Signal, atExit func()) {
	if atExit != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			atExit()
		}()
		select {
		case <-done:
		case <-time.After(exitPatience):
		}
	}
	status := 1
	if n, ok := s.(syscall.Signal); ok {
		status = 128 + int(n)
	}
	os.Exit(status)
}
