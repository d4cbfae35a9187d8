package migrate

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/serve"
	"github.com/roam-go/roam/resolver"
)

// clientHost is the service as the [serve.Host] of its clients.
type clientHost Service

func (h *clientHost) Config() serve.Config {
	return serve.Config{
		Service: h.name, HostID: h.node.self.ID, SessionTimeout: h.policy.SessionTimeout,
		FailureTimeout: h.node.cfg.FailureTimeout, Log: h.log,
	}
}

func (h *clientHost) Now() time.Duration                  { return h.node.now() }
func (h *clientHost) Core() *core.Core                    { return h.core }
func (h *clientHost) Machine() *machine.Machine           { return h.replica.Machine() }
func (h *clientHost) Step(ev core.Event)                  { h.replica.Step(ev) }
func (h *clientHost) Propose(e core.Entry) bool           { return h.replica.Propose(e) }
func (h *clientHost) Later(f func(*machine.Machine)) bool { return h.replica.Later(f) }

func (h *clientHost) Post(f func())  { (*Service)(h).call(f) }
func (h *clientHost) Go(f func())    { h.node.wg.Go(f) }
func (h *clientHost) Spawn(f func()) { h.node.appliers.Spawn(f) }

func (h *clientHost) NotActive(rec resolver.Record) error { return (*Service)(h).notActive(rec) }
func (h *clientHost) Suspended() error                    { return (*Service)(h).suspended() }
func (h *clientHost) Validates() bool                     { return validates(h.replica.Machine()) }
func (h *clientHost) ConcurrentQueries() bool             { return concurrentQueries(h.replica.Machine()) }
func (h *clientHost) PublicQueries() bool                 { return publicQueries(h.replica.Machine()) }

func (h *clientHost) Ready(r serve.Readiness, reason string) { h.mover.ready(r, reason) }
