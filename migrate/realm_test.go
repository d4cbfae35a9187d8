package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// realmWorld is a world in which hosts a and b are members of a realm, like the resolver.
type realmWorld struct {
	*world
	realm *transport.Realm
}

func newRealmWorld(t *testing.T) *realmWorld {
	w := &realmWorld{newWorld(t), transport.NewRealm()}
	w.join("dns", w.realm)
	w.remoteResolver()
	for _, name := range []string{"a", "b"} {
		w.join(name, w.realm)
		w.node(name)
	}
	return w
}

// join gives the host with that name a transport in a realm, or an open one if realm is nil.
func (w *realmWorld) join(name string, realm *transport.Realm) *transport.MemoryTransport {
	return w.joinAs(name, realm, transport.NewIdentity())
}

func (w *realmWorld) joinAs(name string, realm *transport.Realm, id *transport.Identity) *transport.MemoryTransport {
	tr, err := w.net.HostWith(name, transport.TCPConfig{Identity: id, Realm: realm, Open: realm == nil})
	require.NoError(w.t, err)
	w.trs[name] = tr
	return tr
}

func (w *realmWorld) guests() *transport.Realm {
	code, err := w.realm.Code(transport.RoleGuest, transport.Peer{})
	require.NoError(w.t, err)
	r, _, err := transport.ParseCode(code)
	require.NoError(w.t, err)
	return r
}

// limited returns the realm of a process with a pass for one service.
func (w *realmWorld) limited(id *transport.Identity, role transport.Role, service string) *transport.Realm {
	pass, err := w.realm.Issue(id.Key(), role, service)
	require.NoError(w.t, err)
	code, err := w.realm.PassCode(pass, transport.Peer{})
	require.NoError(w.t, err)
	r, _, err := transport.ParseCode(code)
	require.NoError(w.t, err)
	return r
}

// Guests call services, over moves. A client without a pass learns at once that it is none.
func TestGuestsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRealmWorld(t)
		defer w.close()
		a, b := w.pair(Policy{})
		w.join("guest", w.guests())
		c := w.dial("guest", "svc", ClientConfig{})
		wr := w.write(c)
		time.Sleep(time.Second)
		_, err := a.Handoff(t.Context(), "b")
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, Active, b.Status().Role)
		wr.end()
		w.check(c)

		for name, realm := range map[string]*transport.Realm{"stranger": transport.NewRealm(), "open": nil} {
			w.join(name, realm)
			began := time.Now()
			_, err := Dial(t.Context(), "svc", ClientConfig{Resolver: w.resolver(name), Transport: w.transport(name)})
			require.ErrorIs(t, err, transport.ErrNotMember, name)
			require.Less(t, time.Since(began), time.Second)
		}
	})
}

// Neither a guest nor a stranger becomes a host, whatever it tries, and the hosts do not heed it. A guest that hosts is told.
func TestOnlyHostsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRealmWorld(t)
		defer w.close()
		a, _ := w.pair(Policy{})
		rec := a.Status().Record
		for name, realm := range map[string]*transport.Realm{"guest": w.guests(), "stranger": transport.NewRealm(), "open": nil} {
			tr := w.join(name, realm)
			failed := make(chan error, 100)
			n, err := NewNode(NodeConfig{
				Resolver: w.resolver(name), Transport: tr, ID: name, Listen: name + ":1",
				Hooks: Hooks{Failed: func(_ string, err error) { failed <- err }},
			})
			require.NoError(t, err)
			began := time.Now()
			_, err = n.Host(t.Context(), "new", newTally, Policy{})
			require.ErrorIs(t, err, transport.ErrNotMember, name)
			_, err = n.Reset(t.Context(), "svc", newTally, Policy{})
			require.Error(t, err, name)
			require.Less(t, time.Since(began), 30*time.Second, name)
			_, err = n.Standby(t.Context(), "svc", newTally, Policy{})
			require.NoError(t, err)
			time.Sleep(10 * time.Second)
			require.NotEmpty(t, failed, name)
			require.ErrorIs(t, <-failed, transport.ErrNotMember, name)
			require.Equal(t, Latent, n.service("svc").Status().Role)
			require.NoError(t, n.Close())

			if conn, err := tr.Dial(t.Context(), transport.Peer{Addr: "a:1"}, nil); name != "guest" {
				require.ErrorIs(t, err, transport.ErrNotMember, name)
			} else {
				require.NoError(t, err)
				self := resolver.Host{ID: name, Incarnation: 1, Key: tr.Key()}
				_, err = conn.Call(t.Context(), wire.MethodHello, mustMarshal(t, wire.HostHello{Host: self}))
				require.ErrorIs(t, err, transport.ErrNotMember)
				_, err = conn.Call(t.Context(), wire.MethodAsk, mustMarshal(t, wire.AskParams{Service: "svc"}))
				require.ErrorIs(t, err, ErrForbidden)
				conn.Close()
			}
		}
		require.Equal(t, rec.Version, a.Status().Record.Version)
		require.Equal(t, Active, a.Status().Role)
	})
}

// A pass for one service is none for another: not for a host and not for a client.
func TestPassesForAService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRealmWorld(t)
		defer w.close()
		id := transport.NewIdentity()
		w.joinAs("c", w.limited(id, transport.RoleHost, "svc"), id)
		w.node("c")
		_, err := w.nodes["c"].Host(t.Context(), "other", newTally, Policy{})
		require.ErrorIs(t, err, transport.ErrNotMember)
		c := w.host("c", "svc", Policy{})
		w.standby("a", "svc", Policy{})
		w.inSync(c, 2)
		w.host("a", "other", Policy{})

		id = transport.NewIdentity()
		w.joinAs("guest", w.limited(id, transport.RoleGuest, "svc"), id)
		require.NoError(t, w.do(t.Context(), w.dial("guest", "svc", ClientConfig{}), "x"))
		began := time.Now()
		_, err = Dial(t.Context(), "other", ClientConfig{Resolver: w.resolver("guest"), Transport: w.transport("guest")})
		require.ErrorIs(t, err, transport.ErrNotMember)
		require.ErrorContains(t, err, "other")
		require.Less(t, time.Since(began), time.Second)
	})
}
