package migrate

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roam-go/roam/resolver"
)

// BenchmarkBeside is a client that sends one command at a time to a quick service on three hosts: alone, and beside another
// service, which takes 1 ms for a command and has 20 clients with 100 or 1,000 commands under way each, or is in one command
// for seconds. The other service sleeps; so that what its messages cost the machine does not count as waiting, it is also
// put on hosts of its own (elsewhere). There is a process for each host, for the clients of the other service, and for the
// client and the resolver. An iteration has a turn of 2 s for each; p99 and p50 are medians over the turns, and each is also
// given as a multiple of alone.
func BenchmarkBeside(b *testing.B) {
	names := benchNames(b, resolver.ServerConfig{Transport: benchTCP(b, false)})
	hosts := map[string][]*process{}
	for _, services := range []string{"svc,beside", "elsewhere"} {
		for range 3 {
			p, _ := startRole(b, "beside-host", names, "ROAM_BENCH_SERVICES="+services)
			hosts[services] = append(hosts[services], p)
		}
	}
	res := benchResolver(b, benchTCP(b, false), names)
	for _, name := range []string{"svc", "beside", "elsewhere"} {
		awaitInSync(b, res, name, 3)
	}
	load, _ := startRole(b, "beside-load", names)
	do := benchClient(b, res, false, 64)

	const turn = 2 * time.Second
	turns := []string{"alone"}
	for _, service := range []string{"elsewhere", "beside"} {
		for _, what := range []string{"100", "1000", "long"} {
			turns = append(turns, service+" "+what)
		}
	}
	p50, p99, rate := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	for round := 0; b.Loop(); round++ {
		for i := range turns {
			t := turns[(i+round)%len(turns)]
			if t != "alone" {
				load.do("begin " + t)
				time.Sleep(turn / 8)
			}
			var all []time.Duration
			for end := time.Now().Add(turn); time.Now().Before(end); {
				began := time.Now()
				do()
				all = append(all, time.Since(began))
			}
			slices.Sort(all)
			p50[t] = append(p50[t], float64(all[len(all)/2]))
			p99[t] = append(p99[t], float64(all[len(all)*99/100]))
			if t != "alone" {
				for _, h := range slices.Concat(hosts["svc,beside"], hosts["elsewhere"]) {
					h.do("quick 1") // what waits need not take long
				}
				rate[t] = append(rate[t], load.number("end"))
				for _, h := range slices.Concat(hosts["svc,beside"], hosts["elsewhere"]) {
					h.do("quick 0")
				}
			}
		}
	}
	median := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
	rate["alone"] = []float64{0}
	var lines []string
	for _, t := range turns {
		at := strings.ReplaceAll(t, " ", "-")
		b.ReportMetric(median(p50[t]), at+"-p50-ns")
		b.ReportMetric(median(p99[t]), at+"-p99-ns")
		lines = append(lines, fmt.Sprintf("%-14s p50 %4.0f µs (x %.2f), p99 %5.0f µs (x %.2f) beside %4.0f commands/s", t,
			median(p50[t])/1e3, median(p50[t])/median(p50["alone"]),
			median(p99[t])/1e3, median(p99[t])/median(p99["alone"]), median(rate[t])))
	}
	b.Log("\n" + strings.Join(lines, "\n"))
}

// sleeper is a service that takes as many milliseconds for a command as the command says, or none while it is quick.
type sleeper struct {
	counter
	quick *atomic.Bool
}

func (s *sleeper) Apply(cmd Command) ([]byte, error) {
	if ms, err := strconv.Atoi(string(cmd.Body)); err == nil && !s.quick.Load() {
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	return s.counter.Apply(cmd)
}

// besideHost is one of the hosts, as a process: told "quick 1", its services no longer take time.
func besideHost(names string) error {
	n, err := roleNode(names, "", false)
	if err != nil {
		return err
	}
	defer n.Close()
	var quick atomic.Bool
	for _, name := range strings.Split(os.Getenv("ROAM_BENCH_SERVICES"), ",") {
		fresh := func() Migratable { return new(counter) }
		if name != "svc" {
			fresh = func() Migratable { return &sleeper{quick: &quick} }
		}
		if _, err := n.Host(n.ctx, name, fresh, Policy{Copies: 3}); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	return obey(func(words []string) (string, error) {
		quick.Store(words[1] == "1")
		return "ok", nil
	})
}

// besideLoad is 20 clients of the other service, as a process: told "begin SERVICE WINDOW" each keeps so many commands under
// way, until it is told "end".
func besideLoad(names string) error {
	tr, res, err := roleNames(names, false)
	if err != nil {
		return err
	}
	clients := make(map[string][]*Client)
	for _, name := range []string{"beside", "elsewhere"} {
		for range 20 {
			c, err := Dial(context.Background(), name, ClientConfig{Resolver: res, Transport: tr, QueueLen: 1000})
			if err != nil {
				return err
			}
			defer c.Close()
			clients[name] = append(clients[name], c)
		}
	}
	var (
		wg    sync.WaitGroup
		stop  atomic.Bool
		began time.Time
		done  atomic.Int64
	)
	fmt.Println("ready")
	return obey(func(words []string) (string, error) {
		if words[0] == "end" {
			n, took := done.Load(), time.Since(began)
			stop.Store(true)
			wg.Wait()
			return fmt.Sprint(float64(n) / took.Seconds()), nil
		}
		stop.Store(false)
		began = time.Now()
		done.Store(0)
		cs, body, window := clients[words[1]], []byte("1"), 1
		if words[2] == "long" {
			cs, body = cs[:1], []byte("5000")
		} else {
			window, _ = strconv.Atoi(words[2])
		}
		for _, c := range cs {
			wg.Go(func() {
				under := make(chan *Call, window)
				for !stop.Load() || len(under) > 0 {
					for !stop.Load() && len(under) < window {
						call, err := c.Go(body)
						if err != nil {
							panic(err)
						}
						under <- call
					}
					if _, err := (<-under).Reply(context.Background()); err != nil {
						panic(err)
					}
					done.Add(1)
				}
			})
		}
		return "ok", nil
	})
}
