package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/examples/internal/cli"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

func TestFailuresAreShownOnce(t *testing.T) {
	for _, json := range []bool{false, true} {
		var out, errs bytes.Buffer
		var f failures
		f.report("x.org", errors.New("migrate: early\x1b[2J"))
		f.report("x.org", errors.New("migrate: early\x1b[2J"))
		f.showOn(&plain{service: "x.org", json: json, out: &out, err: &errs})
		for range 3 {
			f.report("x.org", errors.New("migrate: early\x1b[2J"))
			f.report("x.org", errors.New("migrate: Node.Reset on host b continues"))
			f.report("", errors.New("migrate: host b is not announced"))
		}
		require.Equal(t, []string{
			"console: this process as a host: early␛[2J",
			"console: this process as a host: Node.Reset on host b continues (/reset calls it)",
			"console: this process as a host: host b is not announced",
			"",
		}, strings.Split(errs.String(), "\n"))
		require.Empty(t, out.String())
	}
}

// slowNames is a resolver that takes some time.
type slowNames struct {
	*resolver.Memory
	delay atomic.Int64 // a time.Duration
}

func (s *slowNames) Get(ctx context.Context, name string) (resolver.Record, error) {
	select {
	case <-time.After(time.Duration(s.delay.Load())):
	case <-ctx.Done():
		return resolver.Record{}, ctx.Err()
	}
	return s.Memory.Get(ctx, name)
}

func TestResetCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, names := transport.NewMemory(), &slowNames{Memory: resolver.NewMemory()}
		locals := make(map[string]*localHost)
		for _, id := range []string{"a", "b", "c", ""} { // active, in sync, without a copy, without a host
			p := &cli.Process{Flags: cli.Flags{Service: "x.org"}}
			locals[id] = &localHost{process: p}
			if id == "" {
				continue
			}
			var err error
			p.Node, err = migrate.NewNode(migrate.NodeConfig{ID: id, Resolver: names, Transport: network.Host(id), Listen: id + ":1"})
			require.NoError(t, err)
			t.Cleanup(func() {
				p.Node.Close()
				network.Host(id).Close()
			})
			room, err := chatcore.New(chatcore.Config{})
			require.NoError(t, err)
			_, err = p.Node.Host(t.Context(), "x.org", room, migrate.Policy{Copies: 2})
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		enter := func(id string, stay time.Duration, lines ...string) (out, errs string, failed int) {
			t.Helper()
			var to, about bytes.Buffer
			ch := &chat{service: "x.org", local: locals[id], screen: &plain{service: "x.org", out: &to, err: &about}}
			ctx, leave := context.WithCancel(t.Context())
			for _, l := range lines {
				ch.line(ctx, l)
			}
			time.Sleep(stay)
			leave()
			ch.resets.Wait()
			require.False(t, ch.local.continued.Load())
			return to.String(), about.String(), ch.failed
		}
		for id, want := range map[string]string{
			"a": "console: this process serves x.org, so there is nothing to reset.\n",
			"b": "console: cannot continue x.org: service x.org is active on host a and therefore cannot be reset\n",
			"c": "console: this process holds no copy of x.org to continue with. If no host holds one, its messages are lost: then " +
				"restart the chat, empty, with -s -reset.\n",
			"": "console: with -client_only this process holds no copy of x.org to continue with.\n",
		} {
			out, errs, failed := enter(id, 10*time.Second, "/reset")
			require.Equal(t, want, errs)
			require.Empty(t, out)
			require.Equal(t, 1, failed)
		}
		_, errs, _ := enter("b", 0, "/reset now")
		require.Equal(t, "console: usage: /reset\n", errs)

		// The command returns at once, and does not outlast the session.
		names.delay.Store(int64(time.Minute))
		began := time.Now()
		out, errs, failed := enter("b", time.Second, "/reset", "/reset", "/help")
		require.Contains(t, out, "/reset            continue the chat")
		require.Equal(t, "console: an earlier /reset has not finished yet\nconsole: /reset was canceled, because you left\n", errs)
		require.Equal(t, 2, failed)
		require.Equal(t, time.Second, time.Since(began))

		// It takes a limited time.
		_, errs, _ = enter("b", time.Minute, "/reset")
		require.Contains(t, errs, "has not answered in time")
	})
}
