package main

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/chatcore"
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// inRoom runs f in a synctest bubble with a room x.org on a network in memory, and a way to join it from a host of one's name.
func inRoom(t *testing.T, f func(t *testing.T, network *transport.Memory, join func(name string) *chatcore.Client)) {
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
		f(t, network, func(name string) *chatcore.Client {
			c, err := chatcore.Join(t.Context(), "x.org", chatcore.ClientConfig{
				Name: name, Resolver: names, Transport: network.Host(name), Listen: name + ":0",
			})
			require.NoError(t, err)
			t.Cleanup(func() {
				c.Close()
				network.Host(name).Close()
			})
			return c
		})
	})
}

func TestWhoeverInterruptsDoesNotWaitForPrivateMessages(t *testing.T) {
	inRoom(t, func(t *testing.T, network *transport.Memory, join func(string) *chatcore.Client) {
		ann, bob := join("ann"), join("bob")
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
		refused, err := converse(ctx, ann, "x.org", "", s, true, lines, func() {})
		require.NoError(t, err)
		require.Equal(t, 60, refused)
		require.LessOrEqual(t, time.Since(begin), leaveGrace)
		require.Contains(t, errs.String(), "59 private messages were not sent")
		all, err := bob.Who(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1, "the others are told")
	})
}

func TestAnInterruptAfterTheEndOfTheInput(t *testing.T) {
	inRoom(t, func(t *testing.T, network *transport.Memory, join func(string) *chatcore.Client) {
		ann := join("ann")
		join("bob")
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
		refused, err := converse(ctx, ann, "x.org", "", s, true, lines, func() {})
		require.NoError(t, err)
		require.Equal(t, 60, refused)
		require.LessOrEqual(t, time.Since(interrupted), leaveGrace)
	})
}

func TestPipedPrivateMessagesWaitForOneAnother(t *testing.T) {
	for _, piped := range []bool{true, false} {
		inRoom(t, func(t *testing.T, network *transport.Memory, join func(string) *chatcore.Client) {
			ann := join("ann")
			join("bob")
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
			refused, err := converse(t.Context(), ann, "x.org", "", s, piped, lines, func() {})
			require.NoError(t, err)
			if piped {
				require.Zero(t, refused, errs.String())
			} else {
				require.Less(t, n/2, refused, "nobody at a keyboard waits")
			}
		})
	}
}
