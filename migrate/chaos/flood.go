//go:build unix

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate"
)

// decoy is a service on two other hosts. Load on it costs the machine the same as load on the service under test.
const decoy = "decoy.example"

// startDecoy starts the hosts of the decoy and returns the first.
func (r *run) startDecoy() (*process, error) {
	var first *process
	for i, id := range []string{"d1", "d2"} {
		s, err := r.setup("host", id)
		if err != nil {
			return nil, err
		}
		s.Service, s.Create, s.Listen = decoy, i == 0, "127.0.0.1:0"
		p, err := r.starter.run(s, nil, r.take)
		if err != nil {
			return nil, err
		}
		r.more = append(r.more, p)
		if first == nil {
			first = p
		}
	}
	ok := poll(r.ctx, 10*time.Second, func() bool { st := first.latest(); return st != nil && len(st.ISR) == 2 })
	if !ok {
		return nil, fmt.Errorf("the decoy has no standby: %w", context.Cause(r.ctx))
	}
	return first, nil
}

// floodRole is a process with a client of the service and one of the decoy, which send too much.
type floodRole struct {
	*child
	clients map[string]*migrate.Client
	stop    context.CancelFunc
	done    chan struct{}
}

func (f *floodRole) start(ctx context.Context) (string, error) {
	f.clients = make(map[string]*migrate.Client)
	for _, name := range []string{f.Service, decoy} {
		c, err := migrate.Dial(ctx, name, migrate.ClientConfig{
			Resolver: f.res, Transport: f.transport(), Logger: f.log, QueueLen: 16_000, QueueBytes: 64 << 20,
		})
		if err != nil {
			return "", err
		}
		f.clients[name] = c
	}
	return "", nil
}

// order begins a flood: Rate commands a second of Size bytes, Batch at a time, to the service Target. Or it ends the
// flood and returns when all its commands are acknowledged.
func (f *floodRole) order(o *order, rep *report) error {
	switch o.Op {
	case "flood":
		ctx, stop := context.WithCancel(context.Background())
		f.stop, f.done = stop, make(chan struct{})
		go func() {
			defer close(f.done)
			f.flood(ctx, f.clients[o.Target], o.Rate, o.Batch, o.Size)
		}()
		return nil
	case "calm":
		f.stop()
		<-f.done
		ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
		defer cancel()
		for _, c := range f.clients {
			if err := c.Flush(ctx); err != nil {
				return err
			}
			rep.Flooded += c.Stats().Acknowledged
		}
		return nil
	}
	return fmt.Errorf("a flood does not handle the order %q", o.Op)
}

// flood sends at the wanted rate, or as fast as it can.
func (f *floodRole) flood(ctx context.Context, c *migrate.Client, rate float64, batch, size int) {
	body := make([]byte, size) // of client 0, which does not exist
	pause := time.Duration(float64(batch) / rate * float64(time.Second))
	for next := time.Now(); ctx.Err() == nil; next = next.Add(pause) {
		time.Sleep(time.Until(next))
		for range batch {
			if _, err := c.Go(body); err != nil || ctx.Err() != nil {
				return
			}
		}
	}
}

func (f *floodRole) close() {
	if f.stop != nil {
		f.stop()
	}
	for _, c := range f.clients {
		c.Close()
	}
	if f.done != nil {
		<-f.done
	}
}

// flood compares the latency of commands beside a client that sends a hundred times the load of the others, evenly or in
// large batches, with the latency without it, and beside the same flood of another service. The last one costs the same
// processor time, so that the difference is waiting.
func (r *run) flood() error {
	if _, err := r.startDecoy(); err != nil {
		return err
	}
	s, err := r.setup("flood", "flood")
	if err != nil {
		return err
	}
	var wrap []string
	if r.cfg.nice > 0 {
		wrap = []string{"nice", "-n", strconv.Itoa(r.cfg.nice)}
	}
	p, err := r.starter.run(s, wrap, r.take)
	if err != nil {
		return err
	}
	r.more = append(r.more, p)
	sent := uint64(0)
	rate := 100 * r.cfg.rate / float64(r.cfg.clients)
	for _, kind := range []struct {
		what        string
		rate        float64
		batch, size int
	}{
		{fmt.Sprintf("%.0f commands/s of one client", rate), rate, 1 + int(rate/1000), commandSize},
		{"4,000 commands of one client at a time", rate, 4000, commandSize},
		{"16 MiB of one client at a time", 64, 32, migrate.MaxCommand},
	} {
		if !strings.Contains(kind.what, r.cfg.only) {
			continue
		}
		flood := func(service string) turn {
			name := "flooded"
			if service == decoy {
				name = "the decoy flooded"
			}
			return turn{name, func() error {
				_, err := p.ask(order{Op: "flood", Target: service, Rate: kind.rate, Batch: kind.batch, Size: kind.size}, 5*time.Second)
				return err
			}, func() error {
				rep, err := p.ask(order{Op: "calm", Timeout: 30 * time.Second}, 40*time.Second)
				if err != nil {
					return err
				}
				r.sayf("%s: %s: %d acknowledged", kind.what, name, rep.Flooded-sent)
				sent = rep.Flooded
				return nil
			}}
		}
		if err := r.compare(kind.what, nil, turn{name: "alone"}, flood(decoy), flood(service)); err != nil {
			return err
		}
	}
	return nil
}
