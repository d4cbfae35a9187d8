package migrate

import (
	"log/slog"

	"github.com/roam-go/roam/transport"
)

// site is what the parts of a service on one node share. Its fields do not change, except those of the mailbox.
type site struct {
	node   *Node
	name   string
	policy Policy
	log    *slog.Logger
	mailbox
}

// report calls Hooks.Failed.
func (p *site) report(err error) {
	if f := p.node.cfg.Hooks.Failed; f != nil {
		p.node.hooks.Call(func() { f(p.name, err) })
	}
}

// panicked reports a panic in the user's code.
func (p *site) panicked(method string, value any, stack []byte) {
	p.log.Error("the service's code panicked", "method", method, "panic", value, "stack", string(stack))
	err := transport.Errorf(CodePanic, "migrate: service %s panicked in %s on host %s: %v", p.name, method, p.node.self.ID, value)
	err.Data = stack
	p.report(err)
}
