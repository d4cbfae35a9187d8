package transport

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parsed returns the realm of a process that got the code for a role.
func parsed(t testing.TB, r *Realm, role Role) *Realm {
	code, err := r.Code(role, Peer{})
	require.NoError(t, err)
	p, _, err := ParseCode(code)
	require.NoError(t, err)
	require.True(t, p.same(r))
	require.Equal(t, role, p.Role())
	return p
}

// passOf returns the realm of a process that got the code of a pass.
func passOf(t testing.TB, r *Realm, id *Identity, role Role, services ...string) *Realm {
	pass, err := r.Issue(id.Key(), role, services...)
	require.NoError(t, err)
	code, err := r.PassCode(pass, Peer{})
	require.NoError(t, err)
	p, _, err := ParseCode(code)
	require.NoError(t, err)
	require.True(t, p.same(r))
	require.Equal(t, role, p.Role())
	return p
}

// transports are a way to make a dialing and a listening transport, over TCP and in memory.
var transports = map[string]func(t *testing.T, dialer, listener TCPConfig) (d, l Transport){
	"tcp": func(t *testing.T, dialer, listener TCPConfig) (d, l Transport) {
		return newTCP(t, dialer), newTCP(t, listener)
	},
	"memory": func(t *testing.T, dialer, listener TCPConfig) (d, l Transport) {
		net := NewMemory()
		var err error
		for i, cfg := range []*TCPConfig{&dialer, &listener} {
			if cfg.Identity == nil {
				cfg.Identity = NewIdentity()
			}
			to := []*Transport{&d, &l}[i]
			*to, err = net.HostWith([]string{"d", "l"}[i], *cfg)
			require.NoError(t, err)
		}
		t.Cleanup(func() { d.(*MemoryTransport).Close(); l.(*MemoryTransport).Close() })
		return d, l
	},
}

var addrOf = map[string]string{"tcp": "127.0.0.1:0", "memory": "l:1"}

// Members meet members, each with the role that it got, and strangers nobody: not in another realm, not without one.
func TestRealm(t *testing.T) {
	realm, other, id := NewRealm(), NewRealm(), NewIdentity()
	host, guest := parsed(t, realm, RoleHost), parsed(t, realm, RoleGuest)
	limited := passOf(t, realm, id, RoleHost, "b", "a")
	both := TCPConfig{Realm: realm, Accept: []*Realm{other}}
	for _, tc := range []struct {
		name             string
		dialer, listener TCPConfig
		role             Role   // that the dialer proves; 0: it is refused
		services         string // of the dialer
	}{
		{"host", TCPConfig{Realm: host}, TCPConfig{Realm: realm}, RoleHost, ""},
		{"guest", TCPConfig{Realm: guest}, TCPConfig{Realm: realm}, RoleGuest, ""},
		{"guest's guest", TCPConfig{Realm: parsed(t, guest, RoleGuest)}, TCPConfig{Realm: realm}, RoleGuest, ""},
		{"guest meets guest", TCPConfig{Realm: guest}, TCPConfig{Realm: guest}, RoleGuest, ""},
		{"pass", TCPConfig{Realm: limited, Identity: id}, TCPConfig{Realm: realm}, RoleHost, "a b"},
		{"pass at guest", TCPConfig{Realm: limited, Identity: id}, TCPConfig{Realm: guest}, RoleHost, "a b"},
		{"guest's pass", TCPConfig{Realm: passOf(t, guest, id, RoleGuest), Identity: id}, TCPConfig{Realm: host}, RoleGuest, ""},
		{"other realm", TCPConfig{Realm: other}, TCPConfig{Realm: realm}, 0, ""},
		{"other realm's guest", TCPConfig{Realm: parsed(t, other, RoleGuest)}, TCPConfig{Realm: guest}, 0, ""},
		{"no realm", TCPConfig{Open: true}, TCPConfig{Realm: realm}, 0, ""},
		{"at none", TCPConfig{Realm: realm}, TCPConfig{Open: true}, 0, ""},
		{"new one accepted", TCPConfig{Realm: other, Accept: []*Realm{realm}}, both, RoleHost, ""},
		{"new one not accepted back", TCPConfig{Realm: other}, both, 0, ""},
	} {
		for kind, pair := range transports {
			t.Run(tc.name+"/"+kind, func(t *testing.T) {
				d, l := pair(t, tc.dialer, tc.listener)
				seen := make(chan Peer, 1)
				ln, err := l.Listen(addrOf[kind], func(c Conn) Handler { seen <- c.Peer(); return echo })
				require.NoError(t, err)
				c, err := d.Dial(t.Context(), Peer{Addr: ln.Addr(), Key: l.Key()}, nil)
				if tc.role == 0 {
					require.ErrorIs(t, err, ErrNotMember)
					d.(io.Closer).Close()
					l.(io.Closer).Close() // waits for the handshake
					require.Empty(t, seen)
					return
				}
				require.NoError(t, err)
				defer c.Close()
				p := <-seen
				require.Equal(t, tc.role, p.Role)
				require.Equal(t, tc.services, p.Services)
				require.Equal(t, d.Key(), p.Key)
				require.NotZero(t, c.Peer().Role)
				_, err = c.Call(t.Context(), "echo", nil)
				require.NoError(t, err)
			})
		}
	}
}

// A dialer can ask for the role of a host. Without a realm, peers have no roles and may do everything.
func TestDialForRole(t *testing.T) {
	realm := NewRealm()
	for kind, pair := range transports {
		for role, cfg := range map[Role]TCPConfig{
			RoleGuest: {Realm: parsed(t, realm, RoleGuest)}, RoleHost: {Realm: realm}, RoleOpen: {Open: true},
		} {
			dialer := TCPConfig{Realm: realm}
			if role == RoleOpen {
				dialer = cfg
			}
			d, l := pair(t, dialer, cfg)
			ln, err := l.Listen(addrOf[kind], func(c Conn) Handler { return echo })
			require.NoError(t, err)
			c, err := d.Dial(t.Context(), Peer{Addr: ln.Addr(), Role: RoleHost}, nil)
			if role == RoleGuest {
				require.ErrorIs(t, err, ErrNotMember, kind)
				require.ErrorContains(t, err, "expected a host, the peer is a guest")
				continue
			}
			require.NoError(t, err, "%s %v", kind, role)
			require.Equal(t, role, c.Peer().Role)
			require.True(t, c.Peer().May(RoleHost, "svc"))
			c.Close()
		}
	}
	plain := TCPConfig{InsecurePlaintext: true}
	c, err := newTCP(t, plain).Dial(t.Context(), Peer{Addr: listenEcho(t, newTCP(t, plain)), Role: RoleHost, Services: "a"}, nil)
	require.NoError(t, err)
	require.Equal(t, RoleOpen, c.Peer().Role)
	require.Empty(t, c.Peer().Services)
}

func TestPeerMay(t *testing.T) {
	for _, tc := range []struct {
		p    Peer
		role Role
		want bool
	}{
		{Peer{}, RoleHost, true},
		{Peer{Role: RoleHost}, RoleHost, true},
		{Peer{Role: RoleGuest}, RoleHost, false},
		{Peer{Role: RoleGuest}, RoleGuest, true},
		{Peer{Role: RoleHost, Services: "a svc"}, RoleHost, true},
		{Peer{Role: RoleHost, Services: "a sv svc2"}, RoleHost, false},
		{Peer{Role: RoleHost, Services: "a"}, RoleGuest, false},
	} {
		require.Equal(t, tc.want, tc.p.May(tc.role, "svc"), "%+v %v", tc.p, tc.role)
	}
}

// Both sides say why they do not talk, and name the realm. A stranger that knocks again and again does not fill the log.
func TestStrangersAreReported(t *testing.T) {
	realm, other := NewRealm(), NewRealm()
	logged := make(chan string, 100)
	server := newTCP(t, TCPConfig{Realm: realm, Logger: slog.New(slog.NewTextHandler(lines(logged), nil))})
	addr := listenEcho(t, server)
	dial := func(cfg TCPConfig) error {
		_, err := newTCP(t, cfg).Dial(t.Context(), Peer{Addr: addr}, nil)
		require.ErrorIs(t, err, ErrNotMember)
		return err
	}
	err := dial(TCPConfig{Realm: other})
	require.ErrorContains(t, err, other.String())
	require.ErrorContains(t, err, realm.String())
	for range 20 {
		require.ErrorContains(t, dial(TCPConfig{Open: true}), "which has no realm: the peer's pass names realm \""+realm.String())
	}
	server.Close()
	lines := []string{}
	for len(logged) > 0 {
		lines = append(lines, <-logged)
	}
	require.NotEmpty(t, lines)
	require.Less(t, len(lines), 20)
	all := strings.Join(lines, "")
	require.Contains(t, all, "stranger refused")
	require.Contains(t, all, "refused this side, a member of realm "+realm.String()) // from a dialer that refuses this side
}

// A guest, or a stranger, cannot make a certificate that counts as a host's.
func TestForgedPasses(t *testing.T) {
	realm := NewRealm()
	guest := parsed(t, realm, RoleGuest)
	id := NewIdentity()
	_, err := guest.Issue(id.Key(), RoleHost)
	require.ErrorContains(t, err, "guest")
	_, err = guest.Code(RoleHost, Peer{})
	require.ErrorContains(t, err, "guest")
	_, err = passOf(t, realm, id, RoleHost).Issue(id.Key(), RoleHost)
	require.Error(t, err)

	forged := *guest
	forged.hostKey = guest.guestKey // it signs a host's pass with the guests' key
	own := *guest
	own.hostKey = NewIdentity().key
	for name, forger := range map[string]*Realm{"guests' key": &forged, "own key": &own} {
		forger.role = RoleHost
		_, err := newTCP(t, TCPConfig{Realm: forger}).Dial(t.Context(),
			Peer{Addr: listenEcho(t, newTCP(t, TCPConfig{Realm: realm}))}, nil)
		require.ErrorIs(t, err, ErrNotMember, name)
	}
	host, err := realm.Issue(id.Key(), RoleHost, "svc")
	require.NoError(t, err)
	m := newMembers(realm, nil)
	_, err = m.admit(host)
	require.NoError(t, err)
	for i := range host.Raw { // no byte of a pass can be changed
		der := append([]byte(nil), host.Raw...)
		der[i] ^= 1
		if cert, err := x509.ParseCertificate(der); err == nil {
			a, err := m.admit(cert)
			require.Error(t, err, "byte %d", i)
			require.Zero(t, a)
		}
	}
	authorities, err := realm.Authorities()
	require.NoError(t, err)
	for _, a := range authorities {
		_, err := m.admit(a)
		require.ErrorIs(t, err, ErrNotMember)
	}
	_, err = m.admit(nil)
	require.ErrorIs(t, err, ErrNotMember)
}

// A process that presents somebody else's pass lacks its private key, and one with another identity than its own pass's is
// told before it connects.
func TestPassOfAnother(t *testing.T) {
	realm, id := NewRealm(), NewIdentity()
	pass := passOf(t, realm, id, RoleHost)
	_, err := NewTCP(TCPConfig{Realm: pass})
	require.ErrorContains(t, err, "another key")

	thief := newTCP(t, TCPConfig{Open: true})
	thief.client.Certificates[0].Certificate[0] = pass.pass.Raw
	_, err = thief.Dial(t.Context(), Peer{Addr: listenEcho(t, newTCP(t, TCPConfig{Realm: realm}))}, nil)
	require.Error(t, err)
}

// A program with an ordinary TLS stack is a member, with a pass and the certificates of the realm's authorities.
func TestOrdinaryTLS(t *testing.T) {
	realm, id := NewRealm(), NewIdentity()
	pass, err := realm.Issue(id.Key(), RoleGuest, "svc")
	require.NoError(t, err)
	authorities, err := realm.Authorities()
	require.NoError(t, err)
	again, err := realm.Authorities()
	require.NoError(t, err)
	require.Equal(t, authorities[0].Raw, again[0].Raw)
	roots := x509.NewCertPool()
	for _, a := range authorities {
		roots.AddCert(a)
	}
	_, err = pass.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	require.NoError(t, err)

	met := make(chan Peer, 1)
	l, err := newTCP(t, TCPConfig{Realm: realm}).Listen("127.0.0.1:0", func(c Conn) Handler { met <- c.Peer(); return echo })
	require.NoError(t, err)
	c, err := tls.Dial("tcp", l.Addr(), &tls.Config{
		RootCAs: roots, ServerName: "roam", Certificates: []tls.Certificate{{Certificate: [][]byte{pass.Raw}, PrivateKey: id.key}},
	})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte{0x94, 0, 1, 0xa4, 'e', 'c', 'h', 'o', 0x90}) // [0, 1, "echo", []]
	require.NoError(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(c, answer)
	require.NoError(t, err)
	require.Equal(t, []byte{0x94, 1, 1, 0xc0, 0x90}, answer)
	p := <-met
	require.Equal(t, RoleGuest, p.Role)
	require.Equal(t, "svc", p.Services)
	require.Equal(t, id.Key(), p.Key)
}

func TestRealmConfig(t *testing.T) {
	realm := NewRealm()
	for want, cfg := range map[string]TCPConfig{
		"must have a Realm, whose members": {},
		"Realm and Open are both set":      {Realm: realm, Open: true},
		"Realm is set, but":                {Realm: realm, InsecurePlaintext: true},
		"Accept is set without Realm":      {Open: true, Accept: []*Realm{realm}},
	} {
		_, err := NewTCP(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestCodes(t *testing.T) {
	realm := NewRealm()
	server := Peer{Addr: "192.168.1.5:8000", Key: NewIdentity().Key()}
	pass, err := realm.Issue(NewIdentity().Key(), RoleHost, "a b")
	require.ErrorContains(t, err, "a b")
	require.Nil(t, pass)
	pass, err = realm.Issue(NewIdentity().Key(), RoleHost, "caf\u00e9/%", "svc")
	require.NoError(t, err)
	host, err := realm.Code(RoleHost, server)
	require.NoError(t, err)
	guest, err := realm.Code(RoleGuest, server)
	require.NoError(t, err)
	narrow, err := realm.PassCode(pass, server)
	require.NoError(t, err)
	require.NotContains(t, guest, host[20:40])
	for _, code := range []string{host, guest, narrow} {
		for _, copied := range []string{code, code + "\r\n", "  " + code[:30] + "\n  " + code[30:]} {
			r, s, err := ParseCode(copied)
			require.NoError(t, err)
			require.Equal(t, server, s)
			require.Equal(t, realm.String(), r.String())
		}
		for i := range code { // a character that is wrong or missing is noticed
			wrong := byte('A')
			if code[i] == wrong {
				wrong = 'B'
			}
			for _, bad := range []string{code[:i] + code[i+1:], code[:i] + string(wrong) + code[i+1:], code[:i]} {
				_, _, err := ParseCode(bad)
				require.ErrorContains(t, err, "not a code", "%d", i)
				require.Less(t, len(err.Error()), 200)
			}
		}
	}
	_, err = realm.Code(RoleHost, Peer{Addr: strings.Repeat("x", 256)})
	require.Error(t, err)
}

func TestLoadRealm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "realm")
	r, err := LoadRealm(path)
	require.NoError(t, err)
	require.Equal(t, RoleHost, r.Role())
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, st.Mode().Perm())
	again, err := LoadRealm(path)
	require.NoError(t, err)
	require.Equal(t, r.secret, again.secret)

	require.NoError(t, os.Chmod(path, 0o640))
	_, err = LoadRealm(path)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.WriteFile(path, []byte("something else"), 0o600))
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = LoadRealm(path)
	require.ErrorContains(t, err, path)
	_, _, err = ReadCode(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzParseCode(f *testing.F) {
	realm := NewRealm()
	for _, role := range []Role{RoleHost, RoleGuest} {
		code, err := realm.Code(role, Peer{Addr: "a:1"})
		require.NoError(f, err)
		f.Add(code, []byte(nil))
	}
	pass, err := realm.Issue(Key{1}, RoleHost, "svc")
	require.NoError(f, err)
	code, err := realm.PassCode(pass, Peer{})
	require.NoError(f, err)
	f.Add(code, pass.Raw)
	f.Fuzz(func(t *testing.T, code string, der []byte) {
		ParseCode(code)
		ParseCode(prefixPass + code)
		// A part with the right checksum.
		for _, prefix := range []string{prefixHost, prefixGuest, prefixPass} {
			b := append([]byte(nil), der...)
			ParseCode(prefix + base64.RawURLEncoding.EncodeToString(append(b, checksum(prefix, b)...)))
		}
		if cert, err := x509.ParseCertificate(der); err == nil {
			if a, err := newMembers(realm, nil).admit(cert); err == nil {
				require.Equal(t, pass.Raw, der)
				require.Equal(t, admission{RoleHost, "svc"}, a)
			}
		}
	})
}
