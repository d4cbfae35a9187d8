package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// The tests in attack*_test.go attack the real programs. Each attack is a function that returns what it achieved. It runs
// against the programs with default settings, which it must not harm, and against programs that are started such that it
// succeeds, which shows that the attack works.

const chatName = "backend.com"

// target is a running chat: dns, a chatnode that serves it, and alice, who has joined.
type target struct {
	t                *testing.T
	dns, node, alice *program
	dnsAddr, node1   string // addresses of dns and chatnode
	flags            []string
	config           string // directory of the user
	lines            int    // that alice said
}

// startTarget starts the programs. Without mode they have their default settings; -open and -insecure are modes. The flag -v
// makes dns and chatnode log.
func startTarget(t *testing.T, mode ...string) *target {
	t.Helper()
	g := &target{t: t, config: t.TempDir()}
	g.dns = g.start("dns", with(mode, "-port", "0", "-state", filepath.Join(t.TempDir(), "names"), "-v")...)
	_, g.dnsAddr, _ = strings.Cut(g.dns.await("listening on"), "listening on ")
	if len(mode) > 0 {
		_, flags, _ := strings.Cut(g.dns.await("start the other programs with"), " with ")
		g.flags = strings.Fields(flags)
	} else {
		_, port, _ := strings.Cut(g.dnsAddr, ":")
		g.flags = []string{"-dns_port", port}
	}
	g.dns.await("names are kept")
	// The chat moves soon to another host that has a copy. The default is 30 s.
	g.node = g.start("chatnode", with(g.flags, "-s", "-v", "-every", "400ms")...)
	_, g.node1, _ = strings.Cut(g.node.await("this is "), " at ")
	g.node.await("serving " + chatName)
	g.alice = g.start("console", with(g.flags, "-name", "alice", "-client_only")...)
	g.alice.await("alice joined")
	g.speaks()
	return g
}

// start starts a program of the same user.
func (g *target) start(name string, args ...string) *program {
	g.t.Helper()
	setConfigDir(g.t, g.config)
	return start(g.t, name, args...)
}

// speaks requires that the chat still serves alice.
func (g *target) speaks() {
	g.t.Helper()
	g.lines++
	g.alice.say("line %d", g.lines)
	g.alice.await(fmt.Sprintf("alice: line %d$", g.lines))
}

// works requires that the chat still serves alice, and clients that join.
func (g *target) works() {
	g.t.Helper()
	g.speaks()
	name := fmt.Sprintf("client-%d", g.lines)
	p := g.start("console", with(g.flags, "-name", name, "-client_only")...)
	p.say("hello from %s", name)
	require.NoError(g.t, p.stdin.Close())
	require.Zero(g.t, p.end(), "%s", p.stderr())
	g.alice.await("hello from " + name)
}

// code returns the code for a role that dns has printed.
func (g *target) code(role transport.Role) string {
	g.t.Helper()
	for _, l := range g.dns.all {
		if _, code, ok := strings.Cut(l, "-join "); ok && strings.HasPrefix(code, "roam-"+role.String()) {
			return code
		}
	}
	require.FailNow(g.t, "no code", "%q", g.dns.all)
	return ""
}

// realm returns what the code for a role contains.
func (g *target) realm(role transport.Role) (*transport.Realm, transport.Peer) {
	g.t.Helper()
	realm, dns, err := transport.ParseCode(g.code(role))
	require.NoError(g.t, err)
	return realm, dns
}

// attacker is a process with a key of its own that can open TCP connections.
type attacker struct {
	t     *testing.T
	tr    *transport.TCP
	names *resolver.Client
	dns   string
	host  resolver.Host // as which it announces itself
}

// newAttacker returns an attacker on a target. cfg has its realm, if any; a stranger has none, or one of its own.
func newAttacker(g *target, cfg transport.TCPConfig) *attacker {
	g.t.Helper()
	tr, err := transport.NewTCP(cfg)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { tr.Close() })
	names, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: g.dnsAddr}})
	require.NoError(g.t, err)
	g.t.Cleanup(func() { names.Close() })
	return &attacker{g.t, tr, names, g.dnsAddr, resolver.Host{ID: "eve", Incarnation: 1, Addr: "127.0.0.1:1", Key: tr.Key()}}
}

func stranger(g *target) *attacker { return newAttacker(g, transport.TCPConfig{Open: true}) }

// anonymous is an attacker on programs that were started with -insecure, where nobody has a key.
func anonymous(g *target) *attacker {
	return newAttacker(g, transport.TCPConfig{InsecurePlaintext: true})
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// reset replaces the record of the chat by one in which the attacker is the only host.
func (a *attacker) reset() (achieved bool, err error) {
	rec, err := a.names.Get(soon(a.t), chatName)
	if err != nil {
		return false, err
	}
	rec.Loss, rec.Epoch, rec.Nonce = rec.Loss+1, rec.Epoch+1, 1
	rec.Active, rec.Proposer, rec.ISR = a.host, a.host, []resolver.Host{a.host}
	rec, err = a.names.CompareAndSwap(soon(a.t), rec.Version, rec)
	return rec.Active.ID == a.host.ID, err
}

func TestAttackReset(t *testing.T) {
	t.Parallel()
	g := startTarget(t)
	achieved, err := stranger(g).reset()
	require.ErrorIs(t, err, transport.ErrNotMember)
	require.False(t, achieved)
	g.works()

	open := startTarget(t, "-open")
	achieved, err = stranger(open).reset()
	require.NoError(t, err)
	require.True(t, achieved)
	open.node.awaitError("active=eve") // the chat has lost its host
}

// isPresent reports whether the resolver lists a host of the chat with the same ID and address.
func (a *attacker) isPresent(h resolver.Host) bool {
	a.t.Helper()
	hosts, err := a.names.Hosts(soon(a.t), chatName)
	require.NoError(a.t, err)
	return slices.ContainsFunc(hosts, func(o resolver.Host) bool { return o.ID == h.ID && o.Addr == h.Addr })
}

// presentHost returns the host that serves the chat, after it has announced itself.
func (a *attacker) presentHost() (resolver.Host, error) {
	a.t.Helper()
	rec, err := a.names.Get(soon(a.t), chatName)
	if err == nil {
		require.Eventually(a.t, func() bool { return a.isPresent(rec.Active) }, patience, 20*time.Millisecond)
	}
	return rec.Active, err
}

// withdraw ends the presence of the host that serves the chat. It claims that the host has the attacker's key.
func (a *attacker) withdraw() (achieved bool, err error) {
	h, err := a.presentHost()
	if err != nil {
		return false, err
	}
	claim := h
	claim.Key = a.tr.Key()
	err = a.names.Announce(soon(a.t), claim, nil, 0)
	return !a.isPresent(h), err
}

// takeID announces itself with the ID of the host that serves the chat.
func (a *attacker) takeID() (achieved bool, err error) {
	h, err := a.presentHost()
	if err != nil {
		return false, err
	}
	claim := resolver.Host{ID: h.ID, Incarnation: h.Incarnation + 1, Addr: a.host.Addr, Key: a.tr.Key()}
	err = a.names.Announce(soon(a.t), claim, []string{chatName}, time.Minute)
	return a.isPresent(claim), err
}

// Keys protect the presence of a host even without a realm, so these attacks succeed only where nobody has a key.
func TestAttackPresence(t *testing.T) {
	t.Parallel()
	attacks := map[string]func(*attacker) (bool, error){"withdraw": (*attacker).withdraw, "take the ID": (*attacker).takeID}
	g, open := startTarget(t), startTarget(t, "-open")
	for name, attack := range attacks {
		achieved, err := attack(stranger(g))
		require.ErrorIs(t, err, transport.ErrNotMember, name)
		require.False(t, achieved, name)
		achieved, err = attack(stranger(open))
		require.ErrorIs(t, err, resolver.ErrRefused, name)
		require.False(t, achieved, name)
		achieved, err = attack(anonymous(startTarget(t, "-insecure")))
		require.NoError(t, err, name)
		require.True(t, achieved, name)
	}
	g.works()
}

// crowd announces hosts until the resolver refuses, each 64 with another key, and returns how many it has admitted.
func crowd(g *target, hosts int) (admitted int, err error) {
	const perKey = 64
	for n := 0; n < hosts; n += perKey {
		a := stranger(g)
		for i := range min(perKey, hosts-n) {
			h := a.host
			h.ID = fmt.Sprintf("crowd-%d", n+i)
			if err := a.names.Announce(soon(a.t), h, []string{"other.com"}, time.Minute); err != nil {
				return admitted, err
			}
			admitted++
		}
	}
	return admitted, nil
}

func TestAttackPlaces(t *testing.T) {
	t.Parallel()
	const most = 1024 - 2
	g := startTarget(t)
	admitted, err := crowd(g, most)
	require.ErrorIs(t, err, transport.ErrNotMember)
	require.Zero(t, admitted)
	g.start("chatnode", g.flags...).await("standing by with a copy")

	// One key has at most 64 places. With more keys a stranger takes all that are left.
	open := startTarget(t, "-open")
	admitted, err = crowd(open, most)
	require.NoError(t, err)
	require.Equal(t, most, admitted)
	admitted, err = crowd(open, 3)
	require.ErrorIs(t, err, resolver.ErrRefused)
	require.LessOrEqual(t, admitted, 2)
}
