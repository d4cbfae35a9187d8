package resolver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

var fuzzMethods = []string{methodGet, methodCAS, methodWatch, methodUnwatch, methodAnnounce, methodHosts, "resolver.none"}

func fuzzMarshal(tb testing.TB, v any) []byte {
	b, err := transport.Marshal(v)
	require.NoError(tb, err)
	return b
}

// Whatever a client sends is answered, and what the resolver then holds is sound.
func FuzzServer(f *testing.F) {
	h := Host{ID: "a", Incarnation: 1, Addr: "a:1"}
	for i, v := range []any{
		nameParams{Name: "backend.com"}, casParams{Next: recordBy("backend.com", h, 1)}, watchParams{Name: "backend.com", ID: 1},
		unwatchParams{ID: 1},
		announceParams{Host: h, TTL: 1000, Services: []string{"backend.com"}}, nameParams{Name: "backend.com"},
	} {
		f.Add(byte(i), fuzzMarshal(f, v), byte(1), fuzzMarshal(f, casParams{Expect: 1, Next: recordBy("backend.com", h, 2)}))
	}
	f.Add(byte(4), fuzzMarshal(f, announceParams{Host: h, TTL: 1, Part: partMore, Services: []string{"x"}}), byte(4),
		[]byte{0xc0})
	f.Fuzz(func(t *testing.T, m1 byte, p1 []byte, m2 byte, p2 []byte) {
		inBubble(t, ServerConfig{limits: limits{hostsDelay: -1}}, func(t *testing.T, w *world) {
			conn := w.dial("a")
			ss := w.server.accept(conn).(*session)
			asked, answered := 0, 0
			for _, m := range []struct {
				method byte
				params []byte
			}{{m1, p1}, {m2, p2}, {m1, p1}} {
				asked++
				ss.Handle(conn, transport.NewRequest(fuzzMethods[int(m.method)%len(fuzzMethods)], m.params,
					func([]byte, error) { answered++ }))
				synctest.Wait()
			}
			for name, r := range w.server.store.records {
				require.Equal(t, name, r.Name)
				require.NoError(t, validate(r))
			}
			require.Equal(t, asked, answered+len(ss.watches))
			ss.Closed(conn, nil)
			synctest.Wait()
			require.Equal(t, asked, answered, "the end of the connection ends the watches")
			require.Zero(t, w.watching())
		})
	})
}

// A client takes any answer, or returns an error.
func FuzzClient(f *testing.F) {
	h := Host{ID: "a", Incarnation: 1, Addr: "a:1"}
	rec := recordBy("backend.com", h, 1)
	rec.Version, rec.Generation = 1, 1
	f.Add(fuzzMarshal(f, rec), false)
	f.Add(fuzzMarshal(f, rec), true)
	f.Add(fuzzMarshal(f, []Host{h}), false)
	f.Add(fuzzMarshal(f, true), false)
	f.Add([]byte{0xc0}, true)
	f.Fuzz(func(t *testing.T, data []byte, conflict bool) {
		synctest.Test(t, func(t *testing.T) {
			net := transport.NewMemory()
			dns, tr := net.Host("dns"), net.Host("a")
			defer dns.Close()
			defer tr.Close()
			a := answers{data: data}
			if conflict {
				a = answers{err: &transport.Error{Code: CodeConflict, Message: "conflict", Data: data}}
			}
			l, err := dns.Listen("dns:8000", func(transport.Conn) transport.Handler { return a })
			require.NoError(t, err)
			defer l.Close()
			c, err := NewClient(ClientConfig{Transport: tr, Server: transport.Peer{Addr: "dns:8000"}})
			require.NoError(t, err)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = c.Get(ctx, "backend.com")
			_, _ = c.CompareAndSwap(ctx, 0, firstRecord("backend.com"))
			_, _ = c.Watch(ctx, "backend.com", 0)
			_, _ = c.Hosts(ctx, "backend.com")
			_ = c.Announce(ctx, h, []string{"backend.com"}, time.Second)
			_ = c.Announce(ctx, h, []string{"backend.com"}, time.Second)
		})
	})
}
