package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/transport"
)

// onDisk runs f with a server that keeps its records on a disk, in a bubble.
func onDisk(t *testing.T, log *slog.Logger, f func(t *testing.T, w *world, d *diskFS)) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &world{t: t, net: transport.NewMemory()}, newDisk()
		dns := w.net.Host("dns")
		s, err := newServer(ServerConfig{Transport: dns, File: "dir/records", Logger: log}, d)
		require.NoError(t, err)
		addr, err := s.Listen("dns:8000")
		require.NoError(t, err)
		w.server, w.addr = s, transport.Peer{Addr: addr, Key: dns.Key()}
		t.Cleanup(func() { s.Close(); dns.Close() })
		f(t, w, d)
	})
}

// loseSpare makes the server's next change fail for want of a descriptor.
func loseSpare(t *testing.T, s *Server, d *diskFS) {
	t.Helper()
	require.NotNil(t, s.file.spare)
	s.file.spare.Close()
	s.file.spare = nil
	d.leave(0)
}

// TestNoDescriptors asserts that a change that fails because the process has no descriptor left changes nothing, and is made
// when there is one.
func TestNoDescriptors(t *testing.T) {
	onDisk(t, nil, func(t *testing.T, w *world, d *diskFS) {
		s := w.server
		kept, err := swap(s, 0, firstRecord("kept.com"))
		require.NoError(t, err)
		woken := false
		s.store.watch("kept.com", 1, func(Record, error) { woken = true })
		loseSpare(t, s, d)

		next := kept
		next.Nonce++
		for range 3 {
			_, err = swap(s, 1, next)
			require.Equal(t, codeRetry, transport.CodeOf(err))
			require.ErrorIs(t, err, &transport.Error{Code: codeRetry})
			require.ErrorContains(t, err, syscall.EMFILE.Error())
			_, err = swap(s, 0, firstRecord("new.com"))
			require.Equal(t, codeRetry, transport.CodeOf(err))
		}
		select {
		case <-s.done:
			t.Fatal("the server ended")
		default:
		}
		got, err := s.store.get("kept.com")
		require.NoError(t, err)
		require.Equal(t, kept, got)
		_, err = s.store.get("new.com")
		require.ErrorIs(t, err, ErrNotFound)
		synctest.Wait()
		require.False(t, woken)

		// What was refused is not written with a later change.
		d.leave(1)
		_, err = swap(s, 0, firstRecord("other.com"))
		require.NoError(t, err)
		for _, left := range d.crash() {
			again, err := serverOn(t, left)
			require.NoError(t, err)
			got, err := again.store.get("kept.com")
			require.NoError(t, err)
			require.Equal(t, kept, got)
			_, err = again.store.get("new.com")
			require.ErrorIs(t, err, ErrNotFound)
			_, err = again.store.get("other.com")
			require.NoError(t, err)
			require.NoError(t, again.Close())
		}
		got, err = swap(s, 1, next)
		require.NoError(t, err)
		require.EqualValues(t, 2, got.Version)
		synctest.Wait()
		require.True(t, woken)
	})
}

// TestSavesWithoutDescriptors asserts that a server needs no new descriptor to make changes.
func TestSavesWithoutDescriptors(t *testing.T) {
	onDisk(t, nil, func(t *testing.T, w *world, d *diskFS) {
		d.leave(0)
		for i := range 3 {
			_, err := swap(w.server, 0, firstRecord(fmt.Sprint("service-", i)))
			require.NoError(t, err)
		}
		require.NoError(t, w.server.Close())
		d.mu.Lock()
		defer d.mu.Unlock()
		require.Equal(t, 2, d.free, "Close must release the directory and the spare descriptor")
	})
}

// TestNoDirectory asserts that a lack of descriptors is temporary also while the directory is opened again, and that nothing
// is renamed before it is open.
func TestNoDirectory(t *testing.T) {
	d := newDisk()
	s, err := serverOn(t, d)
	require.NoError(t, err)
	s.file.dir.Close()
	s.file.dir = nil
	d.leave(0)
	d.on = func(op string, _ int) error {
		t.Errorf("%s before the directory was open", op)
		return nil
	}
	_, err = swap(s, 0, firstRecord("a.com"))
	require.Equal(t, codeRetry, transport.CodeOf(err))
	d.on = nil
	d.leave(2)
	_, err = swap(s, 0, firstRecord("a.com"))
	require.NoError(t, err)
}

// TestClientRepeatsUnsaved asserts that a client repeats a change that the server could not store, until its context ends,
// and that the outcome is then unknown, not refused.
func TestClientRepeatsUnsaved(t *testing.T) {
	var log logLines
	onDisk(t, slog.New(&log), func(t *testing.T, w *world, d *diskFS) {
		c, a := w.client("a"), w.host("a")
		loseSpare(t, w.server, d)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.CompareAndSwap(ctx, 0, recordBy("backend.com", a, 1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrRefused)
		require.NotErrorIs(t, err, ErrStore)
		require.ErrorContains(t, err, "outcome unknown")
		require.ErrorContains(t, err, "no change can be stored at the moment")
		require.Equal(t, time.Minute, time.Since(begin))
		n := log.count("records not saved")
		require.True(t, 20 <= n && n <= 61, "%d lines in a minute", n)
		_, err = c.Get(t.Context(), "backend.com")
		require.ErrorIs(t, err, ErrNotFound, "reading works meanwhile")

		time.AfterFunc(10*time.Second, func() { d.leave(1) })
		begin = time.Now()
		r, err := c.CompareAndSwap(t.Context(), 0, recordBy("backend.com", a, 1))
		require.NoError(t, err)
		require.EqualValues(t, 1, r.Version)
		require.Less(t, time.Since(begin), 12*time.Second)
	})
}

// logLines keeps what is logged.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logLines) WithGroup(string) slog.Handler            { return l }

func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprint(&b, " ", a)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, b.String())
	return nil
}

// with returns the lines that begin with msg.
func (l *logLines) with(msg string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.HasPrefix(line, msg) {
			found = append(found, line)
		}
	}
	return found
}

func (l *logLines) count(msg string) int { return len(l.with(msg)) }
