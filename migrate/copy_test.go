package migrate

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

var (
	copyState = flag.Int("copystate", 0, "TestCopyBetweenProcesses: MiB of state; 0 skips it")
	copyTLS   = flag.Bool("copytls", false, "TestCopyBetweenProcesses: with TLS")
	copyRate  = flag.Int("copyrate", 1000, "TestCopyBetweenProcesses: commands a second")
)

// paged is a service with much state: pages that are copied when they are written to after a snapshot was taken. A command
// is a random number, which says what is written where.
type paged struct {
	pages []*page
	gen   uint64 // of the latest snapshot
}

type page struct {
	gen  uint64
	data [4<<10 - 8]byte // a page of the allocator in all
}

func newPaged(mib int) *paged {
	p := &paged{pages: make([]*page, mib<<20/len(page{}.data))}
	for i := range p.pages {
		p.pages[i] = new(page)
		for j := 0; j < len(page{}.data); j += 8 {
			binary.BigEndian.PutUint64(p.pages[i].data[j:], uint64(i+j)*0x9E3779B97F4A7C15)
		}
	}
	return p
}

func (p *paged) Apply(cmd Command) ([]byte, error) {
	x := binary.BigEndian.Uint64(cmd.Body)
	i := x % uint64(len(p.pages))
	pg := p.pages[i]
	if pg.gen < p.gen {
		pg = &page{gen: p.gen, data: pg.data}
		p.pages[i] = pg
	}
	at := x >> 32 % uint64(len(pg.data)-8)
	binary.BigEndian.PutUint64(pg.data[at:], x)
	return cmd.Body[:8], nil
}

func (p *paged) Snapshot() (Snapshot, error) {
	p.gen++
	return pagedSnapshot(slices.Clone(p.pages)), nil
}

func (p *paged) Restore(r io.Reader) error {
	for {
		pg := new(page)
		switch _, err := io.ReadFull(r, pg.data[:]); err {
		case nil:
			p.pages = append(p.pages, pg)
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

type pagedSnapshot []*page

func (s pagedSnapshot) WriteTo(w io.Writer) (n int64, err error) {
	for _, pg := range s {
		k, err := w.Write(pg.data[:])
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s pagedSnapshot) Release() {}

// copyHost is a process that hosts. It does what it reads, line by line, and answers with a line each.
func copyHost(id, dns string) error {
	secure := os.Getenv("ROAM_COPY_TLS") != ""
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	n, err := roleNode(dns, id, secure)
	if err != nil {
		return err
	}
	defer n.Close()
	p := Policy{Copies: 1}
	var s *Service
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := strings.Fields(in.Text())
		out := "ok"
		switch f[0] {
		case "host":
			mib, _ := strconv.Atoi(f[1])
			s, err = n.Host(ctx, "svc", func() Migratable { return newPaged(mib) }, p)
		case "standby":
			s, err = n.Standby(ctx, "svc", func() Migratable { return new(paged) }, p)
		case "handoff":
			var rep Report
			rep, err = s.Handoff(ctx, f[1])
			b, _ := json.Marshal(rep)
			out = string(b)
		case "peak":
			out = peakRSS()
		case "cpu":
			out = strconv.FormatInt(int64(cpuTime()), 10)
		case "serve":
			out, err = serveCopy(f[1], secure)
		case "fetch":
			out, err = fetchCopy(f[1], secure)
		}
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Println(out)
	}
	return nil
}

// peakRSS is the highest resident size of this process in KiB.
func peakRSS() string {
	b, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); f[0] == "VmHWM:" {
			return f[1]
		}
	}
	return "0"
}

// process is another process that runs copyHost.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startHost(t testing.TB, id, dns string, secure bool) *process {
	env := []string{"ROAM_COPY_HOST=" + id, "ROAM_COPY_DNS=" + dns}
	if secure {
		env = append(env, "ROAM_COPY_TLS=1")
	}
	return startProcess(t, env...)
}

// startProcess runs this binary again, to do what the environment says; see TestMain.
func startProcess(t testing.TB, env ...string) *process {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(p.stop)
	return p
}

// stop ends the process; it may be called twice.
func (p *process) stop() {
	p.in.Close()
	p.cmd.Wait()
}

func (p *process) do(line string) string {
	fmt.Fprintln(p.in, line)
	require.True(p.t, p.out.Scan(), "the process has ended")
	require.NotContains(p.t, p.out.Text(), "error: ")
	return p.out.Text()
}

func (p *process) number(line string) float64 {
	v, err := strconv.ParseFloat(p.do(line), 64)
	require.NoError(p.t, err)
	return v
}

// waits collects how long commands waited.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (w *waits) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, d)
}

// take returns the figures since the last call.
func (w *waits) take() (n int, p50, p99, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	slices.Sort(all)
	if n = len(all); n > 0 {
		p50, p99, longest = all[n/2], all[n*99/100], all[n-1]
	}
	return n, p50, p99, longest
}

// TestCopyBetweenProcesses moves a large state to a host without a copy while commands come at a steady rate:
//
//	go test ./migrate -run TestCopyBetweenProcesses -copystate 1024 -v
func TestCopyBetweenProcesses(t *testing.T) {
	if *copyState == 0 {
		t.Skip("-copystate is not set")
	}
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: !*copyTLS})
	require.NoError(t, err)
	defer tr.Close()
	server, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	require.NoError(t, err)
	defer server.Close()
	dns, err := server.Listen("127.0.0.1:0")
	require.NoError(t, err)
	res, err := resolver.NewClient(resolver.ClientConfig{Transport: tr, Server: transport.Peer{Addr: dns}})
	require.NoError(t, err)
	defer res.Close()

	a, b := startHost(t, "a", dns, *copyTLS), startHost(t, "b", dns, *copyTLS)
	a.do(fmt.Sprint("host ", *copyState))
	b.do("standby")
	c, err := Dial(t.Context(), "svc", ClientConfig{Resolver: res, Transport: tr})
	require.NoError(t, err)
	defer c.Close()

	var w waits
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan func(), 1024)
	wg.Go(func() {
		for f := range calls {
			f()
		}
	})
	wg.Go(func() {
		defer close(calls)
		every := time.Second / time.Duration(*copyRate)
		x := uint64(1)
		for due := time.Now(); ctx.Err() == nil; due = due.Add(every) {
			time.Sleep(time.Until(due))
			x = x*6364136223846793005 + 1442695040888963407
			call, err := c.Go(binary.BigEndian.AppendUint64(nil, x))
			if err != nil {
				t.Error(err)
				return
			}
			began := due // also what was late because the machine was busy has waited
			calls <- func() {
				<-call.Done()
				w.add(time.Since(began))
			}
		}
	})
	time.Sleep(time.Second)
	w.take()
	time.Sleep(4 * time.Second)
	n, p50, p99, usual := w.take()
	t.Logf("without a move: %d commands, p50 %s, p99 %s, longest wait %s", n, p50, p99, usual)
	var rep Report
	began := time.Now()
	require.NoError(t, json.Unmarshal([]byte(a.do("handoff b")), &rep))
	took := time.Since(began)
	time.Sleep(100 * time.Millisecond)
	n, p50, p99, longest := w.take()
	t.Logf("during the move: %d commands, p50 %s, p99 %s, longest wait %s", n, p50, p99, longest)
	t.Logf("%d MiB in %s (%.0f MB/s): join %s, prepare %s, transfer %s, pause %s",
		rep.Bytes>>20, took, float64(rep.Bytes)/1e6/took.Seconds(), rep.Join, rep.Prepare, rep.Transfer, rep.Pause)
	time.Sleep(time.Second)
	cancel()
	wg.Wait()
	for name, p := range map[string]*process{"source": a, "target": b} {
		mib := p.number("peak") / 1024
		ratio := mib / float64(*copyState)
		t.Logf("%s: peak memory %.0f MiB, %.2f x the state", name, mib, ratio)
		require.Less(t, ratio, 1.5, name)
	}
	require.Less(t, longest, usual+50*time.Millisecond)
}
