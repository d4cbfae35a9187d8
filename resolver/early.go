package resolver

import (
	"sync"
	"time"

	"github.com/roam-go/roam/transport"
)

// hostsDelay is how long after its start a [Server] holds calls of Hosts. Clients announce their hosts again within it.
const hostsDelay = time.Second

// early holds the calls of Hosts that arrive before the hosts had time to announce themselves after a [Server]'s start.
type early struct {
	mu    sync.Mutex // guards the fields below
	over  bool
	calls []hostsCall
}

// hostsCall is a call of Hosts without a reply.
type hostsCall struct {
	req  *transport.Request
	name string
}

// hold keeps a call until the delay is over. It returns false if the caller must reply now.
func (e *early) hold(c hostsCall, most int) (held bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.over:
		return false, nil
	case len(e.calls) >= most:
		return false, transport.Errorf(CodeRefused,
			"resolver: service %q: the resolver has just started, and %d calls wait for hosts", c.name, most)
	}
	e.calls = append(e.calls, c)
	return true, nil
}

// end ends the delay and returns the calls that waited.
func (e *early) end() []hostsCall {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.calls
	e.over, e.calls = true, nil
	return calls
}

// awaitHosts replies to the early calls of Hosts when the delay is over. If the server closes first, their connections end.
func (s *Server) awaitHosts() {
	timer := time.NewTimer(s.cfg.limits.hostsDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
		for _, c := range s.early.end() {
			s.replyHosts(c)
		}
	case <-s.stop:
		s.early.end()
	}
}

func (s *Server) replyHosts(c hostsCall) {
	hs, err := s.store.hostsOf(c.name)
	if hs == nil {
		hs = []Host{}
	}
	reply(c.req, hs, err)
}
