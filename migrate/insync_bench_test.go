package migrate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
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

// BenchmarkMoveInSync moves a service to and fro between two hosts that hold its state. What counts is how long a writer who
// waits for each answer has to wait while that happens (gap), and how long it takes until the last client is where it
// belongs, from when the first one has heard of the move (all). There is a process for each host, for the name service, and
// for all clients. The limit is a switch by hand, see switchHost.
func BenchmarkMoveInSync(b *testing.B) {
	for _, clients := range []int{1, 1000} {
		for _, tls := range []bool{false, true} {
			b.Run(fmt.Sprintf("clients=%d/tls=%v/limit", clients, tls), func(b *testing.B) { benchSwitch(b, clients, tls) })
			for _, mib := range []int{1, *benchState} {
				b.Run(fmt.Sprintf("clients=%d/tls=%v/state=%dMiB", clients, tls, mib),
					func(b *testing.B) { benchInSync(b, clients, mib, tls) })
			}
		}
	}
}

// startRole starts a process that does its part by [benchRole], and then what it is told, line by line. ready is its first
// line.
func startRole(b *testing.B, role, arg string, env ...string) (p *process, ready string) {
	p = startProcess(b, append(env, "ROAM_BENCH_ROLE="+role, "ROAM_BENCH_ARG="+arg)...)
	require.True(b, p.out.Scan(), "the process has ended")
	return p, p.out.Text()
}

// obey answers each line of standard input with one.
func obey(do func(words []string) (string, error)) error {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		out, err := do(strings.Fields(in.Text()))
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Println(out)
	}
	return nil
}

// moveNames is the name service of the benchmark, as a process.
func moveNames(secure bool) error {
	tr, err := transport.NewTCP(transport.TCPConfig{Open: true, InsecurePlaintext: !secure})
	if err != nil {
		return err
	}
	defer tr.Close()
	srv, err := resolver.NewServer(resolver.ServerConfig{Transport: tr})
	if err != nil {
		return err
	}
	defer srv.Close()
	addr, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(addr)
	return obey(func([]string) (string, error) { return "ok", nil })
}

// moveHost is one of the two hosts, as a process: told "host MIB" it begins with so much state.
func moveHost(names string, secure bool) error {
	n, err := roleNode(names, "", secure)
	if err != nil {
		return err
	}
	defer n.Close()
	fmt.Println(n.Self().ID)
	var s *Service
	return obey(func(words []string) (string, error) {
		switch words[0] {
		case "host":
			mib, err := strconv.Atoi(words[1])
			if err == nil {
				s, err = n.Host(n.ctx, "svc", func() Migratable { return newPaged(mib) }, Policy{})
			}
			return "ok", err
		case "standby":
			s, err = n.Standby(n.ctx, "svc", func() Migratable { return new(paged) }, Policy{})
			return "ok", err
		case "handoff":
			rep, err := s.Handoff(n.ctx, words[1])
			out, _ := json.Marshal(rep)
			return string(out), err
		case "clients":
			return strconv.Itoa(s.Status().Clients), nil
		}
		return "", fmt.Errorf("what is %q?", words)
	})
}

// waiting notes when the commands of a writer were under way.
type waiting struct {
	mu  sync.Mutex
	all [][2]time.Time
}

// do calls f again and again until ctx ends.
func (w *waiting) do(ctx context.Context, f func() error) {
	for began := time.Now(); ctx.Err() == nil; {
		err := f()
		now := time.Now()
		if err == nil {
			w.mu.Lock()
			w.all = append(w.all, [2]time.Time{began, now})
			w.mu.Unlock()
		}
		began = now
	}
}

// longest is how long the one that took longest was under way, of those that were between two times; it forgets all.
func (w *waiting) longest(from, to time.Time) (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.all {
		if x[1].After(from) && x[0].Before(to) {
			d = max(d, x[1].Sub(x[0]))
		}
	}
	w.all = w.all[:0]
	return d
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Microseconds())
}

// arrivals notes when clients hear of a move and when they have followed it.
type arrivals struct {
	mu          sync.Mutex
	n           int
	first, last time.Time
	done        chan struct{}
}

// expect begins to wait for n clients.
func (a *arrivals) expect(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n, a.first, a.last, a.done = n, time.Time{}, time.Time{}, make(chan struct{})
}

func (a *arrivals) add(heard time.Time) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first.IsZero() || heard.Before(a.first) {
		a.first = heard
	}
	a.last = now
	if a.n--; a.n == 0 {
		close(a.done)
	}
}

// wait returns when all have come.
func (a *arrivals) wait() (first, last time.Time) {
	<-a.done
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.first, a.last
}

// moves runs b.N moves; move makes one and returns when it is over for the hosts.
func moves(b *testing.B, clients int, w *waiting, at *arrivals, move func(i int)) {
	var worst, all []time.Duration
	b.ResetTimer()
	for i := range b.N {
		time.Sleep(20 * time.Millisecond)
		at.expect(clients)
		move(i)
		first, last := at.wait()
		time.Sleep(20 * time.Millisecond)
		worst, all = append(worst, w.longest(first, last)), append(all, last.Sub(first))
	}
	b.ReportMetric(median(worst), "gap-p50-µs")
	b.ReportMetric(float64(worst[len(worst)-1].Microseconds()), "gap-max-µs")
	b.ReportMetric(median(all), "all-p50-µs")
}

func benchInSync(b *testing.B, clients, mib int, secure bool) {
	_, names := startRole(b, "names", "", roleTLS(secure)...)
	var hosts [2]*process
	var ids [2]string
	for i := range hosts {
		hosts[i], ids[i] = startRole(b, "mover", names, roleTLS(secure)...)
	}
	hosts[0].do(fmt.Sprint("host ", mib))
	hosts[1].do("standby")
	tr := benchTCP(b, secure)
	res := benchResolver(b, tr, names)
	awaitInSync(b, res, "svc", 2)
	var at arrivals
	cs := make([]*Client, clients)
	for i := range cs {
		var err error
		cs[i], err = Dial(b.Context(), "svc", ClientConfig{Resolver: res, Transport: tr,
			OnMove: func(m Move) { at.add(time.Now().Add(-m.Pause)) }})
		require.NoError(b, err)
		b.Cleanup(func() { cs[i].Close() })
	}
	var w waiting
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	body := make([]byte, 8)
	wg.Go(func() { w.do(ctx, func() error { _, err := cs[0].Do(ctx, body); return err }) })
	defer wg.Wait()
	defer cancel()
	var pauses []time.Duration
	ready := 0
	moves(b, clients, &w, &at, func(i int) {
		var rep Report
		require.NoError(b, json.Unmarshal([]byte(hosts[i%2].do("handoff "+ids[1-i%2])), &rep))
		pauses = append(pauses, rep.Pause)
		ready += rep.Ready
	})
	b.ReportMetric(median(pauses), "pause-p50-µs")
	b.ReportMetric(float64(ready)/float64(b.N*clients), "ready")
}

func benchSwitch(b *testing.B, clients int, secure bool) {
	names, namesAddr := startRole(b, "switch-names", "")
	var hosts [2]*process
	var addrs [2]string
	for i := range hosts {
		hosts[i], addrs[i] = startRole(b, "switch-host", namesAddr, roleTLS(secure)...)
	}
	for i := range hosts {
		hosts[i].do("other " + addrs[1-i])
	}
	hosts[0].do("start")
	n := benchNet(b, secure)
	var at arrivals
	at.expect(0)
	cs := make([]*switchClient, clients)
	for k := range cs {
		cs[k] = &switchClient{id: uint64(k) << 32, at: &at, wait: make(chan struct{}, 1)}
		for i, addr := range addrs {
			require.NoError(b, cs[k].dial(n, i, addr))
			b.Cleanup(func() { cs[k].conns[i].Close() })
		}
		cs[k].mu.Lock()
		cs[k].hello()
		cs[k].mu.Unlock()
	}
	var w waiting
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.do(ctx, cs[0].do) })
	defer wg.Wait()
	defer cancel()
	time.Sleep(100 * time.Millisecond) // until all have said who they are
	moves(b, clients, &w, &at, func(int) { names.do("switch") })
}
