package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// waiting sends a command and a query, which nobody can answer at present. answered waits for the later answer and returns
// when it came.
func (w *world) waiting(c *Client) (answered func() time.Time) {
	done := make(chan time.Time, 2)
	go func() {
		if err := w.do(w.t.Context(), c, "waits"); err != nil {
			w.t.Errorf("command: %v", err)
		}
		done <- time.Now()
	}()
	go func() {
		if _, err := c.Query(w.t.Context(), []byte("n")); err != nil {
			w.t.Errorf("query: %v", err)
		}
		done <- time.Now()
	}()
	return func() time.Time { <-done; return <-done }
}

// A command and a query that have waited for long are answered as soon as a host serves again.
func TestWaitingEndsWithItsCause(t *testing.T) {
	const trip = 2 * time.Millisecond
	// ends ends the outage, and returns the service that then serves.
	for name, begin := range map[string]func(w *world, c *Client) (ends func() *Service){
		"its host died while the resolver was down": func(w *world, _ *Client) func() *Service {
			w.net.Isolate("dns")
			w.crash("a")
			return func() *Service {
				w.net.Heal("dns", "b")
				w.net.Heal("dns", "client")
				return w.nodes["b"].service("svc")
			}
		},
		"its host and the resolver were cut off": func(w *world, _ *Client) func() *Service {
			w.net.Isolate("dns")
			w.net.Isolate("a")
			return func() *Service {
				w.net.Heal("dns", "b")
				w.net.Heal("dns", "client")
				return w.nodes["b"].service("svc")
			}
		},
		"the clients' way to the resolver came last": func(w *world, _ *Client) func() *Service {
			w.net.Isolate("dns")
			w.crash("a")
			w.net.Heal("dns", "b")
			w.role(w.nodes["b"].service("svc"), Active)
			return func() *Service {
				w.net.Heal("dns", "client")
				return w.nodes["b"].service("svc")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 20 {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					defer w.close()
					w.remoteResolver()
					w.node("a")
					w.node("b")
					w.pair(Policy{})
					c := w.dial("client", "svc", ClientConfig{})
					require.NoError(t, w.do(t.Context(), c, "first"))
					ends := begin(w, c)
					answered := w.waiting(c)
					time.Sleep(3*time.Second + time.Duration(i)*370*time.Millisecond)
					w.role(ends(), Active)
					began := time.Now()
					require.LessOrEqual(t, answered().Sub(began), 2*trip+50*time.Millisecond, "outage %d", i)
				})
			}
		})
	}
}

// The same after the only host has started again with its directory.
func TestWaitingEndsWithRestart(t *testing.T) {
	for i := range 5 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.close()
			dir := t.TempDir()
			start := func() *Service {
				n, err := NewNode(NodeConfig{
					Resolver: w.res, Transport: w.transport("a"), ID: "a", Listen: "a:1", Logger: w.log, Dir: dir,
				})
				require.NoError(t, err)
				w.nodes["a"] = n
				return w.host("a", "svc", Policy{})
			}
			start()
			c := w.dial("client", "svc", ClientConfig{})
			require.NoError(t, w.do(t.Context(), c, "first"))
			w.crash("a")
			answered := w.waiting(c)
			time.Sleep(3*time.Second + time.Duration(i)*370*time.Millisecond)
			w.role(start(), Active)
			began := time.Now()
			require.LessOrEqual(t, answered().Sub(began), 54*time.Millisecond, "outage %d", i)
		})
	}
}
