package migrate

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// With MinInSync commands wait rather than being held by fewer hosts, whichever host dies, and go on when it is back.
func TestMinInSync(t *testing.T) {
	for _, dies := range []string{"standby", "active"} {
		t.Run(dies, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				defer w.close()
				p := Policy{MinInSync: 2}
				w.pair(p)
				c := w.dial("client", "svc", ClientConfig{})
				wr := w.write(c)
				time.Sleep(time.Second)
				dead, left := "b", "a"
				if dies == "active" {
					dead, left = "a", "b"
				}
				w.crash(dead)
				time.Sleep(10 * time.Second)
				n := wr.count()
				time.Sleep(10 * time.Second)
				require.Equal(t, n, wr.count(), "commands acknowledged by one host alone")
				st := w.nodes[left].service("svc").Status()
				require.True(t, st.Suspended, "%+v", st)
				require.Len(t, st.Record.ISR, 2)
				w.node(dead)
				w.standby(dead, "svc", p)
				time.Sleep(5 * time.Second)
				require.Greater(t, wr.count(), n)
				require.False(t, w.active("svc").Status().Suspended)
				w.inSync(w.active("svc"), 2)
				w.check(c)
			})
		})
	}
}

// A standby that is to leave waits for another one to come.
func TestMinInSyncLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		defer w.close()
		p := Policy{MinInSync: 2}
		_, b := w.pair(p)
		c := w.dial("client", "svc", ClientConfig{})
		wr := w.write(c)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.ErrorIs(t, b.Leave(ctx), ErrTransferFailed)
		w.inSync(w.active("svc"), 2)
		w.node("c")
		w.standby("c", "svc", p)
		require.NoError(t, b.Leave(t.Context()))
		w.inSync(w.active("svc"), 2)
		n := wr.count()
		time.Sleep(time.Second)
		require.Greater(t, wr.count(), n)
		w.check(c)
	})
}

func TestMinInSyncValidated(t *testing.T) {
	for _, p := range []Policy{{MinInSync: -1}, {MinInSync: 3}, {MinInSync: 2, Copies: 1}, {MinInSync: 5, Copies: 4}} {
		require.ErrorIs(t, p.validate(), ErrConfig, "%+v", p)
	}
	for _, p := range []Policy{{MinInSync: 1}, {MinInSync: 2}, {MinInSync: 1, Copies: 1}, {MinInSync: 4, Copies: 4}} {
		require.NoError(t, p.validate(), "%+v", p)
	}
}

// deadly is a tally that kills its host on a certain command.
type deadly struct {
	tally
	die func()
}

func (d *deadly) Apply(cmd Command) ([]byte, error) {
	if string(cmd.Body) == "die" {
		d.die()
	}
	return d.tally.Apply(cmd)
}

// A command that kills each host that applies it kills the active one and three that took over. The fifth halts, says so,
// and can be reset to go on without it.
func TestDeadlyCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		var failed atomic.Pointer[error]
		w.hooks.Failed = func(_ string, err error) { failed.Store(&err) }
		names := []string{"a", "b", "c", "d", "e"}
		var died atomic.Int32
		over := make(chan struct{})
		defer close(over)
		fresh := func(name string) func() Migratable {
			return func() Migratable {
				return &deadly{die: func() {
					died.Add(1)
					w.net.Crash(name)
					go w.nodes[name].Close()
					<-over // it never comes back, as far as anyone can tell
				}}
			}
		}
		for _, name := range names {
			w.node(name)
		}
		p := Policy{Copies: 5}
		a, err := w.nodes["a"].Host(t.Context(), "svc", fresh("a"), p)
		require.NoError(t, err)
		for _, name := range names[1:] {
			_, err := w.nodes[name].Standby(t.Context(), "svc", fresh(name), p)
			require.NoError(t, err)
		}
		w.inSync(a, 5)
		c := w.dial("client", "svc", ClientConfig{})
		_, err = c.Do(t.Context(), []byte("x"))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = c.Do(ctx, []byte("die"))
		require.ErrorIs(t, err, ErrHalted)
		require.EqualValues(t, 4, died.Load())
		require.ErrorIs(t, *failed.Load(), ErrHalted)
		for _, n := range w.nodes {
			s := n.service("svc")
			if s == nil || s.Status().Role != Halted {
				continue
			}
			loss := s.Status().Record.Loss
			again, err := n.Reset(t.Context(), "svc", nil, Policy{})
			require.NoError(t, err)
			require.Same(t, s, again)
			require.Equal(t, Active, s.Status().Role)
			require.Greater(t, s.Status().Record.Loss, loss)
			c := w.dial("other", "svc", ClientConfig{})
			reply, err := c.Do(t.Context(), []byte("y"))
			require.NoError(t, err)
			require.Equal(t, "2", string(reply), "the copy before the deadly command")
			return
		}
		t.Fatal("no host has halted")
	})
}
