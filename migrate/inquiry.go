package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// A host asks others what they know about a service if the resolver cannot be trusted to know it: it may have lost records,
// or gone back to old ones.

// handleAsk answers another host's inquiry. The service's loop computes the answer, which waits for no call of the service's
// code.
func (c *inbound) handleAsk(r *transport.Request) {
	if c.host.ID == "" {
		r.Reply(nil, transport.Errorf(CodeForbidden, "migrate: %s: the caller has not introduced itself as a host", r.Method))
		return
	}
	var p wire.AskParams
	if err := msgpack.UnmarshalSmall(r.Params, &p); err != nil {
		c.malformed(r, err)
		return
	}
	if !c.conn.Peer().May(transport.RoleHost, p.Service) {
		r.Reply(nil, transport.Errorf(transport.CodeNotMember, "migrate: the pass of host %s does not include service %.300q",
			c.host.ID, p.Service))
		return
	}
	size := len(r.Params)
	s := c.node.service(p.Service)
	if s == nil || s.board.ended() {
		c.answerAbsent(r, p.Service)
		return
	}
	c.enter(size)
	c.post(s, item{
		kind: itemFunc,
		fn: func() {
			r.Reply(transport.Marshal(askResult(s.core.Answer(c.host))))
			c.conn.Leave(size)
		},
		drop: func() {
			c.answerAbsent(r, p.Service)
			c.conn.Leave(size)
		},
	})
}

// answerAbsent answers for a service that this host does not host. A host that has a directory with files of the service
// does not know what they hold, and thus gives no answer.
func (c *inbound) answerAbsent(r *transport.Request, service string) {
	if n := c.node; n.dir != nil && n.dir.Has(service) {
		r.Reply(nil, transport.Errorf(CodeNotActive, "migrate: host %s does not host service %s, but its directory holds files "+
			"of it", n.self.ID, service))
		return
	}
	r.Reply(transport.Marshal(wire.AskResult{}))
}

func askResult(a core.Answer) wire.AskResult {
	v := wire.AskResult{
		Hosted: true, Loss: a.Term.Loss, Epoch: a.Term.Epoch, Copy: a.Copy, Active: a.Active, Pending: a.Pending,
		LastIndex: a.Last.Index, LastEpoch: a.Last.Epoch,
		CopyLoss: a.Loss, CommitIndex: a.Commit.Index, CommitEpoch: a.Commit.Epoch,
	}
	if a.Record.Version > 0 {
		v.Record = &a.Record
	}
	return v
}

// ask asks hosts, and all others that are present, and gives the core the answers.
func (r *registrar) ask(hosts []resolver.Host) {
	r.node.wg.Go(func() {
		present, err := r.presentWithin(r.node.ctx, 2*resolverTimeout)
		if err != nil && r.node.ctx.Err() == nil {
			r.log.Debug("no hosts from the resolver", "err", err)
		}
		answers, _ := r.inquire(r.node.ctx, union(present, hosts))
		r.post(item{kind: itemEvent, ev: core.Answers{Answers: answers}})
	})
}

// union returns the hosts of a, and those of b that are not in a.
func union(a, b []resolver.Host) []resolver.Host {
	all := slices.Clone(a)
	for _, h := range b {
		if !slices.ContainsFunc(all, h.Same) {
			all = append(all, h)
		}
	}
	return all
}

// inquire asks all hosts except this one side by side. Each has FailureTimeout to answer, or longer if it is far; silent are
// those that have not.
func (r *registrar) inquire(ctx context.Context, hosts []resolver.Host) (answers []core.Answer, silent []resolver.Host) {
	type reply struct {
		core.Answer
		err error
	}
	n := r.node
	replies := make(chan reply, len(hosts))
	asked := 0
	for _, h := range hosts {
		if h.Same(n.self) {
			continue
		}
		asked++
		if !n.spawn(func() {
			a, err := r.askHost(ctx, h)
			if err != nil {
				r.log.Debug("no answer to an inquiry", "from", h.ID, "err", err)
			}
			replies <- reply{a, err}
		}) {
			replies <- reply{core.Answer{From: h}, n.errClosed()}
		}
	}
	for range asked {
		if p := <-replies; p.err == nil {
			answers = append(answers, p.Answer)
		} else {
			silent = append(silent, p.From)
		}
	}
	return answers, silent
}

// askHost asks a host, which must prove its key, and returns its answer. From is set also if there is none.
func (r *registrar) askHost(ctx context.Context, h resolver.Host) (core.Answer, error) {
	a := core.Answer{From: h}
	ctx, cancel := context.WithTimeout(ctx, r.node.links.Patience(h.ID, r.node.cfg.FailureTimeout))
	defer cancel()
	conn, err := r.node.links.Connect(ctx, h, nil)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	v, err := r.askOver(ctx, conn)
	if err != nil {
		return a, err
	}
	a.Term = core.Term{Loss: v.Loss, Epoch: v.Epoch}
	a.Copy, a.Active, a.Pending = v.Copy, v.Active, v.Pending
	a.Last = core.Place{Index: v.LastIndex, Epoch: v.LastEpoch}
	a.Loss, a.Commit = v.CopyLoss, core.Place{Index: v.CommitIndex, Epoch: v.CommitEpoch}
	if v.Record != nil && v.Record.Name == r.name {
		a.Record = *v.Record
	}
	return a, nil
}

func (r *registrar) askOver(ctx context.Context, conn transport.Conn) (v wire.AskResult, err error) {
	params, err := transport.Marshal(wire.AskParams{Service: r.name})
	if err != nil {
		return v, err
	}
	b, err := conn.Call(ctx, wire.MethodAsk, params)
	if err != nil {
		return v, err
	}
	err = msgpack.UnmarshalSmall(b, &v)
	return v, err
}

// errNoCopy is the error of a host that answers, but holds no copy and no files of the service.
var errNoCopy = errors.New("it holds no copy of the service")

// alive returns nil if a host answers, unless it holds no copy of the service.
func (r *registrar) alive(ctx context.Context, h resolver.Host) error {
	ctx, cancel := context.WithTimeout(ctx, r.node.links.Patience(h.ID, 2*r.node.cfg.FailureTimeout))
	defer cancel()
	conn, err := r.node.links.Connect(ctx, h, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	if v, err := r.askOver(ctx, conn); err == nil && !v.Copy && !v.Active && !v.Pending && v.LastIndex == 0 {
		return errNoCopy
	}
	return nil // a host that loads its copy may take long to answer
}

// witness asks the hosts of rec, the resolver's record, those in also, and all that are present. It returns the best answer
// that knows more than rec: of an active host, of one that holds a copy, or of one that knows a record with an active host.
// It returns nil if there is none. Hosts that do not answer are asked twice; silent are those that are present, and do not
// answer.
func (r *registrar) witness(
	ctx context.Context, rec resolver.Record, also ...resolver.Host,
) (best *core.Answer, silent []resolver.Host, err error) {
	present, err := r.presentWithin(ctx, 2*resolverTimeout)
	if err != nil {
		return nil, nil, fmt.Errorf("migrate: service %s: the resolver does not list its hosts: %w", r.name, err)
	}
	answers, silent := r.inquire(ctx, union(union(present, rec.ISR), also))
	again, silent := r.inquire(ctx, silent)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	silent = slices.DeleteFunc(silent, func(h resolver.Host) bool { return !slices.ContainsFunc(present, h.Same) })
	answers = append(answers, again...)
	for i := range answers {
		a := &answers[i]
		newer := a.Term.Compare(core.TermOf(rec))
		if rank(a) == 0 || newer < 0 || newer == 0 && rec.Active.ID == "" {
			continue // also if the service has ended in that term
		}
		if best == nil || compareAnswers(a, best) > 0 {
			best = a
		}
	}
	return best, silent, nil
}

// compareAnswers orders answers by what they show of the service.
func compareAnswers(a, b *core.Answer) int {
	return cmp.Or(cmp.Compare(rank(a), rank(b)), a.CompareCopies(b))
}

// rank is what an answer shows: 3: an active host, 2: a copy, 1: that a host was active, 0: nothing.
func rank(a *core.Answer) int {
	switch {
	case a.Active:
		return 3
	case a.Copy:
		return 2
	case a.Record.Active.ID != "":
		return 1
	}
	return 0
}

// alive is the error of a reset of a service that is active elsewhere.
func (p *site) alive(a *core.Answer) error {
	return transport.Errorf(CodeExists, "migrate: service %s is active on host %s and therefore cannot be reset", p.name,
		a.From.ID)
}

// unanswered is the error of a host that must not begin the service, because h may hold its state.
func (p *site) unanswered(h resolver.Host) error {
	return transport.Errorf(CodeNoHost, "migrate: the resolver names no host of service %s, and host %s at %s, which is "+
		"present for it, does not answer: it may hold the state; call again when it answers or is no longer present", p.name, h.ID,
		h.Addr)
}

// held is the error of a host that must not begin the service anew, because of what another host knows, which is not active.
func (p *site) held(a *core.Answer) error {
	if a.Copy {
		return transport.Errorf(CodeNoHost, "migrate: the resolver has no current record of service %s, and no host is active, but "+
			"host %s holds its state up to entry %d: it continues when the other hosts of its in-sync set are back; Node.Reset on host %s "+
			"continues with what that host holds", p.name, a.From.ID, a.Last.Index, a.From.ID)
	}
	return transport.Errorf(CodeNoHost, "migrate: the resolver has no record of service %s, but host %s knows that host %s at %s "+
		"was active, which does not answer: the service continues when that host is back; Node.Reset starts it without its state",
		p.name, a.From.ID, a.Record.Active.ID, a.Record.Active.Addr)
}
