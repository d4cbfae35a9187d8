//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo sends back everything that it receives.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

type proxied struct {
	t *testing.T
	net.Conn
}

func (c *proxied) say(s string) {
	_, err := c.Write([]byte(s))
	require.NoError(c.t, err)
}

func (c *proxied) hear(s string) {
	b := make([]byte, len(s))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.ReadFull(c, b)
	require.NoError(c.t, err)
	require.Equal(c.t, s, string(b))
}

func (c *proxied) hearNothing() {
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func (c *proxied) ended() {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := c.Read(make([]byte, 1))
	require.Error(c.t, err)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func dialProxy(t *testing.T, addr string) *proxied {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &proxied{t, c}
}

func TestProxy(t *testing.T) {
	n := newNetwork()
	defer n.close()
	addr := echo(t)
	via, err := n.via("a", map[string]string{"a": "unused", "b": addr})
	require.NoError(t, err)
	require.Len(t, via, 1)
	again, err := n.via("a", map[string]string{"b": addr})
	require.NoError(t, err)
	require.Equal(t, via, again)

	c := dialProxy(t, via[addr])
	c.say("one")
	c.hear("one")
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		n.hold(way[0], way[1], false)
		c.say("held")
		c.hearNothing()
		n.heal()
		c.hear("held")
	}
	n.links[[2]string{"a", "b"}].sever(false)
	c.ended()
	c = dialProxy(t, via[addr])
	c.say("two")
	c.hear("two")

	n.links[[2]string{"a", "b"}].sever(true)
	c.ended()
	if again, err := net.Dial("tcp", via[addr]); err == nil {
		(&proxied{t, again}).ended()
		again.Close()
	}
	n.heal()

	require.NoError(t, n.refuse("b", true))
	_, err = net.Dial("tcp", via[addr])
	require.True(t, errors.Is(err, syscall.ECONNREFUSED), "%v", err)
	require.NoError(t, n.refuse("b", false))
	c = dialProxy(t, via[addr])
	c.say("three")
	c.hear("three")

	n.links[[2]string{"a", "b"}].set(way{delay: 30 * time.Millisecond}, way{})
	began := time.Now()
	c.say("late")
	c.hear("late")
	require.GreaterOrEqual(t, time.Since(began), 30*time.Millisecond)
	n.apart("b")
	c.say("never")
	c.hearNothing()
}
