package migrate

import (
	"context"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// farTransport dials like TCP with TLS, which takes a round trip more than the network in memory.
type farTransport struct {
	*transport.MemoryTransport
	trip time.Duration
}

func (f *farTransport) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	conn, err := f.MemoryTransport.Dial(ctx, to, h)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		conn.Close()
		return nil, ctx.Err()
	case <-time.After(f.trip):
	}
	return conn, nil
}

// farWorld is a world whose hosts, clients and resolver are all the same round trip apart.
type farWorld struct {
	*world
	trip time.Duration
}

func newFarWorld(t *testing.T, trip time.Duration, hosts ...string) *farWorld {
	w := &farWorld{newWorld(t), trip}
	w.net.SetDelay(trip / 2)
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: w.transport("dns")})
	require.NoError(t, err)
	_, err = server.Listen("dns:1")
	require.NoError(t, err)
	w.last = append(w.last, func() { server.Close() })
	for _, name := range hosts {
		w.start(name)
	}
	return w
}

func (w *farWorld) far(name string) transport.Transport {
	return &farTransport{w.transport(name), w.trip}
}

func (w *farWorld) farResolver(name string) resolver.Resolver {
	c, err := resolver.NewClient(resolver.ClientConfig{Transport: w.far(name), Server: transport.Peer{Addr: "dns:1"}})
	require.NoError(w.t, err)
	w.last = append(w.last, func() { c.Close() })
	return c
}

// start starts a host, or starts it again after a crash.
func (w *farWorld) start(name string) {
	n, err := NewNode(NodeConfig{
		Resolver: w.farResolver(name), Transport: w.far(name), ID: name, Listen: name + ":1", Logger: w.log, Hooks: w.hooks,
	})
	require.NoError(w.t, err)
	w.nodes[name] = n
}

func (w *farWorld) connect(name string) *Client {
	c, err := Dial(w.t.Context(), "svc", ClientConfig{Resolver: w.farResolver(name), Transport: w.far(name), Logger: w.log})
	require.NoError(w.t, err)
	w.cls = append(w.cls, c)
	return c
}

// lossy delays what a pair of hosts exchanges as if packets were lost: a TCP that sends ten packets a second notices a loss
// by the next packet, a round trip later; one in a hundred is lost a second time. It ends when the test does.
func (w *farWorld) lossy(lossesPerSecond float64) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	names := []string{"a", "b", "c", "dns", "client"}
	for _, from := range names {
		for _, to := range names {
			if from == to {
				continue
			}
			r := rand.New(rand.NewPCG(uint64(w.trip), hashOf(from+to)))
			wg.Go(func() {
				for {
					wait := time.Duration(r.ExpFloat64() / lossesPerSecond * float64(time.Second))
					hold := 100*time.Millisecond + w.trip*5/4
					if r.IntN(100) == 0 {
						hold += 100*time.Millisecond + w.trip*5/4
					}
					select {
					case <-ctx.Done():
						return
					case <-time.After(wait):
					}
					w.net.Block(from, to)
					select {
					case <-ctx.Done():
					case <-time.After(hold):
					}
					w.net.Heal(from, to)
				}
			})
		}
	}
	return func() { cancel(); wg.Wait() }
}

func hashOf(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

var farTrips = []time.Duration{20 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}

// Hosts that are far apart keep each other, with the defaults, although one packet in a hundred is lost.
func TestFarHostsStay(t *testing.T) {
	for _, trip := range farTrips {
		t.Run(trip.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFarWorld(t, trip, "a", "b", "c")
				defer w.close()
				a := w.host("a", "svc", Policy{})
				w.standby("b", "svc", Policy{})
				w.standby("c", "svc", Policy{})
				w.inSync(a, 2)
				c := w.connect("client")
				wr := w.write(c)
				wr.slow(5 * time.Second)
				time.Sleep(5 * time.Second)
				before := a.Status().Record
				stop := w.lossy(0.1)
				time.Sleep(10 * time.Minute)
				stop()
				after := w.active("svc").Status().Record
				t.Logf("longest wait %v, steps %d", wr.longest(), after.Version-before.Version)
				require.Equal(t, before.Epoch, after.Epoch, "no failover")
				require.Equal(t, before.Version, after.Version, "no member was removed")
				w.check(c)
			})
		})
	}
}

// ask asks queries one after the other, until the test ends.
func (w *farWorld) ask(c *Client) *answers {
	a := new(answers)
	a.begin()
	go func() {
		for {
			if _, err := c.Query(w.t.Context(), []byte("n")); err != nil {
				return
			}
			a.answered(0)
		}
	}()
	return a
}

// eachTrip runs f for each of the round trips, in a world of three hosts.
func eachTrip(t *testing.T, f func(w *farWorld)) {
	for _, trip := range farTrips {
		t.Run(trip.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFarWorld(t, trip, "a", "b", "c")
				defer w.close()
				f(w)
			})
		})
	}
}

// Hosts that are far apart join, move the service and replace each other within some round trips, with the defaults.
func TestFarHostsWork(t *testing.T) {
	const (
		seek    = 500 * time.Millisecond // the active host looks for standbys that often
		failure = 500 * time.Millisecond
	)
	all := Policy{Copies: 3}
	eachTrip(t, func(w *farWorld) {
		t := w.t
		a := w.host("a", "svc", all)
		var began time.Time
		check := func(what string, took, fixed time.Duration, trips float64) {
			t.Helper()
			t.Logf("%s: %v, %.1f round trips and %v", what, took, float64(max(took-fixed, 0))/float64(w.trip), fixed)
			require.LessOrEqual(t, took, fixed+time.Duration(trips*float64(w.trip)), what)
		}
		for i, name := range []string{"b", "c"} {
			began = time.Now()
			w.standby(name, "svc", all)
			w.inSync(a, 2+i)
			check(name+" has joined", time.Since(began), seek, 13) // of these, it takes four to read the record
		}
		c := w.connect("client")
		wr, asks := w.write(c), w.ask(c)
		pause := func(what string, fixed time.Duration, trips float64) {
			t.Helper()
			check(what+", commands", wr.longest(), fixed, trips)
			check(what+", queries", asks.longest(), fixed, trips)
		}
		reset := func() {
			time.Sleep(5 * time.Second)
			wr.resetGap()
			asks.resetGap()
		}
		reset()
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		pause("move", 0, 5)
		reset()
		w.crash("c")
		time.Sleep(10 * time.Second)
		pause("a standby was killed", failure, 10)
		reset()
		w.crash("b")
		time.Sleep(10 * time.Second)
		pause("the active host was killed", failure, 10)
		for i, name := range []string{"b", "c"} {
			w.start(name)
			w.standby(name, "svc", all)
			w.inSync(a, 2+i)
		}
		reset()
		w.net.Isolate("a")
		time.Sleep(10 * time.Second)
		pause("the active host was cut off", max(failure, 200*time.Millisecond+4*w.trip), 10)
		w.check(c)
	})
}

// What waits while the network stands still is answered as soon as that ends, and no host has lost its place.
func TestStallEnds(t *testing.T) {
	names := []string{"a", "b", "c", "dns", "client"}
	stalls := map[string]func(x, y string) bool{
		"the network":  func(x, y string) bool { return true },
		"the hosts":    func(x, y string) bool { return x != "client" && y != "client" },
		"the client":   func(x, y string) bool { return x == "client" || y == "client" },
		"the resolver": func(x, y string) bool { return x == "dns" || y == "dns" },
		"its host":     func(x, y string) bool { return x == "client" && y == "a" || x == "a" && y == "client" },
	}
	eachTrip(t, func(w *farWorld) {
		t := w.t
		a := w.host("a", "svc", Policy{Copies: 3})
		w.standby("b", "svc", Policy{Copies: 3})
		w.standby("c", "svc", Policy{Copies: 3})
		w.inSync(a, 3)
		c := w.connect("client")
		wr, asks := w.write(c), w.ask(c)
		time.Sleep(10 * time.Second)
		before := a.Status().Record
		for _, what := range slices.Sorted(maps.Keys(stalls)) {
			for i := range 5 {
				for i, x := range names {
					for _, y := range names[:i] {
						if stalls[what](x, y) {
							w.net.Partition(x, y)
						}
					}
				}
				time.Sleep(3*time.Second + time.Duration(i)*37*time.Millisecond)
				for i, x := range names {
					for _, y := range names[:i] {
						w.net.Heal(x, y)
					}
				}
				healed, commands, queries := time.Now(), wr.count(), asks.count()
				for wr.count() == commands || asks.count() == queries {
					time.Sleep(time.Millisecond)
				}
				require.LessOrEqual(t, time.Since(healed), 2*w.trip+50*time.Millisecond, "stall %d of %s", i, what)
				time.Sleep(5 * time.Second)
				now := w.active("svc").Status().Record
				require.Equal(t, before.Epoch, now.Epoch, "stall %d of %s: failover", i, what)
				require.Equal(t, before.Version, now.Version, "stall %d of %s: a standby was removed", i, what)
			}
		}
		w.check(c)
	})
}
