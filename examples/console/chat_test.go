package main

import (
	"bytes"
	"context"
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

// inRoom runs f in a synctest bubble with a room x.org on an in-memory network, and a function that joins it from a host.
func inRoom(t *testing.T, f func(t *testing.T, network *transport.Memory, join func(name, host string) *chatcore.Client)) {
	synctest.Test(t, func(t *testing.T) {
		network, names := transport.NewMemory(), resolver.NewMemory()
		node, err := migrate.NewNode(migrate.NodeConfig{ID: "h", Resolver: names, Transport: network.Host("h"), Listen: "h:1"})
		require.NoError(t, err)
		t.Cleanup(func() {
			node.Close()
			network.Host("h").Close()
		})
		room, err := chatcore.New(chatcore.Config{})
		require.NoError(t, err)
		_, err = node.Host(t.Context(), "x.org", room, migrate.Policy{})
		require.NoError(t, err)
		f(t, network, func(name, host string) *chatcore.Client {
			c, err := chatcore.Join(t.Context(), "x.org", chatcore.ClientConfig{
				Name: name, Resolver: names, Transport: network.Host(host), Listen: host + ":0",
			})
			require.NoError(t, err)
			t.Cleanup(func() {
				c.Close()
				network.Host(host).Close()
			})
			return c
		})
	})
}

func TestInterruptBoundsPrivateMessages(t *testing.T) {
	inRoom(t, func(t *testing.T, network *transport.Memory, join func(name, host string) *chatcore.Client) {
		ann, bob := join("ann", "ann"), join("bob", "bob")
		network.Partition("ann", "bob")
		ctx, interrupt := context.WithCancel(t.Context())
		lines := make(chan string)
		go func() {
			for range 60 {
				lines <- "/msg bob hi"
			}
			interrupt()
		}()
		var out, errs bytes.Buffer
		s := &plain{service: "x.org", out: &out, err: &errs}
		begin := time.Now()
		failed, err := runChat(ctx, ann, "x.org", &localHost{process: &cli.Process{}}, s, true, lines, func() {})
		require.NoError(t, err)
		require.Equal(t, 60, failed)
		require.LessOrEqual(t, time.Since(begin), leaveGrace)
		require.Contains(t, errs.String(), "59 private messages were not sent")
		all, err := bob.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1, "ann has left the room")
	})
}

func TestInterruptAfterEndOfInput(t *testing.T) {
	inRoom(t, func(t *testing.T, network *transport.Memory, join func(name, host string) *chatcore.Client) {
		ann := join("ann", "ann")
		join("bob", "bob")
		network.Partition("ann", "bob")
		ctx, interrupt := context.WithCancel(t.Context())
		lines := make(chan string)
		var interrupted time.Time
		go func() {
			for range 60 {
				lines <- "/msg bob hi"
			}
			close(lines)
			time.Sleep(time.Second)
			interrupted = time.Now()
			interrupt()
		}()
		var out, errs bytes.Buffer
		s := &plain{service: "x.org", out: &out, err: &errs}
		failed, err := runChat(ctx, ann, "x.org", &localHost{process: &cli.Process{}}, s, true, lines, func() {})
		require.NoError(t, err)
		require.Equal(t, 60, failed)
		require.LessOrEqual(t, time.Since(interrupted), leaveGrace)
	})
}

func TestPipedPrivateMessagesWait(t *testing.T) {
	for _, piped := range []bool{true, false} {
		inRoom(t, func(t *testing.T, network *transport.Memory, join func(name, host string) *chatcore.Client) {
			ann := join("ann", "ann")
			join("bob", "bob")
			network.SetLinkDelay("ann", "bob", time.Second)
			const n = 200
			lines := make(chan string)
			go func() {
				defer close(lines)
				for range n {
					lines <- "/msg bob hi"
				}
			}()
			var out, errs bytes.Buffer
			s := &plain{service: "x.org", out: &out, err: &errs}
			failed, err := runChat(t.Context(), ann, "x.org", &localHost{process: &cli.Process{}}, s, piped, lines, func() {})
			require.NoError(t, err)
			if piped {
				require.Zero(t, failed, errs.String())
			} else {
				require.Less(t, n/2, failed, "a terminal does not wait")
			}
		})
	}
}

func TestForget(t *testing.T) {
	inRoom(t, func(t *testing.T, _ *transport.Memory, join func(name, host string) *chatcore.Client) {
		ann, bob := join("ann", "ann"), join("bob", "bob")
		require.NoError(t, ann.Private(t.Context(), "bob", "hi"))
		require.NoError(t, bob.Leave(t.Context()))
		bob = join("bob", "another") // with another key

		talk := func(c *chatcore.Client, lines ...string) (out, errs string) {
			var to, about bytes.Buffer
			ch := &chat{Client: c, screen: &plain{service: "x.org", out: &to, err: &about},
				privates: make(chan [2]string, len(lines))}
			for _, l := range lines {
				ch.line(t.Context(), l)
			}
			close(ch.privates)
			ch.sendPrivates(t.Context())
			return to.String(), about.String()
		}
		out, errs := talk(ann, "/who")
		require.Empty(t, errs)
		require.Equal(t, "* 2 participants: ann (you), bob (new key)\n", out)
		_, errs = talk(ann, "/msg bob psst")
		require.Contains(t, errs, "/forget bob")
		_, errs = talk(bob, "/msg ann psst")
		require.Contains(t, errs, "ask them to enter /forget bob")
		_, errs = talk(ann, "/forget", "/forget bob now")
		require.Equal(t, "console: usage: /forget NAME\nconsole: usage: /forget NAME\n", errs)

		out, errs = talk(ann, "/forget bob", "/msg bob psst")
		require.Empty(t, errs)
		require.Equal(t, "* forgot the key of bob: the next key seen for this name will be accepted\n", out)
		_, errs = talk(bob, "/msg ann psst")
		require.Empty(t, errs)
		out, _ = talk(ann, "/who")
		require.Equal(t, "* 2 participants: ann (you), bob\n", out)
	})
}
