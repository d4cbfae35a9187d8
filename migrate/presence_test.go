package migrate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// announcer is a resolver that fails announcements while it is told to.
type announcer struct {
	resolver.Resolver

	mu    sync.Mutex // guards the fields below
	err   error
	calls int
	busy  bool
}

func (a *announcer) Announce(ctx context.Context, h resolver.Host, services []string, ttl time.Duration) error {
	a.mu.Lock()
	overlap := a.busy
	a.busy = true
	a.calls++
	err := a.err
	a.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	a.mu.Lock()
	a.busy = false
	a.mu.Unlock()
	switch {
	case overlap:
		return errors.New("two announcements at a time")
	case err != nil:
		return err
	}
	return a.Resolver.Announce(ctx, h, services, ttl)
}

func (a *announcer) fail(err error) (calls int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls, a.calls, a.err = a.calls, 0, err
	return calls
}

// TestAnnouncementFails asserts that a failed announcement is repeated soon, unless a person must act first.
func TestAnnouncementFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		a := &announcer{Resolver: w.res}
		w.resolverOf = func(string) resolver.Resolver { return a }
		w.node("a")
		a.fail(errors.New("no answer"))
		w.host("a", "svc", Policy{})
		time.Sleep(10 * time.Second)
		calls := a.fail(nil)
		require.InDelta(t, 10*time.Second/(announceAgain+20*time.Millisecond), calls, 2)
		time.Sleep(announceAgain + 2*20*time.Millisecond + time.Millisecond) // the call in progress fails
		hosts, err := w.res.Hosts(t.Context(), "svc")
		require.NoError(t, err)
		require.Len(t, hosts, 1)

		time.Sleep(10 * time.Second)
		require.InDelta(t, 10, a.fail(resolver.ErrRefused), 2, "a renewal each third of the ttl")
		time.Sleep(10 * time.Second)
		require.InDelta(t, 10, a.fail(nil), 2)
	})
}

// TestPresenceAfterRestart starts the resolver anew, with nothing. The first to ask it sees all hosts.
func TestPresenceAfterRestart(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Minute} {
		for _, down := range []time.Duration{0, 2 * time.Second, 8 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				net := transport.NewMemory()
				net.SetDelay(5 * time.Millisecond)
				names := []string{"a", "b", "c", "d"}
				dial := func(name string) *resolver.Client {
					tr := net.Host(name)
					c, err := resolver.Dial(t.Context(), resolver.ClientConfig{
						Transport: tr, Server: transport.Peer{Addr: "dns:1"},
					})
					require.NoError(t, err)
					t.Cleanup(func() { c.Close(); tr.Close() })
					return c
				}
				start := func() (stop func()) {
					tr := net.Host("dns")
					s, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
					require.NoError(t, err)
					_, err = s.Listen("dns:1")
					require.NoError(t, err)
					return sync.OnceFunc(func() { s.Close(); tr.Close() })
				}
				stop := start()
				for _, name := range names {
					n, err := NewNode(NodeConfig{
						Resolver: dial(name), Transport: net.Host(name), ID: name, Listen: name + ":1", PresenceTTL: ttl,
					})
					require.NoError(t, err)
					t.Cleanup(func() { n.Close() })
					_, err = n.Standby(t.Context(), "svc", newTally, Policy{})
					require.NoError(t, err)
				}
				asks := dial("asks")
				for range 5 {
					time.Sleep(3170 * time.Millisecond) // restarts come at any point between two renewals
					net.Crash("dns")
					stop()
					time.Sleep(down)
					stop = start()
					hosts, err := asks.Hosts(t.Context(), "svc")
					require.NoError(t, err)
					seen := []string{}
					for _, h := range hosts {
						seen = append(seen, h.ID)
					}
					assert.Equal(t, names, seen, "ttl %v, down for %v", ttl, down)
				}
				t.Cleanup(stop)
			})
		}
	}
}
