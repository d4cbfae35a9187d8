package migrate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/wal"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// durable is some hosts over TCP, each with a directory that outlives it.
type durable struct {
	t    *testing.T
	res  resolver.Resolver
	dirs map[string]string
	edit func(*NodeConfig)
	fail chan error
}

func newDurable(t *testing.T) *durable {
	return &durable{t: t, res: resolver.NewMemory(), dirs: map[string]string{}, fail: make(chan error, 16)}
}

// start starts a host, at a new address.
func (d *durable) start(id string) *Node {
	d.t.Helper()
	n, err := d.tryStart(id)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { n.Close() })
	return n
}

func (d *durable) tryStart(id string) (*Node, error) {
	if d.dirs[id] == "" {
		d.dirs[id] = d.t.TempDir()
	}
	tr, err := transport.NewTCP(transport.TCPConfig{InsecurePlaintext: true})
	require.NoError(d.t, err)
	d.t.Cleanup(func() { tr.Close() })
	cfg := NodeConfig{
		Resolver: d.res, Transport: tr, ID: id, Listen: "127.0.0.1:0", Dir: d.dirs[id],
		Hooks: Hooks{Failed: func(_ string, err error) {
			select {
			case d.fail <- err:
			default:
			}
		}},
	}
	if d.edit != nil {
		d.edit(&cfg)
	}
	return NewNode(cfg)
}

func (d *durable) client() *Client {
	tr, err := transport.NewTCP(transport.TCPConfig{InsecurePlaintext: true})
	require.NoError(d.t, err)
	d.t.Cleanup(func() { tr.Close() })
	c, err := Dial(d.t.Context(), "svc", ClientConfig{Resolver: d.res, Transport: tr})
	require.NoError(d.t, err)
	d.t.Cleanup(func() { c.Close() })
	return c
}

// pair starts hosts a and b, of which a serves and b is in sync.
func (d *durable) pair(ctx context.Context) (a, b *Node, sa *Service) {
	d.t.Helper()
	a, b = d.start("a"), d.start("b")
	sa = d.host(a)
	d.host(b)
	d.inSync(ctx, sa)
	return a, b, sa
}

// inSync waits until both hosts are in the in-sync set.
func (d *durable) inSync(ctx context.Context, s *Service) {
	d.t.Helper()
	require.NoError(d.t, s.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
}

// do executes a command, whose reply must be want.
func (d *durable) do(ctx context.Context, c *Client, want string) {
	d.t.Helper()
	reply, err := c.Do(ctx, []byte("x"))
	require.NoError(d.t, err)
	require.Equal(d.t, want, string(reply))
}

func (d *durable) host(n *Node) *Service {
	s, err := n.Host(d.t.Context(), "svc", newTally, Policy{})
	require.NoError(d.t, err)
	return s
}

// Two hosts with a directory die at one moment, under load, again and again. They start again at other addresses, and
// everything goes on: no command that was acknowledged is lost, and none is executed twice.
func TestDurablePowerCut(t *testing.T) {
	d := newDurable(t)
	d.edit = func(c *NodeConfig) { c.grow = 4 << 10 } // many copies of the state
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	a, b, _ := d.pair(ctx)

	const clients = 3
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		done int
		stop = make(chan struct{})
	)
	for i := range clients {
		c := d.client()
		wg.Go(func() {
			last := 0
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				reply, err := c.Do(ctx, fmt.Appendf(nil, "%d-%d", i, n))
				at, _ := strconv.Atoi(string(reply))
				if err != nil || at <= last {
					t.Errorf("command %d of client %d: %s after %d, %v", n, i, reply, last, err)
					return
				}
				last = at
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	more := func() {
		mu.Lock()
		want := done + 200
		mu.Unlock()
		for {
			mu.Lock()
			enough := done >= want
			mu.Unlock()
			if enough || t.Failed() || ctx.Err() != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	began, err := d.res.Get(ctx, "svc")
	require.NoError(t, err)
	for round := range 4 {
		more()
		for both := false; !both; { // else the host that starts first may have missed acknowledged commands
			rec, err := d.res.Get(ctx, "svc")
			require.NoError(t, err)
			if both = len(rec.ISR) == 2; !both {
				time.Sleep(5 * time.Millisecond)
			}
		}
		inc := a.Self().Incarnation
		var closing sync.WaitGroup
		closing.Go(func() { a.Close() })
		closing.Go(func() { b.Close() })
		closing.Wait()
		a, b = d.start("a"), d.start("b")
		require.Equal(t, inc, a.Self().Incarnation)
		if round%2 == 0 {
			d.host(a)
			d.host(b)
		} else {
			d.host(b)
			d.host(a)
		}
	}
	more()
	close(stop)
	wg.Wait()
	require.NoError(t, ctx.Err())
	c := d.client()
	reply, err := c.Query(ctx, nil)
	require.NoError(t, err)
	mu.Lock()
	require.Equal(t, strconv.Itoa(done), string(reply))
	mu.Unlock()
	rec, err := d.res.Get(ctx, "svc")
	require.NoError(t, err)
	require.Equal(t, began.Loss, rec.Loss)
	select {
	case err := <-d.fail:
		t.Errorf("a host says: %v", err)
	default:
	}
}

// One host with a directory, alone.
func TestDurableAlone(t *testing.T) {
	d := newDurable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := d.start("a")
	s, err := n.Host(ctx, "svc", newTally, Policy{Copies: 1})
	require.NoError(t, err)
	c := d.client()
	for i := range 50 {
		_, err := c.Do(ctx, fmt.Appendf(nil, "%d", i))
		require.NoError(t, err)
	}
	epoch := s.Status().Record.Epoch
	n.Close()
	n = d.start("a")
	s, err = n.Host(ctx, "svc", newTally, Policy{Copies: 1})
	require.NoError(t, err)
	require.NoError(t, s.wait(ctx, func(st Status) bool { return st.Role == Active }))
	require.Greater(t, s.Status().Record.Epoch, epoch, "an epoch is never taken up again")
	reply, err := c.Do(ctx, []byte("more"))
	require.NoError(t, err)
	require.Equal(t, "51", string(reply))

	t.Run("shutdown of the last host keeps the state", func(t *testing.T) {
		require.ErrorIs(t, n.Shutdown(ctx), ErrNoTarget)
		n = d.start("a")
		_, err := n.Host(ctx, "svc", newTally, Policy{Copies: 1})
		require.NoError(t, err)
		reply, err := d.client().Query(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, "51", string(reply))
	})
	t.Run("reset is refused while the state is here", func(t *testing.T) {
		n.Close()
		n = d.start("a")
		_, err := n.Reset(ctx, "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrExists)
	})
	t.Run("another node can't use the directory", func(t *testing.T) {
		_, err := d.tryStart("a")
		require.ErrorIs(t, err, ErrStore)
		require.ErrorContains(t, err, d.dirs["a"])
	})
	t.Run("another host can't, either", func(t *testing.T) {
		n.Close()
		d.dirs["x"] = d.dirs["a"]
		_, err := d.tryStart("x")
		require.ErrorIs(t, err, ErrStore)
		require.ErrorContains(t, err, "belongs to host a, not to host x")
	})
	t.Run("the resolver has forgotten", func(t *testing.T) {
		d.res = resolver.NewMemory()
		n = d.start("a")
		loss := s.Status().Record.Loss
		s, err := n.Host(ctx, "svc", newTally, Policy{}) // it was the only member, so that it restores the record
		require.NoError(t, err)
		require.NoError(t, s.wait(ctx, func(st Status) bool { return st.Role == Active }))
		require.Equal(t, loss, s.Status().Record.Loss)
		reply, err := d.client().Query(ctx, nil)
		require.NoError(t, err)
		kept, _ := strconv.Atoi(string(reply))
		require.GreaterOrEqual(t, kept, 50, "that the last write was committed may not be known")
	})
	t.Run("the directory of the service is gone", func(t *testing.T) {
		n.Close()
		require.NoError(t, os.RemoveAll(filepath.Join(d.dirs["a"], "service-svc")))
		n = d.start("a")
		_, err := n.Host(ctx, "svc", newTally, Policy{})
		require.ErrorIs(t, err, ErrNoHost)
	})
	t.Run("leaving leaves nothing behind", func(t *testing.T) {
		s, err := n.Host(ctx, "other", newTally, Policy{})
		require.NoError(t, err)
		require.DirExists(t, filepath.Join(d.dirs["a"], "service-other"))
		require.ErrorIs(t, s.Leave(ctx), ErrNoTarget)
		require.NoDirExists(t, filepath.Join(d.dirs["a"], "service-other"))
	})
}

// failingFS is the operating system's, until it is told to fail.
type failingFS struct {
	wal.OS
	broken *atomic.Bool
}

type failingFile struct {
	wal.File
	broken *atomic.Bool
}

func (f failingFS) Append(name string) (wal.File, error) {
	w, err := f.OS.Append(name)
	return failingFile{w, f.broken}, err
}

func (f failingFile) Sync() error {
	if f.broken.Load() {
		return syscall.EIO
	}
	return f.File.Sync()
}

// The disk of the active host fails, then that of its standby: each acknowledges nothing any more, says so and halts, and
// the service goes on elsewhere. With a new start they are back.
func TestDurableDiskFails(t *testing.T) {
	d := newDurable(t)
	broken := map[string]*atomic.Bool{"a": {}, "b": {}, "c": {}}
	d.edit = func(c *NodeConfig) { c.fs = failingFS{broken: broken[c.ID]} }
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	nodes, services := map[string]*Node{}, map[string]*Service{}
	for _, id := range []string{"a", "b", "c"} {
		nodes[id] = d.start(id)
		services[id] = d.host(nodes[id])
	}
	c, n := d.client(), 0
	more := func() {
		t.Helper()
		for range 20 {
			n++
			reply, err := c.Do(ctx, fmt.Appendf(nil, "%d", n))
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(n), string(reply))
		}
	}
	for range 2 {
		var active, standby string
		for id, s := range services {
			if s.Status().Role == Active {
				active = id
			}
		}
		require.NoError(t, services[active].wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
		for _, h := range services[active].Status().Record.ISR {
			if h.ID != active {
				standby = h.ID
			}
		}
		more()
		for _, id := range []string{standby, active} {
			if id == active { // who has taken the standby's place?
				require.NoError(t, services[active].wait(ctx, func(st Status) bool {
					return len(st.Record.ISR) == 2 && !slices.ContainsFunc(st.Record.ISR, nodes[standby].self.Same)
				}))
			}
			broken[id].Store(true)
			more()
			require.NoError(t, services[id].wait(ctx, func(st Status) bool { return st.Role == Halted }))
			require.ErrorContains(t, <-d.fail, "nothing can be written to the disk any more")
		}
		for _, id := range []string{standby, active} {
			nodes[id].Close()
			broken[id].Store(false)
			nodes[id] = d.start(id)
			services[id] = d.host(nodes[id])
		}
		more()
	}
}

// hangingFS is the operating system's, until it is told to hang.
type hangingFS struct {
	wal.OS
	hang chan struct{} // nil: it does not; closed: it does not any more
	on   *atomic.Bool
}

type hangingFile struct {
	wal.File
	fs hangingFS
}

func (f hangingFS) Append(name string) (wal.File, error) {
	w, err := f.OS.Append(name)
	return hangingFile{w, f}, err
}

func (f hangingFile) Sync() error {
	if f.fs.on.Load() {
		<-f.fs.hang
	}
	return f.File.Sync()
}

// The disk of the active host hangs: another one takes over, and it is a standby again when its disk wakes up.
func TestDurableDiskHangs(t *testing.T) {
	d := newDurable(t)
	hanging := hangingFS{hang: make(chan struct{}), on: new(atomic.Bool)}
	wake := sync.OnceFunc(func() { close(hanging.hang) })
	d.edit = func(c *NodeConfig) {
		if c.ID == "a" {
			c.fs = hanging
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	a, b := d.host(d.start("a")), d.host(d.start("b"))
	t.Cleanup(wake) // before the nodes close
	require.NoError(t, a.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
	c := d.client()
	_, err := c.Do(ctx, []byte("1"))
	require.NoError(t, err)
	hanging.on.Store(true)
	reply, err := c.Do(ctx, []byte("2"))
	require.NoError(t, err)
	require.Equal(t, "2", string(reply))
	require.NoError(t, b.wait(ctx, func(st Status) bool { return st.Role == Active }))
	wake()
	require.NoError(t, b.wait(ctx, func(st Status) bool { return len(st.Record.ISR) == 2 }))
	require.NoError(t, a.wait(ctx, func(st Status) bool { return st.Role == Standby }))
}

// A host that starts again with a directory is told when the service was reset without it.
func TestDurableSuperseded(t *testing.T) {
	d := newDurable(t)
	a := d.start("a")
	d.host(a)
	reply, err := d.client().Do(t.Context(), []byte("gone"))
	require.NoError(t, err)
	require.Equal(t, "1", string(reply))
	require.NoError(t, a.Close())

	b := d.start("b")
	_, err = b.Host(t.Context(), "svc", newTally, Policy{})
	require.ErrorIs(t, err, ErrNoHost)
	require.ErrorContains(t, err, "host a at "+a.Self().Addr)
	sb, err := b.Reset(t.Context(), "svc", newTally, Policy{})
	require.NoError(t, err)
	require.Empty(t, d.fail)

	d.host(d.start("a"))
	require.ErrorIs(t, <-d.fail, ErrStateLost)
	require.NoError(t, sb.wait(t.Context(), func(st Status) bool { return len(st.Record.ISR) == 2 }))
	reply, err = d.client().Do(t.Context(), []byte("first"))
	require.NoError(t, err)
	require.Equal(t, "1", string(reply))
	require.Empty(t, d.fail)
}
