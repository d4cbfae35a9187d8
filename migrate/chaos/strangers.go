//go:build unix

package main

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// strangers are silent connections to one address. A closed one is replaced after a while.
type strangers struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	open   atomic.Int64
	came   atomic.Int64
	thrown atomic.Int64
}

// besiege keeps up to n connections open.
func besiege(addr string, n int) *strangers {
	s := &strangers{stop: make(chan struct{})}
	for range n {
		s.wg.Go(func() {
			for {
				c, err := net.DialTimeout("tcp", addr, time.Second)
				if err == nil {
					s.open.Add(1)
					s.came.Add(1)
					end := make(chan struct{})
					go func() {
						defer close(end)
						c.Read(make([]byte, 1))
					}()
					select {
					case <-end:
						s.thrown.Add(1)
					case <-s.stop:
					}
					c.Close()
					<-end
					s.open.Add(-1)
				}
				select {
				case <-time.After(5*time.Second + rand.N(10*time.Second)):
				case <-s.stop:
					return
				}
			}
		})
	}
	return s
}

func (s *strangers) leave() {
	close(s.stop)
	s.wg.Wait()
}

// strangers compares the latency of commands beside -strangers silent connections to the active host with that without them,
// and with as many connections to another host. It also starts a process with clients among them.
func (r *run) strangers() error {
	d, err := r.startDecoy()
	if err != nil {
		return err
	}
	if err := r.ready(r.ctx); err != nil {
		return err
	}
	a, st := r.active()
	if a == nil {
		return nil
	}
	var s *strangers
	come := func(addr string) func() error {
		return func() error {
			s = besiege(addr, r.cfg.strangers)
			poll(r.ctx, 5*time.Second, func() bool { return s.came.Load() >= int64(r.cfg.strangers)*9/10 })
			return nil
		}
	}
	leave := func() error { s.leave(); return nil }
	besieged := turn{"the active host besieged", come(r.addrs[a.id]), leave}
	if err := r.compare("strangers", nil, turn{name: "nobody"}, turn{"the decoy besieged", come(d.addr()), leave},
		besieged); err != nil {
		return err
	}
	besieged.begin()
	r.sleep(5 * time.Second)
	began := time.Now()
	p, err := r.startClients("c-late", 1, 0)
	took := time.Since(began)
	open, came, thrown := s.open.Load(), s.came.Load(), s.thrown.Load()
	s.leave()
	if err != nil {
		r.check.violation("clients can't connect beside strangers: %v", err)
		return nil
	}
	r.clients = append(r.clients, p)
	_, now := r.active()
	if now == nil || now.Epoch != st.Epoch || len(now.ISR) < len(st.ISR) {
		r.check.violation("strangers cost a host its place: before epoch %d, in sync %v; then %s", st.Epoch, st.ISR, r.describe())
	}
	r.sayLater("%d strangers connected, %d were closed, %d remained at the end; a process with 2 clients was ready after %s",
		came, thrown, open, ms(took))
	return nil
}
